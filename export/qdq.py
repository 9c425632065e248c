"""Where Q/DQ nodes stand in the graph, and with which ranges.

For TensorRT: on the inputs of convolutions and of poolings before them, and nowhere else. ONNX Runtime's integer kernels take
a convolution only where its output is quantized too.
"""

from __future__ import annotations

from collections.abc import Collection

from export.graph_writer import NUMPY_TYPES, GraphWriter
from export.quantize import activation_levels, quantized_bias, quantized_weights
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats

SPATIAL_MEAN = "spatial_mean"  # the node before fc8 where fc8 runs on the mean


def observed_inputs(spec: NetworkSpec, score_map: bool) -> tuple[str, ...]:
    """The nodes whose inputs' ranges are measured: layers with weights, LRN, and the spatial mean."""
    names = [layer.name for layer in spec.layers if layer.has_weights or layer.kind == "lrn"]
    return tuple(names) if score_map else (*names[:-1], SPATIAL_MEAN, names[-1])


def quantized_inputs(spec: NetworkSpec, quantization: Quantization, score_map: bool) -> dict[str, str]:
    """The nodes whose inputs are quantized, and of which node's input each takes the range.

    A pooling's input takes the range of the layer that reads its output: the largest value is the same.
    """
    layers = {layer.name: layer for layer in spec.layers}
    names = list(layers)
    if not score_map:
        names.insert(names.index("fc8"), SPATIAL_MEAN)
    places = {}
    for index, name in enumerate(names):
        reader = next(other for other in names[index:] if other == SPATIAL_MEAN or layers[other].kind != "pool")
        behind_int8 = index > 0 and names[index - 1] in quantization.layers
        if reader in quantization.layers or (quantization.target == "onnxruntime" and behind_int8):
            places[name] = reader
    return places


def layers_in_danger(spec: NetworkSpec, quantization: Quantization, places: Collection[str]) -> frozenset[str]:
    """Layers kept in floating point that ONNX Runtime (1.32) would quantize by itself, and undo what a budget kept.

    Its WeightBiasQuantization gives a convolution between a DequantizeLinear and a Relu with a QuantizeLinear INT8 weights,
    with one scale for all channels. A DequantizeLinear before a pooling it moves behind it first.
    """
    if quantization.target != "onnxruntime":
        return frozenset()
    names = [layer.name for layer in spec.layers]
    pools = {layer.name for layer in spec.layers if layer.kind == "pool"}
    found = set()
    for before, layer, after in zip(names, names[1:], names[2:], strict=False):
        quantized_input = layer in places or (before in pools and before in places)
        if layer in quantization.kept and quantized_input and after in places:
            found.add(layer)
    return frozenset(found)


class Quantizers:
    """Writes the Q/DQ nodes of a network into its graph; none where `quantization` is None.

    Attributes:
        in_danger: see `layers_in_danger`; what comes after such a layer must not be a Relu.
    """

    def __init__(self, spec: NetworkSpec, quantization: Quantization | None, score_map: bool) -> None:
        self._quantization = quantization
        self._places = {} if quantization is None else quantized_inputs(spec, quantization, score_map)
        self.in_danger = frozenset() if quantization is None else layers_in_danger(spec, quantization, self._places)

    def quantizes_output(self, layer: str) -> bool:
        """Whether what reads a layer must read it from its Q/DQ: ONNX Runtime's kernels give the integers alone."""
        quantization = self._quantization
        return quantization is not None and quantization.target == "onnxruntime" and layer in quantization.layers

    def before(self, graph: GraphWriter, name: str) -> None:
        """Q/DQ on the current tensor, which the node `name` will read, if they belong there; once."""
        if self._quantization is None or name not in self._places:
            return
        span = self._quantization.ranges[self._places.pop(name)]
        graph.quantize(activation_levels(span, self._quantization.target, NUMPY_TYPES[graph.type]), f"{name}.input")

    def constants(self, graph: GraphWriter, layer: str, weight: Floats, bias: Floats) -> tuple[str, str]:
        """Weight [out, in, kernel, kernel] and bias [out] of a layer that computes in the current tensor's type, or in INT8."""
        dtype, quantization = NUMPY_TYPES[graph.type], self._quantization
        if quantization is None or layer not in quantization.layers:
            kept = graph.constant(f"{layer}.weight", weight.astype(dtype, copy=False))
            return kept, graph.constant(f"{layer}.bias", bias.astype(dtype, copy=False))
        levels = activation_levels(quantization.ranges[layer], quantization.target, dtype)
        integers, scales = quantized_weights(weight, dtype, bias=bias, activation=levels)
        read_back = graph.integers(f"{layer}.weight", integers, scales)
        if quantization.target == "tensorrt":  # which does not parse an integer bias; ONNX Runtime makes one of it
            return read_back, graph.constant(f"{layer}.bias", bias.astype(dtype, copy=False))
        return read_back, graph.integers(f"{layer}.bias", *quantized_bias(bias, levels, scales))
