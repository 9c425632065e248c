"""vgg-deploy features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.engines import open_any, options_for_each
from vgg_deploy.cli.outputs import check_outputs
from vgg_deploy.cli.parameters import comma_integers, engine_options, labels_files
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import WeightFacts, weight_options
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.tensors import Floats
    from vgg_deploy.views.protocols import Protocol

SPLIT = ("train", "val")  # the folders that an SVM learns from, and is judged on
SVM_C = 1.0  # of the paper's SVMs no value is printed; descriptors of length 1 need no scaling


@click.command("features")
@click.argument("data", metavar="DATA")
@click.option(
    "--engine",
    "model",
    required=True,
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="A model exported with --features, or a checkpoint.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="File to write.  [default: features.npz]",
)
@click.option(
    "--scales", callback=comma_integers, metavar="Q,Q,...", help="Test scales.  [default: from the training S]"
)
@click.option(
    "--flip/--no-flip",
    "mirror",
    default=None,
    help="Average mirrored views too.  [default: as the network was trained]",
)
@click.option(
    "--svm",
    is_flag=True,
    help="DATA has train/CLASS/* and val/CLASS/*: fit a linear SVM on the one and print its accuracy on the other.",
)
@engine_options()
@weight_options
def command(
    data: str,
    model: Path,
    output: Path | None,
    scales: tuple[int, ...] | None,
    mirror: bool | None,
    svm: bool,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Describe images by fc7, averaged over positions, mirrors and scales, at length 1 (the paper's appendix B).

    Writes paths, folders (the classes, which need not be the network's) and descriptors, float32 [n, fc_width]; with --svm,
    split too, which says train or val of each.
    """
    import numpy as np

    from vgg_deploy.errors import UsageError
    from vgg_deploy.evaluation.error_rates import folder_name
    from vgg_deploy.files import require_writable, whole_file
    from vgg_deploy.inference.compatibility import check_compatible
    from vgg_deploy.network.tensors import FEATURES
    from vgg_deploy.views.images import find_images
    from vgg_deploy.views.protocols import choose_protocol

    path = output or Path("features.npz")
    folders = [str(Path(data) / part) for part in SPLIT] if svm else [data]
    if svm:
        _require_sklearn()
        _check_split(folders)
    sets = [list(find_images([folder])) for folder in folders]
    if svm:
        _check_classes(*([folder_name(image) for image in paths] for paths in sets))
    check_outputs({"--output": path}, (model, *labels_files(), *(image for paths in sets for image in paths)))
    (options,) = options_for_each([model], options, facts)
    with open_any(model, options, facts) as engine:
        info = engine.info
        if FEATURES not in info.outputs:
            raise UsageError(f"{model} has no output features: export it with --features")
        choice = choose_protocol(info.manifest, None, scales, mirror, free_size=info.shapes.free, built_for=info.scales)
        check_compatible(info, choice.protocol)
        require_writable(path)
        for text in choice.notices:
            notice(text)
        notice(f"{choice.protocol}; {info.runtime} on {info.device}, {info.precision}")
        described = [_describe(engine, paths, choice.protocol) for paths in sets]
    kept = [paths for paths, _rows in described]
    everything = [path for paths in kept for path in paths]
    arrays: dict[str, Any] = {
        "paths": np.array([str(image) for image in everything]),
        "folders": np.array([folder_name(image) for image in everything]),
        "descriptors": np.concatenate([rows for _paths, rows in described]),
    }
    if svm:
        arrays["split"] = np.repeat(SPLIT, [len(paths) for paths in kept])
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    click.echo(f"{path}: {len(everything)} descriptors of {described[0][1].shape[1]} numbers")
    if svm:
        _fit_svm(kept, [rows for _paths, rows in described])
    if len(everything) < sum(map(len, sets)):
        raise SystemExit(1)


def _check_split(folders: list[str]) -> None:
    from vgg_deploy.errors import UsageError

    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(
                f"{folder}: no such folder; --svm learns from DATA/train/CLASS/* and is judged on DATA/val/CLASS/*"
            )


def _check_classes(train: list[str], val: list[str]) -> None:
    """Raises UsageError for folders of which no SVM can come."""
    from vgg_deploy.errors import UsageError

    if len(set(train)) < 2:
        raise UsageError("an SVM needs images of two classes or more: DATA/train/CLASS/*")
    unknown = sorted(set(val) - set(train))
    if unknown:
        raise UsageError(
            f"DATA/val has the folder {unknown[0]!r}, and DATA/train has not: the SVM would never say it; the folders must be the same"
        )


def _require_sklearn() -> None:
    import importlib.util

    from vgg_deploy.errors import MissingDependencyError

    if importlib.util.find_spec("sklearn") is None:
        raise MissingDependencyError("scikit-learn", "train", "--svm")


def _describe(engine: Engine, paths: list[Path], protocol: Protocol) -> tuple[list[Path], Floats]:
    """The images that can be read, and their descriptors of length 1."""
    import numpy as np

    from vgg_deploy.errors import ImageError
    from vgg_deploy.inference.prediction import Failure, predict

    kept, rows = [], []
    with progress("describing", len(paths)) as advance:
        for result in predict(engine, paths, protocol):
            advance()
            if isinstance(result, Failure):
                notice(f"failed: {result.path}: {result.reason}")
                continue
            assert result.features is not None
            kept.append(result.path)
            rows.append(result.features / max(float(np.linalg.norm(result.features)), 1e-12))
    if not rows:
        raise ImageError(f"none of {len(paths)} images can be described")
    return kept, np.stack(rows)


def _fit_svm(paths: list[list[Path]], descriptors: list[Floats]) -> None:
    """A linear SVM on the first set's folders, judged on the second's."""
    import numpy as np
    from sklearn.svm import LinearSVC

    from vgg_deploy.evaluation.error_rates import folder_name

    train, val = ([folder_name(path) for path in images] for images in paths)
    _check_classes(train, val)
    svm = LinearSVC(C=SVM_C, dual="auto", max_iter=10_000, random_state=0).fit(descriptors[0], train)
    right = int((svm.predict(descriptors[1]) == np.array(val)).sum())
    click.echo(
        f"linear SVM (C={SVM_C:g}) on {len(train)} descriptors: {right}/{len(val)} right ({right / len(val):.2%})"
    )
