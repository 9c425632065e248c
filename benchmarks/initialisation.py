"""What the paper says of initialisation and of scale jitter, on the built-in digits: E from random Gaussians, from Glorot and from a
trained A (section 3.1), and S drawn from a range against S fixed (section 4.1).

    python -m benchmarks.initialisation

Each line is a whole training of a network at an eighth of its width by `python -m train`, ten epochs; half a minute to a minute each on
two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.report import Figure, write

_TRAIN = ("-m", "train", "--data", "digits")


def _best(folder: Path, name: str, *options: str) -> tuple[float, int]:
    """The best validation top-1 of a training in 0..1, and its epoch."""
    command = [sys.executable, *_TRAIN, "--out", str(folder / name), *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    validated = [(epoch["val"]["top1"], epoch["epoch"]) for epoch in epochs if "val" in epoch]
    return max(validated, key=lambda pair: (pair[0], -pair[1]))


@click.command()
@click.option("--seed", default=0, show_default=True)
def main(seed: int) -> None:
    """Train each network once and write results/initialisation.{json,md}."""
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = ("--seed", str(seed))

        def add(what: str, run: str, *options: str) -> None:
            top1, epoch = _best(folder, run, *shared, *options)
            figures.append(Figure(what, f"{top1:.2%} (epoch {epoch})", "", (top1,)))
            click.echo(f"{what}: {figures[-1].value}", err=True)

        add("A from Glorot", "a", "--arch", "A")
        add("E from N(0, 0.01)", "gaussian", "--arch", "E", "--init", "gaussian")
        add("E from Glorot", "glorot", "--arch", "E", "--init", "glorot")
        add("E from the trained A", "from-a", "--arch", "E", "--init", f"a:{folder / 'a' / 'best.safetensors'}")
        add("A, S = 72 (fixed)", "fixed", "--arch", "A", "--train-scale", "72")
        add("A, S drawn from [72, 128]", "jitter", "--arch", "A", "--train-scale", "72,128")
    setting = (
        "Scanned digits, width / 8, crop 64, ten epochs, seed "
        + str(seed)
        + "; the best top-1 on 359 validation images (one image is "
        "0.28 points), by the central crop at S, or at the middle of its range."
    )
    click.echo(write("initialisation", "Initialisation and scale jitter", setting, figures))


if __name__ == "__main__":
    main()
