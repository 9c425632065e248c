"""Opening what a command line calls an engine: an ONNX file, a plan, or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, PLAN, kind_of
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import WeightFacts, read_weights
from vgg_deploy.errors import UsageError

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The values of `engine_options`, `stream_options`, `plan_options` and `weight_options`."""

    facts: WeightFacts
    runtime: str
    device: str | None
    threads: int | None
    cuda_api: str
    trust: bool
    requests: int | None = 1
    allow_bf16: bool = False

    def for_each(self, paths: Sequence[Path]) -> list[EngineOptions]:
        """The options that each engine gets: one that some of them take is left out for the others.

        Raises:
            UsageError: an option about weights, and no engine is a checkpoint.
        """
        kinds = {kind_of(path) for path in paths}
        facts = self.facts
        if CHECKPOINT not in kinds and (facts.configuration or facts.normalization or facts.train_scale):
            raise UsageError(
                f"{paths[0]} is {kind_of(paths[0])}, and says itself how it was trained: "
                "leave --arch, --normalization, --mean, --std and --train-scale out"
            )
        return [self._for(kind_of(path), kinds) for path in paths]

    def _for(self, kind: str, kinds: set[str]) -> EngineOptions:
        from vgg_deploy.artifacts.plan import BACKENDS

        options = self
        if self.runtime != "auto":
            takes = {PLAN} if self.runtime in BACKENDS else {ONNX}
            if kind not in takes and takes & kinds:
                options = replace(options, runtime="auto")
        if kind == PLAN and kinds != {PLAN}:
            options = replace(options, threads=None)
        if kind != ONNX and ONNX in kinds:
            options = replace(options, requests=None, allow_bf16=False)
        if kind != PLAN and PLAN in kinds:
            options = replace(options, trust=False, cuda_api=_default_cuda_api())
        return options


def _default_cuda_api() -> str:
    from engines import DEFAULT_CUDA_API

    return DEFAULT_CUDA_API


def open_any(path: Path, options: EngineOptions, say: Callable[[str], None] = notice) -> Engine:
    """A checkpoint in PyTorch, anything else as `engines.open_engine` does; says what there is to know.

    Raises:
        UsageError: an option that is for other kinds of engines, or of a wrong value; see also `engines.open_engine` and
            `train.network.checkpoint.read`.
    """
    if kind_of(path) == CHECKPOINT:
        return _open_checkpoint(path, options, say)
    from engines import open_engine

    engine = open_engine(
        path,
        labels=options.facts.labels,
        device=options.device,
        runtime=options.runtime,
        threads=options.threads,
        requests=options.requests,
        allow_bf16=options.allow_bf16,
        cuda_api=options.cuda_api,
        trust=options.trust,
    )
    for text in engine.info.notices:
        say(text)
    return engine


def _open_checkpoint(path: Path, options: EngineOptions, say: Callable[[str], None]) -> Engine:
    import re

    if options.runtime != "auto":
        raise UsageError(f"{path} is a checkpoint, which PyTorch runs: leave --runtime out")
    if options.allow_bf16 or (options.requests or 1) > 1:
        raise UsageError(f"{path} is a checkpoint; --allow-bf16 and --requests are for ONNX files, leave them out")
    if options.trust or options.cuda_api != _default_cuda_api():
        raise UsageError(f"{path} is no plan; --trust and --cuda-api are for TensorRT plans alone, leave them out")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"threads is {options.threads}; expected 1 or more")
    device = options.device or "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device, re.ASCII):
        raise UsageError(f"device is {device!r}; expected cpu, cuda or cuda:N")
    checkpoint = read_weights(path, options.facts)
    import torch

    if device != "cpu" and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UsageError(f"device is {device}; PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for text in checkpoint.notices:
        say(text)
    from train.network.reference import Reference

    return Reference(checkpoint, device=device)


def model_fingerprint(path: Path) -> str:
    """Of the bytes of an engine's file, and of the files beside it that hold its weights."""
    from vgg_deploy.artifacts.onnx_file import OnnxFile
    from vgg_deploy.evaluation.error_rates import fingerprint
    from vgg_deploy.files import sha256_of

    beside = OnnxFile(path).external_files if kind_of(path) == ONNX else ()
    return fingerprint(*(sha256_of(file) for file in (path, *beside)))
