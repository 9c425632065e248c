"""Results as streams: JSON Lines, CSV and text.

Each line is flushed at once, so an interrupted file is valid up to its last line.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import click

from vgg_deploy.files import make_folder, output_errors
from vgg_deploy.inference.prediction import Failure, Prediction

ImageResult = Prediction | Failure


class LineStream:
    """A file that grows by whole lines.

    Args:
        target: path of the file; '-' is stdout.

    Raises:
        OutputError: it cannot be opened or written. A partly written line is removed.
    """

    def __init__(self, target: str) -> None:
        self._path = None if target == "-" else Path(target)
        self._file: io.FileIO | None = None
        if self._path is not None:
            with output_errors(self._path):
                make_folder(self._path.parent)
                self._file = io.FileIO(self._path, "w")
        self._regular = self._path is not None and self._path.is_file()

    def write(self, line: str) -> None:
        """Writes one line, which ends with a line break."""
        # If a file's name is not UTF-8, Python's string has lone surrogates; written as \udcXX they are valid JSON too.
        encoded = line.encode(errors="backslashreplace")
        if self._file is None or self._path is None:
            click.echo(encoded, nl=False)  # UTF-8, whatever the terminal's encoding
            return
        data, begin = memoryview(encoded), self._file.tell() if self._regular else 0
        with output_errors(self._path):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except BaseException:
                if self._regular:  # nothing can be removed from a pipe or a device
                    os.ftruncate(self._file.fileno(), begin)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


class Writer(Protocol):
    """Turns results into lines."""

    def line(self, result: ImageResult) -> str: ...


class JsonLines:
    """One object per image: path, and id, label and posterior of the k most probable classes; or path and error."""

    def __init__(self, k: int) -> None:
        self._k = k

    def line(self, result: ImageResult) -> str:
        record: dict[str, object] = {"path": str(result.path)}
        if isinstance(result, Failure):
            record["error"] = result.reason
        else:
            record["top"] = [
                {"id": name.id, "label": name.label, "probability": round(probability, 7)}
                for name, probability in result.top(self._k)
            ]
        return json.dumps(record, ensure_ascii=False) + "\n"


class Csv:
    """One row per image: path, error, then id, label and posterior of each of the k most probable classes."""

    def __init__(self, k: int) -> None:
        self._k = k

    @property
    def header(self) -> str:
        columns = [f"{column}_{rank}" for rank in range(1, self._k + 1) for column in ("id", "label", "probability")]
        return _csv_line(["path", "error", *columns])

    def line(self, result: ImageResult) -> str:
        if isinstance(result, Failure):
            return _csv_line([str(result.path), result.reason] + [""] * (3 * self._k))
        cells = [
            cell for name, probability in result.top(self._k) for cell in (name.id, name.label, f"{probability:.7f}")
        ]
        return _csv_line([str(result.path), "", *cells])


class Text:
    """For people: path, then label and percentage of the k most probable classes. A failure has no line."""

    def __init__(self, k: int) -> None:
        self._k = k

    def line(self, result: ImageResult) -> str:
        if isinstance(result, Failure):
            return ""
        classes = "  ".join(f"{name.label} {probability:.1%}" for name, probability in result.top(self._k))
        return f"{result.path}: {classes}\n"


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO(newline="")
    # Up to Python 3.12, csv quotes a lone \r only if the line terminator contains it.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"
