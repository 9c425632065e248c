"""Engines: one file or folder per vendor SDK, and the registry that opens them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from engines.choice import RUNTIMES as RUNTIMES
from engines.choice import choose_runtime, pairing_notices
from engines.settings import NO_BF16, Settings, streaming_requests
from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES, PLAN_SUFFIXES
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.errors import EngineError, UnsupportedModelError, UsageError
from vgg_deploy.inference.engine import Engine

DEFAULT_CUDA_API = "cuda-python"


def open_engine(
    path: str | Path,
    *,
    runtime: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    requests: int | None = 1,
    allow_bf16: bool = False,
    labels: str | None = None,
    cuda_api: str = DEFAULT_CUDA_API,
    trust: bool = False,
) -> Engine:
    """Opens an ONNX file, or a TensorRT plan (.plan, .engine). A plan runs native code: open only plans that you trust.

    Args:
        path: the file.
        runtime: onnxruntime, openvino or ncnn; auto: the fastest that is installed for this file on this machine, with the reason among
            `info.notices`. A plan runs in the backend that built it, tensorrt or tensorrt-rtx.
        device: cpu, cuda or cuda:N; None: the CPU for an ONNX file, the first GPU for a plan. Never another one than was
            asked for.
        threads: of computation on the CPU; None: one for each core that this process may use.
        requests: calls of `run` that are computed side by side on the CPU, where they share the threads. 1: each call is as fast
            as can be; more: many calls at once are, as `predict` and `evaluate` make them; None: what suits these.
        allow_bf16: compute in bfloat16 where the file has floating point, if the CPU does so; answers change within the thresholds
            of FP16.
        labels: text of a labels file, for a model without our manifest, or instead of its names.
        cuda_api: through what a plan's memory is handled, cuda-python or pycuda.
        trust: open a plan that has no manifest beside it (`labels` is needed then), or that is not the one which it describes.

    Raises:
        UsageError: no such file, runtime or device; a runtime that is not installed; labels that do not fit.
        ModelFileError, ManifestError, PlanError: a file that cannot be fed, or a plan that cannot run here.
        EngineError: the runtime cannot be loaded, or refused the file.
    """
    path = Path(path)
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise UsageError(
            f"{path} is a checkpoint, not a model to run: vgg-deploy export --weights {path} --dynamic makes one"
        )
    if path.suffix in PLAN_SUFFIXES and (allow_bf16 or (requests or 1) > 1):
        raise UsageError(f"{path} is a TensorRT plan; requests and bfloat16 are for ONNX files on CPUs, leave them out")
    settings = Settings(
        "cpu" if device is None else device,
        threads,
        streaming_requests(device, threads) if requests is None else requests,
        allow_bf16,
    )
    if path.suffix in PLAN_SUFFIXES:
        return _open_plan(path, runtime, device, threads, labels, cuda_api, trust)
    if trust or cuda_api != DEFAULT_CUDA_API:
        raise UsageError(f"{path} is no plan; trust and cuda_api are for TensorRT plans alone, leave them out")
    manifest = read_manifest(path, labels)
    unable: dict[str, str] = {}
    said: tuple[str, ...] = ()
    while True:
        choice = choose_runtime(runtime, settings, manifest, unable)
        try:
            home = importlib.import_module(RUNTIMES[choice.runtime].home)
        except (ImportError, OSError) as error:
            if _interrupted(error):
                raise KeyboardInterrupt from error
            if runtime != "auto":
                raise EngineError(f"{choice.runtime} is installed and cannot be loaded: {error}") from error
            unable[choice.runtime] = f"it is installed and cannot be loaded: {error}"
            continue
        if runtime == "auto" and settings.bf16 and not home.computes_bf16():
            # In what this CPU computes instead another runtime may be faster.
            settings, said = replace(settings, bf16=False), (NO_BF16,)
            continue
        notices = (*said, *pairing_notices(choice.runtime, settings, manifest))
        if choice.reason is not None:
            notices = (f"runtime {choice.runtime}: {choice.reason}", *notices)
        try:
            engine: Engine = home.open_model(path, manifest, settings, notices)
        except UnsupportedModelError as error:
            if runtime != "auto":
                raise
            unable[choice.runtime] = error.reason
        else:
            return engine


def _interrupted(error: BaseException | None) -> bool:
    """Whether an import ended by Ctrl-C, which is an ImportError where a runtime's own code initializes itself (ncnn, onnxruntime)."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


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
    home = importlib.import_module("engines.trt.engine")
    index = int((device or "cuda").partition(":")[2] or 0)
    engine: Engine = home.open_plan(path, runtime=runtime, device=index, labels=labels, cuda_api=cuda_api, trust=trust)
    return engine
