"""Opens what the command line calls an engine: an ONNX file, a plan or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, PLAN, kind_of
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import read_weights
from vgg_deploy.errors import UsageError
from vgg_deploy.files import sha256_of
from vgg_deploy.inference.engine_options import DEFAULT_CUDA_API, EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine


def options_for_each(paths: Sequence[Path], options: EngineOptions, facts: WeightFacts) -> list[EngineOptions]:
    """The options for each engine. An option that some of the engines take is left out for the others.

    Raises:
        UsageError: `facts` says how weights were trained, and no engine is a checkpoint.
    """
    kinds = {kind_of(path) for path in paths}
    if CHECKPOINT not in kinds:
        refuse_facts(paths[0], facts)
    return [_options_for(kind_of(path), kinds, options) for path in paths]


def refuse_facts(path: Path, facts: WeightFacts) -> None:
    """Raises UsageError if `facts` says how weights were trained, which an ONNX file or a plan states itself."""
    if facts.about_training:
        raise UsageError(
            f"{path} is {kind_of(path)}, and its manifest states how the network was trained: "
            "leave out --arch, --normalization, --mean, --std and --train-scale"
        )


def _options_for(kind: str, kinds: set[str], options: EngineOptions) -> EngineOptions:
    if options.runtime != "auto":
        takes = PLAN if options.runtime in BACKENDS else ONNX
        if kind != takes and takes in kinds:
            options = replace(options, runtime="auto")
    if kind == PLAN and kinds != {PLAN}:
        options = replace(options, threads=None)
    if kind != ONNX and ONNX in kinds:
        options = replace(options, requests=None, allow_bf16=False)
    if kind != PLAN and PLAN in kinds:
        options = replace(options, trust=False, cuda_api=DEFAULT_CUDA_API)
    return options


def open_any(
    path: Path, options: EngineOptions, facts: WeightFacts | None = None, say: Callable[[str], None] = notice
) -> Engine:
    """Opens an ONNX file, a plan or a checkpoint, and reports the engine's notices.

    Args:
        facts: about the weights of a checkpoint; None: the command takes no checkpoints, and they are refused.
        say: receives each notice.

    Raises:
        UsageError: an option for another kind of engine, or with a wrong value.
        VGGDeployError: see `engines.open_engine` and `train.network.checkpoint.read`.
    """
    if facts is not None and kind_of(path) == CHECKPOINT:
        return _open_checkpoint(path, options, facts, say)
    from engines import open_with

    engine = open_with(path, options)
    for text in engine.info.notices:
        say(text)
    return engine


def _open_checkpoint(path: Path, options: EngineOptions, facts: WeightFacts, say: Callable[[str], None]) -> Engine:
    if options.runtime != "auto":
        raise UsageError(f"{path} is a checkpoint, which PyTorch runs; leave out --runtime")
    options.check_onnx_options(path, CHECKPOINT)
    options.check_plan_options(path)
    checkpoint = read_weights(path, facts)
    import torch

    device = options.device or "cpu"
    if options.device_kind == "cuda" and options.device_index >= torch.cuda.device_count():
        raise UsageError(f"device is {device}; PyTorch sees {torch.cuda.device_count()} CUDA devices on this machine")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    for text in checkpoint.notices:
        say(text)
    from train.network.reference import Reference

    return Reference(checkpoint, device=device)


def model_fingerprint(path: Path) -> str:
    """A fingerprint of an engine's file and of the files beside it that hold its weights."""
    from vgg_deploy.artifacts.onnx_file import OnnxFile
    from vgg_deploy.evaluation.cache_key import fingerprint

    weights = OnnxFile(path).external_files if kind_of(path) == ONNX else ()
    return fingerprint(*(sha256_of(file) for file in (path, *weights)))
