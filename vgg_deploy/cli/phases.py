"""Progress bars on stderr for the phases of a TensorRT build. Inner phases are indented."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from engines.trt.progress import Phases


class _Bars:
    """Implements `engines.trt.progress.Phases`. TensorRT calls it from another thread, which rich allows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, tuple[int, TaskID]] = {}  # phase -> depth and bar

    def begin(self, name: str, parent: str | None, steps: int) -> None:
        depth = self._tasks[parent][0] + 1 if parent in self._tasks else 0
        self._tasks[name] = depth, self._progress.add_task("  " * depth + name, total=steps)

    def step(self, name: str) -> None:
        if name in self._tasks:
            self._progress.advance(self._tasks[name][1])

    def end(self, name: str) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name)[1])


@contextmanager
def phase_bars(*, shown: bool | None = None) -> Iterator[Phases | None]:
    """Yields the bars if stderr is a terminal, otherwise None."""
    if shown is None:
        shown = sys.stderr.isatty()
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield _Bars(progress)
