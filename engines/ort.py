"""ONNX Runtime."""

from __future__ import annotations

import bisect
import ctypes
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.onnx_model import OnnxModel
from vgg_deploy.errors import EngineError, UsageError, reason_of
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import BaseEngine
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.inference.piece import PieceModel
from vgg_deploy.install import install_command
from vgg_deploy.network.tensors import Floats, Images

# From version 1.29 on, onnxruntime sends events of each session to its vendor unless this is set when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

if not hasattr(onnxruntime, "InferenceSession"):
    # If both packages were installed and one was removed, an incomplete module is left.
    raise ImportError(
        "its package is incomplete: pip uninstall onnxruntime onnxruntime-gpu, "
        f"then {install_command('cpu')} or {install_command('gpu')}"
    )

_CUDA = "CUDAExecutionProvider"
# This optimizer quantizes the bias of a convolution whose input and weights come from Q/DQ nodes. In FP16 it computes
# bias / scale, which overflows for small weights (1.32).
_DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]
_QUIET = 4  # errors are raised as well; the warnings about shapes and casts do not concern our users


class OnnxRuntimeEngine(BaseEngine[onnxruntime.InferenceSession]):
    """An ONNX file in ONNX Runtime; see `vgg_deploy.inference.engine.Engine`."""

    def __init__(self, model: OnnxModel) -> None:
        options, manifest = model.options, model.manifest
        session = _opened(str(model.path), options, str(model.path))
        precision = str(manifest.precision)
        if options.device_kind != "cuda" and manifest.precision.arithmetic == "float16":
            precision += ", computed in float32 between casts"
        self._input = session.get_inputs()[0].name
        outputs = tuple(output.name for output in session.get_outputs())
        super().__init__(model.path, model.info(f"onnxruntime {onnxruntime.__version__}", precision, outputs), session)

    def _infer(self, worker: onnxruntime.InferenceSession, images: Images) -> Mapping[str, Floats]:
        outputs = worker.run(None, {self._input: images})  # of [n, h, w, 3]: [n, classes], [n, classes, rows, cols] ...
        return dict(zip(self.info.outputs, outputs, strict=True))


class OnnxRuntimePiece(ContextManaged):
    """A piece in ONNX Runtime; see `vgg_deploy.inference.piece.Piece`."""

    def __init__(self, model: PieceModel, options: EngineOptions) -> None:
        self._name = f"the piece of {model.name}"
        self._session: onnxruntime.InferenceSession | None = _opened(model.data, options, self._name)
        self._input = self._session.get_inputs()[0].name

    def run(self, values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """See `vgg_deploy.inference.piece.Piece.run`."""
        if self._session is None:
            raise EngineError(f"{self._name} was closed; open it again")
        try:
            output: npt.NDArray[np.floating[Any]] = self._session.run(None, {self._input: values})[0]
        except Exception as error:  # the vendor's exceptions have no common base class
            raise EngineError(f"onnxruntime failed on {self._name}: {reason_of(error)}") from error
        return output

    def close(self) -> None:
        self._session = None


def _opened(model: str | bytes, options: EngineOptions, name: str) -> onnxruntime.InferenceSession:
    """A session for a model's path or bytes, with the device and the settings of `options`."""
    cuda = options.device_kind == "cuda"
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if cuda:
        if _CUDA not in onnxruntime.get_available_providers():
            raise UsageError(
                f"device {options.device} needs onnxruntime-gpu, but the installed onnxruntime supports CPUs only: "
                f"pip uninstall onnxruntime, then {install_command('gpu')}"
            )
        _load_cuda_libraries()
        providers.insert(0, (_CUDA, {"device_id": str(options.device_index), "use_tf32": "0"}))
    try:
        session = onnxruntime.InferenceSession(
            model, _session_options(options), providers=providers, disabled_optimizers=_DISABLED_OPTIMIZERS
        )
    except Exception as error:  # the vendor's exceptions have no common base class
        raise EngineError(f"onnxruntime refused {name}: {reason_of(error)}") from error
    if cuda and _CUDA not in session.get_providers():
        # onnxruntime falls back to the CPU without an error.
        raise EngineError(
            f"onnxruntime could not start CUDA on {options.device}: its CUDA or cuDNN libraries are missing or do "
            f"not match the driver. nvidia-smi shows the driver; to install the libraries: {install_command('gpu')}"
        )
    return session


def _session_options(options: EngineOptions) -> onnxruntime.SessionOptions:
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = _QUIET
    # Each caller computes in its own thread too. The others form a pool that all calls share. They spin while waiting.
    callers = options.request_count if options.device_kind == "cpu" else 1
    session_options.intra_op_num_threads = options.total_threads - callers + 1
    # Memory patterns are planned for one shape. Our shapes change from image to image, and every plan would be kept.
    session_options.enable_mem_pattern = False
    return session_options


def open_model(model: OnnxModel) -> OnnxRuntimeEngine:
    """Opens an ONNX file; see `engines.open_engine`."""
    return OnnxRuntimeEngine(model)


def open_piece(model: PieceModel, options: EngineOptions) -> OnnxRuntimePiece:
    """Opens a piece; see `engines.open_piece`."""
    return OnnxRuntimePiece(model, options)


def availability(device: str) -> str:
    """Name and version of ONNX Runtime, if it can use `device` (cpu or cuda) on this machine.

    Raises:
        EngineError: it cannot use the device; the message gives the reason.
    """
    if device == "cuda" and _CUDA not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this onnxruntime supports CPUs only: pip uninstall onnxruntime, then {install_command('gpu')}"
        )
    if device == "cuda" and not _driver_present():
        raise EngineError("no NVIDIA driver (libcuda) on this machine")
    return f"onnxruntime {onnxruntime.__version__}"


def _load_cuda_libraries() -> None:
    """Loads CUDA and cuDNN from their Python packages, which the system's loader does not search.

    onnxruntime-gpu can do so from version 1.21 on.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        preload()


def _driver_present() -> bool:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def layer_times(path: Path, options: EngineOptions, images: Images, repetitions: int) -> list[dict[str, float]]:
    """Milliseconds by node name for each of `repetitions` separate calls on the CPU, from ONNX Runtime's profiler."""
    session_options = _session_options(replace(options, requests=1))
    session_options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        session_options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(
                str(path), session_options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED_OPTIMIZERS
            )
            for _ in range(1 + repetitions):  # the first call does not count
                session.run(None, {session.get_inputs()[0].name: images})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # the vendor's exceptions have no common base class
            raise EngineError(f"onnxruntime could not profile {path}: {reason_of(error)}") from error
    begins = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    calls: list[dict[str, float]] = [{} for _ in begins]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times = calls[bisect.bisect_right(begins, event["ts"]) - 1]
            node = event["name"].removesuffix("_kernel_time")
            times[node] = times.get(node, 0.0) + event["dur"] / 1000
    return calls[1:]
