"""What benchmarks measure on: where real data is found, and that nothing is measured on what calibrated INT8."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from benchmarks import data
from benchmarks.data import DATA_VARIABLE, data_folder
from benchmarks.subject import Pictures, Setup, pictures


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where ../shared/data would be; the variable is not set."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(data, "BESIDE", tmp_path / "shared" / "data")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    return tmp_path / "shared" / "data"


def test_data_beside_the_project_is_found_without_a_variable(beside: Path) -> None:
    assert data_folder() == beside
    assert Setup().data == beside


def test_the_variable_wins_and_set_to_nothing_there_is_no_data(
    beside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setenv(DATA_VARIABLE, "")
    assert data_folder() is None


def test_where_there_is_none_beside_the_project_there_is_no_data(beside: Path) -> None:
    beside.rmdir()
    assert data_folder() is None


def test_a_variable_that_names_no_folder_is_bad_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(click.UsageError, match="absent, which is not a folder"):
        _ = Setup().data


def test_images_that_are_asked_for_are_measured_on_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").touch()
    found = pictures(Setup(images=tmp_path / "mine"), tmp_path)
    assert [path.name for path in found.paths] == ["a.png"]
    assert found.words == "photographs of mine/"


def test_without_data_and_images_pictures_are_generated_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv(DATA_VARIABLE, "")
    found = pictures(Setup(), tmp_path)
    assert len(found.paths) > 32
    assert "generated pictures (noise and scanned digits)" in found.words
    assert "on generated pictures" in capsys.readouterr().err


@pytest.mark.parametrize(("images", "wanted", "expected"), [(91, 8, 8), (91, 1, 1), (10, 8, 5), (2, 8, 1), (3, 2, 1)])
def test_no_image_is_both_measured_on_and_calibrated_with(images: int, wanted: int, expected: int) -> None:
    paths = [Path(f"{index:02d}.jpg") for index in range(images)]
    checked = [Path("00.jpg"), Path("labelled.jpg")]
    drawn = Pictures(paths, "photographs").draw(wanted, checked)
    assert len(drawn.measured) == expected
    assert drawn.calibration
    assert not {*drawn.measured, *checked} & {*drawn.calibration}
    assert drawn.words == f"{expected} photographs"


def test_a_single_image_calibrates_too_and_that_is_said() -> None:
    drawn = Pictures([Path("only.jpg")], "photographs").draw(6)
    assert drawn.measured == drawn.calibration
    assert drawn.words == "1 photographs, on which INT8 was calibrated too: there are no others"
