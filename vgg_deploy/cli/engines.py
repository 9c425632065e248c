"""Opening what a command line calls an engine: an ONNX file, a plan, or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import CHECKPOINT_SUFFIXES, WeightFacts, read_weights
from vgg_deploy.errors import UsageError

if TYPE_CHECKING:
    from vgg_deploy.engine import Engine


def open_any(path: Path, facts: WeightFacts, *, device: str | None, runtime: str, **options: Any) -> Engine:
    """A checkpoint in PyTorch, anything else as `engines.open_engine` does; prints what there is to know.

    Raises:
        UsageError: --runtime with a checkpoint; see also `engines.open_engine` and `train.checkpoint.read`.
    """
    if path.suffix not in CHECKPOINT_SUFFIXES:
        from engines import open_engine

        engine = open_engine(path, labels=facts.labels, device=device, runtime=runtime, **options)
        for text in engine.info.notices:
            notice(text)
        return engine
    if runtime != "auto":
        raise UsageError(f"{path} is a checkpoint, which PyTorch runs: leave --runtime out")
    checkpoint = read_weights(path, facts)
    for text in checkpoint.notices:
        notice(text)
    from train.reference import Reference

    return Reference(checkpoint, device=device or "cpu")
