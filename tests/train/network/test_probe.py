"""The readings of a foreign checkpoint, ranked on labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.train.network.coloured import CLASSES, COLOURS, coloured_weights, write_images
from train.network.checkpoint import Checkpoint, foreign, read
from train.network.probe import BATCH, ROUND, probe
from train.network.ranking import MeasuredReading, Ranking
from train.network.reading import Reading, readings_of
from train.network.reference import Reference
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.error_rates import LabelledImages
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import (
    BGR,
    NORMALIZATIONS,
    PAPER_NORMALIZATION,
    RGB,
    TORCHVISION_NORMALIZATION,
    Normalization,
)
from vgg_deploy.network.weight_facts import WeightFacts
from vgg_deploy.views.search import find_images

PAPER = WeightFacts(normalization=PAPER_NORMALIZATION)
A = WeightFacts(configuration="A")


def checkpoint_of(weights: dict[str, Any], facts: WeightFacts = PAPER) -> Checkpoint:
    """A checkpoint that does not describe itself."""
    return foreign(weights, facts, Source("x.pth", "0" * 64), "x.pth")


def labelled(folder: Path) -> LabelledImages:
    paths = tuple(find_images([str(folder)]))
    return LabelledImages(paths, np.array([CLASSES.index(path.parent.name) for path in paths], np.int64))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """72 images of six colours."""
    return labelled(write_images(tmp_path_factory.mktemp("images") / "colours", 12))


def unreadable(path: Path, reason: str) -> None:
    pytest.fail(f"{path}: {reason}")


def ranked(weights: dict[str, Any], images: LabelledImages, facts: WeightFacts | None = None) -> Ranking:
    checkpoint = checkpoint_of(weights)
    return probe(checkpoint, readings_of(checkpoint, facts or WeightFacts()), images, refused=unreadable)


@pytest.mark.parametrize("channels", [RGB, BGR])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_the_reading_with_which_a_network_was_fitted_is_recommended(
    name: str, channels: str, images: LabelledImages
) -> None:
    ranking = ranked(coloured_weights(NORMALIZATIONS[name], channels), images, A)
    best = ranking.best
    assert (best.reading.normalization_name, best.reading.channels, best.reading.configuration) == (name, channels, "A")
    assert best.images == 72
    assert 40 < ranking.coloured <= 72
    assert best.top1 > 0.9
    assert ranking.clear
    assert len(ranking.measured) == 10


def test_a_lrn_is_told_apart_from_a(images: LabelledImages) -> None:
    ranking = ranked(coloured_weights(TORCHVISION_NORMALIZATION, configuration="A-LRN"), images)
    assert ranking.clear
    assert ranking.best.reading.configuration == "A-LRN"
    assert len(ranking.measured) == 40  # pooled or not, too  # five normalizations, RGB and BGR, with and without LRN


def test_the_users_own_normalization_is_one_more_reading_and_may_be_the_best(images: LabelledImages) -> None:
    own = Normalization((123.68, 116.779, 103.939), (255.0, 255.0, 255.0))
    ranking = ranked(coloured_weights(own), images, dataclasses.replace(A, normalization=own))
    assert len(ranking.measured) == 12
    assert ranking.clear
    assert ranking.best.reading.normalization == own
    assert ranking.best.reading.normalization_name == "own mean/std"


def test_facts_leave_out_readings_and_our_own_checkpoint_has_a_single_one(
    narrow_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = checkpoint_of(coloured_weights(PAPER_NORMALIZATION))
    assert {row.channels for row in readings_of(checkpoint, WeightFacts(channels=BGR))} == {BGR}
    lrn = WeightFacts(configuration="A-LRN", normalization=PAPER_NORMALIZATION)
    stated = readings_of(checkpoint_of(coloured_weights(PAPER_NORMALIZATION), lrn), lrn)
    assert {row.configuration for row in stated} == {"A-LRN"}
    assert len(readings_of(checkpoint, PAPER)) == 20  # the paper's is one of them already
    d = checkpoint_of(coloured_weights(PAPER_NORMALIZATION, configuration="D"))
    assert {row.configuration for row in readings_of(d)} == {"D"}
    [own] = readings_of(read(narrow_checkpoint("A")))
    assert own == Reading(normalization=PAPER_NORMALIZATION, channels=RGB, configuration="A")


def test_readings_share_their_weights_except_a_reversed_conv1_1() -> None:
    checkpoint = checkpoint_of(coloured_weights(PAPER_NORMALIZATION))
    for reading in readings_of(checkpoint):
        weights = reading.of(checkpoint).weights
        others = [name for name in weights if weights[name] is not checkpoint.weights[name]]
        assert others == (["conv1_1.weight"] if reading.channels == BGR else [])


def test_hopeless_readings_are_left_out_after_a_round_and_progress_still_reaches_its_end(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, steps = [], []
    run = Reference.run

    def counted(self: Reference, pixels: Any) -> Any:
        computed.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(Reference, "run", counted)
    checkpoint = checkpoint_of(coloured_weights(PAPER_NORMALIZATION))
    readings = readings_of(checkpoint)
    ranking = probe(checkpoint, readings, images, refused=unreadable, progress=lambda: steps.append(1))
    seen = [row.images for row in ranking.measured]
    assert min(seen) == ROUND
    assert sum(computed) == sum(seen) < len(readings) * 72
    assert max(computed) == BATCH
    assert len(set(ranking.best.truth[:ROUND].tolist())) == 6  # of each class, though the paths are sorted
    assert len(steps) == len(readings) * 72


def test_images_that_cannot_be_read_are_left_out(tmp_path: Path, images: LabelledImages) -> None:
    broken = tmp_path / "red" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"not an image")
    checkpoint = checkpoint_of(coloured_weights(PAPER_NORMALIZATION))
    refused = []

    def refuse(path: Path, reason: str) -> None:
        refused.append((path, reason))

    with_broken = LabelledImages((*images.paths, broken), np.append(images.truth, CLASSES.index("red")))
    ranking = probe(checkpoint, readings_of(checkpoint), with_broken, refused=refuse)
    assert ranking.best.images == 72
    assert ranking.best.top1 > 0.9
    assert [path for path, _reason in refused] == [broken]
    with pytest.raises(UsageError, match="none of the 1 images can be read"):
        probe(checkpoint, readings_of(checkpoint), labelled(tmp_path), refused=refuse)


# What cannot be told


def test_grey_images_cannot_tell_rgb_from_bgr(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "colours", 12, ["dark", "light"])
    for path in find_images([str(folder)]):
        with Image.open(path) as image:
            image.convert("L").save(path)
    # The channels of paper have different means, so that RGB and BGR differ a little even in grey images.
    for name in ("unit", "paper"):
        ranking = ranked(coloured_weights(NORMALIZATIONS[name]), labelled(folder), A)
        assert ranking.coloured == 0
        assert ranking.better_than_chance
        assert not ranking.clear
        twins = [row for row in ranking.rivals if row.reading.normalization == ranking.best.reading.normalization]
        assert {row.reading.channels for row in (*twins, ranking.best)} == {RGB, BGR}


def test_wrong_labels_are_no_better_than_chance(images: LabelledImages) -> None:
    truth = np.random.default_rng(0).permutation(images.truth)
    ranking = ranked(coloured_weights(PAPER_NORMALIZATION), dataclasses.replace(images, truth=truth))
    assert not ranking.better_than_chance
    assert not ranking.clear
    assert ranking.chance == pytest.approx(1 / 6)


def test_images_of_one_class_show_nothing(tmp_path: Path) -> None:
    ranking = ranked(coloured_weights(PAPER_NORMALIZATION), labelled(write_images(tmp_path / "c", 24, ["red"])))
    assert ranking.best.top1 > 0.9
    assert ranking.chance == 1
    assert not ranking.clear


def test_fifteen_images_are_too_few(images: LabelledImages) -> None:
    weights = coloured_weights(PAPER_NORMALIZATION)
    few = ranked(weights, images.sample(15))
    assert few.better_than_chance
    assert len(few.rivals) == len(few.measured) - 1
    assert not few.clear
    single = ranked(weights, images.sample(1))
    assert np.isnan(single.rivals[0].over(single.best).standard_error)
    assert not single.clear


# The figures


def measured(scores: np.ndarray, truth: np.ndarray, channels: str = RGB) -> MeasuredReading:
    reading = Reading(normalization=PAPER_NORMALIZATION, channels=channels, configuration="D")
    return MeasuredReading.of(reading, scores, truth)


def test_the_figures_are_those_of_the_reference_on_central_crops(images: LabelledImages) -> None:
    checkpoint = checkpoint_of(coloured_weights(PAPER_NORMALIZATION))
    ranking = ranked(coloured_weights(PAPER_NORMALIZATION), images)
    crops = []
    for path in images.paths:  # S = 73 for a crop of 64
        with Image.open(path) as image:
            pixels = np.asarray(image.resize((73, 73), Image.Resampling.BILINEAR))
        crops.append(pixels[4:68, 4:68])
    probabilities = Reference(checkpoint).run(np.stack(crops)).probabilities
    losses = -np.log(probabilities[np.arange(72), images.truth])
    assert ranking.best.cross_entropy == pytest.approx(losses.mean(), rel=1e-4)
    assert ranking.best.top1 == pytest.approx((probabilities.argmax(1) == images.truth).mean())


def test_differences_are_paired_on_the_images_of_both() -> None:
    chance = np.random.default_rng(0)
    truth = chance.integers(0, 3, 40)
    best, other = chance.normal(size=(40, 3)), chance.normal(size=(24, 3))
    best[np.arange(40), truth] += 2
    first, second = measured(best, truth), measured(other, truth[:24], BGR)
    difference = second.over(first)
    values = second.losses - first.losses[:24]
    assert difference.mean == pytest.approx(values.mean())
    assert difference.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(24))
    assert difference.above(3)
    assert not difference.above(50)
    assert Ranking.of([second, first], 400).measured == (first, second)
    hits = (other.argmax(1) == truth[:24]) * 1.0 - (best.argmax(1) == truth)[:24]
    assert second.top1_over(first).mean == pytest.approx(hits.mean())


def test_scores_that_overflow_count_as_no_answer() -> None:
    truth = np.zeros(20, np.int64)
    scores = np.tile([5.0, 0.0], (20, 1))
    scores[:10, 1] = np.nan
    scores[10, 0] = np.inf
    row = measured(scores, truth)
    assert row.top1 == pytest.approx(9 / 20)
    assert row.losses[:11] == pytest.approx(np.log(2))


def test_a_reading_that_wins_only_by_its_lower_confidence_is_not_recommended() -> None:
    """An overfitted network is overconfident, and a wrong reading that shrinks its inputs calms it."""
    chance, count = np.random.default_rng(0), 400
    truth = chance.integers(0, 5, count)
    evidence = chance.normal(size=(count, 5))
    evidence[np.arange(count), truth] += 2.0
    right = measured(6 * evidence, truth)  # overconfident: three times too large
    wrong = measured(1.5 * (evidence + chance.normal(0, 0.5, (count, 5))), truth, BGR)
    ranking = Ranking.of([right, wrong], 400)
    assert ranking.best == wrong
    assert right.over(wrong).above(3)
    assert right.top1 > wrong.top1
    assert right.only_less_calibrated_than(wrong)
    assert ranking.rivals == (right,)
    assert not ranking.clear
    loss, temperature = right.calibrated(count)
    assert temperature == pytest.approx(3.0, rel=0.2)
    assert loss < right.cross_entropy
    # The same scores a thousand times as large are a wrong scale, not overconfidence.
    assert Ranking.of([measured(2000 * evidence, truth), wrong], 400).clear


def test_the_colours_of_the_tests_are_sorted_as_their_folders() -> None:
    assert list(COLOURS) == sorted(COLOURS)


def test_a_pooled_head_is_recognized_and_one_that_reads_more_positions_is_not_asked(images: LabelledImages) -> None:
    weights = coloured_weights(TORCHVISION_NORMALIZATION, pooled=True)
    facts = WeightFacts(configuration="A", channels=RGB)
    ranking = ranked(weights, images, facts)
    assert len(ranking.measured) == 2 * len(NORMALIZATIONS)
    assert ranking.best.reading.pooled
    assert ranking.best.reading.normalization_name == "torchvision"
    assert ranking.clear
    other = coloured_weights(TORCHVISION_NORMALIZATION)
    assert not any(reading.pooled for reading in readings_of(checkpoint_of(other), facts))
