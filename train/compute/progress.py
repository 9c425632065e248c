"""Progress of a training: a bar on a terminal, elsewhere one line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_INTERVAL_S = 60.0  # between lines of progress without a terminal


def print_line(console: Console, text: str) -> None:
    """Prints a line without rich's markup, colours and wrapping."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(console: Console, task: str, images: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Yields advance(count, text=""), which shows the images done and the speed in images/s.

    Args:
        task: the name of the task.
        images: the number of images of the whole task.
        done: the number of images that were done before.
    """
    started, before = time.perf_counter(), done
    next_line = started + LOG_INTERVAL_S
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task_id = bar.add_task(task, total=images, completed=done, text="")

        def advance(count: int, text: str = "") -> None:
            nonlocal done, next_line
            done += count
            now = time.perf_counter()
            text = f"{text}  {(done - before) / (now - started):,.0f} images/s".lstrip()
            bar.update(task_id, advance=count, text=text)
            if not console.is_terminal and now >= next_line:
                next_line = now + LOG_INTERVAL_S
                print_line(console, f"{task}: {done:,} of {images:,} images  {text}")

        yield advance
