"""Which weights a command means: options shared by export and verify, and how they are resolved."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT_ENDINGS
from vgg_deploy.cli.parameters import (
    Function,
    chosen_normalization,
    labels_option,
    labels_text,
    rgb_triple,
    train_scale,
    with_click_options,
)
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import MissingDependencyError
from vgg_deploy.network.spec import CONFIGURATIONS

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.network.manifest import Manifest, Normalization, TrainScale


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """What the options say about weights whose file does not state it; see `train.network.checkpoint.Facts`."""

    configuration: str | None = None
    normalization: Normalization | None = None
    labels: str | None = None
    train_scale: TrainScale | None = None

    @property
    def about_training(self) -> bool:
        """Whether anything but labels was given. Only checkpoints need it."""
        return bool(self.configuration or self.normalization or self.train_scale)


def source_options(command: Function) -> Function:
    """Adds --weights and --runs: where the weights come from."""
    options = (
        click.option(
            "--weights",
            metavar="CKPT|imagenet",
            help=f"Checkpoint ({CHECKPOINT_ENDINGS}), or torchvision's ImageNet weights.  [default: newest finished run under runs/, else imagenet]",
        ),
        click.option(
            "--runs",
            default="runs",
            show_default=True,
            type=click.Path(path_type=Path),
            help="Where training puts its runs.",
        ),
    )
    return with_click_options(command, options)


def weight_options(command: Function) -> Function:
    """Adds what foreign weights cannot say about themselves. The command receives it as `facts`, a `WeightFacts`."""

    @functools.wraps(command)
    def with_facts(
        *,
        arch: str | None,
        normalization: str | None,
        mean: tuple[float, float, float] | None,
        std: tuple[float, float, float] | None,
        train_scale: TrainScale | None,
        **values: Any,
    ) -> Any:
        facts = WeightFacts(
            configuration=arch,
            normalization=chosen_normalization(normalization, mean, std),
            labels=labels_text(),
            train_scale=train_scale,
        )
        return command(facts=facts, **values)

    options = (
        click.option(
            "--arch",
            type=click.Choice(CONFIGURATIONS),
            help="Configuration. Only A-LRN needs it: its tensors are the same as those of A.",
        ),
        click.option(
            "--normalization",
            type=click.Choice(["paper", "torchvision"]),
            help="For weights whose file does not state it. paper: RGB 0..255 minus a mean.",
        ),
        click.option(
            "--mean",
            callback=rgb_triple,
            metavar="R,G,B",
            help="Mean in units of 0..255 (with paper: instead of 123.68,116.779,103.939).",
        ),
        click.option(
            "--std", callback=rgb_triple, metavar="R,G,B", help="Divisor in units of 0..255.  [default: 1,1,1]"
        ),
        click.option(
            "--train-scale",
            callback=train_scale,
            metavar="S|SMIN,SMAX",
            help="Training scale S, for weights whose file does not state it.",
        ),
    )
    return with_click_options(labels_option(with_facts), options)


def require_torch(purpose: str, *others: str) -> None:
    """Raises MissingDependencyError where torch, what reads checkpoints with it, or one of `others` is not installed."""
    import importlib.util

    for package in ("torch", "safetensors", *others):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "train", purpose)


def describes_itself(path: Path) -> bool:
    """Whether a checkpoint is one of ours, whose manifest says what options would."""
    require_torch(f"reading {path}")
    import safetensors

    from vgg_deploy.network.manifest import MANIFEST_KEY

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return MANIFEST_KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):  # another kind of file, or damaged: reading it says so
        return False


def known_facts(facts: WeightFacts, manifest: Manifest) -> WeightFacts:
    """What the exported file knows of foreign weights need not be said again.

    Of the configuration only A-LRN: the weights show the others themselves.
    """
    lrn = manifest.spec is not None and manifest.spec.configuration == "A-LRN"
    return WeightFacts(
        configuration=facts.configuration or ("A-LRN" if lrn else None),
        normalization=facts.normalization or manifest.normalization,
        labels=facts.labels,
        train_scale=facts.train_scale or manifest.train_scale,
    )


def read_weights(path: Path, facts: WeightFacts) -> Checkpoint:
    """Reads a checkpoint file; see `train.network.checkpoint.read`."""
    require_torch(f"reading {path}")
    from train.network.checkpoint import Facts, read

    return read(path, Facts(facts.configuration, facts.normalization, facts.labels, facts.train_scale))


def named_checkpoint(weights: str | None, facts: WeightFacts, runs: Path) -> Checkpoint:
    """The checkpoint that --weights names, or the newest finished run, or torchvision's."""
    if weights is None:
        from train.runs.run import newest_finished

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
    require_torch("taking torchvision's weights", "torchvision")
    from train.network.pretrained import imagenet
    from vgg_deploy.errors import UsageError
    from vgg_deploy.network.classes import classes_from_labels

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
