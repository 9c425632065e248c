"""Healthy artifacts: a network as ONNX in every form that `export` writes, and a plan of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.network.weight_facts import NOTHING_STATED, WeightFacts


@dataclass(frozen=True, slots=True)
class Network:
    """A trained network.

    Attributes:
        checkpoint: its weights.
        images: real images, for INT8 ranges and for views.
        facts: what the checkpoint does not state about itself.
    """

    checkpoint: Path
    images: tuple[Path, ...]
    facts: WeightFacts = NOTHING_STATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What `export` is asked for, and which damages its files get.

    Attributes:
        target: that of INT8; None: no layer is INT8.
        groups: the modules of `kinds` whose damages it gets; None: all. Weights are the same in every form.
    """

    half: bool = False
    target: str | None = None
    fine: bool = False
    external_data: bool = False
    score_map: bool = False
    features: bool = False
    dynamic: bool = True
    groups: frozenset[str] | None = None

    @property
    def precision(self) -> str:
        """The row of a report to which the form belongs."""
        if self.target is None:
            return "fp16" if self.half else "fp32"
        return f"int8 {self.target}" + ("+fp16" if self.half else "")


_OTHER_GRAPH = frozenset({"layers", "outputs"})

FORMS = {
    "fp32": Form(),
    "fp16": Form(half=True),
    "int8 tensorrt": Form(target="tensorrt"),
    "int8 onnxruntime": Form(target="onnxruntime"),
    "int8+fp16": Form(target="tensorrt", half=True),
    "fp32 fine": Form(fine=True, groups=_OTHER_GRAPH),
    "fp32 score-map": Form(score_map=True, groups=_OTHER_GRAPH),
    "fp32 features": Form(features=True, groups=_OTHER_GRAPH),
    "fp32 fixed": Form(dynamic=False, groups=_OTHER_GRAPH),
    "fp32 external": Form(external_data=True),
    "fp16 fine, all outputs": Form(half=True, fine=True, score_map=True, features=True, groups=_OTHER_GRAPH),
    "int8 tensorrt, all outputs": Form(target="tensorrt", score_map=True, features=True, groups=_OTHER_GRAPH),
    "int8 onnxruntime, all outputs": Form(
        target="onnxruntime", score_map=True, features=True, groups=_OTHER_GRAPH | {"scales"}
    ),
}


def write(network: Network, form: Form, path: Path) -> Path:
    """Exports a network as `vgg-deploy export` does, with ranges measured on its images. Returns `path`."""
    from export.exporter import export_with
    from train.network.checkpoint import read

    checkpoint = read(network.checkpoint, network.facts)
    graph = GraphOptions(dynamic=form.dynamic, half=form.half, score_map=form.score_map, features=form.features)
    options = ExportOptions(graph=graph, fine=form.fine, external_data=form.external_data)
    if form.target is not None:
        options = _quantized(checkpoint, options, form.target, network.images)
    elif form.half:
        options = replace(options, calibration=_sample(checkpoint.manifest, network.images).views())
    export_with(checkpoint, path, options)
    return path


def _quantized(checkpoint: Any, options: ExportOptions, target: str, images: Sequence[Path]) -> ExportOptions:
    from engines import open_engine
    from export.int8 import Variants, calibrate

    with Variants(checkpoint, open_engine, options) as variants:
        sample = _sample(checkpoint.manifest, images)
        measured = calibrate(variants, sample, "minmax", target, _silent)
    quantization = measured.quantization(measured.candidates)
    largest = dict(measured.measured.largest) or None
    return replace(options, graph=replace(options.graph, quantization=quantization), largest=largest)


def _sample(manifest: Any, images: Sequence[Path]) -> Any:
    from export.sample import ImageSample
    from vgg_deploy.views.protocols import choose_protocol

    protocol = choose_protocol(manifest, "dense", free_size=True).protocol
    return ImageSample(tuple(images), protocol, manifest.rescaling)


@contextmanager
def _silent(_description: str, _count: int) -> Iterator[Any]:
    yield lambda: None


def write_plan(model: Path, folder: Path) -> Path:
    """Builds a plan with TensorRT-RTX, which needs no GPU for it."""
    from engines.trt.build import build

    return build(model, folder / f"{model.stem}.plan").path
