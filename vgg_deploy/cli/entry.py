"""Runs a command, and turns any error into one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import click

from vgg_deploy.errors import INTERRUPTED, ImageWarning, VGGDeployError, exit_code_of, one_line
from vgg_deploy.files import describe_os_error

PIPE_CLOSED = 141  # 128 + SIGPIPE


def run_command(command: click.Command, program: str) -> NoReturn:
    """Runs `command` on the arguments of this process, and exits.

    The exit code is 0 for success, 1 for failed work and 2 for a bad request. It is 130 after Ctrl-C, and 141 if the
    reader of stdout has exited. `--debug`, at any position, shows the traceback of an error instead of its one line.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    # Pillow's warnings about damaged EXIF data and large images take several lines. We read such an image, or refuse it
    # in one line.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.filterwarnings("always", category=ImageWarning)
    warnings.showwarning = _first_of_images(warnings.showwarning)
    stdout = sys.stdout
    code = _exit_code(command, program, [argument for argument in arguments if argument != "--debug"], debug)
    try:
        stdout.flush()
    except OSError:  # the disk is full: Python would flush again at exit, and exit with 120
        _discard(stdout)
        code = code or 1
    sys.exit(code)


def _first_of_images(show_other: Callable[..., None]) -> Callable[..., None]:
    """Shows the first `ImageWarning` in one line, since a folder may cause thousands, and other warnings as before."""
    shown = False

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        nonlocal shown
        if not issubclass(category, ImageWarning):
            show_other(message, category, *where, **more)
        elif not shown:
            shown = True
            click.echo(f"{message} (further images like this are not named)", err=True)

    return show


def _exit_code(command: click.Command, program: str, arguments: list[str], debug: bool) -> int:
    stdout = sys.stdout
    try:
        result = command.main(arguments, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        _discard(stdout)
        return PIPE_CLOSED
    except SystemExit as error:
        # click (8.1 to 8.5) exits with 1 on a closed pipe even outside its standalone mode, and wraps stdout then.
        if sys.stdout is not stdout:
            _discard(stdout)
            return PIPE_CLOSED
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - a user reads one line, whatever happens
        if debug:
            traceback.print_exc()
        else:
            click.echo(f"Error: {_report(error)}", err=True)
        return exit_code_of(error)


def _discard(stdout: TextIO) -> None:
    """Drops the rest of the output: its reader has exited (head, less), or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def _report(error: Exception) -> str:
    if isinstance(error, VGGDeployError):
        return one_line(str(error))
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {describe_os_error(error)}"
    text = one_line(str(error))
    return f"unexpected {type(error).__name__}: {text}. This is a bug in vgg_deploy; add --debug to see where"
