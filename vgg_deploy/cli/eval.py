"""vgg-deploy eval."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.engines import open_any
from vgg_deploy.cli.eval_report import Row, as_csv, as_json, plot_rows, print_rows, require_matplotlib, write_text
from vgg_deploy.cli.options import comma_integers, engine_options, plan_options
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import WeightFacts, weight_facts, weight_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vgg_deploy.engine import Floats
    from vgg_deploy.evaluation import Evaluated, Labelled
    from vgg_deploy.manifest import Manifest


@click.command("eval")
@click.argument("data", nargs=-1, required=True, metavar="DATA [PROTOCOL ...]")
@click.option(
    "--engine",
    "models",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="ONNX file, plan or checkpoint; given again, their mean posteriors are tested too.",
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="P",
    help="center, dense, multiscale, 10-crop, 144-crop, 50-crop, 150-crop, multiscale+150-crop, or all; several with commas or one after the other.  [default: dense,multiscale]",
)
@click.option(
    "--scales", callback=comma_integers, metavar="Q,Q,...", help="Test scales.  [default: from the training S]"
)
@click.option(
    "--flip/--no-flip", "mirror", default=None, help="Score mirrored views too.  [default: as the network was trained]"
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="A seeded sample of N images, balanced by class.")
@click.option("--batch", type=click.IntRange(1), help="Views of one shape in one call, at most.  [default: 4]")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep posteriors here: interrupted, the same command goes on.",
)
@click.option("--paper", is_flag=True, help="Show the paper's row of Tables 3 to 6 beside ours.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON.")
@click.option("--csv", "csv_path", metavar="FILE|-", help="Write the report as CSV.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw error against cost (.png, .svg, .pdf)."
)
@engine_options
@plan_options
@weight_options
def command(
    data: tuple[str, ...],
    models: tuple[Path, ...],
    protocols: tuple[str, ...],
    scales: tuple[int, ...] | None,
    mirror: bool | None,
    limit: int | None,
    batch: int | None,
    cache: Path | None,
    paper: bool,
    json_path: str | None,
    csv_path: str | None,
    plot: Path | None,
    runtime: str,
    device: str | None,
    threads: int | None,
    cuda_api: str,
    trust: bool,
    **facts: Any,
) -> None:
    """Measure top-1 and top-5 error on labelled images: DATA/CLASS/*, under one or several test protocols.

    A folder names its class by id or label: n01440764, tench and n01440764_tench all do.
    """
    from vgg_deploy.images import find_images

    if json_path == csv_path == "-":
        raise click.UsageError("--json - and --csv - cannot both have stdout; name a file for one")
    folder, names = _folder_and_protocols(data, protocols)
    if plot is not None:
        require_matplotlib()
    paths = list(find_images([folder]))
    report = _Report(paths, names, scales, mirror, limit, batch, paper)
    options = {"runtime": runtime, "device": device, "threads": threads, "cuda_api": cuda_api, "trust": trust}
    rows, failed = report.run(models, weight_facts(**facts), cache, options)
    if "-" not in (json_path, csv_path):
        print_rows(rows, paper)
    if json_path is not None:
        write_text(json_path, json.dumps([as_json(row) for row in rows], indent=2, allow_nan=False) + "\n")
    if csv_path is not None:
        write_text(csv_path, as_csv(rows))
    if plot is not None:
        plot_rows(rows, plot)
    if failed:
        raise SystemExit(1)


def _folder_and_protocols(data: tuple[str, ...], protocols: tuple[str, ...]) -> tuple[str, list[str]]:
    """The data folder, and the protocols' names: those of --protocol, and words that stand behind as `--protocol A B` has them."""
    from vgg_deploy.protocols import PROTOCOLS

    words = [word for text in protocols for word in text.split(",")]
    folders = [word for word in data if word not in (*PROTOCOLS, "all")]
    words += [word for word in data if word in (*PROTOCOLS, "all")]
    if len(folders) != 1:
        raise click.UsageError(f"expected one folder of labelled images, received {', '.join(folders) or 'none'}")
    if "all" in words:
        words = list(PROTOCOLS)
    for word in words:
        if word not in PROTOCOLS:
            raise click.UsageError(f"--protocol is {word!r}; expected {', '.join(PROTOCOLS)} or all")
    return folders[0], list(dict.fromkeys(words)) or ["dense", "multiscale"]


class _Report:
    """Runs engines under protocols over labelled images."""

    def __init__(
        self,
        paths: list[Path],
        names: list[str],
        scales: tuple[int, ...] | None,
        mirror: bool | None,
        limit: int | None,
        batch: int | None,
        paper: bool,
    ) -> None:
        from vgg_deploy.predict import DEFAULT_BATCH

        self._paths, self._names, self._scales, self._mirror = paths, names, scales, mirror
        self._limit, self._batch, self._paper = limit, batch or DEFAULT_BATCH, paper
        self._images: Labelled | None = None
        self._failed: set[Path] = set()

    def run(
        self, models: tuple[Path, ...], facts: WeightFacts, cache: Path | None, options: dict[str, Any]
    ) -> tuple[list[Row], bool]:
        """The rows of every engine, then of all fused, and whether an image failed."""
        from vgg_deploy.posterior_cache import PosteriorCache

        manifests: list[Manifest] = []
        results: list[list[Evaluated]] = []
        with ExitStack() as stack:
            known = None if cache is None else stack.enter_context(PosteriorCache(cache))
            for path in models:
                with open_any(path, facts, **options) as engine:
                    manifests.append(engine.info.manifest)
                    results.append(self._engine(path, engine, known))
        assert self._images is not None
        rows = [
            self._row((path,), (one,), (manifest,))
            for path, manifest, found in zip(models, manifests, results, strict=True)
            for one in found
        ]
        if len(models) > 1:
            rows += [self._row(models, together, manifests) for together in zip(*results, strict=True)]
        return rows, bool(self._failed)

    def _engine(self, path: Path, engine: Any, cache: Any) -> list[Evaluated]:
        from vgg_deploy.evaluation import evaluate, fingerprint, labelled
        from vgg_deploy.files import sha256_of
        from vgg_deploy.fit import check_fit
        from vgg_deploy.protocols import choose_protocol

        info = engine.info
        images = labelled(self._paths, info.manifest.classes, self._limit)
        if self._images is None:
            self._images = images
        elif (images.truth != self._images.truth).any():
            raise click.UsageError(f"{path} has the classes in another order than {'the others'}; they cannot be fused")
        choices = [
            choose_protocol(
                info.manifest,
                name,
                self._scales,
                self._mirror,
                free_size=info.shapes.free,
                built_for=info.scales,
            )
            for name in self._names
        ]
        for choice in choices:
            check_fit(info, choice.protocol)
            for text in choice.notices:
                notice(text)
        model = "" if cache is None else fingerprint(sha256_of(path), info.manifest.to_json())
        found = []
        for choice in choices:
            with progress(f"{path.name}: {choice.protocol.name}", len(images.paths)) as advance:
                one = evaluate(
                    engine,
                    images.paths,
                    choice.protocol,
                    cache=cache,
                    model=model,
                    batch=self._batch,
                    progress=advance,
                )
            for failure in one.failures:
                if failure.path not in self._failed:
                    notice(f"failed: {failure.path}: {failure.reason}")
                self._failed.add(failure.path)
            found.append(one)
        return found

    def _row(self, paths: Sequence[Path], evaluated: Sequence[Evaluated], manifests: Sequence[Manifest]) -> Row:
        from vgg_deploy.evaluation import errors, fused
        from vgg_deploy.paper import paper_row

        assert self._images is not None
        posteriors: Floats = fused([one.posteriors for one in evaluated])
        protocols = [one.protocol for one in evaluated]
        row = paper_row(manifests, protocols) if self._paper else None
        names = tuple(path.name for path in paths)
        return Row(names, tuple(evaluated), errors(posteriors, self._images.truth), row)
