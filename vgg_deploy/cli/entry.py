"""Runs a command and turns what happens into one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import NoReturn, TextIO

import click

from vgg_deploy.errors import VGGDeployError
from vgg_deploy.files import describe_os_error

INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE


def run_command(command: click.Command, program: str) -> NoReturn:
    """Runs `command` on the process's arguments and exits: 0 done, 1 failed work, 2 bad use, 130 Ctrl-C, 141 closed pipe.

    `--debug`, wherever it stands, shows the traceback of an error instead of its one line.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    # Pillow warns of damaged EXIF data and large sizes, several lines each, of images that we then read or refuse in one.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    stdout = sys.stdout
    code = _exit_code(command, program, [word for word in arguments if word != "--debug"], debug)
    try:
        stdout.flush()
    except OSError:  # a full disk: Python would flush once more at exit, and exit with 120
        _discard(stdout)
        code = code or 1
    sys.exit(code)


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
        # click (8.1 to 8.5) turns a closed pipe into exit 1, outside its standalone mode too, and wraps stdout when it does.
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
    except Exception as error:  # noqa: BLE001 - whatever happens, a user reads one line
        if debug:
            traceback.print_exc()
        else:
            click.echo(f"Error: {_one_line(error)}", err=True)
        return error.exit_code if isinstance(error, VGGDeployError) else 1


def _discard(stdout: TextIO) -> None:
    """Sends what is left of the output nowhere: its reader has gone (head, less), or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def _one_line(error: Exception) -> str:
    if isinstance(error, VGGDeployError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {describe_os_error(error)}"
    what = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {what} (a fault of ours: --debug shows where)"
