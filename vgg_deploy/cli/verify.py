"""vgg-deploy verify."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES, ONNX, kind_of
from vgg_deploy.cli.engines import open_any
from vgg_deploy.cli.parameters import engine_options
from vgg_deploy.cli.tables import notice, once, print_table, progress
from vgg_deploy.cli.weights import (
    WeightFacts,
    describes_itself,
    known_facts,
    read_weights,
    weight_options,
)
from vgg_deploy.errors import MissingDependencyError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from export.verify import Stage, Views
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.manifest import Manifest


@click.command("verify")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CKPT|MODEL.onnx",
    help="What is right by definition. An ONNX file needs no torch.",
)
@click.option(
    "--images",
    required=True,
    multiple=True,
    metavar="DIR",
    help="Folder, file or pattern of real images; may be given again.",
)
@click.option("--limit", default=200, show_default=True, help="Use at most this many of the images, a seeded sample.")
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
    """Prove that ONNX files and plans answer as their reference does, stage by stage; exit 1 where one does not."""
    from engines import RUNTIMES
    from export.verify import read_views, rounded_too
    from vgg_deploy.artifacts.onnx_file import read_manifest

    say = once(notice)

    def opened(path: Path) -> Engine:
        return open_any(path, replace(options, allow_bf16=False), say=say)

    def judged(path: Path) -> Engine:
        return open_any(path, options, say=say) if kind_of(path) == ONNX else opened(path)

    def rounding(path: Path) -> Engine:
        return open_any(path, replace(options, runtime="onnxruntime", allow_bf16=False), say=lambda _text: None)

    manifests = [_manifest(path, options.labels) for path in models]
    if not reference.is_file():
        raise UsageError(f"--reference {reference}: no such file; give a checkpoint or an ONNX file")
    if not RUNTIMES["onnxruntime"].installed and any(map(rounded_too, models, manifests)):
        raise MissingDependencyError("onnxruntime", "cpu", "judging an FP16 file's rounding")
    # Views are made as the first file that says how wants them; a foreign file cannot say.
    if reference.suffix not in CHECKPOINT_SUFFIXES:
        described = [*manifests, read_manifest(reference, options.labels)]
    else:
        described = manifests
    views = read_views(_sample(images, limit), next((item for item in described if item.spec), manifests[0]))
    for text in views.unreadable:
        notice(f"passed over {text}")
    stages = _stages(models, manifests, reference, views, opened, judged, rounding, facts)
    if json_path != "-":
        _print(stages)
    if json_path is not None:
        _write_json(stages, json_path)
    failed = [stage for stage in stages if stage.failures]
    if failed:
        raise SystemExit(1)


def _manifest(path: Path, labels: str | None) -> Manifest:
    """Of an ONNX file, or of a plan."""
    from vgg_deploy.artifacts.kinds import PLAN_SUFFIXES
    from vgg_deploy.artifacts.onnx_file import read_manifest
    from vgg_deploy.artifacts.plan import read_plan

    if path.suffix not in PLAN_SUFFIXES:
        return read_manifest(path, labels)
    plan = read_plan(path)
    if plan is None:
        raise UsageError(f"{path} has no manifest beside it, so what it computes is unknown; build it again")
    return plan.manifest


def _sample(images: tuple[str, ...], limit: int) -> list[Path]:
    import random

    from vgg_deploy.views.images import find_images

    if limit < 1:
        raise UsageError(f"--limit is {limit}; expected 1 or more")
    paths = list(find_images(images))
    if limit >= len(paths):
        return paths
    notice(f"comparing on {limit} of {len(paths)} images, a seeded sample (--limit)")
    return sorted(random.Random(0).sample(paths, limit))


def _stages(
    models: tuple[Path, ...],
    manifests: list[Manifest],
    reference: Path,
    views: Views,
    opened: Callable[[Path], Engine],
    judged: Callable[[Path], Engine],
    rounding: Callable[[Path], Engine],
    facts: WeightFacts,
) -> list[Stage]:
    from export.verify import Verification, check_same_network, grid_of, open_with_activations, views_needed

    from_checkpoint = reference.suffix in CHECKPOINT_SUFFIXES
    if not from_checkpoint and (facts.configuration or facts.normalization or facts.train_scale):
        raise UsageError(
            f"--reference {reference} is no checkpoint, and says itself how it was trained: "
            "leave --arch, --normalization, --mean, --std and --train-scale out"
        )
    total = views_needed(dict(zip(models, manifests, strict=True)), views, forms=from_checkpoint)
    stages: list[Stage] = []
    with progress("verifying", total) as advance:
        if not from_checkpoint:
            with opened(reference) as engine:
                for path, manifest in zip(models, manifests, strict=True):
                    check_same_network(path, manifest, engine.info.manifest)
                verification = Verification(
                    engine,
                    reference.name,
                    views,
                    judged,
                    rounding,
                    lambda: open_with_activations(reference, opened),
                    advance,
                )
                for path in models:
                    stages.extend(verification.file(path))
            return stages
        checkpoint = read_weights(reference, facts if describes_itself(reference) else known_facts(facts, manifests[0]))
        from train.network.reference import Reference

        fine = grid_of(dict(zip(models, manifests, strict=True)))
        with Reference(checkpoint, fine=fine) as convolutional, Reference(checkpoint, form="fc") as fc:
            for path, manifest in zip(models, manifests, strict=True):
                check_same_network(path, manifest, convolutional.info.manifest)
            verification = Verification(
                convolutional,
                "convolutional form (PyTorch)",
                views,
                judged,
                rounding,
                lambda: Reference(checkpoint, keep_activations=True, fine=fine),
                advance,
            )
            stages.append(verification.form(fc, "FC form (PyTorch)"))
            for path, manifest in zip(models, manifests, strict=True):
                if manifest.source is not None and manifest.source.sha256 not in checkpoint.source.sha256:
                    notice(f"{path} says it was made from {manifest.source.name}, not from this {reference.name}")
                stages.extend(verification.file(path))
    return stages


def _print(stages: list[Stage]) -> None:
    rows = [
        (
            stage.name,
            stage.reference,
            str(stage.parity.views),
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
            click.echo(
                f"flipped in {stage.name}: {flip.view}: {flip.reference.label} -> {flip.candidate.label}, by a margin of {flip.margin:.2g}"
            )
    for stage in stages:
        if stage.failures:
            click.echo(f"FAILED {stage.name} ({stage.precision} thresholds): {'; '.join(stage.failures)}")
            if stage.diverges:
                click.echo(f"  {stage.diverges}")


def _write_json(stages: list[Stage], where: str) -> None:
    import dataclasses

    from vgg_deploy.files import whole_file

    report = {
        "passed": not any(stage.failures for stage in stages),
        "stages": [_without_nan(dataclasses.asdict(stage)) for stage in stages],
    }
    text = json.dumps(report, indent=2, allow_nan=False)
    if where == "-":
        click.echo(text)
        return
    with whole_file(Path(where)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them; `failures` says which it was."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
