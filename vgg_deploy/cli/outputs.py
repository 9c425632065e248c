"""Output files of long work, looked at before it begins."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from vgg_deploy.errors import MissingDependencyError
from vgg_deploy.files import whole_file

PLOT_ENDINGS = (".png", ".svg", ".pdf")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuses two outputs in one file, and one over what is read.

    Args:
        outputs: by their options' names.
        inputs: all that is read.

    Raises:
        click.UsageError: names the options or the input.
    """
    named: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is not None and (other := named.setdefault(path.resolve(), option)) != option:
            raise click.UsageError(f"{other} and {option} both name {path}; name two files")
    present = {_identity(path): path for path in outputs.values() if path is not None and path.exists()}
    for path in inputs if present else ():
        if path.exists() and _identity(path) in present:
            raise click.UsageError(
                f"results would overwrite {path}, which is read; name another file than {present[_identity(path)]}"
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def write_text(where: str, text: str) -> None:
    """To a file that appears whole or not at all, or to stdout for '-', as UTF-8."""
    data = text.encode(errors="backslashreplace")  # bytes of a file's name that are no UTF-8
    if where == "-":
        click.echo(data, nl=False)
        return
    with whole_file(Path(where)) as temporary:
        temporary.write_bytes(data)


def check_plot(path: Path) -> None:
    """Raises UsageError for a picture that cannot be drawn or written."""
    if path.suffix.lower() not in PLOT_ENDINGS:
        raise click.UsageError(f"--plot is {path}; expected a name that ends in {', '.join(PLOT_ENDINGS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError("matplotlib", "train", "--plot")
