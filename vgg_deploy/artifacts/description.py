"""What an ONNX file or a plan is, and whether it is what its manifest says; told without any runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES, PLAN_SUFFIXES
from vgg_deploy.artifacts.onnx_file import PRODUCER, look_into, read_header, read_manifest
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.artifacts.plan import PLAN_VERSION, VERSION_KEY, PlanManifest, mismatch, read_plan, sidecar_of
from vgg_deploy.errors import ManifestError, UsageError
from vgg_deploy.files import sha256_of
from vgg_deploy.network import records
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT32, INT8, differences

_BYTES = {FLOAT32: 4, INT8: 1}  # of a weight; others have two


@dataclass(frozen=True, slots=True)
class Description:
    """An ONNX file or a plan.

    Attributes:
        path: the file.
        size, sha256: of its bytes.
        weight_bytes: of its weights; of a plan, of the layers in their types.
        layers: the type of each layer with weights: of an ONNX file from its nodes, of a plan from its manifest.
        inputs, outputs: in words, by name; none for a plan.
        made_by: what wrote an ONNX file, and its opset.
        manifest: None for a foreign file.
        plan: a plan's own manifest, around that of its model.
        contradictions: where the file is not what its manifest says; a line each, with what to do.
    """

    path: Path
    size: int
    sha256: str
    weight_bytes: int
    layers: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    made_by: str
    manifest: Manifest | None
    plan: PlanManifest | None
    contradictions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The file's facts and its whole manifest as JSON's own types."""
        whole: dict[str, Any] | None = None
        if self.plan is not None:
            whole = {VERSION_KEY: PLAN_VERSION, **records.encode(self.plan)}
        elif self.manifest is not None:
            whole = records.encode(self.manifest)
        return {
            "file": str(self.path),
            "kind": "onnx" if self.plan is None else "plan",
            "bytes": self.size,
            "weight_bytes": self.weight_bytes,
            "sha256": self.sha256,
            "layers": dict(self.layers),
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "contradictions": list(self.contradictions),
            "manifest": whole,
        }


def describe(path: Path) -> Description:
    """Looks at an ONNX file, or at a plan and the `NAME.plan.json` beside it.

    Raises:
        UsageError: no such file, or it is a checkpoint.
        ModelFileError, PlanError: it is empty, cut off, or not what its name says.
        ManifestError: its manifest is damaged; a plan without one.
    """
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise UsageError(
            f"{path} is a checkpoint; inspect takes an ONNX file or a plan: vgg-deploy export --weights {path}"
        )
    if path.suffix == ".json" and path.with_suffix("").suffix in PLAN_SUFFIXES:
        raise UsageError(f"{path} is the manifest of a plan; name the plan: {path.with_suffix('')}")
    return _plan(path) if path.suffix in PLAN_SUFFIXES else _onnx(path)


def _plan(path: Path) -> Description:
    plan = read_plan(path)
    if plan is None:
        raise ManifestError(
            f"{path} has no {sidecar_of(path).name} beside it, so only TensorRT can tell what it is; copy both files, or build it "
            "with vgg-deploy build"
        )
    digest = sha256_of(path)
    differs = None if digest == plan.plan.sha256 else mismatch(path, plan)
    spec = plan.manifest.spec
    weights = 0
    for layer in spec.weight_layers if spec is not None else ():
        kind = plan.layers.get(layer.name, plan.manifest.precision.arithmetic)
        bias = _BYTES.get(plan.manifest.precision.arithmetic, 2)
        weights += math.prod(layer.weight_shape) * _BYTES.get(kind, 2) + layer.out_channels * bias
    return Description(
        path=path,
        size=path.stat().st_size,
        sha256=digest,
        weight_bytes=weights,
        layers=plan.layers,
        inputs={},
        outputs={},
        made_by=f"{plan.backend} {plan.version}",
        manifest=plan.manifest,
        plan=plan,
        contradictions=(*((differs,) if differs else ()), *_type_contradictions(path, plan.manifest, plan.layers)),
    )


def _onnx(path: Path) -> Description:
    file, header = look_into(path), read_header(path)
    layers = layer_types(header)
    contradictions: tuple[str, ...] = ()
    manifest = None
    if file.manifest is not None:
        stated, manifest = Manifest.from_json(file.manifest, str(path)), read_manifest(path)
        contradictions = (*_changes(path, stated, manifest), *_type_contradictions(path, manifest, layers))
    elif file.producer == PRODUCER:
        contradictions = (f"{path} was written by vgg_deploy, and its manifest is missing: export it again",)
    opset = next((entry.version for entry in header.opset_import if entry.domain in ("", "ai.onnx")), "?")
    producer = f"{header.producer_name} {header.producer_version}".strip() or "an unnamed tool"
    return Description(
        path=path,
        size=path.stat().st_size,
        sha256=sha256_of(path),
        weight_bytes=sum(map(_tensor_bytes, header.graph.initializer)),
        layers=layers,
        inputs={value.name: str(value) for value in file.inputs},
        outputs={value.name: str(value) for value in file.outputs},
        made_by=f"{producer}, opset {opset}",
        manifest=manifest,
        plan=None,
        contradictions=contradictions,
    )


def _changes(path: Path, stated: Manifest, found: Manifest) -> tuple[str, ...]:
    """Shapes and outputs that were changed after the export; `found` has the file's own."""
    changed = []
    if stated.shapes != found.shapes:
        changed.append(f"{path}: its images are {found.shapes}, its manifest says {stated.shapes}; export it again")
    if stated.outputs != found.outputs:
        told = ", ".join(stated.outputs) or "none"
        changed.append(f"{path}: its outputs are {', '.join(found.outputs)}, its manifest says {told}; export it again")
    return tuple(changed)


def _type_contradictions(path: Path, manifest: Manifest, layers: Mapping[str, str]) -> tuple[str, ...]:
    """The layers that compute in another type than the manifest says, in one line."""
    spec = manifest.spec
    if spec is None:
        return ()
    declared = {layer.name: manifest.precision.of(layer.name) for layer in spec.weight_layers}
    different = differences(declared, {layer: layers.get(layer, "missing") for layer in declared})
    return (f"{path} does not compute as its manifest says: {different}; export it again",) if different else ()


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    count = math.prod(tensor.dims)
    try:
        return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # strings, and types that this onnx does not know
        return 0
