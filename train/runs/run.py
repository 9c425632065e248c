"""The folder of a training run: best.safetensors, last.safetensors, run.json, and until it finishes state.safetensors.

This module loads no torch, so that commands can look for a checkpoint without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from train.runs.lock import Lock
from train.runs.metrics import Epoch
from vgg_deploy.errors import UsageError
from vgg_deploy.files import make_folder, output_errors, whole_file

if TYPE_CHECKING:
    from train.runs.state import State

ROOT = Path("runs")
RECORD, BEST, LAST, STATE = "run.json", "best.safetensors", "last.safetensors", "state.safetensors"

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


class TrainingRun:
    """A run in progress. It makes its folder and keeps run.json up to date until the end of its `with` block.

    run.json has `status` (running, finished, interrupted or failed), `started` and `ended` (ISO 8601, UTC), `history`
    (the metrics of each epoch) and the given facts. After a failure it also has `reason`. It is replaced as a whole, so
    a reader never sees half of it. A killed run stays "running".

    Args:
        folder: for this run only; made with its parents.
        facts: further entries of run.json, as plain JSON: recipe, data and so on.
        resumed: continue the run that the folder holds.
        tensorboard: also write TensorBoard files.

    Attributes:
        best, last: checkpoints of the best and of the last epoch.
        state: what a resumed run continues from. None: it starts at the beginning.

    Raises:
        UsageError: the folder already holds a run, or another process trains in it.
        CheckpointError: the state of the run to resume is damaged.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], *, resumed: bool = False, tensorboard: bool = False
    ) -> None:
        held = [] if resumed else [name for name in (RECORD, BEST, LAST, STATE) if (folder / name).exists()]
        if held:
            raise UsageError(
                f"{folder} already holds a run ({', '.join(held)}); give another folder, or delete this one"
            )
        self.folder, self.best, self.last, self.tensorboard = folder, folder / BEST, folder / LAST, tensorboard
        with output_errors(folder / RECORD):
            make_folder(folder)
            try:
                self._lock = Lock(folder)
            except BlockingIOError:
                raise UsageError(
                    f"another process is training in {folder}; wait for it, or give another folder: --out"
                ) from None
        self.state: State | None = None
        before: dict[str, Any] = {}
        if resumed:
            for partial in folder.glob(".*.partial"):  # left behind if the run was killed
                partial.unlink(missing_ok=True)
            before = record_of(folder / RECORD) or {}
            if (folder / STATE).exists():
                from train.runs.state import read_state

                self.state = read_state(folder / STATE)
        self._record: dict[str, Any] = {"status": RUNNING, "started": before.get("started", _now()), **facts}
        if resumed:
            self._record["resumed"] = [*before.get("resumed", []), _now()]
        self._record["history"] = before.get("history", [])
        self._write()

    def record(self, history: Sequence[Epoch]) -> None:
        """Writes the epochs so far.

        Raises:
            OutputError: run.json cannot be written.
        """
        self._record["history"] = [asdict(epoch) for epoch in history]
        self._write()

    def save(self, state: State) -> None:
        """Writes the state that a resumed run continues from.

        Raises:
            OutputError: it cannot be written.
        """
        from train.runs.state import save_state

        save_state(self.folder / STATE, state)

    def failed(self, reason: str) -> None:
        """Writes the failure to run.json, for a process that ends before its `with` block does."""
        self._record |= {"status": FAILED, "ended": _now(), "reason": reason}
        self._write()

    def _write(self) -> None:
        with whole_file(self.folder / RECORD) as temporary:
            temporary.write_text(
                json.dumps(self._record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._end(error)
        finally:
            self._lock.release()

    def _end(self, error: BaseException | None) -> None:
        self._record["ended"] = _now()
        if error is None:
            self._record["status"] = FINISHED
            self._write()
            (self.folder / STATE).unlink(missing_ok=True)  # twice as large as the weights, and no longer needed
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        self._record |= {"status": INTERRUPTED if interrupted else FAILED, "reason": str(error)}
        try:
            self._write()
        except Exception as second:  # noqa: BLE001 - such as a full disk; the first error is reported
            error.add_note(f"run.json could not be updated either: {second}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_folder(root: Path, name: str) -> Path:
    """Makes root/NAME-DATE-TIME, such as runs/vgg11-20261122-150301, with -2, -3 ... appended if it exists.

    Raises:
        OutputError: it cannot be made.
    """
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        folder = root / (stem if number == 1 else f"{stem}-{number}")
        with output_errors(folder):
            root.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                continue
        return folder


def newest_unfinished(root: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> Path | None:
    """The folder of the unfinished run under `root` that started last and whose run.json is `wanted`, if there is one.

    Args:
        wanted: gets the content of run.json. If it raises KeyError or TypeError, the run is not wanted.
    """
    newest: tuple[datetime, Path] | None = None
    for path in root.glob(f"*/{RECORD}"):
        record = record_of(path)
        if record is None:
            continue
        try:
            if record["status"] == FINISHED:
                continue
            when = datetime.fromisoformat(record["started"]).astimezone(UTC)
            if wanted(record) and (newest is None or when > newest[0]):
                newest = when, path.parent
        except (ValueError, KeyError, TypeError):
            continue
    return newest[1] if newest else None


def record_of(path: Path) -> dict[str, Any] | None:
    """The content of a run.json. None: it cannot be read."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
