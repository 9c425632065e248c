"""vgg-deploy features."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.kinds import require_file
from vgg_deploy.cli.found_images import found_image_sets
from vgg_deploy.cli.opening import CheckpointOptions, open_any, options_for_each
from vgg_deploy.cli.outputs import check_outputs
from vgg_deploy.cli.parameters import engine_options, flip_option, gathered, labels_files, scales_option
from vgg_deploy.cli.protocol_options import ProtocolOptions
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.errors import ImageError, MissingDependencyError, UsageError
from vgg_deploy.files import require_writable, whole_file
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.tensors import Floats
    from vgg_deploy.views.protocols import Protocol

SPLIT = ("train", "val")  # the folders on which an SVM is fitted and tested
SVM_C = 1.0  # the paper gives no value; descriptors of length 1 need no scaling


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The images that could be read, and their descriptors.

    Attributes:
        paths: image files.
        rows: float32 [n, fc_width], each of length 1.
    """

    paths: tuple[Path, ...]
    rows: Floats

    @property
    def folders(self) -> list[str]:
        """The name of each image's folder."""
        return _folders(self.paths)


@click.command("features")
@click.argument("data", metavar="DATA")
@click.option(
    "--engine",
    "model",
    required=True,
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Model exported with --features, or a checkpoint.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="features.npz",
    show_default=True,
    metavar="FILE.npz",
    help="File to write.",
)
@gathered(
    "protocol",
    ProtocolOptions,
    scales_option("Test scales.  [default: from the training S]"),
    flip_option("Average mirrored views too.  [default: as in training]"),
)
@click.option(
    "--svm",
    is_flag=True,
    help="Fit a linear SVM on DATA/train/CLASS/* and print its accuracy on DATA/val/CLASS/*.",
)
@engine_options()
@weight_options
def command(
    data: str,
    model: Path,
    output: Path,
    protocol: ProtocolOptions,
    svm: bool,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Describe the images in DATA by fc7, averaged over positions, mirrors and scales, at unit length (appendix B).

    Writes an .npz file with paths, folders (the classes, which can differ from the network's) and descriptors, float32
    [n, fc_width]. With --svm it also has split: train or val for each image.
    """
    require_file(model)
    if svm:
        _require_split(Path(data))
    folders = [str(Path(data) / part) for part in SPLIT] if svm else [data]
    sets = found_image_sets([folder] for folder in folders)
    images = [path for paths in sets for path in paths]
    if svm:
        _check_classes(*map(_folders, sets))
    check_outputs({"--output": output}, (model, *labels_files(), *images))
    (own_options,) = options_for_each([model], options, facts)
    with open_any(model, own_options, CheckpointOptions(facts=facts)) as engine:
        chosen_protocol = _chosen_protocol(engine, model, protocol)
        require_writable(output)
        described = [_describe(engine, paths, chosen_protocol) for paths in sets]
    _write(output, described)
    count = sum(len(part.paths) for part in described)
    click.echo(f"{output}: {count} descriptors of {described[0].rows.shape[1]} dimensions")
    if svm:
        _fit_svm(*described)
    if count < len(images):
        raise SystemExit(1)


def _folders(paths: Sequence[Path]) -> list[str]:
    from vgg_deploy.evaluation.error_rates import folder_name

    return [folder_name(path) for path in paths]


def _require_split(data: Path) -> None:
    """Raises UsageError if an SVM cannot be fitted: scikit-learn or a folder is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise MissingDependencyError("scikit-learn", "train", "--svm")
    for part in SPLIT:
        if not (data / part).is_dir():
            raise UsageError(
                f"{data / part}: no such folder. --svm fits on DATA/train/CLASS/* and tests on DATA/val/CLASS/*"
            )


def _check_classes(train: Sequence[str], val: Sequence[str]) -> None:
    """Raises UsageError if no SVM can separate these folders."""
    if len(set(train)) < 2:
        raise UsageError("--svm needs images of at least two classes in DATA/train/CLASS/*")
    unknown = sorted(set(val) - set(train))
    if unknown:
        raise UsageError(
            f"DATA/val has the folder {unknown[0]!r}, but DATA/train does not, so the SVM could never predict it. "
            "Both must have the same folders"
        )


def _chosen_protocol(engine: Engine, model: Path, protocol: ProtocolOptions) -> Protocol:
    from vgg_deploy.network.tensors import FEATURES

    info = engine.info
    if FEATURES not in info.outputs:
        raise UsageError(f"{model} has no output features; export it with --features")
    choice = protocol.choose(info)
    for text in choice.notices:
        notice(text)
    notice(f"{choice.protocol}; {info.runtime} on {info.device}, {info.precision}")
    return choice.protocol


def _describe(engine: Engine, paths: Sequence[Path], protocol: Protocol) -> Descriptors:
    import numpy as np

    from vgg_deploy.inference.prediction import Failure, predict

    described, rows = [], []
    with progress("describing", len(paths)) as advance:
        for result in predict(engine, paths, protocol):
            advance()
            if isinstance(result, Failure):
                notice(f"failed: {result.path}: {result.reason}")
                continue
            assert result.features is not None
            described.append(result.path)
            rows.append(result.features / max(float(np.linalg.norm(result.features)), 1e-12))  # [fc_width]
    if not rows:
        raise ImageError(f"all {len(paths)} images failed, so there is nothing to write")
    return Descriptors(tuple(described), np.stack(rows))


def _write(path: Path, described: Sequence[Descriptors]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {
        "paths": np.array([str(image) for part in described for image in part.paths]),  # [n]
        "folders": np.array([folder for part in described for folder in part.folders]),  # [n]
        "descriptors": np.concatenate([part.rows for part in described]),  # [n, fc_width]
    }
    if len(described) > 1:
        arrays["split"] = np.repeat(SPLIT, [len(part.paths) for part in described])  # [n]
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _fit_svm(train: Descriptors, val: Descriptors) -> None:
    import numpy as np
    from sklearn.svm import LinearSVC

    _check_classes(train.folders, val.folders)  # again: unreadable images are left out now
    svm = LinearSVC(C=SVM_C, dual="auto", max_iter=10_000, random_state=0).fit(train.rows, train.folders)
    correct = int((svm.predict(val.rows) == np.array(val.folders)).sum())
    total = len(val.paths)
    click.echo(
        f"linear SVM (C={SVM_C:g}) on {len(train.paths)} descriptors: {correct}/{total} correct ({correct / total:.2%})"
    )
