from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from train.data.digits import write_digits
from train.data.folder import read_folder
from vgg_deploy.errors import OutputError, UsageError
from vgg_deploy.views.images import decode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    write_digits(folder)
    return folder


def test_the_set_is_a_data_folder_of_ten_classes(folder: Path):
    data = read_folder(folder)
    assert [name.id for name in data.classes] == [str(digit) for digit in range(10)]
    assert len(data.train) + len(data.val) == 1797


def test_a_fifth_of_each_class_is_for_validation(folder: Path):
    data = read_folder(folder)
    of_each = np.bincount(data.train.targets) + np.bincount(data.val.targets)
    assert np.bincount(data.val.targets).tolist() == [round(count / 5) for count in of_each]


def test_no_scan_is_in_both_splits(folder: Path):
    train, val = ({path.name for path in folder.glob(f"{split}/*/*.png")} for split in ("train", "val"))
    assert len(train | val) == 1797


def test_the_images_have_64_pixels_and_bright_ink_on_black(folder: Path):
    pixels = decode(next(iter(sorted(folder.glob("train/0/*.png")))))
    assert pixels.shape == (64, 64, 3)
    assert pixels.max() > 200
    assert np.median(pixels[:, :4]) == 0


def test_the_same_images_are_written_each_time(folder: Path, tmp_path: Path):
    write_digits(tmp_path / "again")
    for path in sorted(folder.glob("val/7/*.png")):
        assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_an_existing_set_is_kept(folder: Path):
    image = next(folder.glob("val/*/*.png"))
    before = image.stat().st_mtime_ns
    write_digits(folder)
    assert image.stat().st_mtime_ns == before


def test_an_incomplete_set_is_refused_and_not_changed(tmp_path: Path):
    (tmp_path / "data" / "train" / "3").mkdir(parents=True)
    (tmp_path / "data" / "train" / "3" / "0001.png").touch()
    with pytest.raises(UsageError, match="has 1 of the 1,797 digits; delete or rename it"):
        write_digits(tmp_path / "data")
    assert (tmp_path / "data" / "train" / "3" / "0001.png").exists()


def test_nothing_is_left_behind_if_the_set_cannot_be_written_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write_digits(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_inside_a_file_is_an_output_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_digits(tmp_path / "file" / "data")
