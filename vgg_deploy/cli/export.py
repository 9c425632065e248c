"""vgg-deploy export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import (
    CHECKPOINT_SUFFIXES,
    WeightFacts,
    read_weights,
    require_torch,
    weight_facts,
    weight_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train.checkpoint import Checkpoint
    from vgg_deploy.engine import Images


@click.command("export")
@click.option(
    "--weights",
    metavar="CKPT|imagenet",
    help="Checkpoint (.safetensors, .pt, .pth), or torchvision's ImageNet weights.  [default: newest finished run under runs/, else imagenet]",
)
@weight_options
@click.option(
    "--dynamic", is_flag=True, help="Free batch, height and width: needed for whole images.  [default: 1 x crop x crop]"
)
@click.option("--fp16", is_flag=True, help="FP16 weights and arithmetic from conv1_1 to fc8.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --fp16: images on which each layer's range is measured; layers that would overflow stay FP32.",
)
@click.option("--calibration-images", default=32, show_default=True, help="How many of them, a seeded sample.")
@click.option("--score-map", is_flag=True, help="Add the output score_map (infer --heatmaps).")
@click.option("--features", is_flag=True, help="Add the output features, the spatial mean of fc7.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: vgg16.onnx and the like, by configuration]",
)
@click.option(
    "--runs", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where training puts its runs."
)
def command(
    weights: str | None,
    dynamic: bool,
    fp16: bool,
    calibration: Path | None,
    calibration_images: int,
    score_map: bool,
    features: bool,
    output: Path | None,
    runs: Path,
    **facts: Any,
) -> None:
    """Fold the FC layers into convolutions and write the network as ONNX, with its manifest."""
    if calibration is not None and not fp16:
        raise click.UsageError("--calibration measures ranges for FP16; give --fp16 with it")
    if calibration_images < 1:
        raise click.UsageError(f"--calibration-images is {calibration_images}; expected 1 or more")
    require_torch("exporting a checkpoint")
    from export import export

    checkpoint = _checkpoint(weights, weight_facts(**facts), runs)
    for text in checkpoint.notices:
        notice(text)
    manifest = checkpoint.manifest
    assert manifest.spec is not None
    path = output or Path(f"{manifest.spec.common_name}.onnx")
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise click.UsageError(f"--output {path} has a checkpoint's ending; name an .onnx file")
    if weights is not None and path.exists() and Path(weights).exists() and path.samefile(weights):
        raise click.UsageError(f"--output {path} is the checkpoint itself; name another file")
    images = None if calibration is None else _calibration(calibration, calibration_images, checkpoint)
    written = export(
        checkpoint, path, dynamic=dynamic, half=fp16, score_map=score_map, features=features, calibration=images
    )
    for text in written.notices:
        notice(text)
    made = written.manifest
    click.echo(
        f"{path}: configuration {manifest.spec.configuration}, {len(made.classes)} classes, {made.precision}, images {made.shapes}, {path.stat().st_size / 1e6:.1f} MB"
    )


def _checkpoint(weights: str | None, facts: WeightFacts, runs: Path) -> Checkpoint:
    if weights is None:
        from train.runs import newest_finished

        newest = newest_finished(runs, facts.configuration)
        if newest is None:
            which = f" of {facts.configuration}" if facts.configuration else ""
            notice(f"no finished run{which} under {runs}/; taking torchvision's ImageNet weights")
            weights = "imagenet"
        else:
            notice(f"newest finished run: {newest}")
            weights = str(newest)
    if weights == "imagenet":
        return _imagenet(facts)
    return read_weights(Path(weights), facts)


def _imagenet(facts: WeightFacts) -> Checkpoint:
    import dataclasses

    require_torch("taking torchvision's weights", "torchvision")
    from train.pretrained import imagenet
    from vgg_deploy.classes import classes_from_labels
    from vgg_deploy.errors import UsageError

    if facts.normalization is not None or facts.train_scale is not None:
        raise UsageError(
            "torchvision's ImageNet weights have their own normalization and S: "
            "leave --normalization, --mean, --std and --train-scale out, or give --weights FILE"
        )
    checkpoint = imagenet(facts.configuration or "D")
    if facts.labels is None:
        return checkpoint
    manifest = checkpoint.manifest
    classes = classes_from_labels(facts.labels, len(manifest.classes), "the labels file")
    return dataclasses.replace(checkpoint, manifest=manifest.with_(classes=classes))


def _calibration(folder: Path, count: int, checkpoint: Checkpoint) -> Iterator[Images]:
    """Whole images at the scales of inference, one at a time."""
    import random

    from vgg_deploy.errors import ImageError, UsageError
    from vgg_deploy.images import decode, find_images, rescale
    from vgg_deploy.protocols import choose_protocol

    manifest = checkpoint.manifest
    paths = sorted(find_images([str(folder)]))
    chosen = random.Random(0).sample(paths, min(count, len(paths)))
    scales = choose_protocol(manifest, "multiscale", free_size=True).protocol.scales

    def batches() -> Iterator[Images]:
        read = 0
        with progress("measuring activations", len(chosen)) as advance:
            for path in chosen:
                try:
                    pixels = decode(path)
                    for scale in scales:
                        yield rescale(pixels, scale, manifest.rescaling)[None]
                    read += 1
                except ImageError as error:
                    notice(f"passed over {path}: {error}")
                advance()
        if not read:
            raise UsageError(f"{folder}: none of {len(chosen)} images can be read; ranges cannot be measured")

    return batches()
