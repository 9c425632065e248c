"""Limits on the error of one layer, by runtime and kind of layer, with the reason and what healthy runtimes reach.

An error is a share of the layer's largest value, beyond what rounding the output allows; see `error.error_of`.
The healthy errors are the largest on a VGG-16 of ImageNet classes, on configurations A and E trained on digits, and on
narrow random networks, in all precisions, on x86 CPUs with AVX-512 and AMX. Random weights are the worst case: positive
and negative products cancel, so the sums are small beside their terms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerLimit:
    """A limit, at least three times what healthy runtimes reach.

    Attributes:
        limit: larger errors are a fault. NaN is one too.
        healthy: the largest error of a healthy runtime.
        reason: what the error comes from.
    """

    limit: float
    healthy: float
    reason: str


_ORDER = "float32 sums of up to 25,088 products, in another order"
_FLOAT = LayerLimit(1e-5, 2.3e-6, _ORDER)

# Convolutions whose sums are in floating point, of FP32 and FP16 files.
CONVOLUTIONS = {
    "onnxruntime": _FLOAT,
    "openvino": _FLOAT,
    "ncnn": LayerLimit(3e-5, 5.4e-6, "Winograd's transforms add and subtract inputs, weights and sums in float32"),
}
INTEGER_CONVOLUTIONS = LayerLimit(
    1e-5, 9.2e-7, "products are summed exactly; onnxruntime computes files for tensorrt in float32"
)
BFLOAT16 = LayerLimit(
    0.02, 5.4e-3, "inputs, weights and outputs are rounded to 8 significant bits: each by up to 2^-9 = 2e-3"
)
OTHERS = {
    "MaxPool": LayerLimit(
        1e-6, 3.6e-8, "it only selects values; behind it, a float32 product with the scale in INT8 files"
    ),
    "GlobalAveragePool": LayerLimit(1e-6, 1.8e-7, "a float32 sum over positions"),
    "Softmax": LayerLimit(1e-6, 1.6e-7, "a float32 sum over classes, and a runtime's own exponential"),
    "LRN": LayerLimit(2e-6, 2.3e-7, "a runtime's own power in float32"),
}
_UNUSUAL = LayerLimit(1e-5, 0.0, "no export contains this node")


def limit_of(runtime: str, kind: str, *, bf16: bool = False) -> LayerLimit:
    """The limit for a layer.

    Args:
        runtime: onnxruntime, openvino or ncnn.
        kind: see `export.proof.layers.pieces.CutFile.kind`.
        bf16: whether the runtime computes floating point in bfloat16.
    """
    operator, _, precision = kind.partition(" ")
    if operator != "Conv":
        return OTHERS.get(operator, _UNUSUAL)
    if bf16:  # layers in INT8 hand values in bfloat16 to each other
        return BFLOAT16
    return INTEGER_CONVOLUTIONS if precision == "int8" else CONVOLUTIONS.get(runtime, _FLOAT)
