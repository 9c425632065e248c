"""What an exported ONNX file holds: precision, axes, outputs, and the measured ranges that the precision needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vgg_deploy.errors import UsageError
from vgg_deploy.network.precision import Quantization

if TYPE_CHECKING:
    from vgg_deploy.network.tensors import Images


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """Precision, axes and outputs of a graph.

    Attributes:
        dynamic: make batch size, height and width dynamic. Otherwise they are fixed at 1 x crop x crop.
        half: FP16 weights and arithmetic from conv1_1 to fc8.
        float32_layers: with `half`, layers with weights that stay in FP32.
        quantization: layers that compute in INT8, and their ranges, from `export.int8.Calibration`. `half` decides the
            type of the rest.
        score_map: add the output `score_map`, float32 [n, classes, rows, columns]. fc8 then runs on the map.
        features: add the output `features`, float32 [n, fc_width], the spatial mean of fc7.

    Raises:
        UsageError: `half` with a quantization for ONNX Runtime.
    """

    dynamic: bool = False
    half: bool = False
    float32_layers: frozenset[str] = frozenset()
    quantization: Quantization | None = None
    score_map: bool = False
    features: bool = False

    def __post_init__(self) -> None:
        if self.half and self.quantization is not None and self.quantization.target == "onnxruntime":
            raise UsageError(
                "INT8 files for onnxruntime use CPU kernels, which have no FP16; leave out FP16, or quantize for "
                "tensorrt"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        from vgg_deploy.network.tensors import FEATURES, PROBABILITIES, SCORE_MAP

        requested = ((PROBABILITIES, True), (SCORE_MAP, self.score_map), (FEATURES, self.features))
        return tuple(name for name, present in requested if present)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How `export.exporter.export_with` writes a checkpoint.

    Attributes:
        graph: precision, axes and outputs. An export adds the layers that FP16 cannot hold to `float32_layers`.
        fine: class scores on OverFeat's finer grid, see `NetworkSpec.fine`.
        external_data: keep the weights in a separate file beside the ONNX file, which runtimes map.
        calibration: with `graph.half`, batches uint8 [n, h, w, 3] on which the largest activation of each layer is
            measured. Layers that would overflow FP16 stay in FP32.
        largest: with `graph.half`, the largest activations if they are known. They make `calibration` unnecessary.
    """

    graph: GraphOptions = field(default_factory=GraphOptions)
    fine: bool = False
    external_data: bool = False
    calibration: Iterable[Images] | None = None
    largest: Mapping[str, float] | None = None
