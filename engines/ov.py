"""OpenVINO on the CPU, in the file's own precision, or in bfloat16 if the user allows it."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from engines.amx import ISA_VARIABLE, amx_in_use
from engines.choice import NO_BF16
from engines.onnx_model import OnnxModel
from vgg_deploy.errors import EngineError, UnsupportedModelError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import BaseEngine
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.inference.piece import PieceModel
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Floats, Images

# Importing openvino sends an event to its vendor from another process (2026.4), unless openvino_telemetry cannot be
# imported.
_TELEMETRY = "openvino_telemetry"
_blocked = _TELEMETRY not in sys.modules
if _blocked:
    sys.modules[_TELEMETRY] = cast(ModuleType, None)
import openvino  # noqa: E402

if _blocked:
    del sys.modules[_TELEMETRY]

# Two threads that both make the first call of `to_dtype` hang (2026.4). The first two calls of `infer` would do so.
openvino.Type.u8.to_dtype()


_PRECISION = "INFERENCE_PRECISION_HINT"

# On CPUs with AMX, INT8 convolutions with free image sizes are wrong if their inputs are signed and they have fewer
# channels than this. After a larger image, a smaller one gets a wrong answer without an error: a posterior was off by
# 0.97. Seen with 2 to 8 channels, not with 16 or more (2026.4). openvinotoolkit/openvino#37577 reports related crashes.
_MIN_AMX_CHANNELS = 16


class OpenVINOEngine(BaseEngine[openvino.CompiledModel]):
    """An ONNX file in OpenVINO; see `vgg_deploy.inference.engine.Engine`."""

    def __init__(self, model: OnnxModel) -> None:
        options, manifest = model.options, model.manifest
        try:
            core = openvino.Core()
            properties = _properties(options)
            compiled = core.compile_model(core.read_model(model.path), "CPU", properties)
        except Exception as error:  # the vendor's exceptions have no common base class
            raise EngineError(f"openvino refused {model.path}: {self._reason(error)}") from error
        bf16 = properties[_PRECISION] == "bf16"
        precision = str(manifest.precision)
        if bf16:
            precision += ", floating point computed in bfloat16"
        elif manifest.precision.arithmetic == "float16":
            precision += ", computed in float32"
        # An output has several names if OpenVINO removed nodes before it.
        outputs = tuple(
            next(name for name in manifest.outputs if name in output.get_names()) for output in compiled.outputs
        )
        # A request runs one batch at a time. Each call takes an idle one, or makes one if all are in use.
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        info = model.info(
            f"openvino {_version()}",
            precision,
            outputs,
            bf16=bf16,
            notice=NO_BF16 if options.allow_bf16 and not bf16 else None,
        )
        super().__init__(model.path, info, compiled)

    def _infer(self, worker: openvino.CompiledModel, images: Images) -> Mapping[str, Floats]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = worker.create_infer_request()
        results = request.infer([np.ascontiguousarray(images)], share_inputs=True)  # of [n, h, w, 3]
        # [n, classes], [n, classes, rows, cols] ...; copied, because the next batch reuses the request's memory.
        outputs = {name: np.array(results[index], dtype=np.float32) for index, name in enumerate(self.info.outputs)}
        self._idle.put(request)  # a request that failed is not used again
        return outputs

    def close(self) -> None:
        self._idle = queue.SimpleQueue()
        super().close()

    @staticmethod
    def _reason(error: Exception) -> str:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1].strip() if lines else type(error).__name__


class OpenVINOPiece(ContextManaged):
    """A piece in OpenVINO; see `vgg_deploy.inference.piece.Piece`."""

    def __init__(self, model: PieceModel, options: EngineOptions) -> None:
        self._name = f"the piece of {model.name}"
        try:
            core = openvino.Core()
            read = core.read_model(model.data)
            self._request: openvino.InferRequest | None = core.compile_model(
                read, "CPU", _properties(options)
            ).create_infer_request()
        except Exception as error:  # the vendor's exceptions have no common base class
            raise EngineError(f"openvino refused {self._name}: {OpenVINOEngine._reason(error)}") from error

    def run(self, values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """See `vgg_deploy.inference.piece.Piece.run`."""
        if self._request is None:
            raise EngineError(f"{self._name} was closed; open it again")
        try:
            results = self._request.infer([np.ascontiguousarray(values)], share_inputs=True)
        except Exception as error:  # the vendor's exceptions have no common base class
            raise EngineError(f"openvino failed on {self._name}: {OpenVINOEngine._reason(error)}") from error
        return np.array(results[0])  # copied, because the next run reuses the request's memory

    def close(self) -> None:
        self._request = None


def computes_bf16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _properties(options: EngineOptions) -> dict[str, object]:
    """The properties for compiling a model."""
    bf16 = options.allow_bf16 and computes_bf16()
    # By default OpenVINO computes FP32 and FP16 files in BF16 on CPUs that support it.
    properties: dict[str, object] = {_PRECISION: "bf16" if bf16 else "f32"}
    if options.request_count == 1:
        properties["PERFORMANCE_HINT"] = "LATENCY"
    else:
        properties["NUM_STREAMS"] = options.request_count
    if options.threads is not None or options.total_threads < (os.cpu_count() or 1):
        properties["INFERENCE_NUM_THREADS"] = options.total_threads
    return properties


def _version() -> str:
    return str(openvino.__version__).partition("-")[0]


def open_model(model: OnnxModel) -> OpenVINOEngine:
    """Opens an ONNX file; see `engines.open_engine`. The device is always the CPU."""
    if _wrong_with_amx(model.manifest) and amx_in_use() is not False:
        raise UnsupportedModelError(
            "openvino",
            model.path,
            f"INT8 layers with fewer than {_MIN_AMX_CHANNELS} channels give wrong answers in OpenVINO on CPUs with "
            f"AMX; use --runtime onnxruntime, or set {ISA_VARIABLE}=AVX512_CORE_BF16, which turns AMX off",
        )
    return OpenVINOEngine(model)


def open_piece(model: PieceModel, options: EngineOptions) -> OpenVINOPiece:
    """Opens a piece; see `engines.open_piece`. The device is always the CPU."""
    return OpenVINOPiece(model, options)


def _wrong_with_amx(manifest: Manifest) -> bool:
    """Whether a file has layers that OpenVINO computes wrongly with AMX; see `_MIN_AMX_CHANNELS`."""
    quantization, spec, shapes = manifest.precision.quantization, manifest.spec, manifest.shapes
    if quantization is None or quantization.target != "tensorrt" or spec is None:  # other targets have unsigned inputs
        return False
    narrow = any(
        layer.name in quantization.layers and layer.out_channels < _MIN_AMX_CHANNELS
        for layer in spec.weight_layers
        if layer.name != "fc8"
    )
    return narrow and not (shapes is not None and shapes.height.fixed and shapes.width.fixed)


def availability(device: str) -> str:
    """Name and version of OpenVINO, if it can use `device` (always cpu) on this machine.

    Raises:
        EngineError: it cannot use the device; the message gives the reason.
    """
    if "CPU" not in openvino.Core().available_devices:
        raise EngineError("openvino finds no CPU plugin; install openvino again")
    return f"openvino {_version()}"


def layer_times(path: Path, options: EngineOptions, images: Images, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds by node name for each of `repetitions` separate calls, from OpenVINO's own counters."""
    try:
        core = openvino.Core()
        properties = {**_properties(replace(options, requests=1)), "PERF_COUNT": True}
        request = core.compile_model(core.read_model(path), "CPU", properties).create_infer_request()
        request.infer([np.ascontiguousarray(images)])  # the first run of a shape is slower
        calls = []
        for _ in range(repetitions):
            request.infer([np.ascontiguousarray(images)])
            times: dict[str, float] = {}
            for node in request.profiling_info:
                times[node.node_name] = times.get(node.node_name, 0.0) + 1000 * node.real_time.total_seconds()
            calls.append(times)
    except Exception as error:  # the vendor's exceptions have no common base class
        raise EngineError(f"openvino could not profile {path}: {OpenVINOEngine._reason(error)}") from error
    return calls
