"""The colours of a training set, and the shift along their principal components (Krizhevsky et al. 2012)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from train.compute.execution import Execution
from train.compute.processes import ALONE
from train.data.crops import Colours, TrainCrops
from train.data.folder import DataFolder, read_folder
from train.data.survey import survey, surveyed
from train.recipe import Recipe
from vgg_deploy.errors import ImageError
from vgg_deploy.network.manifest import Rescaling, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import decode, rescale

MakeFolder = Callable[..., Path]
RECIPE = Recipe(NetworkSpec("A", 64, crop=32, fc_width=4, classes=2), train_scale=TrainScale(40, 40), batch=3)


@pytest.fixture
def coloured(data_folder: MakeFolder) -> DataFolder:
    """A data folder whose pixels vary along three directions by different amounts."""
    folder, chance = data_folder(train=4), np.random.default_rng(1)
    directions = np.linalg.qr(chance.normal(size=(3, 3)))[0]
    for path in (folder / "train").glob("*/*.png"):
        along = chance.normal(size=(40, 48, 3)) * (40, 12, 4)
        Image.fromarray(np.clip(120 + along @ directions, 0, 255).astype(np.uint8)).save(path)
    return read_folder(folder)


def test_the_components_are_those_of_the_covariance_of_all_pixels(coloured: DataFolder):
    colours = survey(coloured.train, RECIPE, Rescaling())
    pixels = np.concatenate(
        [rescale(decode(coloured.train.path(index)), 40, Rescaling()).reshape(-1, 3) for index in range(8)]
    )
    eigenvalues, vectors = np.linalg.eigh(np.cov(pixels.T / 255.0, bias=True))
    assert colours.eigenvalues == pytest.approx(eigenvalues[::-1].tolist(), rel=1e-9)
    for component, vector in zip(colours.components, vectors.T[::-1], strict=True):
        assert abs(float(np.dot(component, vector))) == pytest.approx(1, abs=1e-9)
        assert max(component, key=abs) > 0


def test_a_shift_is_the_sum_of_alpha_times_eigenvalue_times_component_in_pixels_of_0_to_1():
    half = 0.5**0.5
    colours = Colours((0, 0, 0), (0.2, 0.02, 0.005), ((half, half, 0), (half, -half, 0), (0, 0, 1)))
    shift = colours.shift(np.array([0.1, -0.2, 0.3]))
    expected = [255 * half * (0.1 * 0.2 - 0.2 * 0.02), 255 * half * (0.1 * 0.2 + 0.2 * 0.02), 255 * 0.3 * 0.005]
    assert shift == pytest.approx(expected)


def test_each_image_of_an_epoch_has_a_shift_of_its_own_of_the_spread_that_was_asked(data_folder: MakeFolder):
    data = read_folder(data_folder(train=1))
    colours = Colours((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    shifts = []
    for views in (TrainCrops(data.train, replace(RECIPE, rgb_shift=0.3), Rescaling(), colours),) * 2:
        samples = [views[(epoch, 0)] for epoch in range(400)]
        shifts.append([sample[3] for sample in samples if not isinstance(sample, ImageError)])
    assert shifts[0] == shifts[1]  # by seed, epoch and image
    assert np.std(shifts[0], axis=0) == pytest.approx([0.3] * 3, rel=0.15)
    assert np.mean(shifts[0], axis=0) == pytest.approx([0] * 3, abs=0.06)


def test_without_a_shift_the_crops_are_the_same_and_their_colours_stay(coloured: DataFolder):
    colours = survey(coloured.train, RECIPE, Rescaling())
    shifted = TrainCrops(coloured.train, RECIPE, Rescaling(), colours)[(1, 0)]
    plain = TrainCrops(coloured.train, replace(RECIPE, rgb_shift=0.0), Rescaling(), colours)[(1, 0)]
    assert not isinstance(shifted, ImageError)
    assert not isinstance(plain, ImageError)
    assert np.array_equal(shifted[0], plain[0])
    assert any(shifted[3])
    assert plain[3] == (0, 0, 0)


def look(data: DataFolder, kept: Path, recipe: Recipe = RECIPE) -> Colours | None:
    return surveyed(recipe, data, Rescaling(), Execution(), ALONE, Console(file=StringIO()), kept)


def test_colours_are_kept_with_the_fingerprint_of_the_data_and_measured_once(coloured: DataFolder, tmp_path: Path):
    first = look(coloured, tmp_path)
    [path] = tmp_path.iterdir()
    assert json.loads(path.read_text())["fingerprint"] == coloured.fingerprint
    coloured.train.path(0).unlink()  # would be noticed by a survey
    assert look(coloured, tmp_path) == first
    with pytest.raises(ImageError, match="no such file"):
        look(coloured, tmp_path, replace(RECIPE, train_scale=TrainScale(48, 48)))


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprint": "another"}'])
def test_kept_colours_that_cannot_be_used_are_measured_anew(coloured: DataFolder, tmp_path: Path, text: str):
    first = look(coloured, tmp_path)
    [path] = tmp_path.iterdir()
    path.write_text(text)
    assert look(coloured, tmp_path) == first
