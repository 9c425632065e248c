"""Engines: one file or folder for each vendor SDK, and the registry that opens them."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

from engines.choice import NO_BF16, choose_runtime, pairing_notices
from engines.choice import RUNTIMES as RUNTIMES
from engines.onnx_model import OnnxModel
from vgg_deploy.artifacts.kinds import CHECKPOINT, PLAN, kind_of
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.errors import EngineError, UnsupportedModelError, UsageError
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.engine_options import DEFAULT_CUDA_API, EngineOptions
from vgg_deploy.inference.piece import Piece, PieceModel


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
    """Opens an ONNX file or a TensorRT plan (.plan, .engine).

    A plan runs native code: open only plans that you trust.

    Args:
        path: the file.
        runtime, device, threads, requests, allow_bf16, labels, cuda_api, trust: see
            `vgg_deploy.inference.engine_options.EngineOptions`.

    Raises:
        UsageError: no such file, runtime or device; a runtime that is not installed; labels that do not match the
            network.
        ModelFileError, ManifestError, PlanError: the file is damaged, unsuitable, or a plan that cannot run here.
        EngineError: the runtime cannot be loaded, or refused the file.
    """
    options = EngineOptions(
        runtime=runtime,
        device=device,
        threads=threads,
        requests=requests,
        allow_bf16=allow_bf16,
        labels=labels,
        cuda_api=cuda_api,
        trust=trust,
    )
    return open_with(path, options)


def open_with(path: str | Path, options: EngineOptions) -> Engine:
    """`open_engine` with its options as one object."""
    path = Path(path)
    kind = kind_of(path)
    if kind == CHECKPOINT:
        raise UsageError(f"{path} is a checkpoint; export it first: vgg-deploy export --weights {path} --dynamic")
    return _open_plan(path, options) if kind == PLAN else _open_onnx(path, options)


def open_piece(model: PieceModel, options: EngineOptions, runtime: str) -> Piece:
    """Opens one layer of an ONNX file in the runtime that runs the whole file, with the same settings.

    Args:
        model: the piece.
        options: those with which the whole file was opened.
        runtime: onnxruntime, openvino or ncnn; the first word of the whole file's `info.runtime`.

    Raises:
        UsageError: no such runtime, or a device that it does not support.
        EngineError: the runtime cannot be loaded, or refused the piece.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime is {runtime!r}; pieces run in {', '.join(RUNTIMES)}")
    try:
        adapter = importlib.import_module(RUNTIMES[runtime].adapter)
    except (ImportError, OSError) as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise EngineError(f"{runtime} cannot be loaded: {error}") from error
    piece: Piece = adapter.open_piece(model, options)
    return piece


def _open_onnx(path: Path, options: EngineOptions) -> Engine:
    options.check_plan_options(path)
    file = OnnxFile(path)
    manifest = file.effective_manifest(options.labels)
    automatic = options.runtime == "auto"
    unusable: dict[str, str] = {}  # runtime -> why it cannot run this file
    notices: tuple[str, ...] = ()
    while True:
        choice = choose_runtime(options, manifest, unusable)
        try:
            adapter = importlib.import_module(RUNTIMES[choice.runtime].adapter)
        except (ImportError, OSError) as error:
            if _interrupted(error):
                raise KeyboardInterrupt from error
            if not automatic:
                raise EngineError(f"{choice.runtime} is installed but cannot be loaded: {error}") from error
            unusable[choice.runtime] = f"it is installed but cannot be loaded: {error}"
            continue
        if automatic and options.allow_bf16 and not adapter.computes_bf16():
            # Another runtime may be faster in the precision that this CPU falls back to.
            options, notices = replace(options, allow_bf16=False), (NO_BF16,)
            continue
        reason = () if choice.reason is None else (f"runtime {choice.runtime}: {choice.reason}",)
        pairing = pairing_notices(choice.runtime, options, manifest)
        model = OnnxModel(file=file, manifest=manifest, options=options, notices=(*reason, *notices, *pairing))
        try:
            engine: Engine = adapter.open_model(model)
        except UnsupportedModelError as error:
            if not automatic:
                raise
            unusable[choice.runtime] = error.reason
        else:
            return engine


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C ended an import. During a runtime's native initialization it surfaces as an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _open_plan(path: Path, options: EngineOptions) -> Engine:
    options.check_onnx_options(path, PLAN)
    if options.runtime not in ("auto", *RUNTIMES, *BACKENDS):
        raise UsageError(f"runtime is {options.runtime!r}; expected auto, {', '.join((*RUNTIMES, *BACKENDS))}")
    if options.runtime in RUNTIMES:
        raise UsageError(
            f"{path} is a TensorRT plan, and {options.runtime} runs ONNX files: leave the runtime out, or give the "
            "ONNX file from which the plan was built"
        )
    if options.device == "cpu":
        raise UsageError(
            f"{path} is a TensorRT plan, which runs on NVIDIA GPUs: leave the device out, or give cuda or cuda:N. On "
            "the CPU, run the ONNX file from which the plan was built"
        )
    if options.threads is not None:
        raise UsageError(f"{path} runs on a GPU, and --threads applies to CPUs only; leave it out")
    engine: Engine = importlib.import_module("engines.trt.engine").open_plan(path, options)
    return engine
