from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from train.runs.metrics import Epoch, Metrics
from train.runs.run import TrainingRun, new_folder
from vgg_deploy.errors import OutputError, TrainingError, UsageError

EPOCH = Epoch(1, 4, 0.01, Metrics(2.0, 0.2, 0.6), Metrics(1.5, 0.4, 0.8), 12.0, 100.0)


def record_of(folder: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((folder / "run.json").read_text())
    return record


def fail(folder: Path) -> None:
    with TrainingRun(folder, {}) as run:
        run.best.write_bytes(b"weights")
        raise TrainingError("the loss became nan")


def test_a_run_is_running_until_its_end_and_then_finished(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()  # other files may be there
    with TrainingRun(tmp_path / "run", {"data": "cats"}) as run:
        run.record([EPOCH])
        record = record_of(run.folder)
        assert (record["status"], record["data"], record["history"]) == ("running", "cats", [asdict(EPOCH)])
    record = record_of(run.folder)
    assert record["status"] == "finished"
    assert str(record["started"]) < str(record["ended"])


def test_an_interrupted_run_is_recorded_as_interrupted(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), TrainingRun(tmp_path / "run", {}):
        raise KeyboardInterrupt
    assert record_of(tmp_path / "run")["status"] == "interrupted"


def test_a_failed_run_records_the_reason(tmp_path: Path):
    with pytest.raises(TrainingError):
        fail(tmp_path / "run")
    record = record_of(tmp_path / "run")
    assert (record["status"], record["reason"]) == ("failed", "the loss became nan")


def test_the_reason_of_a_failure_is_reported_even_if_the_record_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    run = TrainingRun(tmp_path / "run", {})
    monkeypatch.setattr(Path, "write_text", full)
    error = TrainingError("the loss became nan")
    run.__exit__(TrainingError, error, None)
    assert error.__notes__ == [
        f"run.json could not be updated either: cannot write {run.folder / 'run.json'}: the disk is full"
    ]
    assert record_of(tmp_path / "run")["status"] == "running"


@pytest.mark.parametrize("name", ["run.json", "best.safetensors", "last.safetensors"])
def test_a_folder_that_holds_a_run_is_refused_and_not_changed(tmp_path: Path, name: str):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"already holds a run \\({name}\\)"):
        TrainingRun(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        TrainingRun(tmp_path / "file" / "run", {})
    with pytest.raises(OutputError, match="cannot write"):
        new_folder(tmp_path / "file", "vgg11")


TAKE_RUN = """
import sys
from pathlib import Path
from train.runs.run import TrainingRun
from vgg_deploy.errors import UsageError
assert "torch" not in sys.modules
try:
    TrainingRun(Path(sys.argv[1]), {}, resumed=True)
    print("taken")
except UsageError as error:
    print(error)
"""


def test_one_process_at_a_time_trains_a_run(tmp_path: Path):
    def other_process() -> str:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
        command = [sys.executable, "-c", TAKE_RUN, str(tmp_path)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    with TrainingRun(tmp_path, {}):
        assert f"another process is training in {tmp_path}" in other_process()
    assert other_process() == "taken\n"
    assert other_process() == "taken\n"  # the one before left its lock file behind, as a killed process does


def test_folders_made_in_the_same_second_have_different_names(tmp_path: Path):
    folders = [new_folder(tmp_path / "runs", "vgg11") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.name.startswith("vgg11-2") for folder in folders)
