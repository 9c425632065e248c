"""vgg-deploy eval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.engines import model_fingerprint, open_any, options_for_each
from vgg_deploy.cli.eval.plan import check_same_classes, distinct_names, folder_and_protocols, plan_protocols
from vgg_deploy.cli.eval.report import Row, as_csv, as_json, plot_rows, print_rows
from vgg_deploy.cli.outputs import check_outputs, check_plot, write_text
from vgg_deploy.cli.parameters import comma_integers, engine_options, labels_files
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import WeightFacts, weight_options
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.evaluation.error_rates import Evaluation, LabelledImages
    from vgg_deploy.evaluation.posterior_cache import PosteriorCache
    from vgg_deploy.inference.engine import Engine, EngineInfo
    from vgg_deploy.views.protocols import Protocol

PAPER_IMAGES = 50_000  # ILSVRC-2012's validation set


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
    help="center, dense, multiscale, 10-crop, 144-crop, 50-crop, 150-crop, multiscale+150-crop, or all that the model takes; several with commas or one after the other.  [default: dense,multiscale; center for a model of one size]",
)
@click.option(
    "--scales",
    callback=comma_integers,
    metavar="Q,Q,...",
    help="Test scales of every protocol; center, dense, 10-crop and 50-crop take one.  [default: from the training S]",
)
@click.option(
    "--flip/--no-flip", "mirror", default=None, help="Score mirrored views too.  [default: as the network was trained]"
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="A seeded sample of N images, balanced by class.")
@click.option(
    "--batch", type=click.IntRange(1), help="Views of one shape in one call, at most.  [default: 2; 4 on a GPU]"
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep posteriors here: interrupted, the same command goes on where it was.",
)
@click.option("--paper", is_flag=True, help="Show the paper's row of Tables 3 to 6 beside ours.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON.")
@click.option("--csv", "csv_path", metavar="FILE|-", help="Write the report as CSV.")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw error against cost (.png, .svg, .pdf)."
)
@engine_options()
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
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Measure top-1 and top-5 error on labelled images: DATA/CLASS/*, under one or several test protocols.

    A folder names its class by id or label: n01440764, tench and n01440764_tench all do.
    """
    from vgg_deploy.views.images import find_images

    if json_path == csv_path == "-":
        raise click.UsageError("--json - and --csv - cannot both have stdout; name a file for one")
    folder, names = folder_and_protocols(data, protocols)
    if plot is not None:
        check_plot(plot)
    written = {
        "--json": None if json_path in (None, "-") else Path(str(json_path)),
        "--csv": None if csv_path in (None, "-") else Path(str(csv_path)),
        "--plot": plot,
    }
    paths = list(find_images([folder]))
    check_outputs({**written, "--cache": cache}, (*models, *labels_files(), *paths))
    request = _Request(
        models,
        options,
        facts,
        paths,
        limit,
        names,
        scales,
        mirror,
        batch,
        cache,
        tuple(path for path in written.values() if path is not None),
    )
    rows = request.rows(paper=paper)
    texts = [
        (json_path, json.dumps([as_json(row) for row in rows], indent=2, allow_nan=False) + "\n"),
        (csv_path, as_csv(rows)),
    ]
    # Files first: who reads stdout may have gone.
    for where, text in texts:
        if where not in (None, "-"):
            write_text(str(where), text)
    if plot is not None:
        plot_rows(rows, plot)
    for where, text in texts:
        if where == "-":
            write_text(where, text)
    if "-" not in (json_path, csv_path):
        print_rows(rows, paper)
    if any(row.errors.failed for row in rows):
        raise SystemExit(1)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the options ask for."""

    models: tuple[Path, ...]
    options: EngineOptions
    facts: WeightFacts
    paths: list[Path]
    limit: int | None
    protocols: list[str]
    scales: tuple[int, ...] | None
    mirror: bool | None
    batch: int | None
    cache: Path | None
    written: tuple[Path, ...]

    def rows(self, *, paper: bool) -> list[Row]:
        """The rows of every engine, then of all fused."""
        from vgg_deploy.evaluation.error_rates import label_by_folder
        from vgg_deploy.evaluation.posterior_cache import PosteriorCache
        from vgg_deploy.files import require_writable

        names = distinct_names(self.models)
        options = options_for_each(self.models, self.options, self.facts)
        pairs = list(zip(self.models, options, strict=True))
        with ExitStack() as stack:
            # One engine stays open. Of several, each is open for its turn alone, so that memory holds one.
            only = stack.enter_context(open_any(*pairs[0], self.facts)) if len(pairs) == 1 else None
            infos = [
                _info_of(name, *pair, self.facts) if only is None else only.info
                for name, pair in zip(names, pairs, strict=True)
            ]
            check_same_classes(names, infos)
            everything = label_by_folder(self.paths, infos[0].manifest.classes)
            _say_where_classes_lie_twice(everything)
            images = everything if self.limit is None else everything.sample(self.limit)
            protocols = plan_protocols(names, infos, self.protocols, self.scales, self.mirror)
            if paper:
                _say_what_the_paper_has_not(names, infos, len(images.paths))
            for path in self.written:
                require_writable(path)
            cache = None if self.cache is None else stack.enter_context(PosteriorCache(self.cache))
            said: set[tuple[Path, str]] = set()
            results = []
            for pair, name, tested in zip(pairs, names, protocols, strict=True):
                opened = open_any(*pair, self.facts, say=lambda _text: None) if only is None else nullcontext(only)
                with opened as engine:
                    results.append(self._tested(name, pair[0], engine, tested, images, cache, said))
        rows = [
            _row((name,), (one,), (info,), images, paper=paper)
            for name, info, found in zip(names, infos, results, strict=True)
            for one in found
        ]
        if len(names) > 1:
            rows += [_row(names, together, infos, images, paper=paper) for together in zip(*results, strict=True)]
        return rows

    def _tested(
        self,
        name: str,
        path: Path,
        engine: Engine,
        protocols: Sequence[Protocol],
        images: LabelledImages,
        cache: PosteriorCache | None,
        said: set[tuple[Path, str]],
    ) -> list[Evaluation]:
        from vgg_deploy.evaluation.error_rates import evaluate

        model = "" if cache is None else model_fingerprint(path)
        found = []
        for protocol in protocols:
            with progress(f"{name}: {protocol.name}", len(images.paths)) as advance:
                one = evaluate(
                    engine,
                    images.paths,
                    protocol,
                    cache=cache,
                    model=model,
                    batch=self.batch,
                    progress=advance,
                )
            known = len(images.paths) - len(one.failures) - one.computed
            if known:
                notice(f"{name}: {protocol.name}: {known} of {len(images.paths)} images were known from {self.cache}")
            for failure in one.failures:
                if (failure.path, failure.reason) not in said:
                    notice(f"failed: {failure.path}: {failure.reason}")
                said.add((failure.path, failure.reason))
            if one.failures:
                notice(f"{name}: {protocol.name}: {len(one.failures)} of {len(images.paths)} images do not count")
            found.append(one)
        return found


def _say_where_classes_lie_twice(images: LabelledImages) -> None:
    """A folder of train/CLASS/* and val/CLASS/* is searched whole, which is seldom meant."""
    first: dict[int, Path] = {}
    for path, index in zip(images.paths, images.truth.tolist(), strict=True):
        other = first.setdefault(index, path.parent)
        if other != path.parent:
            notice(f"{other} and {path.parent} are of one class; the images of both count")
            return


def _say_what_the_paper_has_not(names: Sequence[str], infos: Sequence[EngineInfo], images: int) -> None:
    from vgg_deploy.evaluation.paper import differences_from_paper

    for name, info in zip(names, infos, strict=True):
        if differences := differences_from_paper(info.manifest):
            notice(f"{name} is no network of the paper's, and has no row there: {'; '.join(differences)}")
    if images != PAPER_IMAGES:
        notice(
            f"the paper's figures are of the {PAPER_IMAGES:,} images of ILSVRC-2012's validation set; "
            f"these are {images:,} images"
        )


def _info_of(name: str, path: Path, options: EngineOptions, facts: WeightFacts) -> EngineInfo:
    with open_any(path, options, facts, say=lambda text: notice(f"{name}: {text}")) as engine:
        return engine.info


def _row(
    names: Sequence[str],
    evaluated: Sequence[Evaluation],
    infos: Sequence[EngineInfo],
    images: LabelledImages,
    *,
    paper: bool,
) -> Row:
    from vgg_deploy.evaluation.error_rates import error_rates, fused
    from vgg_deploy.evaluation.paper import paper_row

    manifests, protocols = [info.manifest for info in infos], [one.protocol for one in evaluated]
    found = error_rates(fused([one.posteriors for one in evaluated]), images.truth)
    return Row(tuple(names), tuple(evaluated), found, paper_row(manifests, protocols) if paper else None)
