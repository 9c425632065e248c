"""Whether a file is still what its manifest says, without running it.

An export records digests of the file's parts in its manifest. They find every later change, and name the tensor. The
graph is compared with the manifest as well: this needs no digests, and says what a change means.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vgg_deploy.artifacts.changes import Changes
from vgg_deploy.artifacts.graph_check import GraphCheck
from vgg_deploy.artifacts.kinds import CHECKPOINT, PLAN, kind_of
from vgg_deploy.artifacts.onnx_file import OnnxFile, model_errors
from vgg_deploy.artifacts.onnx_format import PRODUCER
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.artifacts.plan import PlanManifest, mismatch, read_plan, seal_problem
from vgg_deploy.artifacts.weights_check import NO_DATA
from vgg_deploy.errors import ManifestError, ModelFileError, UsageError, VGGDeployError
from vgg_deploy.files import sha256_of
from vgg_deploy.network import records
from vgg_deploy.network.digests import NOT_DIGESTED
from vgg_deploy.network.manifest import Manifest

_LISTED = 8  # differences between graph and manifest that are listed
_OF_THE_PLAN = (*NOT_DIGESTED, "shapes")  # fields of a manifest in which a plan may differ from its ONNX file


@dataclass(frozen=True, slots=True)
class Examination:
    """What a look at a file, without running it, has shown.

    Attributes:
        contradictions: how the file differs from its manifest, one line each, with what to do.
        tensors: how many tensors were compared with recorded digests; 0 for a plan that has no ONNX file beside it.
        recorded: whether the file has digests; for a plan, whether its sidecar has a seal.
        seconds: how long it took.
    """

    contradictions: tuple[str, ...]
    tensors: int
    recorded: bool
    seconds: float


def examine(path: Path) -> Examination:
    """Compares an ONNX file, or a plan and its sidecar, with the manifest. Reads each byte once.

    A foreign ONNX file and a plan without a sidecar state nothing that could be contradicted.

    Raises:
        UsageError: the file does not exist, or is a checkpoint.
        ModelFileError, PlanError: the file is empty, truncated, or not what its ending says.
    """
    start, kind = time.perf_counter(), kind_of(path)
    if kind == CHECKPOINT:
        raise UsageError(f"{path} is a checkpoint; expected an ONNX file or a plan")
    tensors, recorded = 0, False
    try:
        if kind == PLAN:
            plan = read_plan(path)
            contradictions = () if plan is None else plan_contradictions(path, plan)
            recorded = plan is not None and plan.seal is not None
            onnx = None if plan is None else onnx_beside(path, plan)
            if onnx is not None and plan is not None and plan.manifest.digests is not None:
                tensors = len(plan.manifest.digests.tensors)
        else:
            file = OnnxFile(path)
            changes = changes_of(file)
            contradictions = onnx_contradictions(file, changes)
            if changes is not None:
                tensors, recorded = changes.recorded, True
    except ManifestError as error:  # edited, or damaged
        contradictions = (str(error),)
    return Examination(contradictions, tensors, recorded, time.perf_counter() - start)


def changes_of(file: OnnxFile) -> Changes | None:
    """What was changed in a file since its export; None if it has no digests: a foreign or an older file.

    Raises:
        ModelFileError: the file is damaged.
        ManifestError: the manifest cannot be read.
    """
    manifest = file.manifest
    if manifest is None or manifest.digests is None:
        return None
    with model_errors(file.path):
        return Changes.since(manifest.digests, file)


def onnx_contradictions(file: OnnxFile, changes: Changes | None) -> tuple[str, ...]:
    """How an ONNX file differs from its manifest; nothing for a foreign file, which has none.

    Args:
        changes: see `changes_of`.

    Raises:
        ModelFileError: the file is damaged.
        ManifestError: the manifest cannot be read.
    """
    stated, path = file.manifest, file.path
    if stated is None:
        if file.producer != PRODUCER:
            return ()
        return (f"{path} was written by vgg_deploy, but its manifest is missing; export it again",)
    found: list[str] = []
    try:
        found += _interface_contradictions(path, stated, file.effective_manifest())
    except (ModelFileError, ManifestError) as error:
        found.append(str(error))
    with model_errors(path):
        types = type_contradictions(path, stated, layer_types(file.header))
        graph = _graph_contradictions(file, stated, bool(types))
    changed: list[str] = []
    if changes is not None:
        # Data that are cut are one fault, and the graph's line says more.
        explained = {text.partition(NO_DATA)[0] for text in graph if NO_DATA in text}
        unexplained = replace(changes, changed=tuple(name for name in changes.changed if name not in explained))
        changed += (f"{path}: {line}; export it again" for line in unexplained.lines())
    if len(graph) > _LISTED:
        graph = (*graph[:_LISTED], f"{len(graph) - _LISTED} more differences between its graph and its manifest")
    return (*changed, *found, *types, *(f"{path}: {text}; export it again" for text in graph))


def plan_contradictions(path: Path, plan: PlanManifest, sha256: str | None = None) -> tuple[str, ...]:
    """How a plan differs from its sidecar, and from the ONNX file beside it if that is there.

    Args:
        sha256: the plan's SHA-256, if it is known.
    """
    difference = None if sha256 == plan.plan.sha256 else mismatch(path, plan)
    problems = (difference, seal_problem(path), _onnx_difference(path, plan))
    return (
        *(problem for problem in problems if problem is not None),
        *type_contradictions(path, plan.manifest, plan.layers),
    )


def onnx_beside(path: Path, plan: PlanManifest) -> Path | None:
    """The ONNX file from which a plan was built, if a file of that name lies beside the plan."""
    name = Path(plan.onnx.name).name  # an edited sidecar may name a file elsewhere, or none
    onnx = path.parent / name
    return onnx if name and onnx.is_file() else None


def type_contradictions(path: Path, manifest: Manifest, layers: Mapping[str, str]) -> tuple[str, ...]:
    """One line for all layers that compute in another type than the manifest states."""
    difference = manifest.type_difference(layers)
    if difference is None:
        return ()
    return (f"{path} does not compute in the types that its manifest states: {difference}; export it again",)


def _interface_contradictions(path: Path, stated: Manifest, effective: Manifest) -> Iterator[str]:
    """Shapes and outputs of the graph that were changed after the export."""
    if stated.shapes != effective.shapes:
        yield f"{path} takes images of {effective.shapes}, but its manifest states {stated.shapes}; export it again"
    if stated.outputs != effective.outputs:
        yield (
            f"{path} has the outputs {', '.join(effective.outputs)}, but its manifest states "
            f"{', '.join(stated.outputs) or 'none'}; export it again"
        )


def _graph_contradictions(file: OnnxFile, manifest: Manifest, wrong_types: bool) -> tuple[str, ...]:
    """How the nodes and constants of a graph differ from what its manifest states.

    `wrong_types`: layers compute in other types than it states, and that is said already.
    """
    if manifest.spec is None or manifest.normalization is None:
        return ()
    outputs = tuple(value.name for value in file.outputs)
    present = manifest.with_(outputs=tuple(name for name in manifest.outputs if name in outputs))
    return GraphCheck(file, present, types=not wrong_types).contradictions()


def _onnx_difference(path: Path, plan: PlanManifest) -> str | None:
    """Why the ONNX file beside a plan is not the one from which it was built; None if it is, or is not there."""
    onnx = onnx_beside(path, plan)
    if onnx is None:
        return None
    again = f"build the plan again: {plan.command}"
    try:
        reason = _difference_of_origin(plan, OnnxFile(onnx))
    except VGGDeployError as error:
        return f"{onnx}, from which {path.name} was built, cannot be read: {error}"
    return None if reason is None else f"{onnx} is not the file from which {path.name} was built: {reason}; {again}"


def _difference_of_origin(plan: PlanManifest, file: OnnxFile) -> str | None:
    """How an ONNX file differs from the one from which a plan was built; None if it does not."""
    recorded, manifest = plan.manifest.digests, file.manifest
    if recorded is None or manifest is None or manifest.digests is None:
        return None if sha256_of(file.path) == plan.onnx.sha256 else "its SHA-256 differs"
    # The file's SHA-256 changes if a verdict is recorded in it, but its digests do not.
    changes = [*Changes.since(recorded, file).lines()]
    if changes:
        return changes[0] + (f", and {len(changes) - 1} more differences" if len(changes) > 1 else "")
    sidecar, own = (records.encode(record) for record in (plan.manifest, manifest))
    free = (*_OF_THE_PLAN, "classes") if "--labels" in shlex.split(plan.command) else _OF_THE_PLAN
    names = [name for name in own if name not in free and own[name] != sidecar[name]]
    return f"the two manifests differ in {', '.join(names)}" if names else None
