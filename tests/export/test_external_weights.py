"""Weights in a file beside the ONNX file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import RUNTIMES, open_engine
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import ModelFileError

Command = Callable[..., Any]


@pytest.fixture
def export(vgg_deploy_command: Command, narrow_checkpoint: Callable[..., Path], tmp_path: Path) -> Command:
    """`export(*options, name="model.onnx", **checkpoint)` -> the file."""

    def run(*options: str, name: str = "model.onnx", **checkpoint: Any) -> Path:
        path = tmp_path / name
        weights = narrow_checkpoint("A", **checkpoint)
        done = vgg_deploy_command("export", "--weights", str(weights), "--dynamic", "-o", str(path), *options)
        assert done.code == 0, done.err
        return path

    return run


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("precision", [(), ("--fp16",)])
def test_answers_are_those_of_one_file(precision: tuple[str, ...], runtime: str, export: Command) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    together, apart = export(*precision), export(*precision, "--external-data", name="apart.onnx")
    (weights,) = OnnxFile(apart).external_files
    assert weights.stat().st_size > apart.stat().st_size
    images = np.random.default_rng(1).integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)
    with open_engine(together, runtime=runtime) as whole, open_engine(apart, runtime=runtime) as split:
        np.testing.assert_array_equal(whole.run(images).probabilities, split.run(images).probabilities)


def test_a_new_export_replaces_both_files(export: Command, tmp_path: Path) -> None:
    (first,) = OnnxFile(export("--external-data")).external_files
    (same,) = OnnxFile(export("--external-data")).external_files
    assert same == first
    (second,) = OnnxFile(export("--external-data", seed=9)).external_files
    assert second != first
    assert {path.name for path in tmp_path.glob("model*")} == {"model.onnx", second.name}
    assert OnnxFile(export()).external_files == ()
    assert {path.name for path in tmp_path.glob("model*")} == {
        "model.onnx",
        second.name,
    }  # only files with such a name are removed


def test_a_failed_export_leaves_the_older_pair(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_of_both: Callable[[Path], np.ndarray]
) -> None:
    path = export("--external-data")
    expected, names = images_of_both(path), sorted(file.name for file in tmp_path.glob("model*"))

    def fail(*_words: object) -> None:
        raise ModelFileError("found out late")

    monkeypatch.setattr("export.exporter._check", fail)
    with pytest.raises(AssertionError, match="found out late"):
        export("--external-data", seed=9)
    assert sorted(file.name for file in tmp_path.glob("model*")) == names
    np.testing.assert_array_equal(images_of_both(path), expected)


@pytest.fixture
def images_of_both() -> Callable[[Path], np.ndarray]:
    """The answers of a file."""

    def answer(path: Path) -> np.ndarray:
        with open_engine(path) as engine:
            return engine.run(np.full((1, 64, 64, 3), 90, np.uint8)).probabilities

    return answer


def test_both_files_can_be_moved_and_one_alone_is_refused(export: Command, tmp_path: Path) -> None:
    path = export("--external-data")
    (weights,) = OnnxFile(path).external_files
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(path, tmp_path / "elsewhere"))
    with pytest.raises(ModelFileError, match="which is missing from its folder; copy both files"):
        open_engine(moved)
    shutil.copy(weights, tmp_path / "elsewhere")
    open_engine(moved).close()
