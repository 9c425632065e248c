from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from train.runs.finished import FinishedRun, finished_runs, newest_finished
from train.runs.metrics import Epoch, Metrics
from train.runs.run import TrainingRun
from vgg_deploy.errors import TrainingError

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def finish(folder: Path, **facts: Any) -> Path:
    with TrainingRun(folder, facts) as run:
        run.best.write_bytes(b"weights")
    return run.best


def fail(folder: Path) -> None:
    with TrainingRun(folder, {}) as run:
        run.best.write_bytes(b"weights")
        raise TrainingError("the loss became nan")


def with_accuracies(*accuracies: float, **facts: Any) -> FinishedRun:
    """A run with an epoch of each validation top-1."""
    history = [{"val": {"top1": top1}} for top1 in accuracies]
    return FinishedRun(Path("runs/a"), NOW, {"history": history, **facts})


def test_the_newest_finished_run_is_the_one_that_ended_last(tmp_path: Path):
    finish(tmp_path / "b")
    last = finish(tmp_path / "a")
    assert newest_finished(tmp_path).checkpoint == last


def test_only_finished_runs_with_a_checkpoint_count(tmp_path: Path):
    finished = finish(tmp_path / "first")
    with pytest.raises(TrainingError):
        fail(tmp_path / "failed")
    finish(tmp_path / "lost").unlink()
    TrainingRun(tmp_path / "running", {}).best.write_bytes(b"weights")
    assert newest_finished(tmp_path).checkpoint == finished


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "finished", "ended": "yesterday"}', '{"ended": 3}'])
def test_a_run_whose_record_cannot_be_read_does_not_count(tmp_path: Path, text: str):
    assert newest_finished(tmp_path / "runs") is None
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text(text)
    (tmp_path / "odd" / "best.safetensors").touch()
    assert newest_finished(tmp_path) is None


def test_finished_runs_come_newest_first(tmp_path: Path):
    finish(tmp_path / "b")
    finish(tmp_path / "c")
    finish(tmp_path / "a")
    assert [run.folder.name for run in finished_runs(tmp_path)] == ["a", "c", "b"]


def test_the_configuration_selects_runs(tmp_path: Path):
    for name in ("A", "B"):
        finish(tmp_path / name, recipe={"spec": {"configuration": name}})
    assert newest_finished(tmp_path, "A").folder.name == "A"
    assert newest_finished(tmp_path, "E") is None


def test_a_record_states_accuracy_of_the_best_epoch(tmp_path: Path):
    with TrainingRun(tmp_path / "run", {"data": "cats"}) as run:
        run.best.write_bytes(b"weights")
        metrics = [Metrics(1.0, top1, 1.0) for top1 in (0.5, 0.75, 0.6)]
        run.record([Epoch(n, n, 0.01, each, each, 1.0, 1.0) for n, each in enumerate(metrics, 1)])
    finished = newest_finished(tmp_path)
    assert finished.top1 == 0.75
    assert finished.summary() == "top-1 75.00% on cats, less than a minute old"


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (timedelta(seconds=-5), "less than a minute"),
        (timedelta(seconds=61), "1 minute"),
        (timedelta(minutes=119), "1 hour"),
        (timedelta(hours=50), "2 days"),
    ],
)
def test_the_age_is_in_the_largest_unit(age: timedelta, words: str):
    run = with_accuracies(0.5, data="cats")
    assert run.summary(NOW + age) == f"top-1 50.00% on cats, {words} old"


@pytest.mark.parametrize(
    ("top1", "validation", "learned"),
    [
        (0.05, {"images": 359, "largest_share": 0.1}, False),
        (
            0.12,
            {"images": 359, "largest_share": 0.1},
            False,
        ),  # 43 of 359: with a share of 0.1, guessing reaches this in 12 of 100
        (0.17, {"images": 359, "largest_share": 0.1}, True),
        (0.94, {"images": 100, "largest_share": 0.94}, False),
        (0.98, {"images": 1000, "largest_share": 0.94}, True),
        (0.002, {"images": 50_000, "largest_share": 0.001}, True),
        (1.0, {"images": 3, "largest_share": 0.5}, True),  # all are right, and there are no more
    ],
)
def test_a_run_has_learned_if_guessing_would_hardly_reach_its_accuracy(
    top1: float, validation: dict[str, float], learned: bool
):
    assert with_accuracies(0.01, top1, validation=validation).learned is learned


@pytest.mark.parametrize(("top1", "learned"), [(0.09, False), (0.1, False), (0.13, True)])
def test_an_old_record_is_judged_by_its_classes(top1: float, learned: bool):
    assert with_accuracies(top1, classes=list("0123456789")).learned is learned


@pytest.mark.parametrize("record", [{}, {"history": []}, {"history": [{}]}, {"history": [{"val": {"top1": 0.1}}]}])
def test_a_record_that_states_too_little_is_not_judged(record: dict[str, Any]):
    run = FinishedRun(Path("runs/a"), NOW, record)
    assert run.learned is None
    assert "on unknown data" in run.summary(NOW)
