"""metrics.jsonl, TensorBoard's files and curves.png."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from train.runs.curves import draw_curves
from train.runs.metrics import Epoch, Metrics
from train.runs.metrics_log import MetricsLog, check_tensorboard
from vgg_deploy.errors import UsageError

EPOCH = Epoch(1, 60, 0.01, Metrics(2.0, 0.2, 0.6), Metrics(1.5, 0.4, 0.8), 12.0, 100.0)
SECOND = replace(EPOCH, number=2, steps=120, learning_rate=0.001)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def log_steps(folder: Path, first: int, last: int) -> None:
    """Logs steps, and epochs of 60 steps, until step `last`."""
    with MetricsLog(folder, first, [EPOCH] if first >= 60 else []) as metrics:
        for step in range(first + 1, last + 1):
            metrics.step(1 + (step - 1) // 60, step, 0.01, 1 / step)
            if step == 60:
                metrics.epoch(EPOCH)


def test_every_fiftieth_step_and_each_epoch_is_a_line(tmp_path: Path):
    log_steps(tmp_path, 0, 110)
    assert lines(tmp_path)[0] == {"epoch": 1, "step": 50, "learning_rate": 0.01, "loss": 0.02}
    assert lines(tmp_path)[1]["val"] == {"loss": 1.5, "top1": 0.4, "top5": 0.8}
    assert [line["step"] for line in lines(tmp_path)] == [50, 60, 100]


@pytest.mark.parametrize("checkpoint", [0, 49, 50, 60, 99, 105])
def test_lines_after_the_last_checkpoint_are_not_written_twice(tmp_path: Path, checkpoint: int):
    log_steps(tmp_path, 0, 110)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # cut off by a kill
    log_steps(tmp_path, checkpoint, 110)
    assert [line["step"] for line in lines(tmp_path)] == [50, 60, 100]


def test_if_tensorboard_is_missing_the_error_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match="--tensorboard needs tensorboard, which is not installed: pip install tensorboard"
    ):
        check_tensorboard()


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_the_same_metrics(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path, 0, [], tensorboard=True) as metrics:
        metrics.step(1, 50, 0.01, 0.5)
        metrics.epoch(EPOCH)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss/step")] == [0.5]
    [top1] = events.Scalars("top1/val")
    assert (top1.step, top1.value) == (60, pytest.approx(0.4))


def test_the_curves_are_a_picture(tmp_path: Path):
    pytest.importorskip("matplotlib")
    assert draw_curves(tmp_path, [EPOCH, SECOND]) is None
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 600
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_without_matplotlib_the_reason_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert (
        draw_curves(tmp_path, [EPOCH]) == "matplotlib is not installed: pip install '.[train]' in a clone of vgg_deploy"
    )
    assert list(tmp_path.iterdir()) == []


def test_if_the_picture_cannot_be_written_the_reason_is_returned(tmp_path: Path):
    pytest.importorskip("matplotlib")
    (tmp_path / "curves.png").mkdir()
    reason = draw_curves(tmp_path, [EPOCH])
    assert "curves.png" in reason
