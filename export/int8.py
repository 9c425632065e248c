"""From a checkpoint and real images to a quantization: ranges, and the network with any choice of layers in INT8."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from export.calibrate import Measured, measure, observe
from export.exporter import write_model
from export.graph import GraphOptions, build_graph
from export.sample import Sample
from train.network.checkpoint import Checkpoint
from vgg_deploy.files import Source
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.manifest import MANIFEST_KEY
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class Variants:
    """One checkpoint's network with other layers in INT8, each written as ONNX in a folder of its own and opened there.

    Args:
        checkpoint: its weights stay as they are.
        open_engine: opens an ONNX file.
        score_map, fine: as the export will be; ranges depend on them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        open_engine: Callable[[Path], Engine],
        *,
        score_map: bool = False,
        fine: bool = False,
    ) -> None:
        self._checkpoint, self._open, self._score_map, self._fine = checkpoint, open_engine, score_map, fine
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def open(
        self, quantization: Quantization | None = None, *, observed: bool = False, largest: bool = False
    ) -> Engine:
        """The network in FP32 and INT8; with `observed`, giving what `export.calibrate.measure` reads."""
        manifest = self._checkpoint.manifest
        assert manifest.spec is not None
        spec, normalization = dataclasses.replace(manifest.spec, fine=self._fine), manifest.normalization
        assert normalization is not None
        options = GraphOptions(dynamic=True, quantization=quantization, score_map=self._score_map)
        weights = {name: tensor.numpy() for name, tensor in self._checkpoint.weights.items()}
        model = build_graph(spec, weights, normalization, options)
        if observed:
            observe(model, spec, self._score_map, largest=largest)
        edge = AxisRange(spec.crop)
        manifest = manifest.with_(
            spec=spec,
            precision=Precision(quantization=quantization),
            shapes=ShapeRange(AxisRange(1), edge, edge),
            outputs=options.outputs,
        )
        model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
        path = Path(self._folder.name) / "model.onnx"
        path.unlink(missing_ok=True)  # a runtime may have the last one mapped: a new file, not new bytes in the old one
        write_model(model, path)
        return self._open(path)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A measured checkpoint, of which any choice of layers can be quantized.

    Attributes:
        spec: the network.
        measured: ranges, and the largest activations where FP16 needs them.
        sample: the images.
        images: their names and hashes.
        method: minmax, entropy or percentile.
        target: tensorrt or onnxruntime.
    """

    spec: NetworkSpec
    measured: Measured
    sample: Sample
    images: tuple[Source, ...]
    method: str
    target: str

    @property
    def candidates(self) -> tuple[str, ...]:
        """The layers that may be INT8. For ONNX Runtime not fc8: its scores would have to be quantized too."""
        names = tuple(layer.name for layer in self.spec.weight_layers)
        return names if self.target == "tensorrt" else names[:-1]

    def quantization(self, layers: Collection[str], budget: str | None = None) -> Quantization:
        """These layers in INT8, the others in floating point."""
        names = [layer.name for layer in self.spec.weight_layers]
        return Quantization(
            target=self.target,
            layers=tuple(name for name in names if name in layers),
            kept=tuple(name for name in names if name not in layers),
            method=self.method,
            ranges=self.measured.spans,
            images=self.images,
            scales=self.sample.protocol.scales,
            mirror=self.sample.protocol.mirror,
            budget=budget,
        )


def calibrate(
    variants: Variants,
    spec: NetworkSpec,
    sample: Sample,
    method: str,
    target: str,
    *,
    largest: bool,
    progress: Progress,
) -> Calibration:
    """Measures the ranges of a checkpoint on real images.

    Args:
        largest: measure what FP16 needs too.
        progress: a progress bar's maker: what is done, and of how many images.

    Raises:
        VGGDeployError: an activation is NaN or infinite.
    """
    with variants.open(observed=True, largest=largest) as engine, progress("calibrating", len(sample.paths)) as advance:
        measured = measure(engine.run, sample.views(advance), method)
    return Calibration(spec, measured, sample, sample.sources, method, target)
