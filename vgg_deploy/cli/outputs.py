"""Output files of long-running commands: checked before the work, written after it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from vgg_deploy.errors import MissingDependencyError
from vgg_deploy.files import whole_file

STDOUT = "-"
PLOT_ENDINGS = (".png", ".svg", ".pdf")


def output_file(where: str | None) -> Path | None:
    """The file that an option names. None if the option is not given or names stdout."""
    return None if where in (None, STDOUT) else Path(str(where))


def check_stdout(json_path: str | None, csv_path: str | None) -> None:
    """Raises click.UsageError if both reports would go to stdout."""
    if json_path == csv_path == STDOUT:
        raise click.UsageError("--json - and --csv - cannot both write to stdout; give a file to one of them")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuses two outputs with the same file, and an output that would overwrite an input.

    Args:
        outputs: files to write, by option.
        inputs: all files that the command reads.

    Raises:
        click.UsageError: names the options or the input.
    """
    options: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is not None and (other := options.setdefault(path.resolve(), option)) != option:
            raise click.UsageError(f"{other} and {option} both name {path}; give each its own file")
    present = {_identity(path): option for option, path in outputs.items() if path is not None and path.exists()}
    for path in inputs if present else ():
        if path.exists() and (overwriting := present.get(_identity(path))) is not None:
            raise click.UsageError(f"{overwriting} would overwrite the input {path}; give it another file")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def write_text(where: str, text: str) -> None:
    """Writes UTF-8 to stdout if `where` is '-', otherwise to a file that appears whole or not at all."""
    data = text.encode(errors="backslashreplace")  # a file's name may hold bytes that are not UTF-8
    if where == STDOUT:
        click.echo(data, nl=False)
        return
    with whole_file(Path(where)) as temporary:
        temporary.write_bytes(data)


def check_plot(path: Path) -> None:
    """Raises UsageError for a picture that cannot be drawn or written."""
    if path.suffix.lower() not in PLOT_ENDINGS:
        raise click.UsageError(f"--plot is {path}; expected a file name that ends in {', '.join(PLOT_ENDINGS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "train", "--plot")
