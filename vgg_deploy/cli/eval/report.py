"""The report of `vgg-deploy eval`: a table, JSON, CSV and a plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_deploy.cli.tables import print_table
from vgg_deploy.files import whole_file

if TYPE_CHECKING:
    from vgg_deploy.evaluation.error_rates import ErrorRates, Evaluation
    from vgg_deploy.evaluation.paper import PaperRow

FUSED = "fused"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: a model, or several fused, under one protocol.

    Attributes:
        engines: the names of the models.
        evaluations: one for each model. All have a protocol of the same name, each with the model's own scales.
        errors: the errors of the mean posteriors.
        paper: the paper's row for the same test, if --paper is given and there is one.
    """

    engines: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    errors: ErrorRates
    paper: PaperRow | None

    @property
    def name(self) -> str:
        return self.engines[0] if len(self.engines) == 1 else f"{FUSED}: {' + '.join(self.engines)}"

    @property
    def protocol(self) -> str:
        return self.evaluations[0].protocol.name

    @property
    def ms_per_image(self) -> float:
        """The time of all models together. NaN if one of them has no posteriors."""
        return sum(evaluation.ms_per_image for evaluation in self.evaluations)

    @property
    def images_per_s(self) -> float:
        return 1000 / self.ms_per_image if self.ms_per_image else math.nan

    @property
    def view_count(self) -> int:
        return sum(evaluation.view_count for evaluation in self.evaluations)


def print_rows(rows: Sequence[Row], paper: bool) -> None:
    columns = ["engine", "protocol", "Q", "views", "images", "top-1 error", "top-5 error", "ms/image", "images/s"]
    failed = any(row.errors.failed for row in rows)
    if failed:
        columns.insert(columns.index("images") + 1, "failed")
    if paper:
        columns += ["paper", "top-1", "top-5", "ours - paper"]
    print_table(columns, [_cells(row, paper, failed) for row in rows], left=(0, 1, 2))


def _cells(row: Row, paper: bool, failed: bool) -> list[str]:
    figures, cost = row.errors, row.ms_per_image
    scales = dict.fromkeys(",".join(map(str, evaluation.protocol.scales)) for evaluation in row.evaluations)
    cells = [row.name, row.protocol, " + ".join(scales), str(row.view_count), str(figures.images)]
    if failed:
        cells.append(str(figures.failed))
    for rate in (figures.top1, figures.top5):
        spread = figures.standard_error(rate)
        cells.append("-" if math.isnan(rate) else f"{100 * rate:.2f} ± {100 * spread:.2f} %")
    cells += ["-", "-"] if math.isnan(cost) else [f"{cost:,.1f}", f"{row.images_per_s:,.2f}"]
    if paper and row.paper is None:
        cells += ["-", "-", "-", "-"]
    elif paper and row.paper is not None:
        differences = [100 * figures.top1 - row.paper.top1, 100 * figures.top5 - row.paper.top5]
        cells += [f"Table {row.paper.table}", f"{row.paper.top1:.1f} %", f"{row.paper.top5:.1f} %"]
        cells.append("-" if any(map(math.isnan, differences)) else ", ".join(f"{value:+.1f}" for value in differences))
    return cells


def as_json(row: Row) -> dict[str, Any]:
    """The row's figures. Errors are shares in 0..1; `scales` and `mirror` have an entry for each model."""
    figures, cost, paper = row.errors, row.ms_per_image, row.paper
    top1, top5 = (None, None) if paper is None else (paper.top1 / 100, paper.top5 / 100)
    return {
        "engines": list(row.engines),
        "protocol": row.protocol,
        "scales": [list(evaluation.protocol.scales) for evaluation in row.evaluations],
        "mirror": [evaluation.protocol.mirror for evaluation in row.evaluations],
        "views": row.view_count,
        "images": figures.images,
        "failed": figures.failed,
        "top1_error": _number(figures.top1),
        "top1_standard_error": _number(figures.standard_error(figures.top1)),
        "top5_error": _number(figures.top5),
        "top5_standard_error": _number(figures.standard_error(figures.top5)),
        "ms_per_image": _number(cost),
        "images_per_s": _number(row.images_per_s),
        "paper_table": None if paper is None else paper.table,
        "paper_top1_error": top1,
        "paper_top5_error": top5,
        "top1_minus_paper": None if top1 is None else _number(figures.top1 - top1),
        "top5_minus_paper": None if top5 is None else _number(figures.top5 - top5),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_csv(rows: Sequence[Row]) -> str:
    """One line per row, with the keys of the JSON as columns. The entries of a list are joined by +."""
    text = io.StringIO()
    lines = [{key: _csv_cell(value) for key, value in as_json(row).items()} for row in rows]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return "+".join(",".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Plots top-1 error, with its standard error, against time per image. Each row is a point."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    drawn = [row for row in rows if math.isfinite(row.ms_per_image) and math.isfinite(row.errors.top1)]
    for name in dict.fromkeys(row.name for row in drawn):
        own = [row for row in drawn if row.name == name]
        cost = [row.ms_per_image for row in own]
        error = [100 * row.errors.top1 for row in own]
        bars = [100 * row.errors.standard_error(row.errors.top1) for row in own]
        axes.errorbar(cost, error, bars, fmt="o", capsize=3, label=name)
        for row, x, y in zip(own, cost, error, strict=True):
            axes.annotate(row.protocol, (x, y), (5, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel="ms per image", ylabel="top-1 error, %", title="Error against cost")
    if drawn:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.LogFormatter())
        axes.xaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        axes.margins(x=0.15)  # room for the name beside the last point
        axes.legend()
    axes.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."))
    pyplot.close(figure)
