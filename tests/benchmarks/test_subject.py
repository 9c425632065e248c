"""The data that benchmarks measure on. Nothing is measured on images that calibrated INT8."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from PIL import Image

from benchmarks import data
from benchmarks.data import DATA_VARIABLE, data_folder
from benchmarks.subject import ImageCollection, Setup, pictures


@pytest.fixture
def data_beside_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ../shared/data; the variable is not set."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setattr(data, "BESIDE", tmp_path / "shared" / "data")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    return tmp_path / "shared" / "data"


def test_data_beside_the_project_is_found_without_a_variable(data_beside_project: Path) -> None:
    assert data_folder() == data_beside_project
    assert Setup().data == data_beside_project


def test_the_variable_comes_first_and_an_empty_one_means_no_data(
    data_beside_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.setenv(DATA_VARIABLE, "")
    assert data_folder() is None


def test_without_a_folder_beside_the_project_there_is_no_data(data_beside_project: Path) -> None:
    data_beside_project.rmdir()
    assert data_folder() is None


def test_a_variable_that_names_no_folder_is_bad_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(click.UsageError, match="absent, which is not a folder"):
        _ = Setup().data


def test_requested_images_are_used_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, "")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").touch()
    requested = pictures(Setup(images=tmp_path / "mine"), tmp_path)
    assert [path.name for path in requested.paths] == ["a.png"]
    assert requested.described(2) == "2 photographs of mine/"


def test_without_data_and_images_pictures_are_generated_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv(DATA_VARIABLE, "")
    generated = pictures(Setup(), tmp_path)
    assert len(generated.paths) > 32
    assert "generated pictures (noise and scanned digits)" in generated.kind
    assert "measuring on generated pictures" in capsys.readouterr().err


@pytest.mark.parametrize(("images", "wanted", "expected"), [(91, 8, 8), (91, 1, 1), (10, 8, 5), (2, 8, 1), (3, 2, 1)])
def test_no_image_is_both_measured_on_and_calibrated_with(images: int, wanted: int, expected: int) -> None:
    paths = [Path(f"{index:02d}.jpg") for index in range(images)]
    checked = [Path("00.jpg"), Path("labelled.jpg")]
    drawn = ImageCollection(paths, "photographs").draw(wanted, checked)
    assert len(drawn.measured) == expected
    assert drawn.calibration
    assert not {*drawn.measured, *checked} & {*drawn.calibration}
    assert drawn.name == ("1 photograph" if expected == 1 else f"{expected} photographs")


def test_a_single_image_also_calibrates_and_the_text_says_so() -> None:
    drawn = ImageCollection([Path("only.jpg")], "photographs").draw(6)
    assert drawn.measured == drawn.calibration
    assert drawn.name == "1 photograph (INT8 was calibrated on the same images, since there are no others)"


def test_images_of_new_sizes_come_before_others_of_the_same_size(tmp_path: Path) -> None:
    for index, size in enumerate([(4, 3), (4, 3), (4, 3), (3, 4), (3, 4), (5, 5)]):
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    photos = ImageCollection(sorted(tmp_path.iterdir()), "photographs")
    assert [path.stem for path in photos.of_different_sizes(3)] == ["0", "3", "5"]
    assert [path.stem for path in photos.of_different_sizes(2)] == ["0", "3"]
    assert len(photos.of_different_sizes(6)) == 3  # the other half calibrates
