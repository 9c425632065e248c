"""The folder of a training run: best.safetensors, last.safetensors and run.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vgg_deploy.errors import UsageError
from vgg_deploy.files import output_errors, whole_file

ROOT = Path("runs")
RECORD, BEST, LAST = "run.json", "best.safetensors", "last.safetensors"

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


class Run:
    """A run that is going on: makes its folder, and keeps run.json up to date until the end of its `with` block.

    run.json has `status` (running, finished, interrupted or failed), `started` and `ended` (ISO 8601, UTC), `reason` (of a
    failure), `history` (a line of figures an epoch) and the facts given. It is written whole, so a reader never sees a half;
    a run that was killed stays "running".

    Args:
        folder: of this run alone; made with its parents.
        facts: what else run.json says: recipe, data and so on, as plain JSON.

    Raises:
        UsageError: the folder holds a run already.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        held = [name for name in (RECORD, BEST, LAST) if (folder / name).exists()]
        if held:
            raise UsageError(
                f"{folder} already holds a run ({', '.join(held)}); name another folder, or delete this one"
            )
        self.folder, self.best, self.last = folder, folder / BEST, folder / LAST
        self._record: dict[str, Any] = {"status": RUNNING, "started": _now(), **facts, "history": []}
        self._write()

    def add(self, epoch: Mapping[str, Any]) -> None:
        """Writes one more line of history.

        Raises:
            OutputError: run.json cannot be written.
        """
        self._record["history"].append(dict(epoch))
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
        self._record["ended"] = _now()
        if error is None:
            self._record["status"] = FINISHED
            self._write()
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        self._record |= {"status": INTERRUPTED if interrupted else FAILED, "reason": str(error)}
        try:
            self._write()
        except Exception as second:  # noqa: BLE001 - on a full disk, say; the first error is the one to tell
            error.add_note(f"run.json could not be brought up to date either: {second}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_folder(root: Path, name: str) -> Path:
    """Makes root/NAME-DATE-TIME, such as runs/vgg11-20261122-150301, or with -2, -3 ... where that is taken.

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


def newest_finished(root: Path, configuration: str | None = None) -> Path | None:
    """best.safetensors of the run under `root` that finished last; None: there is none.

    Args:
        root: the folder of runs.
        configuration: only runs of this column of Table 1; None: of any.

    Runs that go on, failed or were stopped do not count, nor do folders whose run.json cannot be read.
    """
    newest: tuple[datetime, Path] | None = None
    for record in root.glob(f"*/{RECORD}"):
        best = record.parent / BEST
        try:
            run = json.loads(record.read_text("utf-8"))
            ended = datetime.fromisoformat(run["ended"]).astimezone(UTC)
            finished = run["status"] == FINISHED and best.is_file()
            if configuration is not None:
                finished = finished and run["recipe"]["spec"]["configuration"] == configuration
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if finished and (newest is None or ended > newest[0]):
            newest = ended, best
    return newest[1] if newest else None
