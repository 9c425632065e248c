"""How a benchmark's results are kept: JSON, markdown and a picture, with the machine and the versions they are of."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgg_deploy.bench.machine import machine, versions
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.files import whole_file

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: in words, with its unit.
        aim: what it should be, or "".
        samples: the single measurements.
    """

    name: str
    value: str
    aim: str
    samples: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of words and figures.

    Attributes:
        title: above it; "": none.
        columns: their heads.
        rows: as many cells each.
        notes: lines below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def markdown(self) -> list[str]:
        lines = [f"## {self.title}", ""] if self.title else []
        table = [self.columns, ("---",) * len(self.columns), *self.rows]
        lines += ["| " + " | ".join(row) + " |" for row in table]
        return [*lines, "", *(line for note in self.notes for line in (note, ""))]


def spread(samples: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median, with the lowest and the highest: "1.23 (1.20-1.31)"; one sample by itself."""
    middle = f"{statistics.median(samples):,.{digits}f}{unit}"
    if len(samples) == 1:
        return middle
    return f"{middle} ({min(samples):,.{digits}f}-{max(samples):,.{digits}f})"


def faster(first: Sequence[float], other: Sequence[float], aim: float | None = None) -> str:
    """How many times as fast one with times `other` is as one with times `first`: "1.02 ± 0.01 (0.99-1.04); aim 1 reached".

    ± is the median's standard error. An aim within two of them is not decided: "reached, within the noise".
    """
    ratio = Ratio.of(first, other)
    digits = 3 if aim is not None and aim <= 1 else 2
    error = "" if math.isnan(ratio.error) else f" ± {ratio.error:.{digits}f}"
    text = f"{ratio.median:.{digits}f}{error} ({ratio.lowest:.{digits}f}-{ratio.highest:.{digits}f})"
    return text if aim is None else f"{text}; {verdict(ratio, aim)}"


def verdict(ratio: Ratio, aim: float) -> str:
    """Whether a ratio reaches its aim, in words."""
    noise = ", within the noise" if abs(ratio.median - aim) <= 2 * ratio.error else ""
    return f"aim {aim:g} {'reached' if ratio.median >= aim else 'missed'}{noise}"


def write(
    name: str,
    title: str,
    setting: str,
    figures: Sequence[Figure] = (),
    *,
    tables: Sequence[Table] = (),
    samples: Mapping[str, Any] | None = None,
    drawing: Any = None,
    out: Path | None = RESULTS,
) -> str:
    """Writes NAME.json, NAME.md and, where there is a drawing, NAME.svg; gives the markdown.

    Args:
        setting: what was measured, on what and how, in words.
        figures: single figures, shown in a table before the others.
        tables: further tables.
        samples: the single measurements behind the tables, for the JSON file.
        drawing: a figure of matplotlib.
        out: the folder; None: nothing is written.
    """
    host = {**machine(), **versions()}
    lines = [f"# {title}", "", setting, ""]
    if drawing is not None:
        lines += [f"![{title}]({name}.svg)", ""]
    if figures:
        rows: list[tuple[str, ...]] = [(figure.name, figure.value, figure.aim) for figure in figures]
        lines += Table("", ("figure", "measured", "aim"), rows).markdown
    for table in tables:
        lines += table.markdown
    lines += ["Measured on " + ", ".join(f"{key} {value}" for key, value in host.items()) + ".", ""]
    text = "\n".join(lines)
    if out is None:
        return text
    record: dict[str, Any] = {"title": title, "setting": setting, "machine": host}
    if figures:
        record["figures"] = [
            {"name": f.name, "value": f.value, "aim": f.aim, "samples": [round(s, 4) for s in f.samples]}
            for f in figures
        ]
    if tables:
        record["tables"] = [{"title": table.title, "columns": table.columns, "rows": table.rows} for table in tables]
    if samples is not None:
        record["samples"] = _rounded(samples)
    for suffix, content in (("json", json.dumps(record, indent=2) + "\n"), ("md", text)):
        with whole_file(out / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    if drawing is not None:
        import matplotlib as mpl

        alike: Any = {"svg.hashsalt": "vgg_deploy", "svg.fonttype": "none"}  # in every run, and with text as text
        with whole_file(out / f"{name}.svg") as temporary, mpl.rc_context(alike):
            drawing.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return text


def _rounded(value: Any) -> Any:
    """Floats to four digits after the point, wherever they are."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def interleaved(repetitions: int, *contestants: Callable[[], float]) -> list[list[float]]:
    """Runs each contestant in turn, and gives the samples of each."""
    rounds = [[contestant() for contestant in contestants] for _ in range(repetitions)]
    return [list(samples) for samples in zip(*rounds, strict=True)]


@contextmanager
def canvas(columns: int = 1, width: float = 9.0, height: float = 4.0) -> Iterator[tuple[Any, list[Any]]]:
    """A matplotlib figure and its axes side by side, drawn without a screen."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context({"font.size": 9}):
        drawing = Canvas(figsize=(width, height), layout="constrained")
        axes = drawing.subplots(1, columns, squeeze=False)[0]
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
        yield drawing, list(axes)
