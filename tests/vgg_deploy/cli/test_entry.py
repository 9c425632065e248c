"""Exit codes and one-line errors of every command."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import vgg_deploy
from vgg_deploy.cli.entry import run_command
from vgg_deploy.errors import CheckpointError, EngineError, MissingDependencyError, OutputError, UsageError

# Prints lines without end, by click and by print; says on stderr when it stops.
PRINTER = """
import sys, click
from vgg_deploy.cli.entry import run_command

@click.command()
@click.argument("how")
def command(how):
    number = 0
    while True:
        number += 1
        click.echo(f"line {number}") if how == "click" else print(f"line {number}")

run_command(command, "printer")
"""
SLEEPER = """
import time, click
from vgg_deploy.cli.entry import run_command

@click.command()
def command():
    click.echo("ready")
    time.sleep(60)

run_command(command, "sleeper")
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command whose body is `action`, on `arguments`; gives its exit code and what it wrote."""

    def run(action: Callable[[], Any], *arguments: str) -> tuple[int, str, str]:
        @click.command()
        @click.option("--count", type=int)
        def command(count: int | None) -> Any:
            return action()

        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_command(command, "program")
        return (int(stop.value.code or 0), *capfd.readouterr())

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def start(*command: str) -> subprocess.Popen[str]:
    root = str(Path(vgg_deploy.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_work_done_exits_0(run: Callable[..., Any]) -> None:
    assert run(lambda: click.echo("result")) == (0, "result\n", "")


def test_a_command_may_return_its_exit_code(run: Callable[..., Any]) -> None:
    assert run(lambda: 1) == (1, "", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("the\n  message"), 2),
        (CheckpointError("the\tmessage"), 1),
        (EngineError("the message\n"), 1),
        (OutputError("the message"), 1),
    ],
)
def test_an_error_of_ours_is_one_line_on_stderr(run: Callable[..., Any], error: Exception, code: int) -> None:
    assert run(raising(error)) == (code, "", "Error: the message\n")


def test_a_missing_package_names_the_extra_and_exits_2(run: Callable[..., Any]) -> None:
    code, _, err = run(raising(MissingDependencyError("onnxruntime", "cpu", "ONNX Runtime")))
    assert code == 2
    assert "pip install '.[cpu]'" in err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "Error: out of memory\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out.csv"), "Error: out.csv: the disk is full\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out.csv"),
            "Error: out.csv: no permission to write there\n",
        ),
        (
            KeyError("fc6\nfc7"),
            "Error: unexpected KeyError: 'fc6\\nfc7'. This is a bug in vgg_deploy; add --debug to see where\n",
        ),
        (
            RuntimeError("first\n  second"),
            "Error: unexpected RuntimeError: first second. This is a bug in vgg_deploy; add --debug to see where\n",
        ),
    ],
)
def test_any_other_error_is_one_line_and_exits_1(run: Callable[..., Any], error: Exception, line: str) -> None:
    assert run(raising(error)) == (1, "", line)


@pytest.mark.parametrize("where", [("--debug",), ("--count", "3", "--debug"), ("--debug", "--count", "3")])
def test_debug_anywhere_shows_the_traceback_and_exits_alike(run: Callable[..., Any], where: tuple[str, ...]) -> None:
    code, out, err = run(raising(UsageError("the message")), *where)
    assert (code, out) == (2, "")
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].endswith("UsageError: the message")


def test_debug_on_the_command_line_prints_a_traceback_and_without_it_none() -> None:
    for arguments, shown in ((("--debug",), True), ((), False)):
        process = start("-m", "vgg_deploy", "info", "--crop", "225", *arguments)
        out, err = process.communicate(timeout=60)
        assert out == ""
        assert "multiples of 32" in err.splitlines()[-1]
        assert ("Traceback" in err) is shown
        assert (len(err.splitlines()) == 1) is not shown
        assert process.returncode == 2


@pytest.mark.parametrize(("arguments", "named"), [(("--no-such",), "--no-such"), (("--count", "x"), "'x'")])
def test_bad_options_exit_2(run: Callable[..., Any], arguments: tuple[str, ...], named: str) -> None:
    code, out, err = run(lambda: None, *arguments)
    assert (code, out) == (2, "")
    assert named in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_exits_130_and_says_so(run: Callable[..., Any], error: BaseException) -> None:
    code, out, err = run(raising(error))
    assert (code, out) == (130, "")
    assert err.split() == ["Interrupted."]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_an_interrupt_signal_exits_130_without_a_traceback() -> None:
    process = start("-c", SLEEPER)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.split() == ["Interrupted."]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
@pytest.mark.parametrize("how", ["click", "print"])
def test_a_closed_pipe_exits_141_without_a_message(how: str) -> None:
    process = start("-c", PRINTER, how)
    assert process.stdout.readline() == "line 1\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line_and_exits_1() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "vgg_deploy", "info"]
        finished = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert finished.returncode == 1
    assert finished.stderr == "Error: output: the disk is full\n"


@pytest.mark.parametrize(("argument", "begin"), [("-h", "Usage: vgg-deploy"), ("--version", "vgg-deploy")])
def test_help_and_version_exit_0(vgg_deploy_command: Callable[..., Any], argument: str, begin: str) -> None:
    finished = vgg_deploy_command(argument)
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith(begin)


def test_an_unknown_command_exits_2_by_name(vgg_deploy_command: Callable[..., Any]) -> None:
    finished = vgg_deploy_command("deploy")
    assert finished.code == 2
    assert "'deploy'" in finished.err
