"""Error rates: over the right images and the right number of them, and the same after an interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.evaluation.error_rates import (
    ErrorRates,
    Evaluation,
    error_rates,
    evaluate,
    folder_name,
    label_by_folder,
)
from vgg_deploy.evaluation.posterior_cache import PosteriorCache
from vgg_deploy.inference.posteriors import top_k
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import Manifest, Normalization, Rescaling, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import decode, mirrored, rescale
from vgg_deploy.views.protocols import PROTOCOLS, Protocol, choose_protocol

Pictures = Callable[..., list[Path]]

CLASSES = tuple(
    ClassName(*pair)
    for pair in (
        ("n01440764", "tench"),
        ("n02102040", "English springer"),
        ("n02979186", "cassette player"),
        ("n03000684", "chain saw"),
        ("n03028079", "church"),
        ("n03394916", "French horn"),
        ("n03417042", "garbage truck"),
    )
)
DENSE = Protocol("dense", (32,), None, True)


@pytest.fixture
def manifest(narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]) -> Manifest:
    return manifest_for(narrow_spec("A", crop=32, classes=len(CLASSES)), classes=CLASSES)


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., list[Path]]:
    """`pictures(n)` writes n images of several sizes into folders of classes."""

    def write(count: int = 12) -> list[Path]:
        random, paths = np.random.default_rng(5), []
        for number in range(count):
            size = ((40, 60), (50, 36), (48, 48))[number % 3]
            slope = np.linspace(1, random.uniform(0, 1), size[1])[:: (-1) ** number, None]
            pixels = random.integers(0, 256, (*size, 3)) * slope * random.uniform(0.3, 1)
            path = tmp_path / "data" / CLASSES[number % len(CLASSES)].id / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            paths.append(path)
        return paths

    return write


def directly(engine: FakeEngine, path: Path, protocol: Protocol) -> np.ndarray:
    """The mean over the views by definition, with each view scored on its own."""
    pixels, rescaling = decode(path), engine.info.manifest.rescaling
    total, weights = np.zeros(len(engine.info.manifest.classes)), 0.0
    for view in protocol.views(pixels.shape[0], pixels.shape[1], rescaling):
        cut = view.cut(rescale(pixels, view.short_side, rescaling), rescaling)
        total += view.weight * engine.run((mirrored(cut) if view.mirror else cut)[None]).probabilities[0]
        weights += view.weight
    return np.asarray(total / weights)


# ---- labels ----


def test_the_folder_of_an_image_names_its_class() -> None:
    images = label_by_folder(
        [Path("data/Chain_Saw/a.png"), Path("data/n01440764/b.png"), Path("church/c.png")], CLASSES
    )
    assert images.truth.tolist() == [3, 0, 4]
    assert images.truth.dtype == np.int64
    with pytest.raises(UsageError, match="'trench' is not a class of this network"):
        label_by_folder([Path("data/tench/a.png"), Path("data/trench/b.png")], CLASSES)


def test_the_folder_of_an_image_is_found_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tench" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tench" / "inner")
    for path in ("../a.png", "../../tench/a.png", "./../a.png", str(tmp_path / "tench/a.png"), "../inner/../a.png"):
        assert folder_name(Path(path)) == "tench"
    monkeypatch.chdir(tmp_path / "tench")
    assert folder_name(Path("a.png")) == "tench"
    assert label_by_folder([Path("a.png")], CLASSES).truth.tolist() == [0]


def test_folders_are_not_matched_to_classes_that_are_only_numbered() -> None:
    manifest = Manifest(numbered_classes(3), None, None, TrainScale(32, 32), classes_numbered=True)
    for folders in (("0", "1", "2"), ("cat", "dog", "fox")):
        paths = [Path("data") / folder / "a.png" for folder in folders]
        with pytest.raises(UsageError, match=f"3 classes have no names, only numbers.*: {', '.join(folders)}. Give"):
            label_by_folder(paths, manifest)
    digits = manifest.with_(classes_numbered=False)
    assert label_by_folder([Path("data/2/a.png"), Path("data/0/a.png")], digits).truth.tolist() == [2, 0]


def many(counts: dict[str, int]) -> list[Path]:
    return [Path("data") / folder / f"{number}.png" for folder, count in counts.items() for number in range(count)]


def test_a_limit_takes_as_equal_numbers_of_each_class_as_possible() -> None:
    paths = many({"tench": 50, "church": 50, "French horn": 3, "chain saw": 50})
    for limit in (1, 4, 11, 20, 100, 152):
        images = label_by_folder(paths, CLASSES).sample(limit)
        counts = sorted(np.unique(images.truth, return_counts=True)[1].tolist())
        assert len(images.paths) == len(set(images.paths)) == limit
        full = [count for count in counts if count > 3]
        assert not full or max(full) - min(full) <= 1
        if limit >= 4:
            assert counts[0] >= min(3, limit // 4)
        assert list(images.paths) == [path for path in paths if path in set(images.paths)]
        for path, truth in zip(images.paths, images.truth.tolist(), strict=True):
            assert CLASSES[truth].label == path.parent.name


def test_a_limit_takes_the_same_images_each_time_and_not_the_first_ones() -> None:
    paths = many({"tench": 30, "church": 30})
    sample = label_by_folder(paths, CLASSES).sample(10).paths
    assert label_by_folder(paths, CLASSES).sample(10).paths == sample
    assert label_by_folder(paths[::-1], CLASSES).sample(10).paths == sample[::-1]
    assert max(int(path.stem) for path in sample) > 9


def test_a_limit_below_the_number_of_classes_does_not_take_the_first_classes() -> None:
    classes = numbered_classes(100)
    truth = label_by_folder(many({str(index): 2 for index in range(100)}), classes).sample(10).truth.tolist()
    assert len(set(truth)) == 10
    assert max(truth) > 50


@pytest.mark.parametrize("limit", [6, 1000])
def test_a_limit_of_the_whole_set_or_more_is_the_whole_set(limit: int) -> None:
    paths = many({"tench": 4, "church": 2})
    assert label_by_folder(paths, CLASSES).sample(limit).paths == tuple(paths)


# ---- figures ----


def posteriors_with_ranks(ranks: list[int], classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Posteriors of which the true class has the given rank, from 1."""
    random = np.random.default_rng(7)
    rows, truth = [], []
    for rank in ranks:
        order = random.permutation(classes)
        row = np.zeros(classes, np.float32)
        row[order] = np.arange(classes, 0, -1) / sum(range(classes + 1))
        rows.append(row)
        truth.append(order[rank - 1])
    return np.array(rows), np.array(truth, np.int64)


def test_errors_are_the_shares_whose_class_is_not_first_or_among_five() -> None:
    rows, truth = posteriors_with_ranks([1, 1, 1, 2, 5, 6, 7, 1])
    assert error_rates(rows, truth) == ErrorRates(8, 0, 4 / 8, 2 / 8)


def test_a_standard_error_is_that_of_a_share() -> None:
    rates = ErrorRates(400, 0, 0.25, 0.0)
    assert rates.standard_error(rates.top1) == math.sqrt(0.25 * 0.75 / 400) == pytest.approx(0.0216506, abs=1e-7)
    assert rates.standard_error(rates.top5) == 0
    assert math.isnan(ErrorRates(0, 3, math.nan, math.nan).standard_error(math.nan))


def test_images_without_an_answer_do_not_count_and_are_counted() -> None:
    rows, truth = posteriors_with_ranks([1, 6, 1, 2])
    rows[1] = np.nan
    assert error_rates(rows, truth) == ErrorRates(3, 1, pytest.approx(1 / 3), 0)  # type: ignore[arg-type]
    rows[:] = np.nan
    none = error_rates(rows, truth)
    assert (none.images, none.failed) == (0, 4)
    assert math.isnan(none.top1)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocols_error_is_that_of_a_direct_computation(manifest: Manifest, pictures: Pictures, name: str) -> None:
    paths = pictures(14)
    images = label_by_folder(paths, CLASSES)
    protocol = choose_protocol(manifest, name, free_size=True).protocol
    with FakeEngine(manifest) as engine:
        evaluation = evaluate(engine, images.paths, protocol)
        rows = np.array([directly(engine, path, protocol) for path in paths])
    np.testing.assert_allclose(evaluation.posteriors, rows, rtol=1e-4)
    ranks = [list(top_k(row, 7)).index(truth) for row, truth in zip(rows, images.truth, strict=True)]
    figures = error_rates(evaluation.posteriors, images.truth)
    assert figures.images == 14
    assert figures.top1 == pytest.approx(sum(rank > 0 for rank in ranks) / 14)
    assert figures.top5 == pytest.approx(sum(rank > 4 for rank in ranks) / 14)
    assert 0 < figures.top5 < figures.top1 < 1
    assert evaluation.computed == 14
    assert evaluation.failures == ()
    assert evaluation.ms_per_image == pytest.approx(1000 * evaluation.seconds / 14)


@pytest.mark.parametrize(
    ("name", "views"), [("center", 1), ("dense", 2), ("10-crop", 10), ("144-crop", 144), ("150-crop", 150)]
)
def test_views_are_those_of_a_photo(manifest: Manifest, name: str, views: int) -> None:
    scales = {"144-crop": (64, 80, 96, 112), "150-crop": (64, 80, 96)}.get(name, (64,))
    crop = None if name == "dense" else 32
    nothing = np.zeros((0, 7), np.float32)
    assert Evaluation(Protocol(name, scales, crop, name != "center"), nothing, (), 0, 0.0).view_count == views


def test_broken_images_are_failures_and_the_others_keep_their_classes(manifest: Manifest, pictures: Pictures) -> None:
    paths = pictures(9)
    paths[2].write_bytes(b"no image")
    paths[5].write_bytes(b"")
    paths[8].unlink()
    evaluation = evaluate(FakeEngine(manifest), paths, DENSE)
    assert [failure.path for failure in evaluation.failures] == [paths[2], paths[5], paths[8]]
    broken = np.isnan(evaluation.posteriors).all(axis=1)
    assert broken.nonzero()[0].tolist() == [2, 5, 8]
    for index in (0, 1, 3, 4, 6, 7):
        np.testing.assert_allclose(
            evaluation.posteriors[index], directly(FakeEngine(manifest), paths[index], DENSE), rtol=1e-5
        )
    figures = error_rates(evaluation.posteriors, label_by_folder(paths, CLASSES).truth)
    assert (figures.images, figures.failed) == (6, 3)
    assert evaluation.computed == 6


# ---- what is cached is not computed again ----


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[PosteriorCache]:
    with PosteriorCache(tmp_path / "cache.sqlite") as opened:
        yield opened


def scored(engine: FakeEngine) -> int:
    return sum(shape[0] for shape in engine.batches)


def test_what_is_cached_is_not_computed_again_and_is_the_same(
    manifest: Manifest, pictures: Pictures, cache: PosteriorCache
) -> None:
    paths, engine = pictures(), FakeEngine(manifest)
    first = evaluate(engine, paths, DENSE, cache=cache, model="a")
    assert (first.computed, scored(engine)) == (12, 26)  # with a mirrored image to warm up
    ticks: list[int] = []
    again = evaluate(engine, paths, DENSE, cache=cache, model="a", progress=lambda: ticks.append(0))
    assert (again.computed, scored(engine)) == (0, 26)
    np.testing.assert_array_equal(again.posteriors, first.posteriors)
    assert len(ticks) == 12
    # What it cost is cached too, so that the report of a resumed run is complete.
    assert again.ms_per_image == pytest.approx(first.ms_per_image)
    without = evaluate(FakeEngine(manifest), paths, DENSE)
    np.testing.assert_allclose(without.posteriors, first.posteriors, rtol=1e-5)


def test_the_slow_first_call_of_an_engine_is_not_timed(manifest: Manifest, pictures: Pictures) -> None:
    class SlowStarter(FakeEngine):
        def run(self, images: Any) -> Any:
            if not self.batches:
                time.sleep(0.5)
            return super().run(images)

    began = time.perf_counter()
    evaluation = evaluate(SlowStarter(manifest), pictures(3), DENSE)
    assert time.perf_counter() - began > 0.5
    assert evaluation.seconds < 0.4
    assert np.isfinite(evaluation.posteriors).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: {"model": "b"},
        lambda manifest: {"protocol": Protocol("dense", (33,), None, True)},
        lambda manifest: {"engine": FakeEngine(manifest.with_(rescaling=Rescaling("bicubic")))},
        lambda manifest: {"engine": FakeEngine(manifest.with_(normalization=Normalization((0.0, 0.0, 0.0))))},
    ],
    ids=["weights", "scale", "filter", "normalization"],
)
def test_what_was_computed_in_another_way_is_not_reused(
    manifest: Manifest, pictures: Pictures, cache: PosteriorCache, change: Callable[..., dict[str, Any]]
) -> None:
    paths = pictures(4)
    usual: dict[str, Any] = {"engine": FakeEngine(manifest), "protocol": DENSE, "model": "a"}
    evaluate(**usual, paths=paths, cache=cache)
    assert evaluate(**usual, paths=paths, cache=cache).computed == 0
    assert evaluate(**{**usual, **change(manifest)}, paths=paths, cache=cache).computed == 4


def test_an_image_is_known_by_its_bytes_not_by_its_name(manifest: Manifest, pictures: Pictures, tmp_path: Path) -> None:
    paths = pictures(4)

    def computed(paths: list[Path]) -> int:
        with PosteriorCache(tmp_path / "cache.sqlite") as cache:
            return evaluate(FakeEngine(manifest), paths, DENSE, cache=cache, model="a").computed

    assert computed(paths) == 4
    moved = paths[0].rename(paths[0].with_name("moved.png"))
    assert computed([moved, *paths[1:]]) == 0
    Image.new("RGB", (50, 50), (9, 9, 200)).save(paths[1])
    assert computed([moved, *paths[1:]]) == 1


def test_a_protocol_of_two_parts_is_answered_from_the_cache_if_it_has_both(
    manifest: Manifest, pictures: Pictures, cache: PosteriorCache
) -> None:
    paths, engine = pictures(4), FakeEngine(manifest)
    scales = (32, 40, 64)
    both = Protocol("multiscale+150-crop", scales, 32, True)
    direct = evaluate(FakeEngine(manifest), paths, both)
    dense = evaluate(engine, paths, Protocol("multiscale", scales, None, True), cache=cache, model="a")
    crops = evaluate(engine, paths[:3], Protocol("150-crop", scales, 32, True), cache=cache, model="a")
    ran = scored(engine)
    of_three = evaluate(engine, paths[:3], both, cache=cache, model="a")
    assert (of_three.computed, scored(engine)) == (0, ran)
    assert of_three.seconds > crops.seconds
    evaluation = evaluate(engine, paths, both, cache=cache, model="a")
    assert evaluation.computed == 1  # the crops of the last image are not cached
    np.testing.assert_allclose(evaluation.posteriors, direct.posteriors, rtol=1e-5)
    assert np.abs(evaluation.posteriors - dense.posteriors).max() > 1e-3
    # Nothing is cached for other scales.
    other_scales = Protocol("multiscale+150-crop", (32, 64), 32, True)
    assert evaluate(engine, paths, other_scales, cache=cache, model="a").computed == 4


def test_a_cache_without_the_weights_fingerprint_is_refused(
    manifest: Manifest, pictures: Pictures, cache: PosteriorCache
) -> None:
    with pytest.raises(UsageError, match="model is empty; a cache needs the fingerprint"):
        evaluate(FakeEngine(manifest), pictures(1), DENSE, cache=cache)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, EngineError])
def test_an_interrupted_evaluation_continues_where_it_stopped(
    manifest: Manifest, pictures: Pictures, tmp_path: Path, stop: type[BaseException]
) -> None:
    paths, calls = pictures(30), 0
    usual = FakeEngine(manifest)

    def until_it_stops(images: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise stop("stopped")
        return usual.run(images).probabilities

    def run(engine: FakeEngine) -> Evaluation:
        with PosteriorCache(tmp_path / "cache.sqlite") as cache:
            return evaluate(engine, paths, DENSE, cache=cache, model="a", batch=2)

    with pytest.raises(stop):
        run(FakeEngine(manifest, until_it_stops))
    rest = run(FakeEngine(manifest))
    assert 0 < rest.computed < 30
    whole = evaluate(FakeEngine(manifest), paths, DENSE)
    np.testing.assert_allclose(rest.posteriors, whole.posteriors, rtol=1e-5)
    assert run(FakeEngine(manifest)).computed == 0


def test_images_that_failed_are_tried_again(manifest: Manifest, pictures: Pictures, tmp_path: Path) -> None:
    paths = pictures(5)
    sound = paths[1].read_bytes()
    paths[1].write_bytes(b"")
    computed = []
    for _ in range(3):
        with PosteriorCache(tmp_path / "cache.sqlite") as cache:
            evaluation = evaluate(FakeEngine(manifest), paths, DENSE, cache=cache, model="a")
        computed.append((evaluation.computed, len(evaluation.failures)))
        if len(computed) == 2:
            paths[1].write_bytes(sound)
    assert computed == [(4, 1), (0, 1), (1, 0)]


def test_an_image_that_cannot_be_read_is_a_failure_with_a_cache_too(
    manifest: Manifest, pictures: Pictures, cache: PosteriorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, so the test refuses by itself.
    paths, usual = pictures(3), Path.open

    def refused(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == paths[1]:
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    evaluation = evaluate(FakeEngine(manifest), paths, DENSE, cache=cache, model="a")
    assert evaluation.computed == 2
    assert [failure.reason for failure in evaluation.failures] == ["no permission to read it"]
