"""What `vgg-deploy eval` reports, and where it writes the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from vgg_deploy.cli.eval.report import Row, as_csv, as_json, plot_rows, print_rows
from vgg_deploy.cli.outputs import STDOUT, check_plot, check_stdout, output_file, write_text
from vgg_deploy.cli.parameters import gathered
from vgg_deploy.files import require_writable


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """What is reported, and where. If neither JSON nor CSV goes to stdout, a table does.

    Attributes:
        paper: whether each result has the paper's row for the same test beside it.
        json_path, csv_path: a file, or - for stdout.
        plot: a picture.
    """

    paper: bool
    json_path: str | None
    csv_path: str | None
    plot: Path | None

    @property
    def files(self) -> dict[str, Path | None]:
        """Files to write, by option."""
        return {"--json": output_file(self.json_path), "--csv": output_file(self.csv_path), "--plot": self.plot}

    def require_writable(self) -> None:
        """Raises OutputError if a file cannot be written."""
        for path in self.files.values():
            if path is not None:
                require_writable(path)

    def write(self, rows: Sequence[Row]) -> None:
        """Writes files first, then stdout: the reader of a pipe may have left.

        Raises:
            OutputError: a file cannot be written.
        """
        texts = [
            (self.json_path, json.dumps([as_json(row) for row in rows], indent=2, allow_nan=False) + "\n"),
            (self.csv_path, as_csv(rows)),
        ]
        for where, text in texts:
            if where not in (None, STDOUT):
                write_text(str(where), text)
        if self.plot is not None:
            plot_rows(rows, self.plot)
        for where, text in texts:
            if where == STDOUT:
                write_text(STDOUT, text)
        if STDOUT not in (self.json_path, self.csv_path):
            print_rows(rows, self.paper)


def _report_options(**values: object) -> ReportOptions:
    files = ReportOptions(**values)  # type: ignore[arg-type]
    check_stdout(files.json_path, files.csv_path)
    if files.plot is not None:
        check_plot(files.plot)
    return files


# The command receives `report`, a `ReportOptions`.
report_options = gathered(
    "report",
    _report_options,
    click.option(
        "--paper", is_flag=True, help="Show the matching row of the paper's Tables 3 to 6 beside each result."
    ),
    click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON."),
    click.option("--csv", "csv_path", metavar="FILE|-", help="Write the report as CSV."),
    click.option(
        "--plot",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Plot error against cost (.png, .svg, .pdf).",
    ),
)
