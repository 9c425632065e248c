"""Where the graph has Q/DQ nodes, and with which ranges.

TensorRT wants them on the inputs of convolutions and of the poolings before them, and nowhere else. ONNX Runtime's
integer kernels only compute a convolution whose output is quantized as well.
"""

from __future__ import annotations

from collections.abc import Collection

from export.graph_writer import NUMPY_TYPES, GraphWriter
from export.quantize import quantized_bias, quantized_weights
from vgg_deploy.errors import ManifestError
from vgg_deploy.network.levels import activation_levels
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.quantized_inputs import SPATIAL_MEAN, quantized_inputs
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats


def observed_inputs(spec: NetworkSpec, score_map: bool) -> tuple[str, ...]:
    """The nodes whose input ranges are measured: layers with weights, LRN, and the spatial mean."""
    names = [layer.name for layer in spec.layers if layer.has_weights or layer.kind == "lrn"]
    return tuple(names) if score_map else (*names[:-1], SPATIAL_MEAN, names[-1])


def layers_at_risk(spec: NetworkSpec, quantization: Quantization, quantized: Collection[str]) -> frozenset[str]:
    """Layers kept in floating point that ONNX Runtime (1.32) would still quantize, against the budget.

    Its WeightBiasQuantization looks for a convolution between a DequantizeLinear and a Relu with a QuantizeLinear. It
    gives this convolution INT8 weights, with one scale for all channels. First it moves a DequantizeLinear before a
    pooling behind it.
    """
    if quantization.target != "onnxruntime":
        return frozenset()
    names = [layer.name for layer in spec.layers]
    pools = {layer.name for layer in spec.layers if layer.kind == "pool"}
    at_risk = set()
    for before, layer, after in zip(names, names[1:], names[2:], strict=False):
        quantized_input = layer in quantized or (before in pools and before in quantized)
        if layer in quantization.kept and quantized_input and after in quantized:
            at_risk.add(layer)
    return frozenset(at_risk)


class Quantizers:
    """Writes the Q/DQ nodes of a network into its graph, or none if `quantization` is None.

    Attributes:
        at_risk: see `layers_at_risk`. No Relu may follow such a layer.

    Raises:
        ManifestError: the quantization lacks a range that the graph needs.
    """

    def __init__(self, spec: NetworkSpec, quantization: Quantization | None, score_map: bool) -> None:
        self._quantization = quantization
        self._range_sources = {} if quantization is None else quantized_inputs(spec, quantization, score_map)
        self.at_risk = frozenset() if quantization is None else layers_at_risk(spec, quantization, self._range_sources)
        ranges = {} if quantization is None else quantization.ranges
        missing = [name for name in dict.fromkeys(self._range_sources.values()) if name not in ranges]
        if missing:
            raise ManifestError(f"the quantization has no range of {', '.join(missing)}; measure the ranges again")

    def quantizes_output(self, layer: str) -> bool:
        """Whether readers of a layer must read its Q/DQ, because ONNX Runtime's kernels only return the integers."""
        quantization = self._quantization
        return quantization is not None and quantization.target == "onnxruntime" and layer in quantization.layers

    def before(self, graph: GraphWriter, name: str) -> None:
        """Adds the Q/DQ nodes of the input of node `name` to the current tensor, if it has any; only the first time."""
        if self._quantization is None or name not in self._range_sources:
            return
        span = self._quantization.ranges[self._range_sources.pop(name)]
        graph.quantize(activation_levels(span, self._quantization.target, NUMPY_TYPES[graph.type]), f"{name}.input")

    def constants(self, graph: GraphWriter, layer: str, weight: Floats, bias: Floats) -> tuple[str, str]:
        """Adds weight [out, in, kernel, kernel] and bias [out] of a layer, in INT8 or in the current tensor's type."""
        dtype, quantization = NUMPY_TYPES[graph.type], self._quantization
        if quantization is None or layer not in quantization.layers:
            float_weight = graph.constant(f"{layer}.weight", weight.astype(dtype, copy=False))
            return float_weight, graph.constant(f"{layer}.bias", bias.astype(dtype, copy=False))
        levels = activation_levels(quantization.ranges[layer], quantization.target, dtype)
        integers, scales = quantized_weights(weight, dtype, bias=bias, activation=levels)
        dequantized = graph.integers(f"{layer}.weight", integers, scales)
        if quantization.target == "tensorrt":  # TensorRT does not parse an integer bias; ONNX Runtime needs one
            return dequantized, graph.constant(f"{layer}.bias", bias.astype(dtype, copy=False))
        return dequantized, graph.integers(f"{layer}.bias", *quantized_bias(bias, levels, scales))
