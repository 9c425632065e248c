"""What a file is, by its ending."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vgg_deploy.artifacts.kinds import CHECKPOINT, CHECKPOINT_SUFFIXES, ONNX, PLAN, kind_of, require_file
from vgg_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.plan", PLAN),
        ("a.engine", PLAN),
        ("a.onnx", ONNX),
        ("a.bin", CHECKPOINT),
        ("a.ckpt", CHECKPOINT),
        ("a.pth.tar", CHECKPOINT),
        ("a", ONNX),
        ("a.plan.json", ONNX),
    ],
)
def test_plans_and_checkpoints_have_endings_and_every_other_file_is_taken_for_onnx(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.onnx", "no such model; check the path (vgg-deploy export writes one)"),
        ("a.plan", "no such plan; check the path (vgg-deploy build MODEL.onnx writes one)"),
        ("a.pth", "no such checkpoint; check the path (train writes best.safetensors into a folder under runs/)"),
    ],
)
def test_a_missing_file_is_refused_and_the_message_says_how_one_is_made(
    name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path / name}: {message}")):
        require_file(tmp_path / name)
    (tmp_path / name).touch()
    require_file(tmp_path / name)


@pytest.mark.parametrize("ending", CHECKPOINT_SUFFIXES)
def test_every_command_calls_a_file_with_one_of_these_endings_a_checkpoint(ending: str, tmp_path: Path) -> None:
    from engines import open_engine
    from vgg_deploy.artifacts.description import describe

    path = tmp_path / f"model{ending}"
    assert kind_of(path) == CHECKPOINT
    for refuse in (open_engine, describe):
        with pytest.raises(UsageError, match=r"is a checkpoint.*vgg-deploy export --weights"):
            refuse(path)
