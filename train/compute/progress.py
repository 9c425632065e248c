"""What a training says while it goes on: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_INTERVAL_S = 60.0  # between lines of progress where there is no terminal to draw a bar on


def say(console: Console, text: str) -> None:
    """A line, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(console: Console, what: str, images: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Gives advance(count, text=""): images of `images`, and images/s.

    Args:
        done: images that were done before.
    """
    began, before = time.perf_counter(), done
    next_line = began + LOG_INTERVAL_S
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=images, completed=done, text="")

        def advance(count: int, text: str = "") -> None:
            nonlocal done, next_line
            done += count
            now = time.perf_counter()
            text = f"{text}  {(done - before) / (now - began):,.0f} images/s".lstrip()
            bar.update(task, advance=count, text=text)
            if not console.is_terminal and now >= next_line:
                next_line = now + LOG_INTERVAL_S
                say(console, f"{what}: {done:,} of {images:,} images  {text}")

        yield advance
