"""curves.png of a run: loss and error of training and validation by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from train.runs.metrics import Epoch
from vgg_deploy.errors import OutputError
from vgg_deploy.files import whole_file
from vgg_deploy.install import install_command

CURVES = "curves.png"


def draw_curves(folder: Path, history: Sequence[Epoch]) -> str | None:
    """Draws the curves of a run into its folder with matplotlib. Returns the reason if that fails, else None.

    A missing picture does not stop a training.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return f"matplotlib is not installed: {install_command('train')}"
    epochs = [epoch.number for epoch in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, error = figure.subplots(1, 2)
    loss.plot(epochs, [epoch.train.loss for epoch in history], label="train (with dropout)")
    loss.plot(epochs, [epoch.val.loss for epoch in history], label="val")
    loss.set_ylabel("cross-entropy, nats")
    error.plot(epochs, [100 * (1 - epoch.train.top1) for epoch in history], label="train top-1 (with dropout)")
    error.plot(epochs, [100 * (1 - epoch.val.top1) for epoch in history], label="val top-1")
    error.plot(epochs, [100 * (1 - epoch.val.top5) for epoch in history], label="val top-5", linestyle="--")
    error.set_ylabel("error, %")
    for axes in (loss, error):
        for before, after in pairwise(history):
            if after.learning_rate != before.learning_rate:
                axes.axvline(before.number + 0.5, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel("epoch (dotted: learning rate divided by 10)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.legend()
    try:
        with whole_file(folder / CURVES) as temporary:
            FigureCanvasAgg(figure).print_png(str(temporary))  # type: ignore[no-untyped-call]
    except OutputError as reason:
        return str(reason)
    return None
