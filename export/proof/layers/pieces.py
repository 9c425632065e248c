"""Cuts an ONNX file into pieces, one for each layer, with onnx's own extractor.

A layer is a node that computes (a convolution, a pooling, LRN, a mean, the soft-max) with the nodes around it: before
it the nodes that normalize, cast and quantize its input, behind it its ReLU and, if its output is quantized, that too.
ONNX Runtime's integer kernels only compute a convolution whose output is quantized, and other runtimes fuse these nodes
as well. So each runtime computes a piece as it computes the same nodes in the whole file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from onnx.utils import Extractor

from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_layers import layer_types, node_name
from vgg_deploy.errors import ModelFileError
from vgg_deploy.inference.piece import PieceModel

# Nodes that prepare the input of a layer. They belong to the layer that reads them.
_PREPARING = frozenset(
    {"Cast", "Sub", "Div", "Transpose", "QuantizeLinear", "DequantizeLinear", "Flatten", "Identity", "Reshape"}
)
_ACTIVATIONS = frozenset({"Relu", "Max"})  # they belong to the convolution before them


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a layer lies in a file.

    Attributes:
        layer: the name of the node that computes; for an output that no layer ends in, the output's name.
        node: the name of the node that computes.
        operator: the kind of that node, as ONNX names it.
        source: the tensor that it begins with.
        result: its result, before that is quantized.
        output: the tensor that it ends with: `result`, or its dequantized integers.
        nodes: the nodes from `source` to `output`, in the order of computation.
    """

    layer: str
    node: str
    operator: str
    source: str
    result: str
    output: str
    nodes: tuple[onnx.NodeProto, ...]


class CutFile:
    """An ONNX file and its layers. Weights are read from the mapped file when a piece or the evaluation needs them.

    Raises:
        UsageError, ModelFileError: see `OnnxFile`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = OnnxFile(path)

    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]:
        """Name and type of each input."""
        return {value.name: helper.tensor_dtype_to_np_dtype(value.element) for value in self._file.inputs}

    @cached_property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        """The weights by name.

        Raises:
            ModelFileError: a tensor is incomplete or of an unusual type.
        """
        weights = {}
        for tensor in self._file.tensors:
            values = tensor.values
            if values is None:
                raise ModelFileError(f"{self.path}: {tensor.name} is incomplete, or of a type that no export writes")
            weights[tensor.name] = values
        return weights

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The layers, in the order of computation.

        Raises:
            ModelFileError: a node belongs to no layer, or reads the results of several.
        """
        return _Chain(self._file.header.graph, tuple(self.inputs)).cuts()

    def kind(self, cut: Cut) -> str:
        """What a layer is: for a convolution with the type in which it computes, such as "Conv int8"; or "MaxPool"."""
        types = self._layer_types
        return f"{cut.operator} {types[cut.node]}" if cut.node in types else cut.operator

    @cached_property
    def _layer_types(self) -> Mapping[str, str]:
        return layer_types(self._file.header)

    def model(self, cut: Cut) -> PieceModel:
        """The piece of one layer, with its weights.

        Raises:
            ModelFileError: onnx cannot infer the types of the file's tensors.
        """
        try:
            model = self._extractor.extract_model([cut.source], [cut.output])
        except Exception as error:  # onnx raises many kinds
            raise ModelFileError(f"{self.path}: {cut.layer} cannot be cut out: {error}") from error
        for index, tensor in enumerate(model.graph.initializer):
            model.graph.initializer[index].CopyFrom(_filled(tensor, self.constants[tensor.name]))
        # Shapes that follow from the whole file are left out: the runtime infers those that follow from the piece.
        del model.graph.value_info[:]
        one_position = cut.source in self._means
        return PieceModel(name=cut.layer, data=model.SerializeToString(), on_one_position=one_position)

    @cached_property
    def _extractor(self) -> Extractor:
        """Extracts from the header: shapes are inferred, and no weight is copied."""
        return Extractor(onnx.shape_inference.infer_shapes(self._file.header, check_type=False, strict_mode=False))

    @cached_property
    def _means(self) -> frozenset[str]:
        """Tensors with one position whatever the image: spatial means, and what is computed from them."""
        means: set[str] = set()
        for node in self._file.header.graph.node:
            if node.op_type == "GlobalAveragePool" or not means.isdisjoint(node.input):
                means.update(node.output)
        return frozenset(means)


def _filled(tensor: TensorProto, values: npt.NDArray[Any]) -> TensorProto:
    filled = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    filled.raw_data = values.tobytes()
    return filled


class _Chain:
    """Finds the layers of a graph in which each layer reads the result of one other."""

    def __init__(self, graph: onnx.GraphProto, inputs: Sequence[str]) -> None:
        self._graph, self._inputs = graph, frozenset(inputs)
        constants = {tensor.name for tensor in graph.initializer}
        self._producers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
        self._varying: dict[str, tuple[str, ...]] = {}  # a node's output -> its inputs that depend on the image
        varying = set(inputs)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            self._varying[node.output[0]] = tuple(name for name in node.input if name in varying)
            if self._varying[node.output[0]]:
                varying.update(node.output)
            for name in node.input:
                if name not in constants:
                    self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}

    def cuts(self) -> tuple[Cut, ...]:
        cuts: list[Cut] = []
        results: set[str] = set(self._inputs)
        for node in self._graph.node:
            if not self._varying[node.output[0]] or node.op_type in _PREPARING | _ACTIVATIONS:
                continue
            result = self._activated(node.output[0])
            cuts.append(self._cut(node_name(node), node, result, self._quantized(result), results))
            results.add(result)
        covered = {node.output[0] for cut in cuts for node in cut.nodes}
        ends = {cut.output for cut in cuts}
        for name in sorted(self._outputs - ends):
            # An output behind a layer that is only cast or flattened: the piece of that layer, with these nodes.
            node = self._layer_of(name)
            before = results - {self._activated(node.output[0])}
            cuts.append(self._cut(name, node, name, name, before))
            covered.update(node.output[0] for node in cuts[-1].nodes)
        for node in self._graph.node:
            if node.output[0] not in covered:
                raise ModelFileError(f"node {node_name(node)} ({node.op_type}) belongs to no layer and no output")
        return tuple(cuts)

    def _activated(self, tensor: str) -> str:
        """The tensor behind the activations that follow a layer."""
        while True:
            readers = self._readers.get(tensor, [])
            if len(readers) != 1 or readers[0].op_type not in _ACTIVATIONS or tensor in self._outputs:
                return tensor
            tensor = readers[0].output[0]

    def _quantized(self, tensor: str) -> str:
        """The tensor behind the Q/DQ nodes that follow; the tensor itself if none follow."""
        readers = self._readers.get(tensor, [])
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or tensor in self._outputs:
            return tensor
        behind = self._readers.get(readers[0].output[0], [])
        if len(behind) != 1 or behind[0].op_type != "DequantizeLinear":
            return tensor
        return str(behind[0].output[0])

    def _layer_of(self, tensor: str) -> onnx.NodeProto:
        node: onnx.NodeProto | None = self._producers.get(tensor)
        while node is not None and node.op_type in _PREPARING | _ACTIVATIONS:
            node = self._producers.get(next(iter(self._varying[node.output[0]]), ""))
        if node is None:
            raise ModelFileError(f"no layer computes the output {tensor}")
        return node

    def _cut(self, layer: str, node: onnx.NodeProto, result: str, output: str, before: set[str]) -> Cut:
        """The layer from one of the tensors `before` it to `output`."""
        needed, sources, waiting = set[str](), set[str](), [output]
        while waiting:
            tensor = waiting.pop()
            if tensor in before:
                sources.add(tensor)
            elif tensor in self._producers and tensor not in needed:
                needed.add(tensor)
                waiting.extend(self._producers[tensor].input)
        if len(sources) != 1:
            raise ModelFileError(
                f"layer {layer} reads {', '.join(sorted(sources)) or 'no image'}; expected the result of one layer"
            )
        nodes = tuple(each for each in self._graph.node if each.output[0] in needed)
        return Cut(
            layer=layer,
            node=node_name(node),
            operator=node.op_type,
            source=sources.pop(),
            result=result,
            output=output,
            nodes=nodes,
        )
