"""Results as streams: JSON Lines and CSV, flushed image by image, so that what is there is always a valid beginning."""

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

Result = Prediction | Failure


class LineStream:
    """A file that grows by whole lines, or stdout for '-'.

    Raises:
        OutputError: it cannot be opened or written. A line that did not fit is taken back.
    """

    def __init__(self, where: str) -> None:
        self._path = None if where == "-" else Path(where)
        self._file: io.FileIO | None = None
        if self._path is not None:
            with output_errors(self._path):
                make_folder(self._path.parent)
                self._file = io.FileIO(self._path, "w")
        self._regular = self._path is not None and self._path.is_file()

    def write(self, line: str) -> None:
        """Writes one line, which ends with a line break."""
        # Bytes of a file's name that are no UTF-8 come as lone surrogates; as \udcXX they are valid in JSON too.
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
                if self._regular:  # what went into a pipe or a device is gone
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

    def line(self, result: Result) -> str: ...


class JsonLines:
    """One object a line: path, views' mean posteriors of the k most probable classes; or path and error."""

    def __init__(self, k: int) -> None:
        self._k = k

    def line(self, result: Result) -> str:
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
    """A line an image: path, error, then id, label and probability of each of the k most probable classes."""

    def __init__(self, k: int) -> None:
        self._k = k

    @property
    def header(self) -> str:
        columns = [f"{column}_{rank}" for rank in range(1, self._k + 1) for column in ("id", "label", "probability")]
        return _csv_line(["path", "error", *columns])

    def line(self, result: Result) -> str:
        if isinstance(result, Failure):
            return _csv_line([str(result.path), result.reason] + [""] * (3 * self._k))
        cells = [
            cell for name, probability in result.top(self._k) for cell in (name.id, name.label, f"{probability:.7f}")
        ]
        return _csv_line([str(result.path), "", *cells])


class Text:
    """For people: the path and its classes with their posteriors in per cent."""

    def __init__(self, k: int) -> None:
        self._k = k

    def line(self, result: Result) -> str:
        if isinstance(result, Failure):
            return ""
        classes = "  ".join(f"{name.label} {probability:.1%}" for name, probability in result.top(self._k))
        return f"{result.path}: {classes}\n"


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO(newline="")
    # Python up to 3.12 quotes a lone \r only where it is part of the line's end.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"
