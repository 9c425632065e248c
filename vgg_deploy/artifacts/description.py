"""Describes an ONNX file or a plan, and checks it against its manifest. Needs no runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from vgg_deploy.artifacts.integrity import changes_of, onnx_contradictions, plan_contradictions
from vgg_deploy.artifacts.kinds import CHECKPOINT, PLAN, PLAN_SUFFIXES, kind_of
from vgg_deploy.artifacts.onnx_file import OnnxFile, model_errors
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.artifacts.plan import PLAN_VERSION, VERSION_KEY, PlanManifest, read_plan, seal_problem, sidecar_of
from vgg_deploy.artifacts.verdict_record import VerdictLine, onnx_verdict_line, plan_verdict_line
from vgg_deploy.errors import ManifestError, ModelFileError, UsageError
from vgg_deploy.files import sha256_of
from vgg_deploy.network import records
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8

NO_DIGESTS = "no digests: exported by an older vgg_deploy; verify with its checkpoint derives them"
_WEIGHT_BYTES = {FLOAT32: 4, FLOAT16: 2, INT8: 1}


@dataclass(frozen=True, slots=True)
class Description:
    """What an ONNX file or a plan is.

    Attributes:
        path: the file.
        size: in bytes.
        sha256: the SHA-256 of the file.
        weight_bytes: size of the weights in bytes. For a plan, computed from the types of its layers.
        layers: the type of each layer with weights, from the nodes of an ONNX file or the manifest of a plan.
        inputs, outputs: type and shape by name; empty for a plan.
        made_by: the tool that wrote the file, and the opset of an ONNX file.
        manifest: None for a foreign file.
        plan: a plan's own manifest, which includes that of its model.
        digests: what the recorded digests of an ONNX file, or the seal of a plan's sidecar, show; None for a foreign
            file.
        verdict: when the file was verified and against what, that it was changed since, or that it never was; None for
            a foreign file.
        contradictions: how the file differs from its manifest, one line each, with what to do.
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
    digests: str | None
    verdict: str | None
    contradictions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The file's facts and its whole manifest as JSON types."""
        manifest: dict[str, Any] | None = None
        if self.plan is not None:
            manifest = {VERSION_KEY: PLAN_VERSION, **records.encode(self.plan)}
        elif self.manifest is not None:
            manifest = records.encode(self.manifest)
        return {
            "file": str(self.path),
            "kind": "onnx" if self.plan is None else "plan",
            "bytes": self.size,
            "weight_bytes": self.weight_bytes,
            "sha256": self.sha256,
            "layers": dict(self.layers),
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "digests": self.digests,
            "verdict": self.verdict,
            "contradictions": list(self.contradictions),
            "manifest": manifest,
        }


def describe(path: Path) -> Description:
    """Describes an ONNX file, or a plan and the `NAME.plan.json` beside it.

    Raises:
        UsageError: the file does not exist, or is a checkpoint.
        ModelFileError, PlanError: the file is empty, truncated, or not what its ending says.
        ManifestError: the manifest is damaged, or a plan has none.
    """
    kind = kind_of(path)
    if kind == CHECKPOINT:
        raise UsageError(
            f"{path} is a checkpoint; inspect takes an ONNX file or a plan. To make an ONNX file: "
            f"vgg-deploy export --weights {path}"
        )
    if path.suffix == ".json" and path.with_suffix("").suffix in PLAN_SUFFIXES:
        raise UsageError(f"{path} is the manifest of a plan; name the plan: {path.with_suffix('')}")
    return _describe_plan(path) if kind == PLAN else _describe_onnx(path)


def _describe_plan(path: Path) -> Description:
    plan = read_plan(path)
    if plan is None:
        raise ManifestError(
            f"{path} has no {sidecar_of(path).name} beside it, and only TensorRT can read a plan without one; copy "
            "both files, or build the plan with vgg-deploy build"
        )
    digest, verdict = sha256_of(path), plan_verdict_line(path, plan)
    spec, arithmetic = plan.manifest.spec, plan.manifest.precision.arithmetic
    weight_bytes = 0
    for layer in spec.weight_layers if spec is not None else ():
        layer_type = plan.layers.get(layer.name, arithmetic)
        weight_bytes += math.prod(layer.weight_shape) * _WEIGHT_BYTES.get(layer_type, 2)
        weight_bytes += layer.out_channels * _WEIGHT_BYTES.get(arithmetic, 2)  # the bias
    return Description(
        path=path,
        size=path.stat().st_size,
        sha256=digest,
        weight_bytes=weight_bytes,
        layers=plan.layers,
        inputs={},
        outputs={},
        made_by=f"{plan.backend} {plan.version}",
        manifest=plan.manifest,
        plan=plan,
        digests=_seal_line(path, plan),
        verdict=verdict.text,
        contradictions=(*plan_contradictions(path, plan, digest), *_of_verdict(path, verdict)),
    )


def _describe_onnx(path: Path) -> Description:
    file = OnnxFile(path)
    header = file.header
    with model_errors(path):
        layers = layer_types(header)
    changes, manifest = changes_of(file), file.manifest
    contradictions = onnx_contradictions(file, changes)
    digests, verdict = None, None
    if manifest is not None:
        digests = NO_DIGESTS if changes is None else str(changes)
        verdict = onnx_verdict_line(path, manifest)
        contradictions += _of_verdict(path, verdict)
        with suppress(ModelFileError, ManifestError):  # it does not fit the graph, as the contradictions say
            manifest = file.effective_manifest()
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
        digests=digests,
        verdict=None if verdict is None else verdict.text,
        contradictions=contradictions,
    )


def _of_verdict(path: Path, verdict: VerdictLine) -> tuple[str, ...]:
    return (f"{path}: {verdict.text}",) if verdict.holds is False else ()


def _seal_line(path: Path, plan: PlanManifest) -> str:
    if plan.seal is None:
        return "no seal: built by an older vgg_deploy, so edits of the sidecar cannot be seen"
    name = sidecar_of(path).name
    return f"{name} as built, by its seal" if seal_problem(path) is None else f"{name} was edited, by its seal"


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    count = math.prod(tensor.dims)
    try:
        return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:  # strings, and types that this version of onnx does not know
        return 0
