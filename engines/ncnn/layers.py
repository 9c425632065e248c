"""Layers in ncnn's form, and the text that lists them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

_MAGIC = 7767517  # the first line of ncnn's text format
_RELU = 1  # `activation_type` of a layer with weights


@dataclass(slots=True)
class NcnnLayer:
    """A layer with one input and one output.

    Attributes:
        kind: ncnn's name for it, such as Convolution.
        node: the name of its node in the ONNX file.
        source, result: the tensors that it reads and computes.
        parameters: its numbered parameters.
        weights: the names of its weight and bias; None if it has none.
    """

    kind: str
    node: str
    source: str
    result: str
    parameters: dict[int, float]
    weights: tuple[str, str] | None = None


def fused(layers: list[NcnnLayer], outputs: set[str]) -> list[NcnnLayer]:
    """Merges each ReLU into its convolution, unless something else reads the convolution."""
    readers = Counter(layer.source for layer in layers)
    merged: list[NcnnLayer] = []
    for layer in layers:
        before = merged[-1] if merged else None
        if (
            layer.kind == "ReLU"
            and before is not None
            and before.weights is not None
            and before.result == layer.source
            and readers[layer.source] == 1
            and layer.source not in outputs
        ):
            before.parameters[9] = _RELU
            before.result = layer.result
        else:
            merged.append(layer)
    return merged


def text(image: str, layers: list[NcnnLayer], blobs: dict[str, str]) -> str:
    """The layers in ncnn's text format. If several layers read a blob, it is split into one copy for each reader."""
    readers = Counter(layer.source for layer in layers)
    used: Counter[str] = Counter()  # copies of a blob that have a reader already
    lines, count = [f"Input image 0 1 {blobs[image]}"], 1
    for result, layer in [(image, None), *((layer.result, layer) for layer in layers)]:
        blob = blobs[result]
        if layer is not None:
            source = blobs[layer.source]
            if readers[layer.source] > 1:
                used[source] += 1
                source = f"{source}/{used[source] - 1}"
            parameters = " ".join(f"{number}={value!r}" for number, value in layer.parameters.items())
            lines.append(f"{layer.kind} layer{blob} 1 1 {source} {blob} {parameters}".rstrip())
            count += 1
        if readers[result] > 1:
            copies = [f"{blob}/{index}" for index in range(readers[result])]
            lines.append(f"Split split{blob} 1 {len(copies)} {blob} {' '.join(copies)}")
            count += len(copies)
    return "\n".join([str(_MAGIC), f"{len(lines)} {count}", *lines, ""])
