"""Images in, averaged posteriors out: the right answers, and the right failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.vgg_deploy.inference.answers import CENTER, DENSE, MULTISCALE, SQUARE, TALL, WIDE, marked, probabilities
from vgg_deploy.inference.prediction import Failure, Prediction, predict
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import decode, mirrored, rescale
from vgg_deploy.views.protocols import Protocol


def alone(engine: FakeEngine, path: Path, protocol: Protocol) -> np.ndarray:
    """The answer by definition: each view in a call of its own, and the plain mean."""
    pixels, rescaling = decode(path), engine.info.manifest.rescaling
    rows = []
    for view in protocol.views(pixels.shape[0], pixels.shape[1], rescaling):
        seen = rescale(pixels, view.short_side, rescaling)
        if view.box is not None:
            top, left, height, width = view.box
            seen = seen[top : top + height, left : left + width]
        rows.append(engine.run((mirrored(seen) if view.mirror else seen)[None]).probabilities[0])
    return np.asarray(np.mean(rows, axis=0))


@pytest.mark.parametrize("protocol", [DENSE, MULTISCALE, CENTER], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_answer_is_the_mean_of_its_views_posteriors(
    manifest: Manifest, pictures: Callable[..., list[Path]], protocol: Protocol, batch: int
) -> None:
    paths = pictures(SQUARE, TALL, SQUARE, WIDE, TALL, (150, 201), SQUARE)
    with FakeEngine(manifest) as engine:
        results = list(predict(engine, paths, protocol, batch=batch))
        for path, answer in zip(paths, probabilities(results), strict=True):
            np.testing.assert_allclose(answer, alone(engine, path, protocol), rtol=1e-6)
            assert answer.dtype == np.float32
    assert [result.path for result in results] == paths
    assert isinstance(results[1], Prediction)
    assert results[1].size == TALL


def test_a_mirrored_view_counts_as_much_as_the_view_itself(manifest: Manifest, tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "left.png")
    for mirror, expected in ((False, 1.0), (True, 0.5)):
        results = predict(FakeEngine(manifest, marked), [tmp_path / "left.png"], Protocol("dense", (64,), None, mirror))
        (answer,) = probabilities(results)
        np.testing.assert_allclose(answer[:2], [1 - expected, expected])


def test_the_default_protocol_is_the_papers(manifest: Manifest, pictures: Callable[..., list[Path]]) -> None:
    with FakeEngine(manifest) as engine:
        assert len(list(predict(engine, pictures(TALL)))) == 1
    # S is 73, the crop 64: Q is 64, 73 and 82 (32 pixels for a crop of 224 are 9), and every view is mirrored.
    assert sorted(engine.batches) == [(2, 96, 64, 3), (2, 109, 73, 3), (2, 123, 82, 3)]


def test_results_name_the_manifests_classes_most_probable_first(manifest: Manifest, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "red.png")
    (result,) = predict(FakeEngine(manifest, marked), [str(tmp_path / "red.png")], DENSE)
    assert isinstance(result, Prediction)
    assert result.classes == manifest.classes
    # Ties go to the lower index, and no more classes come than there are.
    assert [(name.id, probability) for name, probability in result.top(9)] == [
        ("1", 1.0),
        ("0", 0.0),
        ("2", 0.0),
        ("3", 0.0),
        ("4", 0.0),
    ]


def test_no_images_give_no_results(manifest: Manifest) -> None:
    assert list(predict(FakeEngine(manifest), [], DENSE)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_a_failure_of_that_image_only(
    manifest: Manifest, pictures: Callable[..., list[Path]], value: float
) -> None:
    paths = pictures(SQUARE, SQUARE, SQUARE)
    Image.new("RGB", (64, 64)).save(paths[1])

    def answer(images: np.ndarray) -> np.ndarray:
        posteriors = marked(images)
        posteriors[(images == 0).all(axis=(1, 2, 3))] = value
        return posteriors

    first, broken, last = predict(FakeEngine(manifest, answer), paths, DENSE)
    assert isinstance(first, Prediction)
    assert isinstance(last, Prediction)
    assert isinstance(broken, Failure)
    assert "NaN" in broken.reason
    assert "vgg-deploy verify" in broken.reason


def test_views_beyond_the_limit_or_outside_what_the_model_takes_are_failures_with_the_figures(
    manifest: Manifest, pictures: Callable[..., list[Path]]
) -> None:
    paths = pictures((1, 300), (64, 300), SQUARE)
    edge = AxisRange(64, 256)
    engine = FakeEngine(manifest.with_(shapes=ShapeRange(AxisRange(1), edge, edge)))
    long, wide, square = predict(engine, paths, DENSE, max_view_pixels=1_000_000)
    assert isinstance(long, Failure)
    assert "become 19200x64 at a short side of 64: over the limit of 1,000,000" in long.reason
    assert isinstance(wide, Failure)
    assert "300x64 pixels does not fit: the model takes widths 64..256, heights 64..256" in wide.reason
    assert isinstance(square, Prediction)


def test_score_maps_come_with_their_views_if_they_are_asked_for(
    manifest: Manifest, pictures: Callable[..., list[Path]]
) -> None:
    paths = pictures(SQUARE, TALL, SQUARE)
    with FakeEngine(manifest, score_map=True) as engine:
        (without, *_) = predict(engine, paths, MULTISCALE)
        results = list(predict(engine, paths, MULTISCALE, keep_score_maps=True))
    assert isinstance(without, Prediction)
    assert without.score_maps == ()
    for result in results:
        assert isinstance(result, Prediction)
        views = MULTISCALE.views(*result.size, manifest.rescaling)
        assert {score_map.view for score_map in result.score_maps} == set(views)
        assert len(result.score_maps) == len(views) == 6
        for score_map in result.score_maps:
            assert score_map.scores.shape[0] == 5
            assert score_map.scores.shape[2] == score_map.view.short_side // 32
