"""Which weights a command reads: its options, and how they become a checkpoint."""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT_ENDINGS
from vgg_deploy.cli.parameters import (
    chosen_normalization,
    gathered,
    labels_option,
    labels_text,
    normalization_option,
    rgb_triple,
    std_option,
    train_scale,
)
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import MissingDependencyError, UsageError
from vgg_deploy.network.label_files import classes_from_labels
from vgg_deploy.network.manifest import BGR, MANIFEST_KEY, RGB, Manifest, TrainScale
from vgg_deploy.network.normalization_options import normalization_options
from vgg_deploy.network.spec import CONFIGURATIONS, TOTAL_STRIDE
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint

DEFAULT_RUNS = Path("runs")  # may be missing: nobody has trained yet
IMAGENET = "imagenet"  # --weights imagenet: torchvision's


def _weight_facts(
    *,
    arch: str | None,
    normalization: str | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    channels: str | None,
    train_scale: TrainScale | None,
    key: str | None,
) -> WeightFacts:
    return WeightFacts(
        configuration=arch,
        normalization=chosen_normalization(normalization, mean, std),
        channels=channels,
        labels=labels_text(),
        train_scale=train_scale,
        key=key,
    )


# The command receives `facts`, a `WeightFacts`.
weight_options = gathered(
    "facts",
    _weight_facts,
    click.option(
        "--arch",
        type=click.Choice(CONFIGURATIONS),
        help="Configuration of the network. A checkpoint needs it only for A-LRN, whose tensors look like those of A.",
    ),
    normalization_option,
    click.option(
        "--mean",
        callback=rgb_triple,
        metavar="R,G,B",
        help="Mean in units of 0..255. With paper, it replaces 123.68,116.779,103.939.",
    ),
    std_option,
    click.option(
        "--channels",
        type=click.Choice([RGB, BGR]),
        help="Order of a foreign checkpoint's input channels; Caffe and OpenCV use bgr. --mean and --std stay R,G,B.  "
        "[default: rgb]",
    ),
    click.option(
        "--train-scale",
        callback=train_scale,
        metavar="S|SMIN,SMAX",
        help="Training scale S, for weights whose file does not state it.",
    ),
    click.option(
        "--key",
        metavar="NAME",
        help="Set of weights to take from a file with several, such as state_dict or model_ema.  "
        "[default: the averaged one]",
    ),
    labels_option,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """Where the weights come from: a checkpoint or imagenet, or else the newest finished run in a folder."""

    weights: str | None
    runs: Path

    def read(self, facts: WeightFacts) -> Checkpoint:
        """Reads the checkpoint and reports its notices.

        Raises:
            UsageError: the options contradict each other, a named folder of runs does not exist, the newest run learned
                nothing, or torch is not installed.
            CheckpointError: the file is damaged, or does not hold a VGG network.
        """
        weights = self.weights or self._newest(facts.configuration)
        checkpoint = _imagenet(facts) if weights == IMAGENET else read_weights(Path(weights), facts)
        for text in checkpoint.notices:
            notice(text)
        return checkpoint

    def _newest(self, configuration: str | None) -> str:
        from train.runs.finished import finished_runs, newest_finished

        if self.runs != DEFAULT_RUNS and not self.runs.is_dir():
            raise UsageError(f"--runs {self.runs}: no such folder; name the folder of your runs, or give --weights")
        newest = newest_finished(self.runs, configuration)
        if newest is None:
            kind = f" of configuration {configuration}" if configuration else ""
            notice(f"no finished run{kind} in {self.runs}/; using torchvision's ImageNet weights")
            return IMAGENET
        if newest.learned is False:
            others = [
                run for run in finished_runs(self.runs) if run.learned and configuration in (None, run.configuration)
            ]
            other = f"--weights {others[0].checkpoint} learned ({others[0].summary()}). " if others else ""
            raise UsageError(
                f"the newest finished run learned nothing: {newest.checkpoint}, {newest.odds}. {other}"
                f"Train again with another --lr or --init, or take it anyway: --weights {newest.checkpoint}"
            )
        notice(f"newest finished run: {newest.checkpoint}, {newest.summary()}")
        return str(newest.checkpoint)


# The command receives `source`, a `WeightSource`.
source_options = gathered(
    "source",
    WeightSource,
    click.option(
        "--weights",
        metavar="CKPT|imagenet",
        help=f"Checkpoint ({CHECKPOINT_ENDINGS}; the content decides), or torchvision's ImageNet weights.  "
        "[default: the newest finished run in --runs; imagenet if there is none]",
    ),
    click.option(
        "--runs",
        default=DEFAULT_RUNS,
        show_default=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Folder of training runs.",
    ),
)


def assumed_line(checkpoint: Checkpoint, path: str | Path) -> str | None:
    """What was assumed about a foreign checkpoint, and which commands can show whether it is right.

    None for a checkpoint that states it: one of our own, or torchvision's ImageNet weights.
    """
    manifest = checkpoint.manifest
    if checkpoint.describes_itself:
        return None
    assert manifest.normalization is not None
    assert manifest.spec is not None
    pixels = " ".join(normalization_options(manifest.normalization))
    order = BGR if manifest.channels_reversed else RGB
    scale = manifest.train_scale
    sizes = str(scale.minimum) if scale.fixed else f"{scale.minimum},{scale.maximum}"
    facts = [
        f"{pixels} --channels {order} --train-scale {sizes}",
        f"the long side rounded {'down' if manifest.rescaling.rounding == 'floor' else 'to the nearest pixel'}",
        "classes numbered, without names" if manifest.unnamed else "the classes in the order of --labels",
    ]
    if manifest.spec.crop == TOTAL_STRIDE:
        facts.append(
            f"fc6 reads one position: taken as a crop of {TOTAL_STRIDE}, not as an average over pool5; "
            "vgg-deploy probe shows which"
        )
    probe = shlex.join(["vgg-deploy", "probe", "--weights", str(path)])
    return (
        f"assumed: {', '.join(facts)}. No comparison with {Path(path).name} shows whether that is right. These do: "
        f"{probe} --images DIR; vgg-deploy verify MODEL.onnx --expected FILE"
    )


def require_torch(purpose: str, *others: str) -> None:
    """Raises MissingDependencyError if torch, safetensors or one of `others` is not installed."""
    for package in ("torch", "safetensors", *others):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "train", purpose)


def describes_itself(path: Path) -> bool:
    """Whether a checkpoint holds our manifest, which makes the options unnecessary."""
    require_torch(f"reading {path}")
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return MANIFEST_KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):  # another format, or damaged: reading the weights reports it
        return False


def known_facts(facts: WeightFacts, manifest: Manifest) -> WeightFacts:
    """`facts`, completed with what the manifest of an exported file states about its weights.

    It completes the configuration only for A-LRN, because the weights themselves show the others.
    """
    lrn = manifest.spec is not None and manifest.spec.configuration == "A-LRN"
    return WeightFacts(
        configuration=facts.configuration or ("A-LRN" if lrn else None),
        normalization=facts.normalization or manifest.normalization,
        channels=facts.channels or (BGR if manifest.channels_reversed else RGB),
        labels=facts.labels,
        train_scale=facts.train_scale or manifest.train_scale,
        key=facts.key,
    )


def read_weights(path: Path, facts: WeightFacts) -> Checkpoint:
    """Reads a checkpoint file; see `train.network.checkpoint.read`."""
    require_torch(f"reading {path}")
    from train.network.checkpoint import read

    return read(path, facts)


def _imagenet(facts: WeightFacts) -> Checkpoint:
    require_torch("taking torchvision's weights", "torchvision")
    from train.network.pretrained import imagenet

    if any((facts.normalization, facts.train_scale, facts.channels == BGR, facts.key is not None)):
        raise UsageError(
            "torchvision's ImageNet weights have their own normalization and S, take RGB, and are one set; leave out "
            "--normalization, --mean, --std, --channels, --train-scale and --key, or give --weights FILE"
        )
    checkpoint = imagenet(facts.configuration or "D")
    if facts.labels is None:
        return checkpoint
    manifest = checkpoint.manifest
    classes = classes_from_labels(facts.labels, len(manifest.classes))
    return dataclasses.replace(checkpoint, manifest=manifest.named(classes))
