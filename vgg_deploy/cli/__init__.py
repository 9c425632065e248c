"""The command line: parse, build dataclasses, call the library, print.

Each command lives in a module of its own, imported when it is used, and imports what it needs in its body: `--help` loads
neither numpy nor any runtime.
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

# Command -> the module whose `command` it is, and the line that `--help` shows.
_COMMANDS = {
    "info": ("vgg_deploy.cli.info", "Layers, parameters, MACs and receptive fields of a configuration."),
    "train": ("train.__main__", "Train a network by the paper's recipe (the same as python -m train)."),
    "export": ("vgg_deploy.cli.export", "Write a checkpoint as a fully convolutional ONNX file."),
    "sensitivity": ("vgg_deploy.cli.sensitivity", "What INT8 costs, layer by layer."),
    "verify": ("vgg_deploy.cli.verify", "Prove that ONNX files answer as their reference does."),
    "build": ("vgg_deploy.cli.build", "Build a TensorRT plan of an ONNX file."),
    "inspect": ("vgg_deploy.cli.inspect", "What an ONNX file or a plan is, without a GPU."),
    "infer": ("vgg_deploy.cli.infer.command", "Classify images by the paper's dense multi-scale test."),
    "eval": ("vgg_deploy.cli.eval.command", "Top-1 and top-5 error on labelled images, by test protocol."),
    "bench": ("vgg_deploy.cli.bench.command", "Speed, memory and agreement of engines, side by side in one run."),
    "features": ("vgg_deploy.cli.features", "Describe images by fc7, for other classifiers."),
    "doctor": ("vgg_deploy.cli.doctor", "What is installed, and which engines can run here."),
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
    """VGG networks from training to production, with parity proved at each step.

    --debug, anywhere, shows the traceback of an error.
    """


def main() -> NoReturn:
    """Entry point of the console script."""
    _own_packages_first()
    # At its end Python looks through all objects for cycles, which doubles the time that it takes to exit.
    atexit.register(gc.freeze)
    run_command(cli, "vgg-deploy")


def _own_packages_first() -> None:
    """A folder may have a train.py or an export/ of its own, and be on the path (PYTHONPATH=., python -m): ours are meant."""
    home = Path(__file__).resolve().parents[2]
    for name in ("train", "export", "engines"):
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None or Path(found.origin).resolve().parent.parent != home:
            sys.path.insert(0, str(home))
            return
