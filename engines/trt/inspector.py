"""In what type a built engine computes each layer, read from what TensorRT's engine inspector says of it.

TensorRT fuses layers and names them in two ways: "conv1_1 + relu1_1", with formats in words ("Thirty-two wide channel vectorized
row major Int8 format"), and, where its graph compiler made the kernel, a name of its own with the ONNX layers under "Metadata"
("[ONNX Layer: conv1_1]") and plain types ("Half").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engines.trt.backend import Backend, logger
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8

# What stands in "Format/Datatype", from the widest type to the narrowest.
_TYPES = ((r"float|fp32", FLOAT32), (r"half|fp16", FLOAT16), (r"int8", INT8))
_MOVES = ("reformat", "constant", "shape", "shuffle", "noop", "signal", "wait")  # layers that compute nothing


def built_types(backend: Backend, plan: Any, layers: Iterable[str]) -> dict[str, str]:
    """float32, float16 or int8 of each of `layers` that the engine tells of; empty where this machine cannot load the plan.

    Args:
        plan: the serialized engine, in memory, built with detailed profiling verbosity.
    """
    trt = backend.trt
    try:
        runtime = trt.Runtime(logger(backend))
    except TypeError:  # pybind11, where the backend gave no object: no driver, or a GPU that it does not know
        return {}
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return {}
    inspector = engine.create_engine_inspector()
    return types_of(inspector.get_engine_information(trt.LayerInformationFormat.JSON), layers)


def types_of(information: str, layers: Iterable[str]) -> dict[str, str]:
    """The same from the inspector's JSON. A layer of which it does not tell the type for sure is left out."""
    try:
        described = json.loads(information)
        kernels = [kernel for kernel in described["Layers"] if isinstance(kernel, dict)]
    except (ValueError, KeyError, TypeError):
        return {}
    found = {layer: _type(layer, kernels) for layer in layers}
    return {layer: kind for layer, kind in found.items() if kind is not None}


def _type(layer: str, kernels: Sequence[Mapping[str, Any]]) -> str | None:
    """The type of the layer's data, and of its weights where they are an input: the wider, in which products are taken."""
    named = [kernel for kernel in kernels if layer in _onnx_layers(kernel)]
    computing = [kernel for kernel in named if not _moves(kernel)]
    convolving = [kernel for kernel in computing if "conv" in _kind(kernel)]
    types = {_widest(kernel.get("Inputs")) for kernel in convolving or computing}
    return types.pop() if len(types) == 1 else None


def _onnx_layers(kernel: Mapping[str, Any]) -> set[str]:
    """The ONNX nodes that a kernel was made of."""
    names = re.split(r"\s\+\s", str(kernel.get("Name", "")))
    return {*names, *re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(kernel.get("Metadata", "")))}


def _kind(kernel: Mapping[str, Any]) -> str:
    return f"{kernel.get('LayerType', '')} {kernel.get('ParameterType', '')}".lower()


def _moves(kernel: Mapping[str, Any]) -> bool:
    return any(word in _kind(kernel) for word in _MOVES)


def _widest(inputs: Any) -> str | None:
    """Of the tensors of four axes; None where one of them has a type that is not known here."""
    found = set()
    for item in inputs if isinstance(inputs, list) else ():
        axes = item.get("Dimensions") if isinstance(item, dict) else None
        if isinstance(axes, list) and len(axes) == 4:
            found.add(_named(str(item.get("Format/Datatype", ""))))
    if not found or None in found:
        return None
    return next(kind for _, kind in _TYPES if kind in found)


def _named(text: str) -> str | None:
    return next((kind for words, kind in _TYPES if re.search(rf"\b({words})\b", text, re.IGNORECASE)), None)
