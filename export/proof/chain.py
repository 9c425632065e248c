"""The exact values between the layers of a file, for several views at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from export.proof.exact import HALF, Exact, Value
from export.proof.operators import Doubles
from export.proof.pieces import Cut, CutFile
from vgg_deploy.evaluation.parity import NamedView
from vgg_deploy.network.tensors import PROBABILITIES


@dataclass(frozen=True, slots=True)
class LayerValues:
    """One layer on one view.

    Attributes:
        given: its input, in the type of the file, on levels that its first nodes keep: a runtime reads exactly this.
        exact: `Cut.result` and `Cut.output`, by name.
    """

    given: npt.NDArray[Any]
    exact: Mapping[str, Value]


class Chain:
    """Evaluates the layers of a file one after the other.

    Attributes:
        cuts: the layers, in order.
        has_half: whether the file has FP16 tensors. If so, values are also computed without rounding them.
        rounded, unrounded: the posteriors by the view's index, float64 [1, classes], after the last layer.
    """

    def __init__(self, file: CutFile, views: Sequence[NamedView]) -> None:
        self.cuts, self._constants = file.cuts, file.constants
        self.has_half = any(constant.dtype == HALF for constant in self._constants.values())
        (images,) = file.inputs
        self._values = [{images: _image(view)} for view in views]
        self._unrounded = [{images: _image(view)} for view in views] if self.has_half else []
        self._readers = [Counter(cut.source for cut in self.cuts) for _view in views]
        self.rounded: dict[int, Doubles] = {}
        self.unrounded: dict[int, Doubles] = {}

    def advance(self, cut: Cut, view: int) -> LayerValues:
        """Evaluates the next layer on a view."""
        values = self._values[view]
        given = self._given(cut, values[cut.source])
        dtype = values[cut.source].dtype
        exact = Exact(cut.nodes, self._constants).run({cut.source: Value(given, dtype)}, {cut.result, cut.output})
        values[cut.result] = exact[cut.result]
        if cut.output == PROBABILITIES:
            self.rounded[view] = exact[cut.output].exact
        if self.has_half:
            others = self._unrounded[view]
            result = Exact(cut.nodes, self._constants, rounded=False).run(
                {cut.source: others[cut.source]}, {cut.result}
            )
            others.update(result)
            if cut.output == PROBABILITIES:
                self.unrounded[view] = result[cut.result].exact
        self._readers[view][cut.source] -= 1
        if not self._readers[view][cut.source]:
            values.pop(cut.source)
            if self.has_half:
                self._unrounded[view].pop(cut.source)
        return LayerValues(given, exact)

    def without_rounding(self, cut: Cut, given: npt.NDArray[Any]) -> Mapping[str, Value]:
        """A layer's values without rounding FP16 tensors inside it, as CPU runtimes compute it from the same input."""
        return Exact(cut.nodes, self._constants, rounded=False).run(
            {cut.source: Value(given, given.dtype)}, {cut.result, cut.output}
        )

    def _given(self, cut: Cut, value: Value) -> npt.NDArray[Any]:
        """A value as the layer's input.

        What its first nodes round it to is taken instead, if they quantize it or cast it to FP16. They then leave it as
        it is, in every runtime, and no value lies between two levels.
        """
        tensor, kept = cut.source, value
        if kept.dtype == np.uint8:  # an image
            return kept.numbers
        for node in cut.nodes:
            if node.input[0] != tensor:
                continue
            cast = node.op_type == "Cast" and helper.get_attribute_value(node.attribute[0]) == TensorProto.FLOAT16
            if not (cast or node.op_type in ("QuantizeLinear", "DequantizeLinear")):
                break
            value = Exact([node], self._constants).run({tensor: value}, {node.output[0]})[node.output[0]]
            tensor = node.output[0]
            if node.op_type != "QuantizeLinear":
                break
        with np.errstate(over="ignore"):
            return value.stored(rounded=True).astype(kept.dtype)


def _image(view: NamedView) -> Value:
    return Value(view.pixels[None], np.dtype(np.uint8))  # [1, h, w, 3]
