"""What an engine takes and gives, and the public fake."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine import Engine, Scores, check_images
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import ACTIVATION
from vgg_deploy.testing import FakeEngine

FREE = ShapeRange(AxisRange(1), AxisRange(64), AxisRange(64))
FIXED = ShapeRange(AxisRange(1, 4), AxisRange(64, 64), AxisRange(64, 64))


def picture(height: int = 64, width: int = 64, count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), r"float32 \[1, 64, 64, 3\]; expected uint8"),
        (np.zeros((64, 64, 3), np.uint8), r"uint8 \[64, 64, 3\]; expected uint8 \[n, height, width, 3\]"),
        (np.zeros((1, 64, 64, 4), np.uint8), r"uint8 \[1, 64, 64, 4\]"),
        ([[0]], "images is list"),
        (np.zeros((0, 64, 64, 3), np.uint8), r"0 x 64 x 64 x 3; this model takes 1\.\. x 64\.\. x 64\.\. x 3$"),
        (np.zeros((1, 63, 64, 3), np.uint8), "1 x 63 x 64 x 3"),
    ],
)
def test_other_arrays_are_refused_with_what_was_received(images: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        check_images(images, FREE)


def test_another_size_for_a_model_of_fixed_size_points_to_dynamic_export() -> None:
    with pytest.raises(UsageError, match=r"takes 1\.\.4 x 64 x 64 x 3; export with --dynamic"):
        check_images(picture(65, 64), FIXED)


def test_outputs_are_sorted_by_their_names() -> None:
    names = (f"{ACTIVATION}conv1_1", "features", "probabilities", "score_map", "another")
    outputs = {name: np.zeros(1, np.float32) for name in names}
    scores = Scores.from_outputs(outputs)
    assert scores.probabilities is outputs["probabilities"]
    assert scores.score_map is outputs["score_map"]
    assert scores.features is outputs["features"]
    assert list(scores.activations) == ["conv1_1"]
    assert Scores.from_outputs({"probabilities": outputs["probabilities"]}).score_map is None


def test_the_fake_gives_posteriors_that_depend_on_content_and_side(manifest: Manifest) -> None:
    images = np.concatenate([picture(64, 96), np.full((1, 64, 96, 3), 50, np.uint8)])
    images[0, :, 48:] //= 4
    engine: Engine
    with FakeEngine(manifest) as engine:
        answers, mirrored = engine.run(images).probabilities, engine.run(images[:, :, ::-1]).probabilities
    assert answers.dtype == np.float32
    assert answers.shape == (2, 5)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(answers[1], 0.2, rtol=1e-6)
    assert answers[0].argmax() < 2 < mirrored[0].argmax()


def test_the_fake_records_every_shape_and_that_it_was_closed_and_refuses_other_sizes(manifest: Manifest) -> None:
    with FakeEngine(manifest) as engine:
        engine.run(picture(64, 80, count=3))
        engine.run(picture())
        assert not engine.closed
    assert engine.batches == [(3, 64, 80, 3), (1, 64, 64, 3)]
    assert engine.closed
    with pytest.raises(UsageError, match="1 x 63 x 64 x 3"):
        FakeEngine(manifest).run(picture(63, 64))


def test_the_fake_gives_the_answers_of_its_function(manifest: Manifest) -> None:
    answer = np.eye(5, dtype=np.float32)[:2]
    engine = FakeEngine(manifest, lambda images: answer[: len(images)], score_map=True, concurrency=3)
    scores = engine.run(picture(70, 100, count=2))
    np.testing.assert_array_equal(scores.probabilities, answer)
    assert scores.score_map.shape == (2, 5, 2, 3)
    assert engine.info.outputs == ("probabilities", "score_map")
    assert engine.info.concurrency == 3


def test_the_fake_may_be_run_from_several_threads(manifest: Manifest) -> None:
    engine, images = FakeEngine(manifest), picture(count=8)
    alone = engine.run(images).probabilities
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda index: engine.run(images[index : index + 1]).probabilities[0], range(8)))
    np.testing.assert_allclose(rows, alone, rtol=1e-6)
    assert len(engine.batches) == 9
