"""metrics.jsonl of a run: lines of JSON for steps and epochs. On request, TensorBoard gets the same metrics."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from train.runs.metrics import Epoch
from vgg_deploy.errors import UsageError
from vgg_deploy.files import output_errors, whole_file

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
STEPS_PER_LINE = 50


def check_tensorboard() -> None:
    """Raises UsageError if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs tensorboard, which is not installed: pip install tensorboard")


class MetricsLog:
    """Writes the metrics of a run as they arrive.

    The line of a step has `epoch`, `step`, `learning_rate` and the mean `loss` of its batch. The line of an epoch has
    the fields of `train.runs.metrics.Epoch`, with `epoch` and `step` for its number and steps. Lines that a killed run
    wrote after its last checkpoint are removed, since the resumed run writes them again.

    Args:
        folder: the folder of the run.
        step: the number of finished steps.
        history: the finished epochs.
        tensorboard: also write TensorBoard files.
    """

    def __init__(self, folder: Path, step: int, history: Iterable[Epoch], *, tensorboard: bool = False) -> None:
        self._path = folder / METRICS
        epochs = [_line(epoch) for epoch in history]
        with whole_file(self._path) as temporary:
            lines = sorted([*self._steps_until(step), *epochs], key=lambda line: (line["step"], "val" in line))
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        self._writer: Any = None
        if tensorboard:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)

    def _steps_until(self, step: int) -> list[dict[str, Any]]:
        lines = []
        if self._path.exists():
            for text in self._path.read_text("utf-8").splitlines():
                try:
                    line = json.loads(text)
                    if "val" not in line and line["step"] <= step:
                        lines.append(line)
                except (ValueError, KeyError, TypeError):  # cut off when the run was killed
                    continue
        return lines

    def step(self, epoch: int, step: int, learning_rate: float, loss: float) -> None:
        """Writes a line if `step` is a multiple of `STEPS_PER_LINE`."""
        if step % STEPS_PER_LINE == 0:
            self._write({"epoch": epoch, "step": step, "learning_rate": learning_rate, "loss": loss})

    def epoch(self, epoch: Epoch) -> None:
        """Writes the line of an epoch."""
        self._write(_line(epoch))

    def _write(self, line: Mapping[str, Any]) -> None:
        with output_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is None:
            return
        for name, value in line.items():
            if isinstance(value, Mapping):
                for metric, number in value.items():
                    self._writer.add_scalar(f"{metric}/{name}", number, line["step"])
            elif name not in ("epoch", "step"):
                self._writer.add_scalar("loss/step" if name == "loss" else name, value, line["step"])
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _line(epoch: Epoch) -> dict[str, Any]:
    plain = asdict(epoch)
    return {"epoch": plain.pop("number"), "step": plain.pop("steps"), **plain}
