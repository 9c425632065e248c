"""Where `vgg-deploy infer` writes results: JSON Lines, CSV, and text for people."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from vgg_deploy.cli.outputs import STDOUT, check_stdout, output_file
from vgg_deploy.cli.parameters import gathered

if TYPE_CHECKING:
    from types import TracebackType

    from vgg_deploy.inference.results import ImageResult, LineStream, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultOptions:
    """How results are written.

    Attributes:
        top: classes per image.
        json_path, csv_path: a file, or - for stdout. If neither is stdout, text for people goes there.
    """

    top: int
    json_path: str | None
    csv_path: str | None

    @property
    def files(self) -> dict[str, Path | None]:
        """Files to write, by option."""
        return {"--json": output_file(self.json_path), "--csv": output_file(self.csv_path)}

    def open(self, classes: int) -> ResultStreams:
        """Opens the outputs, for a network with this number of classes."""
        return ResultStreams(self, classes)


def _result_options(**values: object) -> ResultOptions:
    options = ResultOptions(**values)  # type: ignore[arg-type]
    check_stdout(options.json_path, options.csv_path)
    return options


result_options = gathered(
    "results",
    _result_options,
    click.option(
        "--top", type=click.IntRange(1), metavar="N", default=5, show_default=True, help="Classes to show per image."
    ),
    click.option("--json", "json_path", metavar="FILE|-", help="Write JSON Lines, one object per image."),
    click.option("--csv", "csv_path", metavar="FILE|-", help="Write CSV, one line per image."),
)


class ResultStreams:
    """Writes each result to every output at once."""

    def __init__(self, options: ResultOptions, classes: int) -> None:
        from vgg_deploy.inference.results import Csv, JsonLines, Text

        self._streams: list[tuple[LineStream, Writer]] = []
        with ExitStack() as stack:
            if options.json_path is not None:
                self._add(stack, options.json_path, JsonLines(options.top))
            if options.csv_path is not None:
                table = Csv(min(options.top, classes))
                self._add(stack, options.csv_path, table).write(table.header)
            if STDOUT not in (options.json_path, options.csv_path):
                self._add(stack, STDOUT, Text(options.top))
            self._stack = stack.pop_all()

    def _add(self, stack: ExitStack, where: str, writer: Writer) -> LineStream:
        from vgg_deploy.inference.results import LineStream

        stream = stack.enter_context(LineStream(where))
        self._streams.append((stream, writer))
        return stream

    def write(self, result: ImageResult) -> None:
        """Writes one result or failure.

        Raises:
            OutputError: an output cannot be written.
        """
        for stream, writer in self._streams:
            stream.write(writer.line(result))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
