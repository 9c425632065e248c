"""PyTorch as an engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from train.network.checkpoint import Checkpoint, read
from train.network.model import VGG, folded
from train.network.reference import Reference, normalize
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION


@pytest.fixture
def checkpoint(narrow_checkpoint: Callable[..., Path]) -> Callable[..., Checkpoint]:
    return lambda configuration="A", **fields: read(narrow_checkpoint(configuration, **fields))


def pictures(height: int, width: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_both_forms_give_the_same_posteriors_on_crops(checkpoint: Callable[..., Checkpoint]) -> None:
    weights, images = checkpoint("A-LRN"), pictures(64, 64, count=3)
    with Reference(weights, form="fc") as fc, Reference(weights) as convolutional:
        expected, received = fc.run(images), convolutional.run(images)
    np.testing.assert_allclose(received.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(received.score_map, expected.score_map, rtol=1e-3, atol=1e-3)
    assert expected.score_map.shape == received.score_map.shape == (3, 5, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 159), (131, 97)])
def test_scores_are_the_documented_arrays(height: int, width: int, checkpoint: Callable[..., Checkpoint]) -> None:
    scores = Reference(checkpoint("B")).run(pictures(height, width))
    rows, columns = height // 32 - 1, width // 32 - 1
    assert scores.probabilities.shape == (2, 5)
    assert scores.score_map.shape == (2, 5, rows, columns)
    assert scores.features.shape == (2, 24)
    assert {array.dtype for array in (scores.probabilities, scores.score_map, scores.features)} == {np.dtype("float32")}
    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert scores.features.min() >= 0
    averaged = scores.score_map.mean(axis=(2, 3), dtype=np.float64)
    exponents = np.exp(averaged - averaged.max(axis=1, keepdims=True))
    np.testing.assert_allclose(scores.probabilities, exponents / exponents.sum(axis=1, keepdims=True), atol=1e-5)
    assert not scores.activations


def test_features_are_the_spatial_mean_of_fc7_after_its_relu(checkpoint: Callable[..., Checkpoint]) -> None:
    scores = Reference(checkpoint("A"), keep_activations=True).run(pictures(100, 130))
    expected = np.maximum(scores.activations["fc7"], 0).mean(axis=(2, 3))
    np.testing.assert_allclose(scores.features, expected, rtol=1e-5, atol=1e-6)


def test_activations_are_those_of_every_layer(checkpoint: Callable[..., Checkpoint]) -> None:
    weights, images = checkpoint("A-LRN"), pictures(64, 80)
    scores = Reference(weights, keep_activations=True).run(images)
    spec, normalization = weights.manifest.spec, weights.manifest.normalization
    network = VGG(spec, convolutional=True).eval()
    network.load_state_dict(folded(spec, weights.weights))
    with torch.inference_mode():
        expected = dict(network.steps(normalize(torch.from_numpy(images), normalization)))
    assert list(scores.activations) == [layer.name for layer in spec.layers]
    for name, value in expected.items():
        np.testing.assert_allclose(scores.activations[name], value.numpy(), rtol=1e-5, atol=1e-4)


def test_pixels_are_normalized_and_channels_come_first() -> None:
    images = pictures(3, 5)
    mean, std = (np.array(values) for values in (TORCHVISION_NORMALIZATION.mean, TORCHVISION_NORMALIZATION.std))
    expected = ((images - mean) / std).transpose(0, 3, 1, 2)
    received = normalize(torch.from_numpy(images), TORCHVISION_NORMALIZATION)
    assert received.dtype == torch.float32
    np.testing.assert_allclose(received.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_fc_form_takes_only_the_crop(checkpoint: Callable[..., Checkpoint]) -> None:
    engine = Reference(checkpoint("A"), form="fc")
    with pytest.raises(UsageError, match=r"this model takes 1\.\. x 64 x 64 x 3"):
        engine.run(pictures(65, 64))
    assert not engine.info.shapes.free


def test_images_may_be_read_only_views_and_are_not_changed(checkpoint: Callable[..., Checkpoint]) -> None:
    engine, images = Reference(checkpoint("A")), pictures(70, 80)
    before = images.copy()
    images.flags.writeable = False
    expected = engine.run(np.ascontiguousarray(images[:, :, ::-1]))
    np.testing.assert_array_equal(engine.run(images[:, :, ::-1]).probabilities, expected.probabilities)
    np.testing.assert_array_equal(images, before)


def test_the_arrays_belong_to_the_caller(checkpoint: Callable[..., Checkpoint]) -> None:
    engine, images = Reference(checkpoint("A"), keep_activations=True), pictures(64, 64)
    first = engine.run(images)
    copy = first.probabilities.copy()
    for array in (first.probabilities, first.score_map, first.features, *first.activations.values()):
        array[...] = -1
    np.testing.assert_array_equal(engine.run(images).probabilities, copy)


def test_several_threads_may_run_it(checkpoint: Callable[..., Checkpoint]) -> None:
    engine, images = Reference(checkpoint("A")), pictures(64, 96, count=8)
    alone = engine.run(images).probabilities
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda index: engine.run(images[index : index + 1]).probabilities[0], range(8)))
    np.testing.assert_allclose(rows, alone, atol=1e-5)


def test_its_info_describes_it(checkpoint: Callable[..., Checkpoint]) -> None:
    weights = checkpoint("A")
    with Reference(weights) as engine:
        assert engine.info.runtime == f"torch {torch.__version__}"
        assert (engine.info.device, engine.info.precision) == ("cpu", "float32")
        assert engine.info.outputs == ("probabilities", "score_map", "features")
        assert engine.info.manifest == weights.manifest
