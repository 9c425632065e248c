"""Notices that say whether files were verified."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vgg_deploy.cli.tables import notice


def say_verdicts(paths: Iterable[Path]) -> None:
    """Prints one line for each ONNX file and plan with a manifest: when it was verified, or that it never was.

    A file with a verdict is read whole, to see whether it was changed since. Its time of change and size would cost
    less, but copies change the one and edits keep the other. The runtime reads the same bytes next, then from memory.

    Raises:
        ModelFileError, PlanError, ManifestError: a file or its manifest is damaged.
    """
    from vgg_deploy.artifacts.verdict_record import verdict_line

    for path in dict.fromkeys(paths):
        line = verdict_line(path)
        if line is not None:
            notice(f"{path.name}: {line.text}")
