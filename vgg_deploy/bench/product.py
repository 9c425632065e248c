"""A chain of matrix products as an ONNX model, on which a runtime's peak is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

from vgg_deploy.artifacts.onnx_format import IR_VERSION, OPSET, ElementType
from vgg_deploy.network.precision import FLOAT16, INT8

_RANGE = 4.0  # of activations, in units of their root mean square


@dataclass(frozen=True, slots=True)
class Product:
    """A chain of 1x1 convolutions at `side` x `side` positions: RGB -> `channels`, then `depth` of `channels` each."""

    channels: int
    side: int
    depth: int = 4

    @property
    def gflop(self) -> float:
        return 2 * self.side**2 * self.channels * (3 + self.depth * self.channels) / 1e9

    def __str__(self) -> str:
        return f"1x1 convolution {self.channels} -> {self.channels} over {self.side}x{self.side}"


def product_model(product: Product, precision: str) -> onnx.ModelProto:
    """A product as an ONNX model: uint8 `images` [1, side, side, 3] in, float32 `probabilities` [1, 2] out.

    bfloat16 is a float32 model that the runtime may compute in bfloat16. INT8 has Q/DQ nodes where our exports for
    TensorRT have them: symmetric, on the inputs of convolutions, and on weights with a scale for each output channel.
    """
    random = np.random.default_rng(0)
    half = precision == FLOAT16
    type_ = np.float16 if half else np.float32
    constants: dict[str, Any] = {"mean": np.float32(127.5), "std": np.float32(74)}  # of bytes drawn evenly
    lines = [
        f"float = Cast <to = {ElementType.FLOAT}> (images)",
        "centred = Sub (float, mean)",
        "scaled = Div (centred, std)",
        f"{'float0' if half else 'x0'} = Transpose <perm = [0, 3, 1, 2]> (scaled)",
        *([f"x0 = Cast <to = {ElementType.FLOAT16}> (float0)"] if half else []),
    ]
    if precision == INT8:
        constants |= {"step": np.float32(_RANGE / 127), "zero": np.int8(0)}
    inputs = 3
    for index in range(product.depth + 1):
        weights = _weights(random, product.channels, inputs)
        inputs, source = product.channels, f"x{index}"
        if precision == INT8:
            scales = np.abs(weights).max(axis=(1, 2, 3)) / 127  # [outputs]
            constants |= {
                f"w{index}_scales": scales.astype(np.float32),
                f"w{index}_zeros": np.zeros(len(scales), np.int8),
                f"w{index}_integers": np.rint(weights / scales[:, None, None, None]).astype(np.int8),
            }
            lines += [
                f"q{index} = QuantizeLinear (x{index}, step, zero)",
                f"dq{index} = DequantizeLinear (q{index}, step, zero)",
                f"w{index} = DequantizeLinear <axis = 0> (w{index}_integers, w{index}_scales, w{index}_zeros)",
            ]
            source = f"dq{index}"
        else:
            constants[f"w{index}"] = weights.astype(type_)
        lines += [f"sum{index} = Conv ({source}, w{index})", f"x{index + 1} = Relu (sum{index})"]
    last = f"x{product.depth + 1}"
    constants["scores_weight"] = _weights(random, 2, inputs).astype(np.float32)
    lines += [
        *([f"wide = Cast <to = {ElementType.FLOAT}> ({last})"] if half else []),
        f"average = GlobalAveragePool ({'wide' if half else last})",
        "score_map = Conv (average, scores_weight)",
        "scores = Flatten <axis = 1> (score_map)",
        "probabilities = Softmax <axis = 1> (scores)",
    ]
    side = product.side
    body = "\n".join(lines)
    graph = parser.parse_graph(
        f"peak (uint8[1, {side}, {side}, 3] images) => (float[1, 2] probabilities) {{\n{body}\n}}"
    )
    graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items())
    # It has no manifest, because it is not a VGG. Engines open it because they get labels.
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    return model


def _weights(random: np.random.Generator, outputs: int, inputs: int) -> Any:
    """float64 [outputs, inputs, 1, 1] with He's scaling, which keeps activations from fading to (slow) denormals."""
    return random.normal(0, math.sqrt(2 / inputs), (outputs, inputs, 1, 1))
