"""The exact values between the layers of a file, for several views at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from export.proof.layers.exact import Exact
from export.proof.layers.operators import Doubles
from export.proof.layers.pieces import Cut, CutFile
from export.proof.layers.value import HALF, Rounding, Value
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
        roundings: the readings of the file that differ: `Rounding.FILE`, and others if it has FP16 tensors.
        posteriors: for each reading, by the view's index, float64 [1, classes], after the last layer.
    """

    def __init__(self, file: CutFile, views: Sequence[NamedView]) -> None:
        self.cuts, self._constants = file.cuts, file.constants
        self.roundings = _readings({constant.dtype for constant in self._constants.values()})
        (images,) = file.inputs
        self._values = [{rounding: {images: _image(view)} for rounding in self.roundings} for view in views]
        self._readers = [Counter(cut.source for cut in self.cuts) for _view in views]
        self.posteriors: dict[Rounding, dict[int, Doubles]] = {rounding: {} for rounding in self.roundings}

    def advance(self, cut: Cut, view: int) -> LayerValues:
        """Evaluates the next layer on a view."""
        given = self._given(cut, self._values[view][Rounding.FILE][cut.source])
        readers = self._readers[view]
        readers[cut.source] -= 1
        file_values: Mapping[str, Value] = {}
        for rounding, values in self._values[view].items():
            source = values[cut.source]
            if rounding is Rounding.FILE:
                file_values = self.evaluated(cut, given, rounding)
                results = file_values
            else:
                results = Exact(cut.nodes, self._constants, rounding).run({cut.source: source}, {cut.result})
            values[cut.result] = results[cut.result]
            if cut.result == PROBABILITIES:
                self.posteriors[rounding][view] = results[cut.result].exact
            if not readers[cut.source]:
                values.pop(cut.source)
        return LayerValues(given, file_values)

    def evaluated(self, cut: Cut, given: npt.NDArray[Any], rounding: Rounding) -> Mapping[str, Value]:
        """A layer's result and output for one input, in one reading."""
        exact = Exact(cut.nodes, self._constants, rounding)
        return exact.run({cut.source: Value(given, given.dtype)}, {cut.result, cut.output})

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
            value = Exact([node], self._constants, Rounding.FILE).run({tensor: value}, {node.output[0]})[node.output[0]]
            tensor = node.output[0]
            if node.op_type != "QuantizeLinear":
                break
        with np.errstate(over="ignore"):
            return value.stored(rounded=True).astype(kept.dtype)


def _image(view: NamedView) -> Value:
    return Value(view.pixels[None], np.dtype(np.uint8))  # [1, h, w, 3]


def _readings(dtypes: set[np.dtype[Any]]) -> tuple[Rounding, ...]:
    """The readings that differ for a file with constants of these types."""
    if HALF not in dtypes:
        return (Rounding.FILE,)
    return tuple(Rounding) if np.dtype(np.int8) in dtypes else (Rounding.FILE, Rounding.NONE)
