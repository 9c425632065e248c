"""ONNX Runtime."""

from __future__ import annotations

import bisect
import ctypes
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.inference.engine import ContextManaged, EngineInfo, Scores, check_images
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.install import install_command
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Images

# Without this, onnxruntime from 1.29 on sends events of each session to its maker. It is read at the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

if not hasattr(onnxruntime, "InferenceSession"):
    # What is left where one of the two packages was removed after both were installed.
    raise ImportError(
        f"its package is incomplete: pip uninstall onnxruntime onnxruntime-gpu, then {install_command('cpu')} or {install_command('gpu')}"
    )

_CUDA = "CUDAExecutionProvider"
# It quantizes the bias of a convolution whose input and weights come from Q/DQ nodes, and in FP16 computes bias / scale, which
# overflows where weights are small (1.32).
_DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]
_QUIET = 3  # log errors only; its warnings about shapes and casts are not for our users


class OnnxRuntimeEngine(ContextManaged):
    """An ONNX file in ONNX Runtime; see `vgg_deploy.inference.engine.Engine`. `run` is safe from several threads."""

    def __init__(self, path: Path, manifest: Manifest, options: EngineOptions, notices: tuple[str, ...] = ()) -> None:
        kind, device = options.device_kind, options.device or "cpu"
        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if kind == "cuda":
            if _CUDA not in onnxruntime.get_available_providers():
                raise UsageError(
                    f"device {device} needs onnxruntime-gpu, and this onnxruntime is for CPUs: "
                    f"pip uninstall onnxruntime, then {install_command('gpu')}"
                )
            _load_cuda_libraries()
            providers.insert(0, (_CUDA, {"device_id": str(options.device_index), "use_tf32": "0"}))
        try:
            session = onnxruntime.InferenceSession(
                str(path), _session_options(options), providers=providers, disabled_optimizers=_DISABLED_OPTIMIZERS
            )
        except Exception as error:  # the vendor raises many kinds, without a root of their own
            raise EngineError(f"onnxruntime refused {path}: {_reason(error)}") from error
        if kind == "cuda" and _CUDA not in session.get_providers():
            # It falls back to the CPU in silence.
            raise EngineError(
                f"onnxruntime could not start CUDA on {device}: its CUDA or cuDNN libraries are missing or do not fit the driver; "
                f"{install_command('gpu')} brings them, nvidia-smi shows the driver"
            )
        precision = str(manifest.precision)
        if kind == "cpu" and manifest.precision.arithmetic == "float16":
            precision += ", computed in float32 between casts"
        assert manifest.shapes is not None  # read_manifest sets them
        self._path, self._session = path, session
        self._names = [output.name for output in session.get_outputs()]
        self._input = session.get_inputs()[0].name
        self.info = EngineInfo(
            runtime=f"onnxruntime {onnxruntime.__version__}",
            device=device,
            precision=precision,
            outputs=tuple(self._names),
            shapes=manifest.shapes,
            concurrency=options.request_count,
            threads=options.total_threads if kind == "cpu" else None,
            manifest=manifest,
            notices=notices,
        )

    def run(self, images: Images) -> Scores:
        check_images(images, self.info.shapes)
        session = self._session
        if session is None:
            raise EngineError(f"{self._path} was closed; open it again")
        try:
            outputs = session.run(None, {self._input: images})
        except Exception as error:  # the vendor raises many kinds, without a root of their own
            raise EngineError(
                f"onnxruntime failed on {' x '.join(map(str, images.shape))}: {_reason(error)}"
            ) from error
        arrays = (np.asarray(output, dtype=np.float32) for output in outputs)
        return Scores.from_outputs(dict(zip(self._names, arrays, strict=True)))

    def close(self) -> None:
        self._session = None


def _session_options(options: EngineOptions) -> onnxruntime.SessionOptions:
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = _QUIET
    # Each caller brings one thread of its own. The others form a pool that all calls share; they spin while they wait.
    callers = options.request_count if options.device_kind == "cpu" else 1
    session_options.intra_op_num_threads = options.total_threads - callers + 1
    # Memory patterns are planned for one shape. Our shapes change from image to image, and every plan would be kept.
    session_options.enable_mem_pattern = False
    return session_options


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def open_model(
    file: OnnxFile, manifest: Manifest, options: EngineOptions, notices: tuple[str, ...] = ()
) -> OnnxRuntimeEngine:
    """Opens an ONNX file; see `engines.open_engine`."""
    return OnnxRuntimeEngine(file.path, manifest, options, notices)


def availability(device: str) -> str:
    """In a few words, how ONNX Runtime can use `device` (cpu or cuda) here.

    Raises:
        EngineError: it cannot; says why.
    """
    if device == "cuda" and _CUDA not in onnxruntime.get_available_providers():
        raise EngineError(f"this onnxruntime is for CPUs: pip uninstall onnxruntime, then {install_command('gpu')}")
    if device == "cuda" and not _driver_present():
        raise EngineError("no NVIDIA driver (libcuda) on this machine")
    return f"onnxruntime {onnxruntime.__version__}"


def _load_cuda_libraries() -> None:
    """The CUDA and cuDNN packages lie where no loader looks; onnxruntime-gpu finds them itself from 1.21 on, when asked."""
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
    """Milliseconds by node's name, of each of some calls by themselves on the CPU, from ONNX Runtime's own profile."""
    import tempfile

    session_options = _session_options(replace(options, requests=1))
    session_options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        session_options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(
                str(path), session_options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED_OPTIMIZERS
            )
            for _ in range(1 + repetitions):  # the first is left out
                session.run(None, {session.get_inputs()[0].name: images})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # the vendor raises many kinds, without a root of their own
            raise EngineError(f"onnxruntime could not profile {path}: {_reason(error)}") from error
    begins = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    runs: list[dict[str, float]] = [{} for _ in begins]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times, node = runs[bisect.bisect_right(begins, event["ts"]) - 1], event["name"].removesuffix("_kernel_time")
            times[node] = times.get(node, 0.0) + event["dur"] / 1000
    return runs[1:]
