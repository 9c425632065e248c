"""Makes the damaged files of one healthy file: every damage that applies to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

import tests.mutants.kinds  # noqa: F401 - fills DAMAGES
from export.exporter import write_model
from tests.mutants import external
from tests.mutants.damage import DAMAGES, FILE, INSPECT, Damage
from tests.mutants.edit import Edit, NotApplicable
from tests.mutants.fields import edited, paths
from vgg_deploy.artifacts.plan import read_plan, sidecar_of


@dataclass(frozen=True, slots=True)
class Mutant:
    """A damaged file.

    Attributes:
        name: of the damage.
        caught: the judges that must find it.
        path: the file, with the digests of the healthy one.
        forgotten: the same without digests.
        fault: the same for a runtime that miscomputes: tensors whose nodes were removed still exist. None if the damage
            is no fault of a runtime.
    """

    name: str
    caught: frozenset[str]
    path: Path
    forgotten: Path
    fault: Path | None = None


def chosen(names: Collection[str] | None = None, groups: Collection[str] | None = None) -> list[Damage]:
    """The damages of these names and groups; None: of all."""
    return [
        damage
        for damage in DAMAGES.values()
        if (names is None or damage.name in names) and (groups is None or damage.group in groups)
    ]


def of_onnx(healthy: Path, folder: Path, damages: Sequence[Damage]) -> Iterator[Mutant]:
    """Damages an ONNX file. The files of a mutant are gone when the next is made.

    Args:
        healthy: a file from `export`.
        folder: an empty folder to write to.
        damages: see `chosen`.
    """
    model = onnx.load(healthy)
    before = hashlib.sha256(model.SerializeToString()).digest()
    for damage in damages:
        edit = Edit(model)
        try:
            damage.change(edit)
        except NotApplicable:
            continue
        if hashlib.sha256(edit.model.SerializeToString()).digest() == before:
            continue  # such as grey digits' mean in another order
        about_manifest = damage.name.startswith("manifest: ")
        yield Mutant(damage.name, damage.caught, *_written(edit, folder, about_manifest=about_manifest))
        _emptied(folder)


def _written(edit: Edit, folder: Path, *, about_manifest: bool) -> tuple[Path, Path, Path | None]:
    paths = [folder / part / "model.onnx" for part in ("kept", "forgotten", "fault")]
    for path in paths:
        path.parent.mkdir(parents=True)
    _write(edit.model, paths[0])
    edit.forget_digests()
    _write(edit.model, paths[1])
    if about_manifest:
        return paths[0], paths[1], None
    if not edit.bypassed:
        return paths[0], paths[1], paths[1]
    for result, source in edit.bypassed.items():
        edit.model.graph.node.append(helper.make_node("Identity", [source], [result], name=f"bypassed {result}"))
    _write(edit.model, paths[2])
    return paths[0], paths[1], paths[2]


def _write(model: onnx.ModelProto, path: Path) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write_model(copy, path)  # empties what it writes


def of_external(healthy: Path, folder: Path) -> Iterator[Mutant]:
    """Damages an ONNX file whose weights lie in a file beside it."""
    for name, change in external.DAMAGES.items():
        copies = []
        for part in ("kept", "forgotten"):
            shutil.copytree(healthy.parent, folder / part)
            copies.append(folder / part / healthy.name)
        without = onnx.load(copies[1], load_external_data=False)
        edit = Edit(without)
        edit.forget_digests()
        copies[1].write_bytes(edit.model.SerializeToString())
        for copy in copies:
            change(copy)
        yield Mutant(name, FILE, copies[0], copies[1])
        _emptied(folder)


def of_plan(plan: Path, folder: Path) -> Iterator[Mutant]:
    """Edits the plan, the ONNX file beside it, and each field of its sidecar."""
    onnx_file = read_plan(plan).onnx.name  # type: ignore[union-attr]
    for name, file in (
        (f"a bit of the {what}", file) for what, file in (("plan", plan.name), ("ONNX file", onnx_file))
    ):
        mutant = _copied(name, plan, folder)
        for copy in (mutant.path, mutant.forgotten):
            data = bytearray(copy.with_name(file).read_bytes())
            data[len(data) // 2] ^= 1
            copy.with_name(file).write_bytes(data)
        yield mutant
        _emptied(folder)
    data = json.loads(sidecar_of(plan).read_text())
    for path in paths(data):
        try:
            changed = edited(data, path)
        except NotApplicable:
            continue
        mutant = _copied(f"sidecar: {'.'.join(path)}", plan, folder)
        sidecar_of(mutant.path).write_text(json.dumps(changed))
        sidecar_of(mutant.forgotten).write_text(json.dumps(_unsealed(changed)))
        yield mutant
        _emptied(folder)


def _copied(name: str, plan: Path, folder: Path) -> Mutant:
    """A copy of a plan's folder as it is, and one whose sidecar has lost its seal."""
    copies = [folder / part / plan.name for part in ("kept", "forgotten")]
    for copy in copies:
        shutil.copytree(plan.parent, copy.parent)
    sidecar_of(copies[1]).write_text(json.dumps(_unsealed(json.loads(sidecar_of(plan).read_text()))))
    return Mutant(name, frozenset({INSPECT}), *copies)


def _unsealed(data: dict[str, Any]) -> dict[str, Any]:
    """A sidecar as older versions wrote it."""
    return {key: value for key, value in data.items() if key != "seal"}


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)
