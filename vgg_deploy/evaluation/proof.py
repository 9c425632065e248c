"""What a proof of one artifact showed: the result that `verify` prints, records and writes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The four proofs, in the order in which they are made, with the words that name them in reports.
FILE, LAYERS, ANSWERS, PIPELINE = 1, 2, 3, 4
NAMES = {FILE: "file", LAYERS: "layers", ANSWERS: "answers", PIPELINE: "pipeline"}


@dataclass(frozen=True, slots=True)
class Table:
    """Figures behind a proof, printed with --details.

    Attributes:
        title: what the rows are.
        columns: their names.
        rows: text, one cell for each column.
        text_columns: indices of the columns that are left-aligned.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What one proof of one artifact showed.

    Attributes:
        number: FILE, LAYERS, ANSWERS or PIPELINE.
        artifact: name of the file that was judged.
        against: what it was compared with, such as the name of a checkpoint or a runtime.
        summary: what was shown, in at most 50 characters; if `shown` is false, why nothing was.
        shown: whether anything was compared. False is no failure: the report says "not shown".
        failures: what is wrong, one line each, with what to do; empty if the proof passed.
        tables: figures behind the proof.
        figures: the same as plain JSON values.
        seconds: how long it took.
    """

    number: int
    artifact: str
    against: str
    summary: str
    shown: bool = True
    failures: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """file, layers, answers or pipeline."""
        return NAMES[self.number]

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing is wrong."""
        return self.shown and not self.failures
