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
from train.data.crops import RESCALING, Colours, TrainCrops
from train.data.folder import DataFolder, read_folder
from train.data.survey import survey, surveyed
from train.recipe import Recipe
from vgg_deploy.errors import ImageError
from vgg_deploy.network.manifest import TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import decode, rescale

MakeFolder = Callable[..., Path]
RECIPE = Recipe(NetworkSpec("A", 64, crop=32, fc_width=4, classes=2), train_scale=TrainScale(40, 40), batch=3)


@pytest.fixture
def coloured(data_folder: MakeFolder) -> DataFolder:
    """A data folder whose pixels vary along three directions by different amounts."""
    folder, random = data_folder(train=4), np.random.default_rng(1)
    directions = np.linalg.qr(random.normal(size=(3, 3)))[0]
    for path in (folder / "train").glob("*/*.png"):
        along = random.normal(size=(40, 48, 3)) * (40, 12, 4)
        Image.fromarray(np.clip(120 + along @ directions, 0, 255).astype(np.uint8)).save(path)
    return read_folder(folder)


def test_the_components_are_those_of_the_covariance_of_all_pixels(coloured: DataFolder):
    colours = survey(coloured.train, RECIPE, Execution())
    pixels = np.concatenate(
        [rescale(decode(coloured.train.path(index)), 40, RESCALING).reshape(-1, 3) for index in range(8)]
    )
    eigenvalues, vectors = np.linalg.eigh(np.cov(pixels.T / 255.0, bias=True))
    assert colours.eigenvalues == pytest.approx(eigenvalues[::-1].tolist(), rel=1e-9)
    for component, vector in zip(colours.components, vectors.T[::-1], strict=True):
        assert abs(float(np.dot(component, vector))) == pytest.approx(1, abs=1e-9)
        assert max(component, key=abs) > 0


def test_a_shift_is_the_sum_of_alpha_times_eigenvalue_times_component():
    half = 0.5**0.5
    colours = Colours((0, 0, 0), (0.2, 0.02, 0.005), ((half, half, 0), (half, -half, 0), (0, 0, 1)))
    shift = colours.shift(np.array([0.1, -0.2, 0.3]))
    expected = [255 * half * (0.1 * 0.2 - 0.2 * 0.02), 255 * half * (0.1 * 0.2 + 0.2 * 0.02), 255 * 0.3 * 0.005]
    assert shift == pytest.approx(expected)


def test_each_image_of_an_epoch_has_its_own_shift_with_the_std_of_the_recipe(data_folder: MakeFolder):
    data = read_folder(data_folder(train=1))
    colours = Colours((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    shifts = []
    for crops in (TrainCrops(data.train, replace(RECIPE, rgb_shift=0.3), colours),) * 2:
        samples = [crops[(epoch, 0)] for epoch in range(400)]
        shifts.append([sample.shift for sample in samples if not isinstance(sample, ImageError)])
    assert shifts[0] == shifts[1]  # by seed, epoch and image
    assert np.std(shifts[0], axis=0) == pytest.approx([0.3] * 3, rel=0.15)
    assert np.mean(shifts[0], axis=0) == pytest.approx([0] * 3, abs=0.06)


def test_without_a_shift_the_crops_are_the_same(coloured: DataFolder):
    colours = survey(coloured.train, RECIPE, Execution())
    shifted = TrainCrops(coloured.train, RECIPE, colours)[(1, 0)]
    plain = TrainCrops(coloured.train, replace(RECIPE, rgb_shift=0.0), colours)[(1, 0)]
    assert np.array_equal(shifted.values, plain.values)
    assert any(shifted.shift)
    assert plain.shift == (0, 0, 0)


def colours_of(data: DataFolder, surveys: Path, recipe: Recipe = RECIPE) -> Colours | None:
    return surveyed(recipe, data, Execution(console=Console(file=StringIO())), surveys)


def test_colours_are_measured_once_for_the_same_data(coloured: DataFolder, tmp_path: Path):
    first = colours_of(coloured, tmp_path)
    [path] = tmp_path.iterdir()
    assert json.loads(path.read_text())["fingerprint"] == coloured.fingerprint
    coloured.train.path(0).unlink()  # a new survey would fail
    assert colours_of(coloured, tmp_path) == first
    with pytest.raises(ImageError, match="no such file"):
        colours_of(coloured, tmp_path, replace(RECIPE, train_scale=TrainScale(48, 48)))


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprint": "another"}'])
def test_colours_are_measured_again_if_their_file_cannot_be_used(coloured: DataFolder, tmp_path: Path, text: str):
    first = colours_of(coloured, tmp_path)
    [path] = tmp_path.iterdir()
    path.write_text(text)
    assert colours_of(coloured, tmp_path) == first
