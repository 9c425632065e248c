"""vgg-deploy verify."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, kind_of
from vgg_deploy.cli.opening import (
    CheckpointOptions,
    manifest_of,
    open_any,
    read_for_torch,
    refuse_facts,
    torch_engine,
)
from vgg_deploy.cli.outputs import STDOUT, write_text
from vgg_deploy.cli.parameters import engine_options, images_option
from vgg_deploy.cli.tables import notice, once, print_table, progress
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.errors import MissingDependencyError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.proof.answers import Stage, Verification
    from export.proof.views import ComparisonViews
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.manifest import Manifest


@click.command("verify")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CKPT|MODEL.onnx",
    help="File whose predictions count as correct. An ONNX file needs no torch.",
)
@images_option(required=True)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    metavar="N",
    help="Compare on at most N images, a seeded sample.",
)
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON.")
@engine_options(requests=None, plans=False)
@weight_options
def command(
    models: tuple[Path, ...],
    reference: Path,
    images: tuple[str, ...],
    limit: int,
    json_path: str | None,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Prove that ONNX files and plans predict the same as their reference, stage by stage.

    The exit code is 1 if a stage fails.
    """
    from export.proof.views import read_views

    if not reference.is_file():
        raise UsageError(f"--reference {reference}: no such file; give a checkpoint or an ONNX file")
    if kind_of(reference) != CHECKPOINT:
        refuse_facts(reference, facts)
    manifests = {path: _manifest(path, options.labels) for path in models}
    _require_runtime_for_rounding(manifests)
    views = read_views(_sample(images, limit), _view_manifest(manifests, reference, options.labels))
    for text in views.unreadable:
        notice(f"skipped {text}")
    stages = list(_stages(_VerifiedFiles(manifests, reference, views, _Opener(options)), facts))
    if json_path != STDOUT:
        _print(stages)
    if json_path is not None:
        write_text(json_path, _as_json(stages))
    if any(stage.failures for stage in stages):
        raise SystemExit(1)


class _Opener:
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

    def judged(self, path: Path) -> Engine:
        """A file that is compared with the reference."""
        bf16 = self._allow_bf16 and kind_of(path) == ONNX
        return open_any(path, replace(self._options, allow_bf16=bf16), say=self._say)

    def rounding(self, path: Path) -> Engine:
        """A file with casts to FP16 and back, which ONNX Runtime does not optimize away."""
        return open_any(path, replace(self._options, runtime="onnxruntime"), say=lambda _text: None)


@dataclass(frozen=True, slots=True)
class _VerifiedFiles:
    """Files to compare with one reference.

    Attributes:
        manifests: by file.
        reference: a checkpoint or an ONNX file.
        views: the images that they are compared on.
        opener: opens engines.
    """

    manifests: Mapping[Path, Manifest]
    reference: Path
    views: ComparisonViews
    opener: _Opener

    def check_network(self, reference: Manifest) -> None:
        """Raises UsageError if a file is a different network than the reference."""
        from export.proof.answers import check_same_network

        for path, manifest in self.manifests.items():
            check_same_network(path, manifest, reference)

    def verification(
        self, engine: Engine, name: str, open_activations: Callable[[], Engine], advance: Callable[[], None]
    ) -> Verification:
        """A verification of files against the reference that `engine` runs."""
        from export.proof.answers import Openers, Verification

        self.check_network(engine.info.manifest)
        opener = self.opener
        openers = Openers(judged=opener.judged, rounding=opener.rounding, activations=open_activations)
        return Verification(engine, name, self.views, openers, advance)


def _stages(verified: _VerifiedFiles, facts: WeightFacts) -> Iterator[Stage]:
    from export.proof.answers import views_needed

    from_checkpoint = kind_of(verified.reference) == CHECKPOINT
    total = views_needed(verified.manifests, verified.views, forms=from_checkpoint)
    with progress("verifying", total) as advance:
        if from_checkpoint:
            yield from _stages_from_checkpoint(verified, facts, advance)
        else:
            yield from _stages_from_onnx(verified, advance)


def _stages_from_onnx(verified: _VerifiedFiles, advance: Callable[[], None]) -> Iterator[Stage]:
    from export.proof.answers import open_with_activations

    reference, opener = verified.reference, verified.opener
    with opener.reference(reference) as engine:
        verification = verified.verification(
            engine, reference.name, lambda: open_with_activations(reference, opener.reference), advance
        )
        for path in verified.manifests:
            yield from verification.file(path)


def _stages_from_checkpoint(
    verified: _VerifiedFiles, facts: WeightFacts, advance: Callable[[], None]
) -> Iterator[Stage]:
    from export.proof.answers import all_use_fine_grid

    reference, manifests, opener = verified.reference, verified.manifests, verified.opener
    template = next(iter(manifests.values()))
    options = CheckpointOptions(facts=facts, template=template, fine=all_use_fine_grid(manifests))
    checkpoint = opener.read(reference, options)
    with ExitStack() as stack:
        convolutional = stack.enter_context(opener.torch(checkpoint, options))
        fc = stack.enter_context(opener.torch(checkpoint, replace(options, form="fc")))
        verification = verified.verification(
            convolutional,
            "convolutional form (PyTorch)",
            lambda: opener.torch(checkpoint, replace(options, keep_activations=True)),
            advance,
        )
        yield verification.form(fc, "FC form (PyTorch)")
        for path, manifest in manifests.items():
            _say_if_made_from_another(path, manifest, reference, checkpoint)
            yield from verification.file(path)


def _say_if_made_from_another(path: Path, manifest: Manifest, reference: Path, checkpoint: Checkpoint) -> None:
    if manifest.source is not None and manifest.source.sha256 not in checkpoint.source.sha256:
        notice(f"{path} was made from {manifest.source.name}, not from this {reference.name}")


def _manifest(path: Path, labels: str | None) -> Manifest:
    """The manifest of an ONNX file or a plan."""
    manifest = manifest_of(path, labels)
    if manifest is None:
        raise UsageError(f"{path} has no manifest beside it, so what it computes is unknown; build it again")
    return manifest


def _view_manifest(manifests: Mapping[Path, Manifest], reference: Path, labels: str | None) -> Manifest:
    """The manifest that decides how views are made: the first that vgg_deploy wrote, since foreign files do not state
    it.
    """
    from vgg_deploy.artifacts.onnx_file import read_manifest

    described = list(manifests.values())
    if kind_of(reference) != CHECKPOINT:
        described.append(read_manifest(reference, labels))
    return next((manifest for manifest in described if manifest.spec), described[0])


def _require_runtime_for_rounding(manifests: Mapping[Path, Manifest]) -> None:
    from engines import RUNTIMES
    from export.proof.answers import rounded_too

    if not RUNTIMES["onnxruntime"].installed and any(rounded_too(*item) for item in manifests.items()):
        raise MissingDependencyError("onnxruntime", "cpu", "verifying the rounding of an FP16 file")


def _sample(images: tuple[str, ...], limit: int) -> list[Path]:
    from vgg_deploy.views.images import find_images

    paths = list(find_images(images))
    if limit >= len(paths):
        return paths
    notice(f"comparing on {limit} of {len(paths)} images, a seeded sample (--limit)")
    return sorted(random.Random(0).sample(paths, limit))


def _print(stages: list[Stage]) -> None:
    rows = [
        (
            stage.name,
            stage.reference,
            str(stage.parity.view_count),
            f"{stage.parity.max_dp:.1e}",
            f"{stage.parity.mean_dp:.1e}",
            f"{stage.parity.divergence:.1e}",
            f"{stage.parity.agreement:.2%}",
            "FAILED" if stage.failures else "ok",
        )
        for stage in stages
    ]
    columns = ("stage", "against", "views", "max |dp|", "mean |dp|", "divergence", "top-1 agreement", "")
    print_table(columns, rows, left=(0, 1))
    for stage in stages:
        for flip in stage.parity.flips:
            change = f"{flip.reference.label} -> {flip.candidate.label}"
            click.echo(f"flipped in {stage.name}: {flip.view}: {change}, by a margin of {flip.margin:.2g}")
    for stage in stages:
        if stage.failures:
            click.echo(f"FAILED {stage.name} ({stage.precision} thresholds): {'; '.join(stage.failures)}")
            if stage.diverges:
                click.echo(f"  {stage.diverges}")


def _as_json(stages: list[Stage]) -> str:
    report = {
        "passed": not any(stage.failures for stage in stages),
        "stages": [_without_nan(_stage_as_json(stage)) for stage in stages],
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _stage_as_json(stage: Stage) -> dict[str, Any]:
    fields = dataclasses.asdict(stage)
    fields["parity"] = {"views": fields["parity"].pop("view_count"), **fields["parity"]}
    return fields


def _without_nan(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by null. `failures` says which it was."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
