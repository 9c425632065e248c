"""Opens an engine from an ONNX file, a plan or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, PLAN, kind_of
from vgg_deploy.artifacts.plan import BACKENDS, read_plan
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import describes_itself, known_facts, read_weights
from vgg_deploy.errors import UsageError
from vgg_deploy.files import sha256_of
from vgg_deploy.inference.engine_options import DEFAULT_CUDA_API, EngineOptions
from vgg_deploy.network.weight_facts import NOTHING_STATED, WeightFacts

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.manifest import Manifest


def options_for_each(paths: Sequence[Path], options: EngineOptions, facts: WeightFacts) -> list[EngineOptions]:
    """The options for each engine. An option that only some engines accept is reset for the others.

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
            "leave out --arch, --normalization, --mean, --std, --channels, --train-scale and --key"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions:
    """How PyTorch runs a checkpoint.

    Attributes:
        facts: what the user states about its weights.
        template: the manifest of a file that was made from these weights. It states what the checkpoint and `facts` do
            not; None if there is no such file.
        fine: class scores on OverFeat's finer grid, see `NetworkSpec.fine`.
        compiled: whether torch.compile runs it.
        any_size: with `compiled`, whether to compile once for all image sizes.
        form, keep_activations: see `train.network.reference.Reference`. Only without `compiled`.
    """

    facts: WeightFacts = NOTHING_STATED
    template: Manifest | None = None
    fine: bool = False
    compiled: bool = False
    any_size: bool = False
    form: str = "convolutional"
    keep_activations: bool = False


def open_any(
    path: Path,
    options: EngineOptions,
    checkpoint: CheckpointOptions | None = None,
    say: Callable[[str], None] = notice,
) -> Engine:
    """Opens an ONNX file, a plan or a checkpoint, and reports the engine's notices.

    Args:
        checkpoint: how a checkpoint runs. None: checkpoints are refused.
        say: receives each notice.

    Raises:
        UsageError: an option for another kind of engine, or with a wrong value.
        VGGDeployError: see `engines.open_engine` and `train.network.checkpoint.read`.
    """
    if checkpoint is not None and kind_of(path) == CHECKPOINT:
        return torch_engine(read_for_torch(path, options, checkpoint, say), options, checkpoint)
    from engines import open_with

    engine = open_with(path, options)
    for text in engine.info.notices:
        say(text)
    return engine


def read_for_torch(
    path: Path, options: EngineOptions, checkpoint: CheckpointOptions, say: Callable[[str], None] = notice
) -> Checkpoint:
    """The weights of a checkpoint, for one or several `torch_engine`. Reports the checkpoint's notices.

    Raises:
        UsageError: an option for another kind of engine.
        VGGDeployError: see `train.network.checkpoint.read`.
    """
    if options.runtime != "auto":
        raise UsageError(f"{path} is a checkpoint, which PyTorch runs; leave out --runtime")
    options.check_onnx_options(path, CHECKPOINT)
    options.check_plan_options(path)
    facts, template = checkpoint.facts, checkpoint.template
    weights = read_weights(path, facts if template is None or describes_itself(path) else known_facts(facts, template))
    for text in weights.notices:
        say(text)
    return weights


def torch_engine(weights: Checkpoint, options: EngineOptions, checkpoint: CheckpointOptions) -> Engine:
    """PyTorch, as an engine that runs these weights.

    Raises:
        UsageError: PyTorch does not have the device.
        EngineError: torch.compile cannot run.
    """
    import torch

    device = options.device or "cpu"
    if options.device_kind == "cuda" and options.device_index >= torch.cuda.device_count():
        raise UsageError(f"device is {device}; PyTorch sees {torch.cuda.device_count()} CUDA devices on this machine")
    torch.set_num_threads(options.total_threads)  # as many as other engines use
    if checkpoint.compiled:
        from train.network.compiled import CompiledReference

        return CompiledReference(weights, device=device, fine=checkpoint.fine, any_size=checkpoint.any_size)
    from train.network.reference import Reference

    return Reference(
        weights,
        form=checkpoint.form,
        device=device,
        keep_activations=checkpoint.keep_activations,
        fine=checkpoint.fine,
    )


def manifest_of(path: Path, labels: str | None = None) -> Manifest | None:
    """The manifest of an ONNX file or a plan. None: a plan without a manifest beside it.

    Args:
        labels: text of a labels file, for an ONNX file without our manifest.
    """
    from vgg_deploy.artifacts.onnx_file import read_manifest

    if kind_of(path) != PLAN:
        return read_manifest(path, labels)
    plan = read_plan(path)
    return None if plan is None else plan.manifest


def model_fingerprint(path: Path) -> str:
    """A fingerprint of an engine's file and of the files beside it that hold its weights."""
    from vgg_deploy.artifacts.onnx_file import OnnxFile
    from vgg_deploy.evaluation.cache_key import fingerprint

    weights = OnnxFile(path).external_files if kind_of(path) == ONNX else ()
    return fingerprint(*(sha256_of(file) for file in (path, *weights)))
