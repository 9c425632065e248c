"""Engines: one file per vendor SDK, and the registry that opens them."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.engine import Engine
from vgg_deploy.errors import EngineError, MissingDependencyError, UsageError
from vgg_deploy.manifest import Manifest
from vgg_deploy.onnx_file import read_manifest
from vgg_deploy.plan import BACKENDS, PLAN_SUFFIXES

DEFAULT_CUDA_API = "cuda-python"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime of ONNX files and where it is found.

    Attributes:
        home: our module, whose `open_model(path, manifest, device, threads, notices)` opens an ONNX file.
        module: the vendor's module.
        extra: the extra that installs it.
        devices: kinds of device it can run on.
    """

    home: str
    module: str
    extra: str
    devices: tuple[str, ...]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


# In the order in which `auto` tries them. On the CPU both take the same time for FP32 (VGG-16 at 224: 73 and 74 ms on two
# cores), and ONNX Runtime does not slow down for the first image of a new shape.
RUNTIMES = {
    "onnxruntime": Runtime("engines.ort", "onnxruntime", "cpu", ("cpu", "cuda")),
    "openvino": Runtime("engines.ov", "openvino", "cpu", ("cpu",)),
}


def open_engine(
    path: str | Path,
    *,
    runtime: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    labels: str | None = None,
    cuda_api: str = DEFAULT_CUDA_API,
    trust: bool = False,
) -> Engine:
    """Opens an ONNX file, or a TensorRT plan (.plan, .engine). A plan runs native code: open only plans that you trust.

    Args:
        path: the file.
        runtime: auto, onnxruntime or openvino; a plan runs in the backend that built it, tensorrt or tensorrt-rtx.
        device: cpu, cuda or cuda:N; None: the CPU for an ONNX file, the first GPU for a plan. Never another one than was
            asked for.
        threads: of computation on the CPU; None: one for each core.
        labels: text of a labels file, for a model without our manifest, or instead of its names.
        cuda_api: through what a plan's memory is handled, cuda-python or pycuda.
        trust: open a plan that has no manifest beside it (`labels` is needed then), or that is not the one which it describes.

    Raises:
        UsageError: no such file, runtime or device; a runtime that is not installed; labels that do not fit.
        ModelFileError, ManifestError, PlanError: a file that cannot be fed, or a plan that cannot run here.
        EngineError: the runtime cannot be loaded, or refused the file.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".safetensors"):
        raise UsageError(
            f"{path} is a checkpoint, not a model to run: vgg-deploy export --weights {path} --dynamic makes one"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; expected 1 or more")
    if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII):
        raise UsageError(f"device is {device!r}; expected cpu, cuda or cuda:N")
    if path.suffix in PLAN_SUFFIXES:
        return _open_plan(path, runtime, device, threads, labels, cuda_api, trust)
    if trust or cuda_api != DEFAULT_CUDA_API:
        raise UsageError(f"{path} is no plan; trust and cuda_api are for TensorRT plans alone, leave them out")
    device = device or "cpu"
    manifest = read_manifest(path, labels)
    name = choose_runtime(runtime, device, manifest)
    try:
        home = importlib.import_module(RUNTIMES[name].home)
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} is installed and cannot be loaded: {error}") from error
    engine: Engine = home.open_model(path, manifest, device, threads, pairing_notices(name, device, manifest))
    return engine


def _open_plan(
    path: Path,
    runtime: str,
    device: str | None,
    threads: int | None,
    labels: str | None,
    cuda_api: str,
    trust: bool,
) -> Engine:
    if runtime not in ("auto", *RUNTIMES, *BACKENDS):
        raise UsageError(f"runtime is {runtime!r}; expected auto, {', '.join((*RUNTIMES, *BACKENDS))}")
    if runtime in RUNTIMES:
        raise UsageError(
            f"{path} is a TensorRT plan, and {runtime} runs ONNX files: leave the runtime out, or name the ONNX file that the plan "
            "was built from"
        )
    if device == "cpu":
        raise UsageError(
            f"{path} is a TensorRT plan, which runs on NVIDIA GPUs: leave the device out, or give cuda or cuda:N; on the CPU, run "
            "the ONNX file that it was built from"
        )
    if threads is not None:
        raise UsageError(f"threads are of the CPU, and {path} runs on a GPU: leave them out")
    home = importlib.import_module("engines.trt.run")
    index = int((device or "cuda").partition(":")[2] or 0)
    engine: Engine = home.open_plan(path, runtime=runtime, device=index, labels=labels, cuda_api=cuda_api, trust=trust)
    return engine


def choose_runtime(runtime: str, device: str, manifest: Manifest | None = None) -> str:
    """The runtime that `auto` means for a file on this machine, or `runtime` itself if it can be used.

    Raises:
        UsageError: unknown, not installed, or without this kind of device.
    """
    kind = device.partition(":")[0]
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII):
        raise UsageError(f"device is {device!r}; expected cpu, cuda or cuda:N")
    if runtime == "auto":
        usable = [name for name, candidate in RUNTIMES.items() if candidate.installed and kind in candidate.devices]
        # Stable: where neither is slow, the order of the registry stays.
        usable.sort(key=lambda name: bool(pairing_notices(name, device, manifest)))
        if usable:
            return usable[0]
        extra = "gpu" if kind == "cuda" else "cpu"
        raise MissingDependencyError("an ONNX runtime (onnxruntime or openvino)", extra, f"running on {device}")
    if runtime in BACKENDS:
        raise UsageError(
            f"{runtime} runs plans, not ONNX files: vgg-deploy build MODEL.onnx --backend {runtime} makes one"
        )
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime is {runtime!r}; expected auto, {', '.join(RUNTIMES)}")
    chosen = RUNTIMES[runtime]
    if kind not in chosen.devices:
        raise UsageError(
            f"{runtime} runs on {', '.join(chosen.devices)} here, not on {device}; use --runtime onnxruntime"
        )
    if not chosen.installed:
        raise MissingDependencyError(chosen.module, "gpu" if kind == "cuda" else chosen.extra, f"--runtime {runtime}")
    return runtime


def pairing_notices(runtime: str, device: str, manifest: Manifest | None) -> tuple[str, ...]:
    """What a user should know who runs a file's INT8 in a runtime that it was not made for."""
    quantization = None if manifest is None else manifest.precision.quantization
    if quantization is None or not quantization.layers or (runtime, device) != ("onnxruntime", "cpu"):
        return ()
    if quantization.target == "onnxruntime":
        return ()
    remedy = (
        "--runtime openvino runs them as INT8"
        if RUNTIMES["openvino"].installed
        else "pip install openvino, which runs them as INT8"
    )
    return (
        "the file's Q/DQ nodes stand where TensorRT wants them, and onnxruntime's CPU kernels run most of them one by one, slower "
        f"than FP32 (VGG-16 at Q=256: 183 ms an image; openvino 37, FP32 138): {remedy}, or export it with --target onnxruntime",
    )
