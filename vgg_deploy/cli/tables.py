"""Tables on stdout, and progress on stderr."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> None:
    """Prints aligned columns, numbers right-aligned. Lines are never cut or wrapped, so they can be piped and searched.

    Args:
        left: indices of the text columns.
    """
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    for text in (line(columns), "  ".join("-" * width for width in widths), *map(line, rows)):
        click.echo(text.encode(errors="backslashreplace"))  # UTF-8, whatever the terminal's encoding


SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(
    task: str, total: int | None, *, shown: bool | None = None, lines: bool = False
) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr if that is a terminal. Yields the function that advances it by one.

    With `lines`, a stderr that is no terminal gets a line every few seconds instead.
    """
    if shown is None:
        shown = sys.stderr.isatty()
    if not shown:
        yield _line_writer(task, total) if lines else lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(task), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # By default rich redirects stdout to its own console, which is stderr here.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        row = bar.add_task(task, total=total)
        yield lambda: bar.advance(row)


def _line_writer(task: str, total: int | None) -> Callable[[], None]:
    """Counts steps, and writes the count to stderr every `SECONDS_BETWEEN_LINES`."""
    steps = itertools.count(1)
    begin = last = time.monotonic()

    def advance() -> None:
        nonlocal last
        done, now = next(steps), time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            notice(f"{task}: {done}{'' if total is None else f' of {total}'} after {now - begin:.0f} s")

    return advance


def notice(text: str) -> None:
    """Prints a line for the user on stderr."""
    click.echo(text, err=True)


def once(say: Callable[[str], None]) -> Callable[[str], None]:
    """A function that passes each text to `say` only the first time."""
    texts: set[str] = set()

    def say_once(text: str) -> None:
        if text not in texts:
            texts.add(text)
            say(text)

    return say_once
