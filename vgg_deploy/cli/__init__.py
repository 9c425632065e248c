"""The command line: parse, build dataclasses, call the library, print.

Each command is a module, imported when it is used. Heavy packages are imported inside function bodies, so `--help`
loads neither numpy nor any runtime.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

import click

from vgg_deploy.cli.entry import run_command
from vgg_deploy.version import __version__

# Command -> the module that defines `command`, and the line that `--help` shows.
_COMMANDS = {
    "info": ("vgg_deploy.cli.info", "Show layers, parameters, MACs and receptive fields of a configuration."),
    "train": ("train.__main__", "Train a network by the paper's recipe; the same as python -m train."),
    "export": ("vgg_deploy.cli.export", "Write a network as a fully convolutional ONNX file."),
    "probe": ("vgg_deploy.cli.probe", "Find out how a foreign checkpoint takes its pixels, on labelled images."),
    "sensitivity": ("vgg_deploy.cli.sensitivity", "Show what INT8 costs, layer by layer."),
    "verify": ("vgg_deploy.cli.verify.command", "Prove that ONNX files and plans answer as the trained network does."),
    "build": ("vgg_deploy.cli.build", "Build a TensorRT plan from an ONNX file."),
    "inspect": ("vgg_deploy.cli.inspect", "Show what an ONNX file or a plan contains. Needs no GPU."),
    "infer": ("vgg_deploy.cli.infer.command", "Classify images by the paper's dense multi-scale test."),
    "eval": ("vgg_deploy.cli.eval.command", "Measure top-1 and top-5 error on labelled images, by test protocol."),
    "bench": ("vgg_deploy.cli.bench.command", "Compare speed, memory and agreement of engines in one run."),
    "features": ("vgg_deploy.cli.features", "Extract fc7 descriptors of images, as input for other classifiers."),
    "doctor": ("vgg_deploy.cli.doctor", "Show what is installed and which engines can run here."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_module, line) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vgg-deploy")
def cli() -> None:
    """Train VGG networks, export them, and run them fast. Each step proves that the predictions stay the same.

    Add --debug to any command to see the traceback of an error.
    """


def main() -> NoReturn:
    """Entry point of the console script."""
    _own_packages_first()
    # Without this, Python searches all objects for cycles at exit, which doubles the time of exiting.
    atexit.register(gc.freeze)
    run_command(cli, "vgg-deploy")


def _own_packages_first() -> None:
    """Puts our packages first on the path, because a user's folder may have its own train.py or export/."""
    home = Path(__file__).resolve().parents[2]
    for name in ("train", "export", "engines"):
        package = importlib.util.find_spec(name)
        if package is None or package.origin is None or Path(package.origin).resolve().parent.parent != home:
            sys.path.insert(0, str(home))
            return
