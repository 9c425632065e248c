"""From a checkpoint and real images to a quantization: measured ranges, and the network with any layers in INT8."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from export.calibrate import MeasuredRanges, measure, observe
from export.exporter import write_model
from export.graph import build_graph
from export.manifest import exported_manifest
from export.sample import ImageSample
from train.network.checkpoint import Checkpoint
from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.files import Source
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.manifest import MANIFEST_KEY
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.spec import NetworkSpec

Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]


class Variants(ContextManaged):
    """The network of a checkpoint with any choice of layers in INT8, written to a temporary folder and opened there.

    Args:
        checkpoint: its weights are not changed.
        open_engine: opens an ONNX file.
        options: of the later export; the ranges depend on them. Axes are always free here.
    """

    def __init__(
        self, checkpoint: Checkpoint, open_engine: Callable[[Path], Engine], options: ExportOptions | None = None
    ) -> None:
        assert checkpoint.manifest.spec is not None
        self.spec: NetworkSpec = checkpoint.manifest.spec
        self._checkpoint, self._open, self._options = checkpoint, open_engine, options or ExportOptions()
        self._folder = tempfile.TemporaryDirectory()

    def close(self) -> None:
        self._folder.cleanup()

    def open(self, quantization: Quantization | None = None, *, observed: bool = False) -> Engine:
        """Opens the network in FP32 and INT8.

        `observed` adds the outputs that `export.calibrate.measure` reads: the values whose ranges INT8 needs and, if
        the export is in FP16, the largest activations.
        """
        exported = self._options.graph
        graph = GraphOptions(dynamic=True, quantization=quantization, score_map=exported.score_map)
        precision = Precision(quantization=quantization)
        manifest = exported_manifest(self._checkpoint.manifest, graph, precision, fine=self._options.fine)
        assert manifest.spec is not None
        assert manifest.normalization is not None
        weights = {name: tensor.numpy() for name, tensor in self._checkpoint.weights.items()}
        model = build_graph(manifest.spec, weights, manifest.normalization, graph)
        if observed:
            observe(model, manifest.spec, exported.score_map, largest=exported.half)
        model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
        path = Path(self._folder.name) / "model.onnx"
        path.unlink(missing_ok=True)  # a runtime may have mapped the previous file, so it must not be overwritten
        write_model(model, path)
        return self._open(path)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured ranges of a checkpoint, from which any choice of layers can be quantized.

    Attributes:
        spec: the network.
        measured: ranges, and the largest activations if FP16 needs them.
        sample: the images.
        images: their names and hashes.
        method: minmax, entropy or percentile.
        target: tensorrt or onnxruntime.
    """

    spec: NetworkSpec
    measured: MeasuredRanges
    sample: ImageSample
    images: tuple[Source, ...]
    method: str
    target: str

    @property
    def candidates(self) -> tuple[str, ...]:
        """The layers that may be INT8. For ONNX Runtime, fc8 may not: it would quantize the scores as well."""
        names = tuple(layer.name for layer in self.spec.weight_layers)
        return names if self.target == "tensorrt" else names[:-1]

    def quantization(self, layers: Collection[str], budget: str | None = None) -> Quantization:
        """A quantization with these layers in INT8 and the others in floating point."""
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


def calibrate(variants: Variants, sample: ImageSample, method: str, target: str, progress: Progress) -> Calibration:
    """Measures the ranges of a checkpoint on real images.

    Args:
        method: minmax, entropy or percentile.
        target: tensorrt or onnxruntime.
        progress: opens a progress bar, given a description and the number of images.

    Raises:
        VGGDeployError: an activation is NaN or infinite.
    """
    with variants.open(observed=True) as engine, progress("calibrating", len(sample.paths)) as advance:
        measured = measure(engine.run, sample.views(advance), method)
    return Calibration(variants.spec, measured, sample, sample.sources, method, target)
