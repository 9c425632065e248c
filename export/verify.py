"""Parity stage by stage: FC form, convolutional form, each exported file, each FP16 file with its rounding.

Engines come from the caller: `open_engine` for files, `train.network.reference` for a checkpoint. With an ONNX reference nothing here
needs torch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.float16 import rounding_copy
from export.taps import with_activations
from vgg_deploy.artifacts.kinds import PLAN_SUFFIXES
from vgg_deploy.errors import ImageError, UsageError
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
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.images import centre_box, decode, rescale

# Sizes at which images are compared, above the crop: no multiple of 32, and never the size of an export.
SIZES_ABOVE_CROP = (0, 37, 101)
TRIMMED_COLUMNS = 13  # taken off the largest view's long side, so that square images give views that are not square

OpenEngine = Callable[[Path], Engine]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the way from training to a file, compared with its reference.

    Attributes:
        name: what was compared.
        reference: with what.
        precision: which row of the thresholds it was held against.
        parity: the figures.
        failures: what does not hold, in words; empty where all does.
        diverges: on a failure, the first layer that goes astray, in words.
    """

    name: str
    reference: str
    precision: str
    parity: Parity
    failures: tuple[str, ...]
    diverges: str | None = None


@dataclass(frozen=True, slots=True)
class Views:
    """What is compared on: whole images at several sizes, and crops for what takes one size only.

    Attributes:
        whole: for engines of free height and width.
        crops: crop x crop.
        unreadable: images passed over, with the reason.
    """

    whole: tuple[NamedView, ...]
    crops: tuple[NamedView, ...]
    unreadable: tuple[str, ...]


def read_views(paths: Iterable[Path], manifest: Manifest) -> Views:
    """Rescales each image to several sizes, as inference does.

    Raises:
        UsageError: none can be read.
    """
    whole: list[NamedView] = []
    crops: list[NamedView] = []
    unreadable: list[str] = []
    crop = manifest.crop
    for path in paths:
        try:
            pixels = decode(path)
            views = [rescale(pixels, crop + above, manifest.rescaling) for above in SIZES_ABOVE_CROP]
        except ImageError as error:
            unreadable.append(f"{path}: {error}")
            continue
        top, left = centre_box(views[0].shape[0], views[0].shape[1], crop)
        crops.append(NamedView(f"{path.name} {crop}x{crop}", views[0][top : top + crop, left : left + crop]))
        height, width = views[-1].shape[:2]
        views[-1] = views[-1][:-TRIMMED_COLUMNS] if height > width else views[-1][:, :-TRIMMED_COLUMNS]
        whole.extend(NamedView(f"{path.name} {view.shape[1]}x{view.shape[0]}", view) for view in views)
    if not crops:
        raise UsageError("none of the images can be read: " + "; ".join(unreadable[:3]))
    return Views(tuple(whole), tuple(crops), tuple(unreadable))


class Verification:
    """Compares files with one reference over the same views, whose posteriors it computes once.

    Args:
        reference: the engine that is right by definition.
        name: what it is called in reports.
        views: what is compared on.
        open_engine: opens an ONNX file.
        open_rounding: opens an ONNX file in a runtime that keeps pairs of casts, for FP16 files; see `export.float16.rounding_copy`.
        open_activations: opens the reference with `activations`, for naming the first layer that diverges.
        progress: called after each view of each engine.
    """

    def __init__(
        self,
        reference: Engine,
        name: str,
        views: Views,
        open_engine: OpenEngine,
        open_rounding: OpenEngine,
        open_activations: Callable[[], Engine],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._reference, self._name, self._views = reference, name, views
        self._open, self._open_rounding = open_engine, open_rounding
        self._open_activations, self._progress = open_activations, progress
        self._known: dict[bool, Floats] = {}

    def _expected(self, free: bool) -> Floats:
        if free not in self._known:
            self._known[free] = posteriors(self._reference, self._chosen(free), self._progress)
        return self._known[free]

    def _chosen(self, free: bool) -> Sequence[NamedView]:
        return self._views.whole if free else self._views.crops

    def form(self, other: Engine, name: str) -> Stage:
        """The reference held against another form of the same weights, on the crops."""
        expected = posteriors(other, self._views.crops, self._progress)
        classes = self._reference.info.manifest.classes
        parity = compare(expected, self._expected(False), [view.name for view in self._views.crops], classes)
        return Stage(self._name, name, "float32", parity, parity.failures(THRESHOLDS["float32"]))

    def file(self, path: Path) -> Iterator[Stage]:
        """An exported file or a plan; an ONNX file with FP16 in it a second time, with every such activation rounded to FP16."""
        with self._open(path) as engine:
            manifest = engine.info.manifest
            name = f"{path.name}, computed in bfloat16" if engine.info.bf16 else path.name
            stage = self._compare(engine, name, engine.info.lowest)
        if path.suffix in PLAN_SUFFIXES:  # it computes in FP16 itself, and gives no layer's activation
            words = "a plan's layers cannot be compared; verify the ONNX file that it was built from"
            yield dataclasses.replace(stage, diverges=words if stage.failures else None)
            return
        yield self._explained(stage, manifest, lambda: onnx.load(path), self._open)
        if not rounded_too(path, manifest):
            return

        def rounded() -> onnx.ModelProto:
            return rounding_copy(onnx.load(path))

        with tempfile.TemporaryDirectory() as folder, self._open_rounding(_saved(rounded(), folder)) as engine:
            stage = self._compare(engine, f"{path.name}, activations rounded to FP16", manifest.precision.lowest)
        yield self._explained(stage, manifest, rounded, self._open_rounding)

    def _compare(self, engine: Engine, name: str, precision: str) -> Stage:
        free = engine.info.shapes.free and self._reference.info.shapes.free
        views = self._chosen(free)
        expected = self._expected(free)
        found = posteriors(engine, views, self._progress)
        parity = compare(expected, found, [view.name for view in views], self._reference.info.manifest.classes)
        return Stage(name, self._name, precision, parity, parity.failures(THRESHOLDS[precision]))

    def _explained(
        self, stage: Stage, manifest: Manifest, load: Callable[[], onnx.ModelProto], open_engine: OpenEngine
    ) -> Stage:
        """The stage with the layer where it goes astray, if it failed."""
        if not stage.failures:
            return stage
        if manifest.spec is None or self._reference.info.manifest.spec is None:
            words = "layers cannot be compared: the file or the reference has no manifest that names them"
        else:
            limit = THRESHOLDS[stage.precision].layer
            free = stage.parity.views == len(self._views.whole)
            view = self._chosen(free)[stage.parity.worst]
            model = with_activations(load(), manifest.spec)
            with (
                tempfile.TemporaryDirectory() as folder,
                self._open_activations() as reference,
                open_engine(_saved(model, folder)) as engine,
            ):
                errors = layer_errors(reference, engine, view, [layer.name for layer in manifest.spec.layers])
            first = first_divergence(errors, limit)
            if first is not None:
                words = f"first layer astray: {first.layer}, by {first.error:.2g} of its largest value ({view.name})"
            elif errors:
                largest = max(errors, key=lambda error: error.error)
                words = f"no layer is off by more than {limit:g}; the largest error is {largest.error:.2g} in {largest.layer}"
            else:
                words = "layers cannot be compared: the file's nodes do not carry the paper's names"
        return Stage(stage.name, stage.reference, stage.precision, stage.parity, stage.failures, words)


def check_same_network(path: Path, manifest: Manifest, reference: Manifest) -> None:
    """Raises UsageError where a file is of another network than its reference. Without our manifest it may be any."""
    if manifest.spec is not None and reference.spec is not None and manifest.spec != reference.spec:
        raise UsageError(f"{path} is {manifest.spec}, the reference {reference.spec}: they are different networks")


def grid_of(manifests: Mapping[Path, Manifest]) -> bool:
    """Whether files are of the fine grid; a reference in PyTorch is then made so too.

    Raises:
        UsageError: some are and some are not, and would give other posteriors than the same reference.
    """
    fine = {path: manifest.spec is not None and manifest.spec.fine for path, manifest in manifests.items()}
    if len(set(fine.values())) > 1:
        named = next(path for path in fine if fine[path])
        raise UsageError(f"{named} was exported with --fine and others were not; verify them one after the other")
    return any(fine.values())


def _saved(model: onnx.ModelProto, folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    onnx.save(model, path)
    return path


def open_with_activations(path: Path, open_engine: OpenEngine) -> Engine:
    """An ONNX file opened so that it gives every layer's activation; for an ONNX reference."""
    with open_engine(path) as engine:
        spec = engine.info.manifest.spec
    if spec is None:
        raise UsageError(f"{path} has no manifest; its layers are unknown")
    with tempfile.TemporaryDirectory() as folder:
        return open_engine(_saved(with_activations(onnx.load(path), spec), folder))


def rounded_too(path: Path, manifest: Manifest) -> bool:
    """Whether a file is judged a second time, with its FP16 activations rounded: CPU runtimes compute them in FP32."""
    return manifest.precision.arithmetic == "float16" and path.suffix not in PLAN_SUFFIXES


def views_needed(manifests: Mapping[Path, Manifest], views: Views, *, forms: bool) -> int:
    """How many runs a verification of these files makes, for its progress bar."""
    runs = sum(1 + rounded_too(path, manifest) for path, manifest in manifests.items())
    return (runs + 1) * len(views.whole) + (2 * len(views.crops) if forms else 0)
