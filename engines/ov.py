"""OpenVINO, on the CPU, in the file's own precision, or in bfloat16 where that is allowed."""

from __future__ import annotations

import os
import queue
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np

from engines.choice import NO_BF16
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import EngineError
from vgg_deploy.inference.engine import ContextManaged, EngineInfo, Scores, check_images
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Images

# Its import would send an event to its maker, from a process of its own (2026.4), unless openvino_telemetry cannot be imported.
_TELEMETRY = "openvino_telemetry"
_blocked = _TELEMETRY not in sys.modules
if _blocked:
    sys.modules[_TELEMETRY] = cast(ModuleType, None)
import openvino  # noqa: E402

if _blocked:
    del sys.modules[_TELEMETRY]

# Its first call waits for ever when two threads make it at once, as the first two calls of `infer` do (2026.4).
openvino.Type.u8.to_dtype()


_PRECISION = "INFERENCE_PRECISION_HINT"


class OpenVINOEngine(ContextManaged):
    """An ONNX file in OpenVINO; see `vgg_deploy.inference.engine.Engine`. `run` is safe from several threads."""

    def __init__(self, path: Path, manifest: Manifest, options: EngineOptions, notices: tuple[str, ...] = ()) -> None:
        try:
            core = openvino.Core()
            properties = _properties(options)
            compiled = core.compile_model(core.read_model(path), "CPU", properties)
        except Exception as error:  # the vendor raises many kinds, without a root of their own
            raise EngineError(f"openvino refused {path}: {_reason(error)}") from error
        bf16 = properties[_PRECISION] == "bf16"
        if options.allow_bf16 and not bf16:
            notices = (*notices, NO_BF16)
        precision = str(manifest.precision)
        if bf16:
            precision += ", floating point computed in bfloat16"
        elif manifest.precision.arithmetic == "float16":
            precision += ", computed in float32"
        assert manifest.shapes is not None  # read_manifest sets them
        self._path, self._compiled = path, compiled
        # An output may go under several names, where OpenVINO removed the node between them.
        self._names = [
            next(name for name in manifest.outputs if name in output.get_names()) for output in compiled.outputs
        ]
        # A request runs one batch at a time; as many are kept as calls were ever under way at once.
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        self.info = EngineInfo(
            runtime=f"openvino {openvino.__version__.partition('-')[0]}",
            device="cpu",
            precision=precision,
            outputs=tuple(self._names),
            shapes=manifest.shapes,
            concurrency=options.request_count,
            threads=options.total_threads,
            manifest=manifest,
            notices=notices,
            bf16=bf16,
        )

    def run(self, images: Images) -> Scores:
        check_images(images, self.info.shapes)
        compiled = self._compiled
        if compiled is None:
            raise EngineError(f"{self._path} was closed; open it again")
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = compiled.create_infer_request()
        try:
            outputs = request.infer([np.ascontiguousarray(images)], share_inputs=True)
            # The request's memory is used again by the next batch.
            arrays = [np.array(outputs[index], dtype=np.float32) for index in range(len(self._names))]
        except Exception as error:  # the vendor raises many kinds, without a root of their own
            raise EngineError(f"openvino failed on {' x '.join(map(str, images.shape))}: {_reason(error)}") from error
        self._idle.put(request)
        return Scores.from_outputs(dict(zip(self._names, arrays, strict=True)))

    def close(self) -> None:
        self._idle = queue.SimpleQueue()
        self._compiled = None


def computes_bf16() -> bool:
    """Whether this CPU computes in bfloat16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _properties(options: EngineOptions) -> dict[str, object]:
    """What a model is compiled with."""
    bf16 = options.allow_bf16 and computes_bf16()
    # Unasked, OpenVINO computes FP32 and FP16 files in BF16 on CPUs that have it.
    properties: dict[str, object] = {_PRECISION: "bf16" if bf16 else "f32"}
    if options.request_count == 1:
        properties["PERFORMANCE_HINT"] = "LATENCY"
    else:
        properties["NUM_STREAMS"] = options.request_count
    if options.threads is not None or options.total_threads < (os.cpu_count() or 1):
        properties["INFERENCE_NUM_THREADS"] = options.total_threads
    return properties


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def open_model(
    file: OnnxFile, manifest: Manifest, options: EngineOptions, notices: tuple[str, ...] = ()
) -> OpenVINOEngine:
    """Opens an ONNX file; the device is always the CPU here. See `engines.open_engine`."""
    return OpenVINOEngine(file.path, manifest, options, notices)


def availability(device: str) -> str:
    """In a few words, how OpenVINO can use `device` (always cpu) here.

    Raises:
        EngineError: it cannot; says why.
    """
    if "CPU" not in openvino.Core().available_devices:
        raise EngineError("openvino has no CPU plugin here")
    return f"openvino {openvino.__version__.partition('-')[0]}"


def layer_times(path: Path, options: EngineOptions, images: Images, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds by node's name, of each of some calls by themselves, from OpenVINO's own counters."""
    try:
        core = openvino.Core()
        properties = {**_properties(replace(options, requests=1)), "PERF_COUNT": True}
        request = core.compile_model(core.read_model(path), "CPU", properties).create_infer_request()
        request.infer([np.ascontiguousarray(images)])  # the first run of a shape costs more
        runs = []
        for _ in range(repetitions):
            request.infer([np.ascontiguousarray(images)])
            times: dict[str, float] = {}
            for node in request.profiling_info:
                times[node.node_name] = times.get(node.node_name, 0.0) + 1000 * node.real_time.total_seconds()
            runs.append(times)
    except Exception as error:  # the vendor raises many kinds, without a root of their own
        raise EngineError(f"openvino could not profile {path}: {_reason(error)}") from error
    return runs
