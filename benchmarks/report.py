"""The page of a benchmark: JSON, Markdown and a picture, with the machine and the versions it was measured with."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgg_deploy.bench.machine import machine, versions
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.files import whole_file

RESULTS = Path(__file__).parent / "results"

# Sentences for the details of a page.
OWN_PROCESSES = (
    "Each contestant runs in its own process, which sleeps while the others run. The contestants take turns within "
    "each repetition."
)
SPREAD = (
    "Figures are medians, with the lowest and the highest in brackets. Ratios are computed within each repetition; ± "
    "is the standard error of their median."
)
PEAK = (
    "The peak is the speed of the fastest large 1x1 convolution in the same precision, measured in the same "
    "repetitions. Winograd convolutions can exceed it, because they need fewer products than are counted."
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Attributes:
        title: above it; "": none.
        method: one paragraph above it, at most five sentences.
        columns: the headings.
        rows: the cells, one for each column.
        notes: lines below it.
    """

    title: str
    method: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The results of a benchmark.

    Attributes:
        name: the name of its files.
        title: the title of the page.
        tables: each with its method above it.
        details: paragraphs below the tables.
        samples: the single measurements behind the tables, for the JSON file.
        drawing: a figure of matplotlib; None: none.
    """

    name: str
    title: str
    tables: Sequence[Table]
    details: Sequence[str]
    samples: Mapping[str, Any]
    drawing: Any = None

    def write(self, out: Path | None = RESULTS) -> str:
        """Writes NAME.json, NAME.md and, if there is a drawing, NAME.svg; returns the Markdown.

        Args:
            out: the folder; None: nothing is written.
        """
        record = {
            "title": self.title,
            "tables": [
                {
                    "title": table.title,
                    "method": table.method,
                    "columns": table.columns,
                    "rows": table.rows,
                    "notes": table.notes,
                }
                for table in self.tables
            ],
            "details": self.details,
            "machine": {**machine(), **versions()},
            "samples": _rounded(self.samples),
        }
        picture = "" if self.drawing is None else f"{self.name}.svg"
        text = markdown(record, picture)
        if out is None:
            return text
        for suffix, content in (("json", json.dumps(record, indent=2) + "\n"), ("md", text)):
            with whole_file(out / f"{self.name}.{suffix}") as temporary:
                temporary.write_text(content, encoding="utf-8")
        if self.drawing is not None:
            import matplotlib as mpl

            # The same file in every run, with text as text.
            settings: Any = {"svg.hashsalt": "vgg_deploy", "svg.fonttype": "none"}
            with whole_file(out / picture) as temporary, mpl.rc_context(settings):
                self.drawing.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
        return text


def markdown(record: Mapping[str, Any], picture: str = "") -> str:
    """The page of a JSON record of `Page.write`, with a picture on top."""
    lines = [f"# {record['title']}", ""]
    if picture:
        lines += [f"![{record['title']}]({picture})", ""]
    for table in record["tables"]:
        lines += [f"## {table['title']}", ""] if table["title"] else []
        lines += [table["method"], ""] if table["method"] else []
        rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", *(line for note in table["notes"] for line in (note, ""))]
    if record["details"]:
        lines += ["## Details", "", *(line for paragraph in record["details"] for line in (paragraph, ""))]
    host = ", ".join(f"{key} {value}" for key, value in record["machine"].items())
    return "\n".join([*lines, f"Measured on {host}.", ""])


def counted(count: int, noun: str) -> str:
    """ "1 repetition", "5 repetitions"."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def spread(samples: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median, with the lowest and the highest: "1.23 (1.20-1.31)". One sample stands alone."""
    middle = f"{statistics.median(samples):,.{digits}f}{unit}"
    if len(samples) == 1:
        return middle
    return f"{middle} ({min(samples):,.{digits}f}-{max(samples):,.{digits}f})"


def faster(ratio: Ratio, aim: float | None = None) -> str:
    """A ratio of speeds as text: "1.02 ± 0.01 (0.99-1.04); aim 1 reached".

    ± is the standard error of the median. If the aim is within two of them, it is "reached, within the noise".
    """
    digits = 3 if aim is not None and aim <= 1 else 2
    error = "" if math.isnan(ratio.error) else f" ± {ratio.error:.{digits}f}"
    text = f"{ratio.median:.{digits}f}{error} ({ratio.lowest:.{digits}f}-{ratio.highest:.{digits}f})"
    return text if aim is None else f"{text}; {verdict(ratio, aim)}"


def verdict(ratio: Ratio, aim: float) -> str:
    """Whether a ratio reaches its aim, as text."""
    noise = ", within the noise" if abs(ratio.median - aim) <= 2 * ratio.error else ""
    return f"aim {aim:g} {'reached' if ratio.median >= aim else 'missed'}{noise}"


def _rounded(value: Any) -> Any:
    """Floats to four digits after the point, at any depth."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


@contextmanager
def canvas(columns: int = 1, width: float = 9.0, height: float = 4.0) -> Iterator[tuple[Any, list[Any]]]:
    """A matplotlib figure and its axes side by side. It needs no screen."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9}):
        drawing = Figure(figsize=(width, height), layout="constrained")
        axes = drawing.subplots(1, columns, squeeze=False)[0]
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
        yield drawing, list(axes)
