"""Tables on stdout, and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> None:
    """Aligned columns, numbers to the right; never cut or wrapped, so that it can be piped and searched.

    Args:
        left: indices of the columns that are text.
    """
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    for text in (line(columns), "  ".join("-" * width for width in widths), *map(line, rows)):
        click.echo(text.encode(errors="backslashreplace"))  # UTF-8, whatever the terminal's encoding


@contextmanager
def progress(what: str, total: int | None, *, shown: bool | None = None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where that is a terminal; yields the function that moves it on by one."""
    if shown is None:
        shown = sys.stderr.isatty()
    if not shown:
        yield lambda: None
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

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Rich would send what is printed to stdout meanwhile to its own console, which is stderr.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def notice(text: str) -> None:
    """A line for the user's eyes, on stderr."""
    click.echo(text, err=True)


def once(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` for texts that may come several times: each is passed on the first time only."""
    texts: set[str] = set()

    def say_once(text: str) -> None:
        if text not in texts:
            texts.add(text)
            say(text)

    return say_once
