"""vgg-deploy infer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import PLAN, kind_of
from vgg_deploy.cli.engines import open_any
from vgg_deploy.cli.outputs import check_outputs
from vgg_deploy.cli.parameters import comma_integers, engine_options, labels_files
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.inference.prediction import Failure, Prediction
    from vgg_deploy.inference.results import Writer


@click.command("infer")
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--engine",
    "model",
    required=True,
    type=click.Path(path_type=Path),
    metavar="MODEL.onnx|PLAN",
    help="What vgg-deploy export or vgg-deploy build wrote.",
)
@click.option(
    "--protocol",
    metavar="P",
    help="Views that are averaged: center, dense, multiscale, 10-crop, 144-crop, 50-crop, 150-crop, multiscale+150-crop.  [default: multiscale; center for a model of one size]",
)
@click.option(
    "--scales",
    callback=comma_integers,
    metavar="Q,Q,...",
    help="Short sides to which images are rescaled.  [default: a plan's own; from the training S]",
)
@click.option(
    "--flip/--no-flip", "mirror", default=None, help="Score mirrored views too.  [default: as the network was trained]"
)
@click.option("--top", default=5, show_default=True, help="Classes shown for each image.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write JSON Lines: one object an image.")
@click.option("--csv", "csv_path", metavar="FILE|-", help="Write CSV: one line an image.")
@click.option("--batch", type=int, help="Views of one shape in one call, at most.  [default: 2; 4 on a GPU]")
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write each image with its top class's score map over it (needs export --score-map).",
)
@click.option(
    "--check-folders", is_flag=True, help="The folder of each image names its class: report the top-1 and top-5 error."
)
@click.option(
    "--max-view-pixels", type=int, help="Refuse images that would be rescaled to more pixels.  [default: 4,194,304]"
)
@click.option(
    "--reduced-decoding",
    is_flag=True,
    help="Decode large JPEGs at 1/2, 1/4 or 1/8 of their size, as far as that is not below the largest Q: faster, and changes "
    "posteriors a little.",
)
@engine_options()
def command(
    paths: tuple[str, ...],
    model: Path,
    protocol: str | None,
    scales: tuple[int, ...] | None,
    mirror: bool | None,
    top: int,
    json_path: str | None,
    csv_path: str | None,
    batch: int | None,
    heatmaps: Path | None,
    check_folders: bool,
    max_view_pixels: int | None,
    reduced_decoding: bool,
    options: EngineOptions,
) -> None:
    """Classify images: files, folders (searched whole) and glob patterns.

    Each image is rescaled to each Q and scored whole, with its mirror; the posteriors are averaged (section 3.2 of the
    paper). Results come in input order. A file that cannot be read is reported, and the exit code is then 1.
    """
    from vgg_deploy.artifacts.plan import sidecar_of
    from vgg_deploy.inference.compatibility import check_compatible
    from vgg_deploy.inference.prediction import Failure, predict
    from vgg_deploy.inference.results import Csv, JsonLines, LineStream, Text
    from vgg_deploy.views.images import MAX_VIEW_PIXELS, find_images
    from vgg_deploy.views.protocols import choose_protocol

    _check_numbers(top, batch, max_view_pixels, json_path, csv_path)
    images = list(find_images(paths))
    read = [
        model,
        *([sidecar_of(model)] if kind_of(model) == PLAN else []),
        *labels_files(),
        *images,
    ]
    files = {"--json": json_path, "--csv": csv_path}
    check_outputs({name: Path(path) for name, path in files.items() if path not in (None, "-")}, read)
    if kind_of(model) != PLAN:
        options = options.for_images(len(images))
    with ExitStack() as stack:
        engine = stack.enter_context(open_any(model, options))
        info = engine.info
        choice = choose_protocol(
            info.manifest, protocol, scales, mirror, free_size=info.shapes.free, built_for=info.scales
        )
        check_compatible(info, choice.protocol)
        if heatmaps is not None and choice.protocol.name not in ("center", "dense", "multiscale"):
            raise click.UsageError(
                f"--heatmaps shows whole images and central crops; protocol {choice.protocol.name} scores other crops: use dense, multiscale or center"
            )
        truth = _truth(images, engine) if check_folders else None
        pictures = None if heatmaps is None else _Heatmaps(heatmaps, images, engine)
        streams: list[tuple[LineStream, Writer]] = []
        if json_path is not None:
            streams.append((stack.enter_context(LineStream(json_path)), JsonLines(top)))
        if csv_path is not None:
            table = Csv(min(top, len(info.manifest.classes)))
            streams.append((stack.enter_context(LineStream(csv_path)), table))
            streams[-1][0].write(table.header)
        if "-" not in (json_path, csv_path):
            streams.append((stack.enter_context(LineStream("-")), Text(top)))
        for text in choice.notices:
            notice(text)
        notice(f"{choice.protocol}; {info.runtime} on {info.device}, {info.precision}")
        shown = sys.stderr.isatty() and not sys.stdout.isatty()
        advance = stack.enter_context(progress("classifying", len(images), shown=shown))
        results = predict(
            engine,
            images,
            choice.protocol,
            batch=batch,
            keep_score_maps=pictures is not None,
            max_view_pixels=max_view_pixels or MAX_VIEW_PIXELS,
            reduced_decoding=reduced_decoding,
        )
        tally = _Tally(truth)
        for result in results:
            for stream, writer in streams:
                stream.write(writer.line(result))
            if isinstance(result, Failure):
                notice(f"failed: {result.path}: {result.reason}")
            elif pictures is not None:
                pictures.write(result)
            tally.count(result)
            advance()
    tally.report()
    if tally.failed:
        raise SystemExit(1)


def _check_numbers(
    top: int, batch: int | None, max_view_pixels: int | None, json_path: str | None, csv_path: str | None
) -> None:
    for name, value in (("--top", top), ("--batch", batch), ("--max-view-pixels", max_view_pixels)):
        if value is not None and value < 1:
            raise click.UsageError(f"{name} is {value}; expected 1 or more")
    if json_path == csv_path == "-":
        raise click.UsageError("--json - and --csv - cannot both have stdout; name a file for one")


def _as_named(path: Path) -> Path:
    """An absolute path without `..`; links are not followed, since a link's name is the one that the user knows."""
    import os

    return Path(os.path.normpath(path.absolute()))


def _truth(images: list[Path], engine: Engine) -> Iterator[int]:
    """The class that each image's folder names. All are looked up before the first image is scored."""
    from vgg_deploy.evaluation.error_rates import label_by_folder

    return iter(label_by_folder(images, engine.info.manifest.classes).truth.tolist())


class _Tally:
    """What was counted on the way."""

    def __init__(self, truth: Iterator[int] | None) -> None:
        self._truth = truth
        self.failed = self._done = self._top_1 = self._top_5 = 0

    def count(self, result: Prediction | Failure) -> None:
        from vgg_deploy.inference.posteriors import top_k
        from vgg_deploy.inference.prediction import Failure

        truth = None if self._truth is None else next(self._truth)
        if isinstance(result, Failure):
            self.failed += 1
            return
        self._done += 1
        if truth is not None:
            ranks = list(top_k(result.probabilities, 5))
            self._top_1 += ranks[0] == truth
            self._top_5 += truth in ranks

    def report(self) -> None:
        if self._truth is not None and self._done:
            n = self._done
            notice(
                f"by their folders' names: top-1 {self._top_1}/{n} right ({self._top_1 / n:.2%}, error {1 - self._top_1 / n:.2%}), "
                f"top-5 {self._top_5}/{n} right ({self._top_5 / n:.2%}, error {1 - self._top_5 / n:.2%})"
            )
        if self.failed:
            notice(f"{self._done} images classified, {self.failed} could not be")


class _Heatmaps:
    """A folder of pictures that mirrors the folders of the images."""

    def __init__(self, folder: Path, images: list[Path], engine: Engine) -> None:
        import os

        from vgg_deploy.errors import UsageError
        from vgg_deploy.files import make_folder, output_errors
        from vgg_deploy.network.tensors import SCORE_MAP

        if SCORE_MAP not in engine.info.outputs:
            raise UsageError("--heatmaps needs a model with the output score_map: export it with --score-map")
        with output_errors(folder):
            make_folder(folder)
        self._folder, self._manifest = folder, engine.info.manifest
        self._root = Path(os.path.commonpath([_as_named(path).parent for path in images]))

    def write(self, prediction: Prediction) -> None:
        from PIL import Image

        from vgg_deploy.files import whole_file
        from vgg_deploy.inference.heatmap import class_evidence, overlay
        from vgg_deploy.views.images import decode

        evidence = class_evidence(prediction, int(prediction.probabilities.argmax()), self._manifest)
        picture = overlay(decode(prediction.path), evidence)
        relative = _as_named(prediction.path).relative_to(self._root)
        with whole_file(self._folder / f"{relative}.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
