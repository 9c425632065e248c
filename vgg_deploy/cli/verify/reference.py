"""What verify compares files with: a checkpoint in PyTorch, or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, kind_of
from vgg_deploy.cli.opening import CheckpointOptions, open_any, read_for_torch, torch_engine
from vgg_deploy.cli.tables import notice, once
from vgg_deploy.cli.weights import assumed_line
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.precision import FLOAT32
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from export.proof.file.source import SourceWeights
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.manifest import Manifest


class Opener:
    """Opens the engines of a verification. Each notice is printed once."""

    def __init__(self, options: EngineOptions) -> None:
        self._options, self._say = replace(options, allow_bf16=False), once(notice)
        self._allow_bf16 = options.allow_bf16
        self._torch_options = EngineOptions(threads=options.threads)

    def reference(self, path: Path) -> Engine:
        """A file whose predictions count as correct."""
        return open_any(path, self._options, say=self._say)

    def read(self, path: Path, checkpoint: CheckpointOptions) -> Checkpoint:
        """The weights of a reference that PyTorch runs."""
        return read_for_torch(path, self._torch_options, checkpoint, self._say)

    def torch(self, weights: Checkpoint, checkpoint: CheckpointOptions) -> Engine:
        """A reference in PyTorch, on the CPU."""
        return torch_engine(weights, self._torch_options, checkpoint)

    def options_for(self, path: Path) -> EngineOptions:
        """The options with which a file is judged."""
        return replace(self._options, allow_bf16=self._allow_bf16 and kind_of(path) == ONNX)

    def judged(self, path: Path) -> Engine:
        """A file that is compared with the reference."""
        return open_any(path, self.options_for(path), say=self._say)

    def quietly(self, path: Path) -> Engine:
        """A copy of a judged file, without its notices."""
        return open_any(path, self.options_for(path), say=lambda _text: None)

    def onnxruntime(self, path: Path) -> Engine:
        """A file that ONNX Runtime must run: it runs any graph, and keeps casts to FP16 and back."""
        return open_any(path, replace(self._options, runtime="onnxruntime"), say=lambda _text: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedReference:
    """A reference, opened.

    Attributes:
        path: its file.
        engine: gives the answers that count as correct.
        source: its weights, from which files are derived anew; None: they cannot be read.
        fc: the same weights in FC form; None for an ONNX file.
        assumption: what is assumed about weights whose file does not state it; None: nothing is.
    """

    path: Path
    engine: Engine
    source: SourceWeights | None = None
    fc: Engine | None = None
    assumption: str | None = None


@contextmanager
def opened(
    path: Path, manifests: Mapping[Path, Manifest], opener: Opener, facts: WeightFacts
) -> Iterator[OpenedReference]:
    """Opens a reference for these files.

    Raises:
        UsageError: a file is a different network than the reference.
    """
    from export.proof.answers.proof import check_same_network
    from export.proof.pipeline.foreign_reference import foreign_input, open_adapted, takes_floats

    with ExitStack() as stack:
        if kind_of(path) == CHECKPOINT:
            reference = _checkpoint(path, manifests, opener, facts, stack)
        elif takes_floats(path):
            expected = foreign_input(path, facts.normalization, facts.channels)
            classes = next(iter(manifests.values())).classes
            engine = open_adapted(path, expected, classes, opener.onnxruntime)
            reference = OpenedReference(path=path, engine=stack.enter_context(engine))
        else:
            engine = stack.enter_context(opener.reference(path))
            reference = OpenedReference(path=path, engine=engine, source=_source_of_onnx(path))
        for judged, manifest in manifests.items():
            check_same_network(judged, manifest, reference.engine.info.manifest)
            if judged.samefile(path):
                notice(f"{judged} is its own reference: this shows only that its runtime repeats its answers")
        precision = reference.engine.info.manifest.precision.lowest
        if precision != FLOAT32:
            notice(
                f"--reference {path} is {precision}: its own rounding counts in every figure of proof 3, and proof 1 "
                "has no source. Give the checkpoint or an FP32 file"
            )
        yield reference


def _checkpoint(
    path: Path, manifests: Mapping[Path, Manifest], opener: Opener, facts: WeightFacts, stack: ExitStack
) -> OpenedReference:
    from export.proof.answers.proof import all_use_fine_grid
    from export.proof.file.source import SourceWeights

    template = next(iter(manifests.values()))
    options = CheckpointOptions(facts=facts, template=template, fine=all_use_fine_grid(manifests))
    checkpoint = opener.read(path, options)
    return OpenedReference(
        path=path,
        engine=stack.enter_context(opener.torch(checkpoint, options)),
        source=SourceWeights.from_checkpoint(checkpoint, facts),
        fc=stack.enter_context(opener.torch(checkpoint, replace(options, form="fc"))),
        assumption=assumed_line(checkpoint, path),
    )


def _source_of_onnx(path: Path) -> SourceWeights | None:
    """The weights of an FP32 ONNX file of ours; None for another file, whose weights show no other file's."""
    from export.proof.file.source import SourceWeights
    from vgg_deploy.artifacts.integrity import examine
    from vgg_deploy.artifacts.onnx_file import OnnxFile

    try:
        return SourceWeights.from_onnx(OnnxFile(path), examine)
    except UsageError:  # another exporter's file, or one with rounded weights
        return None
