"""The places of Q/DQ nodes in a network, and the measured range of each."""

from __future__ import annotations

from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec

SPATIAL_MEAN = "spatial_mean"  # the node before fc8, if fc8 runs on the mean


def quantized_inputs(spec: NetworkSpec, quantization: Quantization, score_map: bool) -> dict[str, str]:
    """The nodes whose inputs are quantized, and for each the node whose measured input range it uses.

    A pooling uses the range of the layer that reads its output, since pooling does not change the largest value.
    """
    layers = {layer.name: layer for layer in spec.layers}
    names = list(layers)
    if not score_map:
        names.insert(names.index("fc8"), SPATIAL_MEAN)
    range_sources = {}
    for index, name in enumerate(names):
        reader = next(other for other in names[index:] if other == SPATIAL_MEAN or layers[other].kind != "pool")
        behind_int8 = index > 0 and names[index - 1] in quantization.layers
        if reader in quantization.layers or (quantization.target == "onnxruntime" and behind_int8):
            range_sources[name] = reader
    return range_sources
