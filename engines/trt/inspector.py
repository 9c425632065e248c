"""The type in which a built engine computes each layer, from TensorRT's engine inspector.

TensorRT fuses layers and describes the kernels in two ways. Usually the name is "conv1_1 + relu1_1", and the format is
in words ("Thirty-two wide channel vectorized row major Int8 format"). Kernels of its graph compiler have other names;
the ONNX layers are under "Metadata" ("[ONNX Layer: conv1_1]"), and the types are plain ("Half").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engines.trt.backend import Backend, logger
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8

# Words of "Format/Datatype", from the widest type to the narrowest.
_TYPES = ((r"float|fp32", FLOAT32), (r"half|fp16", FLOAT16), (r"int8", INT8))
_MOVES = ("reformat", "constant", "shape", "shuffle", "noop", "signal", "wait")  # layers that compute nothing


def built_types(backend: Backend, plan: Any, layers: Iterable[str]) -> dict[str, str]:
    """float32, float16 or int8 by layer, if the engine reports it. Empty if this machine cannot load the plan.

    Args:
        plan: the serialized engine, in memory, built with detailed profiling verbosity.
    """
    trt = backend.trt
    try:
        runtime = trt.Runtime(logger(backend))
    except TypeError:  # from pybind11, if TensorRT returned no object: no driver, or an unknown GPU
        return {}
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return {}
    inspector = engine.create_engine_inspector()
    return types_of(inspector.get_engine_information(trt.LayerInformationFormat.JSON), layers)


def types_of(information: str, layers: Iterable[str]) -> dict[str, str]:
    """The same, from the inspector's JSON. A layer whose type is not certain is left out."""
    try:
        kernels = [kernel for kernel in json.loads(information)["Layers"] if isinstance(kernel, dict)]
    except (ValueError, KeyError, TypeError):
        return {}
    types = {layer: _type(layer, kernels) for layer in layers}
    return {layer: kind for layer, kind in types.items() if kind is not None}


def _type(layer: str, kernels: Sequence[Mapping[str, Any]]) -> str | None:
    """The type in which a layer multiplies: the widest type of its inputs, which may include its weights."""
    named = [kernel for kernel in kernels if layer in _onnx_layers(kernel)]
    computing = [kernel for kernel in named if not _moves_data(kernel)]
    convolving = [kernel for kernel in computing if "conv" in _kind(kernel)]
    types = {_widest(kernel.get("Inputs")) for kernel in convolving or computing}
    return types.pop() if len(types) == 1 else None


def _onnx_layers(kernel: Mapping[str, Any]) -> set[str]:
    """The ONNX nodes that a kernel computes."""
    names = re.split(r"\s\+\s", str(kernel.get("Name", "")))
    return {*names, *re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(kernel.get("Metadata", "")))}


def _kind(kernel: Mapping[str, Any]) -> str:
    return f"{kernel.get('LayerType', '')} {kernel.get('ParameterType', '')}".lower()


def _moves_data(kernel: Mapping[str, Any]) -> bool:
    return any(word in _kind(kernel) for word in _MOVES)


def _widest(inputs: Any) -> str | None:
    """The widest type among tensors with four axes; None if one of them has an unknown type."""
    types = set()
    for item in inputs if isinstance(inputs, list) else ():
        axes = item.get("Dimensions") if isinstance(item, dict) else None
        if isinstance(axes, list) and len(axes) == 4:
            types.add(_type_named(str(item.get("Format/Datatype", ""))))
    if not types or None in types:
        return None
    return next(kind for _, kind in _TYPES if kind in types)


def _type_named(text: str) -> str | None:
    return next((kind for pattern, kind in _TYPES if re.search(rf"\b({pattern})\b", text, re.IGNORECASE)), None)
