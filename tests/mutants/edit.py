"""An exported ONNX file as something to damage: its nodes, tensors and manifest by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest
from vgg_deploy.network.spec import NetworkSpec

Array = np.ndarray[Any, Any]


class NotApplicable(Exception):
    """The file has no part that the damage changes."""


class Edit:
    """A copy of a model that a damage changes in place. What is absent raises `NotApplicable`.

    Attributes:
        model: the copy.
        bypassed: for each tensor whose node was removed, the tensor that took its place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.bypassed: dict[str, str] = {}

    # Nodes

    @property
    def nodes(self) -> Any:
        return self.model.graph.node

    def node(self, name: str) -> NodeProto:
        for node in self.nodes:
            if node.name == name:
                return node
        raise NotApplicable(f"no node {name}")

    def first(self, operator: str) -> NodeProto:
        """The first node of this operator."""
        for node in self.nodes:
            if node.op_type == operator:
                return node
        raise NotApplicable(f"no {operator}")

    def set(self, node: NodeProto, **attributes: Any) -> None:
        """Sets attributes of a node; None removes one."""
        kept = [attribute for attribute in node.attribute if attribute.name not in attributes]
        del node.attribute[:]
        node.attribute.extend(kept)
        for name, value in attributes.items():
            if value is not None:
                node.attribute.append(helper.make_attribute(name, value))

    def reread(self, old: str, new: str, *, but: tuple[str, ...] = ()) -> None:
        """Lets every reader of tensor `old` read `new` instead, except the nodes named in `but`."""
        for node in self.nodes:
            if node.name not in but:
                for index, tensor in enumerate(node.input):
                    if tensor == old:
                        node.input[index] = new

    def bypass(self, name: str) -> None:
        """Removes a node; its readers read its first input."""
        node = self.node(name)
        source, result = node.input[0], node.output[0]
        if any(output.name == result for output in self.model.graph.output):
            raise NotApplicable(f"{name} computes an output")
        self.nodes.remove(node)
        self.reread(result, source)
        self.bypassed[result] = source

    def insert(self, operator: str, name: str, tensor: str, *constants: str, **attributes: Any) -> None:
        """Adds a node that reads `tensor`; the other readers of it read the node instead."""
        self.reread(tensor, name)
        self.add(operator, name, tensor, *constants, **attributes)

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> None:
        """Adds a node whose output has its name, right behind the nodes that compute its inputs."""
        behind = [index for index, node in enumerate(self.nodes) if set(node.output) & set(inputs)]
        node = helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self.nodes.insert(max(behind, default=-1) + 1, node)

    def replace_output(self, name: str, raw: str) -> NodeProto:
        """Renames the tensor of output `name` to `raw`, so that another node can compute the output."""
        if all(output.name != name for output in self.model.graph.output):
            raise NotApplicable(f"no output {name}")
        for node in self.nodes:
            if name in node.output:
                node.output[0] = raw
                self.reread(name, raw)
                return node
        raise AssertionError(name)

    # Tensors

    def has(self, tensor: str) -> bool:
        return any(initializer.name == tensor for initializer in self.model.graph.initializer)

    def values(self, tensor: str) -> Array:
        """A copy of a constant's values."""
        return numpy_helper.to_array(self._initializer(tensor)).copy()

    def put(self, tensor: str, values: Array) -> None:
        """Sets a constant's values, and adds the constant if it is absent."""
        new = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), tensor)
        if self.has(tensor):
            self._initializer(tensor).CopyFrom(new)
        else:
            self.model.graph.initializer.append(new)

    def change(self, tensor: str, function: Callable[[Array], Any]) -> None:
        """Replaces a constant's values by those that `function` returns, in the constant's own type."""
        before = self.values(tensor)
        self.put(tensor, np.asarray(function(before)).astype(before.dtype).reshape(before.shape))

    def swap(self, one: str, other: str) -> None:
        """Exchanges the values of two constants of one shape."""
        a, b = self.values(one), self.values(other)
        if a.shape != b.shape:
            raise NotApplicable(f"{one} and {other} have other shapes")
        self.put(one, b)
        self.put(other, a)

    def weight(self, layer: str) -> str:
        """The name of a layer's stored weights: floats, or the integers of INT8."""
        return self._stored(layer, "weight")

    def bias(self, layer: str) -> str:
        """The name of a layer's stored bias: floats, or the integers of INT8."""
        return self._stored(layer, "bias")

    def _stored(self, layer: str, what: str) -> str:
        integers = f"{layer}.{what}.integers"
        return integers if self.has(integers) else f"{layer}.{what}"

    def _initializer(self, name: str) -> onnx.TensorProto:
        for initializer in self.model.graph.initializer:
            if initializer.name == name:
                return initializer
        raise NotApplicable(f"no constant {name}")

    # The manifest

    @property
    def manifest(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self._entry().value)
        return data

    @manifest.setter
    def manifest(self, data: dict[str, Any]) -> None:
        self._entry().value = json.dumps(data, ensure_ascii=False)

    @property
    def spec(self) -> NetworkSpec:
        spec = Manifest.from_json(self._entry().value, "the healthy file").spec
        assert spec is not None
        return spec

    def forget_digests(self) -> None:
        """Makes the file one of those that were written before manifests had digests."""
        if self.model.metadata_props:
            self.manifest = {name: value for name, value in self.manifest.items() if name not in ("digests", "verdict")}

    def _entry(self) -> Any:
        return next(entry for entry in self.model.metadata_props if entry.key == MANIFEST_KEY)
