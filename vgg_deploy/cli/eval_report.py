"""What `vgg-deploy eval` found, as a table, JSON, CSV and a plot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.tables import print_table

if TYPE_CHECKING:
    from vgg_deploy.evaluation import Errors, Evaluated
    from vgg_deploy.paper import PaperRow

FUSED = "fused"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: an engine, or several fused, under one protocol.

    Attributes:
        engines: files' names.
        evaluated: of each.
        errors: of their mean posteriors.
        paper: the paper's row for the same test, if it was asked for and there is one.
    """

    engines: tuple[str, ...]
    evaluated: tuple[Evaluated, ...]
    errors: Errors
    paper: PaperRow | None

    @property
    def name(self) -> str:
        return self.engines[0] if len(self.engines) == 1 else f"{FUSED}: {' + '.join(self.engines)}"

    @property
    def ms_per_image(self) -> float:
        return sum(one.ms_per_image for one in self.evaluated)

    @property
    def views(self) -> int:
        return sum(one.views for one in self.evaluated)


def print_rows(rows: list[Row], paper: bool) -> None:
    columns = ["engine", "protocol", "Q", "views", "images", "top-1 error", "top-5 error", "ms/image", "images/s"]
    if paper:
        columns += ["paper", "top-1", "top-5", "ours - paper"]
    table = []
    for row in rows:
        protocol, figures = row.evaluated[0].protocol, row.errors
        cost = row.ms_per_image
        cells = [row.name, protocol.name, ",".join(map(str, protocol.scales)), str(row.views), str(figures.images)]
        cells += [
            f"{100 * rate:.2f} ± {100 * figures.standard_error(rate):.2f} %" for rate in (figures.top1, figures.top5)
        ]
        cells += ["known", "known"] if math.isnan(cost) else [f"{cost:,.1f}", f"{1000 / cost:,.2f}"]
        if paper and row.paper is None:
            cells += ["-", "-", "-", "-"]
        elif paper and row.paper is not None:
            difference = f"{100 * figures.top1 - row.paper.top1:+.1f}, {100 * figures.top5 - row.paper.top5:+.1f}"
            cells += [f"Table {row.paper.table}", f"{row.paper.top1:.1f} %", f"{row.paper.top5:.1f} %", difference]
        table.append(cells)
    print_table(columns, table, left=(0, 1, 2))


def as_json(row: Row) -> dict[str, Any]:
    protocol, figures, cost = row.evaluated[0].protocol, row.errors, row.ms_per_image
    return {
        "engines": list(row.engines),
        "protocol": protocol.name,
        "scales": list(protocol.scales),
        "mirror": protocol.mirror,
        "views": row.views,
        "images": figures.images,
        "top1_error": _number(figures.top1),
        "top1_standard_error": _number(figures.standard_error(figures.top1)),
        "top5_error": _number(figures.top5),
        "top5_standard_error": _number(figures.standard_error(figures.top5)),
        "ms_per_image": _number(cost),
        "images_per_s": _number(1000 / cost) if cost else None,
        "paper_table": None if row.paper is None else row.paper.table,
        "paper_top1_error": None if row.paper is None else row.paper.top1 / 100,
        "paper_top5_error": None if row.paper is None else row.paper.top5 / 100,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_csv(rows: list[Row]) -> str:
    import csv
    import io

    text = io.StringIO()
    lines = [
        {key: "+".join(map(str, value)) if isinstance(value, list) else value for key, value in as_json(row).items()}
        for row in rows
    ]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def write_text(where: str, text: str) -> None:
    from vgg_deploy.files import whole_file

    if where == "-":
        click.echo(text, nl=False)
        return
    with whole_file(Path(where)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_matplotlib() -> None:
    import importlib.util

    from vgg_deploy.errors import MissingDependencyError

    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "train", "--plot")


def plot_rows(rows: list[Row], path: Path) -> None:
    """Top-1 error against time an image, a point a row, with its standard error."""
    import matplotlib as mpl

    from vgg_deploy.files import whole_file

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name in dict.fromkeys(row.name for row in rows):
        drawn = [row for row in rows if row.name == name and math.isfinite(row.ms_per_image)]
        cost = [row.ms_per_image for row in drawn]
        error = [100 * row.errors.top1 for row in drawn]
        bars = [100 * row.errors.standard_error(row.errors.top1) for row in drawn]
        axes.errorbar(cost, error, bars, fmt="o", capsize=3, label=name)
        for row, x, y in zip(drawn, cost, error, strict=True):
            axes.annotate(row.evaluated[0].protocol.name, (x, y), (5, 5), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="ms an image", ylabel="top-1 error, %", title="Error against cost")
    axes.legend()
    axes.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")
    pyplot.close(figure)
