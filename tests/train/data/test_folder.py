"""Data folders, and the batches that are read from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.compute.execution import Execution
from train.compute.processes import Processes
from train.data.crops import RESCALING, CentreCrops, TrainCrops
from train.data.folder import DataFolder, class_name, read_folder
from train.data.loader import BatchLoader
from train.data.survey import survey
from train.recipe import Recipe
from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.network.manifest import ClassName, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import decode, rescale

MakeFolder = Callable[..., Path]
RECIPE = Recipe(NetworkSpec("A", 64, crop=32, fc_width=4, classes=2), train_scale=TrainScale(32, 48), batch=3)


def epoch(
    data: DataFolder, number: int, recipe: Recipe = RECIPE, workers: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    crops = TrainCrops(data.train, recipe)
    batches = list(BatchLoader(crops, recipe.batch, Execution(workers=workers), shuffle_seed=recipe.seed).epoch(number))
    return torch.cat([batch.values for batch in batches]), torch.cat([batch.targets for batch in batches])


def test_classes_are_the_folders_in_sorted_order(data_folder: MakeFolder):
    data = read_folder(data_folder())
    assert data.classes == (ClassName("dark", "dark"), ClassName("light", "light"))
    assert data.train.targets.tolist() == [0] * 8 + [1] * 8
    assert data.train.path(9).parts[-3:] == ("train", "light", "01.png")
    assert len(data.val) == 8


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("n01440764_tench", "tench"),
        ("n01484850_great_white_shark", "great white shark"),
        ("n01440764", "n01440764"),
        ("golden_retriever", "golden_retriever"),
    ],
)
def test_a_word_net_number_is_not_part_of_the_label(folder: str, label: str):
    assert class_name(folder) == ClassName(folder, label)


def test_hidden_folders_and_files_that_are_not_images_are_skipped(data_folder: MakeFolder):
    folder = data_folder()
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "README.md").touch()
    (folder / "train" / "dark" / "Thumbs.db").touch()
    (folder / "val" / "dark" / "Thumbs.db").touch()
    data = read_folder(folder)
    assert len(data.train) == 16
    assert data.notice == f"found {len(data.train) + len(data.val)} images; passed over 2 .db"


def test_file_names_may_contain_non_ascii_characters(data_folder: MakeFolder):
    folder = data_folder(train=1)
    (folder / "train" / "dark" / "00.png").rename(folder / "train" / "dark" / "Übung 猫.png")
    assert decode(read_folder(folder).train.path(0)).shape == (40, 48, 3)


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no such folder; expected a folder of images for each class"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named_with_what_is_there(data_folder: MakeFolder, split: str):
    folder = data_folder()
    (folder / split).rename(folder / "other")
    with pytest.raises(UsageError, match=f"has no folder {split}/ .it has other"):
        read_folder(folder)


def test_a_split_without_class_folders_is_refused(tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    (tmp_path / "train" / "1.png").touch()
    with pytest.raises(UsageError, match=r"train has no class folders \(it has 1.png\)"):
        read_folder(tmp_path)


def test_classes_that_differ_between_the_splits_are_named(data_folder: MakeFolder):
    folder = data_folder()
    (folder / "val" / "light").rename(folder / "val" / "bright")
    with pytest.raises(UsageError, match=r"only train/ has light and only val/ has bright"):
        read_folder(folder)


def test_one_class_only_is_refused(data_folder: MakeFolder):
    folder = data_folder()
    for split in ("train", "val"):
        (folder / split / "light").rename(folder / f"put away {split}")
    with pytest.raises(UsageError, match="only one class, 'dark'; expected at least two"):
        read_folder(folder)


def test_a_class_folder_without_images_is_named(data_folder: MakeFolder):
    folder = data_folder()
    for path in (folder / "val" / "dark").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="val/dark: no image in this folder"):
        read_folder(folder)


def test_an_epoch_has_each_image_once_as_uint8_crops(data_folder: MakeFolder):
    crops, targets = epoch(read_folder(data_folder()), 1)
    assert crops.dtype == torch.uint8
    assert crops.shape == (16, 32, 32, 3)
    assert sorted(targets.tolist()) == [0] * 8 + [1] * 8
    assert ((crops.float().mean(dim=(1, 2, 3)) > 120) == (targets == 1)).all()


def test_crops_depend_on_seed_and_epoch_and_not_on_the_number_of_workers(data_folder: MakeFolder):
    data = read_folder(data_folder())
    crops, targets = epoch(data, 1)
    in_workers, their_targets = epoch(data, 1, workers=2)
    assert torch.equal(crops, in_workers)
    assert torch.equal(targets, their_targets)
    assert not torch.equal(crops, epoch(data, 2)[0])
    assert not torch.equal(crops, epoch(data, 1, replace(RECIPE, seed=1))[0])


def test_a_crop_is_a_window_of_the_rescaled_image_and_mirrored_about_half_of_the_time(data_folder: MakeFolder):
    data = read_folder(data_folder(train=1))
    recipe = replace(RECIPE, train_scale=TrainScale(40, 40))
    scaled = rescale(decode(data.train.path(0)), 40, RESCALING)
    windows = np.lib.stride_tricks.sliding_window_view(scaled, (32, 32, 3))[:, :, 0]
    corners, mirrors = set(), 0
    for number in range(60):
        sample = TrainCrops(data.train, recipe)[(number, 0)]
        straight = np.argwhere((windows == sample.values).all(axis=(2, 3, 4)))
        flipped = np.argwhere((windows == sample.values[:, ::-1]).all(axis=(2, 3, 4)))
        assert len(straight) + len(flipped) == 1
        corners.add(tuple((straight if len(straight) else flipped)[0].tolist()))
        mirrors += len(flipped)
    assert {top for top, _ in corners} == set(range(9))
    assert {left for _, left in corners} == set(range(17))
    assert 15 < mirrors < 45


def test_without_mirror_no_crop_is_mirrored(tmp_path: Path, data_folder: MakeFolder):
    data = read_folder(data_folder(train=1))
    ramp = np.broadcast_to(np.arange(48, dtype=np.uint8)[None, :, None] * 5, (40, 48, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(data.train.path(0))
    crops = TrainCrops(data.train, replace(RECIPE, mirror=False))
    for number in range(20):
        sample = crops[(number, 0)]
        assert sample.values[0, 0, 0] < sample.values[0, -1, 0]


def test_s_is_drawn_from_its_whole_range(tmp_path: Path, data_folder: MakeFolder):
    folder = data_folder(train=1, size=(32, 32))
    data = read_folder(folder)
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None] * 8, (32, 32, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(data.train.path(0))
    crops = TrainCrops(data.train, replace(RECIPE, train_scale=TrainScale(32, 64), mirror=False))
    spans = []
    for number in range(60):
        sample = crops[(number, 0)]
        spans.append(int(sample.values[0, -1, 0]) - int(sample.values[0, 0, 0]))
    assert max(spans) > 220  # S of slightly more than 32: nearly the whole ramp of 248
    assert min(spans) < 140  # S near 64: half of the ramp


def test_validation_takes_the_centre_at_the_middle_of_the_range(data_folder: MakeFolder):
    data = read_folder(data_folder(val=1))
    batch, *rest = BatchLoader(CentreCrops(data.val, RECIPE), 8, Execution()).epoch(0)
    crops, targets = batch.values, batch.targets
    scaled = rescale(decode(data.val.path(0)), 40, RESCALING)
    assert scaled.shape == (40, 48, 3)
    assert np.array_equal(crops[0].numpy(), scaled[4:36, 8:40])
    assert targets.tolist() == [0, 1]
    assert not rest


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_an_error_that_names_its_file(data_folder: MakeFolder, workers: int):
    data = read_folder(data_folder())
    broken = data.train.path(5)
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"dark/05.png: .*; repair or remove it") as caught:
        epoch(data, 1, workers=workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_mean_is_over_all_pixels_of_the_rescaled_images(data_folder: MakeFolder, workers: int):
    data = read_folder(data_folder())
    pixels = [rescale(decode(data.train.path(i)), 40, RESCALING).reshape(-1, 3) for i in range(len(data.train))]
    counts: list[int] = []
    mean = survey(data.train, RECIPE, Execution(workers=workers), counts.append).mean
    assert mean == pytest.approx(np.concatenate(pixels).mean(axis=0).tolist(), abs=1e-9)
    assert sum(counts) == len(data.train)


def test_the_fingerprint_of_a_copy_is_the_same_and_of_other_images_is_not(data_folder: MakeFolder, tmp_path: Path):
    folder = data_folder()
    shutil.copytree(folder, tmp_path / "copy")
    fingerprint = read_folder(folder).fingerprint
    assert read_folder(tmp_path / "copy").fingerprint == fingerprint
    with (tmp_path / "copy" / "val" / "dark" / "00.png").open("ab") as file:
        file.write(b"more")
    longer = read_folder(tmp_path / "copy").fingerprint
    (tmp_path / "copy" / "val" / "dark" / "00.png").rename(tmp_path / "copy" / "val" / "dark" / "0.png")
    assert len({fingerprint, longer, read_folder(tmp_path / "copy").fingerprint}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_starts_at_a_later_batch_is_the_rest_of_the_whole(data_folder: MakeFolder, workers: int):
    data = read_folder(data_folder())
    batches = BatchLoader(TrainCrops(data.train, RECIPE), 3, Execution(workers=workers), shuffle_seed=0)
    whole, rest = list(batches.epoch(4)), list(batches.epoch(4, 2))
    assert len(whole) == len(batches) == 6
    assert len(rest) == 4
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
        assert one.total == other.total


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_processes_share_each_batch_without_overlap(data_folder: MakeFolder, processes: int):
    data = read_folder(data_folder())
    crops = TrainCrops(data.train, RECIPE)
    alone = list(BatchLoader(crops, 6, Execution(), shuffle_seed=0).epoch(1))
    together = [
        list(BatchLoader(crops, 6, Execution(processes=Processes(rank, processes)), shuffle_seed=0).epoch(1))
        for rank in range(processes)
    ]
    for batch, *shares in zip(alone, *together, strict=True):
        counted = [share for share in shares if share.counts]
        assert sorted(torch.cat([share.indices for share in counted]).tolist()) == sorted(batch.indices.tolist())
        assert {share.total for share in shares} == {len(batch.indices)}
        assert all(len(share.indices) for share in shares)  # each process takes part in the step
    assert len(alone[-1].indices) == 4  # fewer than five processes
