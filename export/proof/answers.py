"""Parity stage by stage: FC form, convolutional form, each exported file, and each FP16 file with rounded activations.

The caller opens the engines: files with `engines.open_engine`, a checkpoint with `train.network.reference`. With an
ONNX file as reference nothing here needs torch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.float16 import rounding_copy
from export.proof.views import ComparisonViews
from vgg_deploy.artifacts.kinds import PLAN_SUFFIXES
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.parity import (
    THRESHOLDS,
    NamedView,
    Parity,
    compare,
    first_divergence,
    layer_errors,
    posteriors,
)
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import ACTIVATION, Floats

OpenEngine = Callable[[Path], Engine]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from training to a file, compared with its reference.

    Attributes:
        name: what was compared.
        reference: what it was compared with.
        precision: the row of the thresholds that applies.
        parity: the figures.
        failures: the thresholds that were not met, as text; empty if all were.
        diverges: after a failure, the first layer that diverges, as text.
    """

    name: str
    reference: str
    precision: str
    parity: Parity
    failures: tuple[str, ...]
    diverges: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Openers:
    """How a verification opens its engines.

    Attributes:
        judged: opens an ONNX file or a plan that is compared with the reference.
        rounding: opens an ONNX file in a runtime that keeps pairs of casts, for FP16 files; see
            `export.float16.rounding_copy`.
        activations: opens the reference with `activations`, to find the first layer that diverges.
    """

    judged: OpenEngine
    rounding: OpenEngine
    activations: Callable[[], Engine]


class Verification:
    """Compares files with one reference on the same views. The posteriors of the reference are computed once.

    Args:
        reference: the engine whose answers count as correct.
        name: its name in reports.
        views: the views on which files are compared.
        openers: open further engines.
        progress: called after each view of each engine.
    """

    def __init__(
        self,
        reference: Engine,
        name: str,
        views: ComparisonViews,
        openers: Openers,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._reference, self._name, self._views = reference, name, views
        self._openers, self._progress = openers, progress
        self._posteriors: dict[bool, Floats] = {}

    def _expected(self, free: bool) -> Floats:
        if free not in self._posteriors:
            self._posteriors[free] = posteriors(self._reference, self._chosen(free), self._progress)
        return self._posteriors[free]

    def _chosen(self, free: bool) -> Sequence[NamedView]:
        return self._views.whole if free else self._views.crops

    def form(self, other: Engine, name: str) -> Stage:
        """Compares the reference with another form of the same weights, on the crops."""
        expected = posteriors(other, self._views.crops, self._progress)
        classes = self._reference.info.manifest.classes
        parity = compare(expected, self._expected(False), [view.name for view in self._views.crops], classes)
        return Stage(self._name, name, "float32", parity, parity.failures(THRESHOLDS["float32"]))

    def file(self, path: Path) -> Iterator[Stage]:
        """Compares an exported file or a plan. It compares an FP16 file again with all activations rounded to FP16."""
        with self._openers.judged(path) as engine:
            manifest = engine.info.manifest
            name = f"{path.name}, computed in bfloat16" if engine.info.bf16 else path.name
            stage = self._compare(engine, name, engine.info.lowest)
        if path.suffix in PLAN_SUFFIXES:  # it computes in FP16 itself, and does not give the activations of layers
            remedy = "the layers of a plan cannot be compared; verify the ONNX file from which it was built"
            yield dataclasses.replace(stage, diverges=remedy if stage.failures else None)
            return
        yield self._explained(stage, manifest, lambda: onnx.load(path), self._openers.judged)
        if not rounded_too(path, manifest):
            return

        def rounded() -> onnx.ModelProto:
            return rounding_copy(onnx.load(path))

        with tempfile.TemporaryDirectory() as folder, self._openers.rounding(_saved(rounded(), folder)) as engine:
            stage = self._compare(engine, f"{path.name}, activations rounded to FP16", manifest.precision.lowest)
        yield self._explained(stage, manifest, rounded, self._openers.rounding)

    def _compare(self, engine: Engine, name: str, precision: str) -> Stage:
        free = engine.info.shapes.free and self._reference.info.shapes.free
        views = self._chosen(free)
        expected = self._expected(free)
        received = posteriors(engine, views, self._progress)
        parity = compare(expected, received, [view.name for view in views], self._reference.info.manifest.classes)
        return Stage(name, self._name, precision, parity, parity.failures(THRESHOLDS[precision]))

    def _explained(
        self, stage: Stage, manifest: Manifest, load: Callable[[], onnx.ModelProto], open_engine: OpenEngine
    ) -> Stage:
        """The stage, with the first layer that diverges if it failed."""
        if not stage.failures:
            return stage
        if manifest.spec is None or self._reference.info.manifest.spec is None:
            diverges = "layers cannot be compared: the file or the reference has no manifest that names them"
        else:
            limit = THRESHOLDS[stage.precision].layer
            free = stage.parity.view_count == len(self._views.whole)
            view = self._chosen(free)[stage.parity.worst]
            model = with_activations(load(), manifest.spec)
            with (
                tempfile.TemporaryDirectory() as folder,
                self._openers.activations() as reference,
                open_engine(_saved(model, folder)) as engine,
            ):
                errors = layer_errors(reference, engine, view, [layer.name for layer in manifest.spec.layers])
            first = first_divergence(errors, limit)
            if first is not None:
                diverges = (
                    f"first layer that diverges: {first.layer}, by {first.error:.2g} of its largest value ({view.name})"
                )
            elif errors:
                largest = max(errors, key=lambda error: error.error)
                diverges = (
                    f"no layer diverges by more than {limit:g}; the largest error is {largest.error:.2g} in "
                    f"{largest.layer}"
                )
            else:
                diverges = "layers cannot be compared: the nodes of the file do not have the paper's names"
        return dataclasses.replace(stage, diverges=diverges)


def check_same_network(path: Path, manifest: Manifest, reference: Manifest) -> None:
    """Raises UsageError if a file has another network than its reference. It skips files without our manifest."""
    if manifest.spec is not None and reference.spec is not None and manifest.spec != reference.spec:
        raise UsageError(
            f"{path} is {manifest.spec}, but the reference is {reference.spec}: they are different networks; give "
            "the reference from which the file was made"
        )


def all_use_fine_grid(manifests: Mapping[Path, Manifest]) -> bool:
    """Whether all files use the fine grid. If so, a reference in PyTorch has to use it too.

    Raises:
        UsageError: only some of them do, so no single reference gives the same posteriors.
    """
    fine = {path: manifest.spec is not None and manifest.spec.fine for path, manifest in manifests.items()}
    if len(set(fine.values())) > 1:
        fine_file = next(path for path in fine if fine[path])
        raise UsageError(f"{fine_file} was exported with --fine and other files were not; verify them separately")
    return any(fine.values())


def with_activations(model: onnx.ModelProto, spec: NetworkSpec) -> onnx.ModelProto:
    """A copy of a graph with an output float32 `activation/LAYER` for each layer of the spec that is a node of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {node.name: node.output[0] for node in copy.graph.node}
    for layer in spec.layers:
        # In a copy that rounds to FP16 two more nodes follow each layer. The last of them has its value.
        tensor = tensors.get(f"{layer.name}/from_half", tensors.get(layer.name))
        if tensor is None:
            continue
        name = ACTIVATION + layer.name
        copy.graph.node.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


def _saved(model: onnx.ModelProto, folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    onnx.save(model, path)
    return path


def open_with_activations(path: Path, open_engine: OpenEngine) -> Engine:
    """Opens an ONNX file as a reference that gives the activation of every layer."""
    with open_engine(path) as engine:
        spec = engine.info.manifest.spec
    if spec is None:
        raise UsageError(f"{path} has no vgg_deploy manifest, so its layers are unknown")
    with tempfile.TemporaryDirectory() as folder:
        return open_engine(_saved(with_activations(onnx.load(path), spec), folder))


def rounded_too(path: Path, manifest: Manifest) -> bool:
    """Whether a file is also compared with rounded activations, because CPU runtimes compute FP16 in FP32."""
    return manifest.precision.arithmetic == "float16" and path.suffix not in PLAN_SUFFIXES


def views_needed(manifests: Mapping[Path, Manifest], views: ComparisonViews, *, forms: bool) -> int:
    """The number of views that verifying these files runs, for the progress bar."""
    runs = sum(1 + rounded_too(path, manifest) for path, manifest in manifests.items())
    return (runs + 1) * len(views.whole) + (2 * len(views.crops) if forms else 0)
