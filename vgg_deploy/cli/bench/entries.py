"""Who takes part in `vgg-deploy bench`: the models, and the peers that they are put beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, PLAN, kind_of
from vgg_deploy.cli.engines import open_any, options_for_each
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import WeightFacts, describes_itself, known_facts, read_weights, require_torch
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.manifest import Manifest

TORCH, TORCH_COMPILE = "torch", "torch-compile"


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody who takes part.

    Attributes:
        name: what it is called in the report.
        path: its file.
        options: how it is opened.
        facts: about the weights of a checkpoint.
        compiled: through torch.compile.
        beside: the first model's manifest, of which a checkpoint takes what it does not know itself, and the grid; None: it is a
            model of its own.
    """

    name: str
    path: Path
    options: EngineOptions
    facts: WeightFacts = field(default_factory=WeightFacts)
    compiled: bool = False
    beside: Manifest | None = None

    def open(self, requests: int | None, say: Callable[[str], None] = notice, *, any_size: bool = False) -> Engine:
        """Its engine; `requests` as in `engines.open_engine`, for ONNX files; `any_size`: for images of many sizes, of which
        torch.compile is not to compile each for itself."""
        if self.beside is not None and kind_of(self.path) == CHECKPOINT:
            return self._open_in_torch(self.beside, any_size)
        options = self.options if kind_of(self.path) != ONNX else replace(self.options, requests=requests)
        return open_any(self.path, options, self.facts, lambda text: say(f"{self.name}: {text}"))

    def _open_in_torch(self, beside: Manifest, any_size: bool) -> Engine:
        import torch

        from train.network.compiled import Compiled
        from train.network.reference import Reference
        from vgg_deploy.cores import usable_cores

        torch.set_num_threads(self.options.threads or usable_cores())  # as many as the others have
        facts = self.facts if describes_itself(self.path) else known_facts(self.facts, beside)
        checkpoint = read_weights(self.path, facts)
        device = self.options.device or "cpu"
        fine = beside.spec is not None and beside.spec.fine
        return (
            Compiled(checkpoint, device=device, fine=fine, any_size=any_size)
            if self.compiled
            else Reference(checkpoint, device=device, fine=fine)
        )


def peer_names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """'torch,openvino' -> the peers' names, each once."""
    if not value:
        return ()
    from engines import RUNTIMES

    known = (TORCH, TORCH_COMPILE, *RUNTIMES)
    names = tuple(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r}; expected {', '.join(known)}, with commas between")
    return names


def entries_of(
    models: Sequence[Path],
    peers: Sequence[str],
    reference: Path | None,
    options: EngineOptions,
    facts: WeightFacts,
) -> tuple[list[Entry], Entry | None]:
    """The models as they were given, then the peers; and the reference, if there is one.

    Raises:
        click.UsageError: a peer in PyTorch without a checkpoint as reference, or one in a runtime without an ONNX file.
        UsageError: options that do not fit, or no such file.
    """
    each = options_for_each([*models, *(() if reference is None else (reference,))], options, facts)
    entries = [Entry(name, path, own, facts) for name, path, own in zip(_names(models), models, each, strict=False)]
    right = None
    if reference is not None:
        if not reference.is_file():
            raise UsageError(f"--reference {reference}: no such file; give a checkpoint, or a model")
        beside = _manifest(models[0], options.labels) if kind_of(reference) == CHECKPOINT else None
        right = Entry(reference.name, reference, replace(each[-1], allow_bf16=False), facts, beside=beside)
    for peer in peers:
        if peer in (TORCH, TORCH_COMPILE):
            if right is None:
                raise click.UsageError(f"--against {peer} needs the network's weights: give --reference CKPT")
            if right.beside is None:
                raise click.UsageError(
                    f"--against {peer} needs the network's weights, and --reference {right.path} is {kind_of(right.path)}: "
                    "give a checkpoint"
                )
            require_torch(f"--against {peer}")
            entries.append(replace(right, name=f"{peer}: {right.name}", compiled=peer == TORCH_COMPILE))
            continue
        if kind_of(models[0]) != ONNX:
            raise click.UsageError(
                f"--against {peer} runs the first MODEL, and {models[0]} is {kind_of(models[0])}: name an ONNX file first"
            )
        own = replace(each[0], runtime=peer, allow_bf16=False)
        entries.append(Entry(f"{peer}: {models[0].name}", models[0], own))
    return entries, right


def _manifest(path: Path, labels: str | None) -> Manifest:
    from vgg_deploy.artifacts.onnx_file import read_manifest
    from vgg_deploy.artifacts.plan import read_plan

    if kind_of(path) == PLAN and (plan := read_plan(path)) is not None:
        return plan.manifest
    if kind_of(path) == ONNX:
        return read_manifest(path, labels)
    from vgg_deploy.network.classes import numbered_classes
    from vgg_deploy.network.manifest import Manifest, TrainScale

    return Manifest(numbered_classes(1), None, None, TrainScale(1, 1))  # of a checkpoint: each knows of itself


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, or the paths where two have one name; a file that is given again, which shows the noise, is numbered."""
    different = {path.name: {other.resolve() for other in paths if other.name == path.name} for path in paths}
    names = [path.name if len(different[path.name]) == 1 else str(path) for path in paths]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} #{seen[name]}"
    return names
