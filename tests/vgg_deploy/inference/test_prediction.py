"""Images in, averaged posteriors out: right, in order, as a stream, with little held at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.inference.prediction import Failure, Prediction, predict
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import Decoded, decode, decode_reduced, mirrored, rescale
from vgg_deploy.views.protocols import Protocol

DENSE = Protocol("dense", (64,), None, False)
MULTISCALE = Protocol("multiscale", (64, 73, 96), None, True)
CENTER = Protocol("center", (80,), 64, False)

SQUARE, TALL, WIDE = (64, 64), (96, 64), (64, 130)
# What may lie between the paths taken and the results given, at any length of input: decoded ahead of the engine, waiting
# for company, and waiting for the engine.
LOOKAHEAD = 40


@pytest.fixture
def manifest(narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]) -> Manifest:
    return manifest_for(narrow_spec("A"))


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., list[Path]]:
    """`pictures(size, size, ...)` writes noise of those heights and widths; None writes a file that is no image."""

    def write(*sizes: tuple[int, int] | None) -> list[Path]:
        random = np.random.default_rng(len(sizes))
        paths = []
        for number, size in enumerate(sizes):
            path = tmp_path / f"{number:04}.png"
            if size is None:
                path.write_bytes(b"not an image")
            else:
                # Brightness differs from image to image and from side to side.
                pixels = (
                    random.integers(0, 256, (*size, 3)) * random.uniform(0.2, 1) * np.linspace(1, 0.3, size[1])[:, None]
                )
                Image.fromarray(pixels.astype(np.uint8)).save(path, compress_level=1)
            paths.append(path)
        return paths

    return write


def probabilities(results: Iterator[Prediction | Failure]) -> list[np.ndarray]:
    given = []
    for result in results:
        assert isinstance(result, Prediction), result
        given.append(result.probabilities)
    return given


def alone(engine: FakeEngine, path: Path, protocol: Protocol) -> np.ndarray:
    """The answer by the definition: each view in a call of its own, and the plain mean."""
    pixels, rescaling = decode(path), engine.info.manifest.rescaling
    rows = []
    for view in protocol.views(pixels.shape[0], pixels.shape[1], rescaling):
        seen = rescale(pixels, view.short_side, rescaling)
        if view.box is not None:
            top, left, height, width = view.box
            seen = seen[top : top + height, left : left + width]
        rows.append(engine.run((mirrored(seen) if view.mirror else seen)[None]).probabilities[0])
    return np.asarray(np.mean(rows, axis=0))


def marked(images: np.ndarray) -> np.ndarray:
    """Posteriors of which the second is the first pixel's red / 255: they say which view was seen."""
    share = images[:, 0, 0, 0].astype(np.float32) / 255
    return np.stack([1 - share, share, *[0 * share] * 3], axis=1)


@pytest.mark.parametrize("protocol", [DENSE, MULTISCALE, CENTER], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_answer_is_the_mean_of_its_views_posteriors(
    manifest: Manifest, pictures: Callable[..., list[Path]], protocol: Protocol, batch: int
) -> None:
    paths = pictures(SQUARE, TALL, SQUARE, WIDE, TALL, (150, 201), SQUARE)
    with FakeEngine(manifest) as engine:
        results = list(predict(engine, paths, protocol, batch=batch))
        for path, answer in zip(paths, probabilities(iter(results)), strict=True):
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
    # S is 73, the crop 64: Q is 73 and 105 (41 is below the crop), and every view is mirrored.
    assert sorted(engine.batches) == [(2, 109, 73, 3), (2, 157, 105, 3)]


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


@pytest.mark.parametrize("concurrency", [1, 3])
def test_results_keep_the_order_of_the_images_among_mixed_shapes_and_failures(
    manifest: Manifest, pictures: Callable[..., list[Path]], concurrency: int
) -> None:
    sizes = [None, SQUARE, TALL, None, SQUARE, WIDE, (65, 64), SQUARE, None, TALL, SQUARE, None] * 2
    paths = pictures(*sizes)
    paths.insert(5, paths[0].parent / "absent.png")
    with FakeEngine(manifest, latency_s=0.002, concurrency=concurrency) as engine:
        results = list(predict(engine, paths, MULTISCALE, batch=3))
    assert [result.path for result in results] == paths
    sizes.insert(5, None)
    assert [isinstance(result, Failure) for result in results] == [size is None for size in sizes]
    absent = results[5]
    assert isinstance(absent, Failure)
    assert absent.reason == "no such file"


def test_no_images_give_no_results(manifest: Manifest) -> None:
    assert list(predict(FakeEngine(manifest), [], DENSE)) == []


def test_the_first_results_come_before_the_last_images_are_looked_at(
    manifest: Manifest, pictures: Callable[..., list[Path]]
) -> None:
    (path,) = pictures(SQUARE)
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    results = predict(FakeEngine(manifest), endless(), DENSE, batch=2)
    for given in range(1, 200):
        assert isinstance(next(results), Prediction)
        assert taken - given < LOOKAHEAD
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("latency_s", [0.0, 0.001])
def test_an_image_of_an_unusual_shape_does_not_hold_back_all_that_follow(
    manifest: Manifest, pictures: Callable[..., list[Path]], latency_s: float
) -> None:
    usual, unusual = pictures(SQUARE, TALL)
    taken = 0

    def mostly_usual() -> Iterator[Path]:
        nonlocal taken
        for number in range(300):
            taken += 1
            yield unusual if number % 100 == 0 else usual

    held = []
    with FakeEngine(manifest, latency_s=latency_s) as engine:
        for given, _ in enumerate(predict(engine, mostly_usual(), DENSE), 1):
            held.append(taken - given)
    assert len(held) == 300
    assert max(held) < LOOKAHEAD


def test_decoded_images_wait_for_a_slow_engine(manifest: Manifest, pictures: Callable[..., list[Path]]) -> None:
    (path,) = pictures(SQUARE)
    taken, begun, go = 0, threading.Event(), threading.Event()

    def answer(images: np.ndarray) -> np.ndarray:
        begun.set()
        assert go.wait(30)
        return marked(images)

    def many() -> Iterator[Path]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield path

    results: list[Any] = []
    reader = threading.Thread(
        target=lambda: results.extend(predict(FakeEngine(manifest, answer), many(), DENSE, batch=2))
    )
    reader.start()
    assert begun.wait(30)
    time.sleep(0.05)
    looked_at = taken
    go.set()
    reader.join(30)
    assert looked_at < LOOKAHEAD
    assert len(results) == 100


def test_images_are_decoded_while_the_engine_runs(manifest: Manifest, pictures: Callable[..., list[Path]]) -> None:
    paths = pictures(*[SQUARE] * 4)
    third_taken = threading.Event()

    def slow_engine(images: np.ndarray) -> np.ndarray:
        # The first call ends only once a later image was asked for.
        assert third_taken.wait(30)
        return marked(images)

    def one_by_one() -> Iterator[Path]:
        for number, path in enumerate(paths):
            if number == 2:
                third_taken.set()
            yield path

    engine = FakeEngine(manifest, slow_engine, latency_s=0.01)
    assert len(probabilities(predict(engine, one_by_one(), DENSE, batch=1))) == 4


def test_views_of_one_shape_share_batches_across_images(
    manifest: Manifest, pictures: Callable[..., list[Path]]
) -> None:
    paths = pictures(SQUARE, TALL, SQUARE, TALL, SQUARE, TALL, SQUARE)
    with FakeEngine(manifest) as engine:
        probabilities(predict(engine, paths, DENSE, batch=4))
    assert engine.batches == [(4, 64, 64, 3), (3, 96, 64, 3)]


@pytest.mark.parametrize("maximum", [1, 2, 3])
def test_batches_are_no_larger_than_the_engine_takes(
    manifest: Manifest, pictures: Callable[..., list[Path]], maximum: int
) -> None:
    edge = AxisRange(64)
    narrow = manifest.with_(shapes=ShapeRange(AxisRange(1, maximum), edge, edge))
    with FakeEngine(narrow) as engine:
        probabilities(predict(engine, pictures(*[SQUARE] * 7), DENSE, batch=16))
    assert max(batch[0] for batch in engine.batches) == maximum
    assert sum(batch[0] for batch in engine.batches) == 7


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_are_no_larger_than_was_asked_for(
    manifest: Manifest, pictures: Callable[..., list[Path]], batch: int
) -> None:
    with FakeEngine(manifest) as engine:
        probabilities(predict(engine, pictures(*[SQUARE] * 11), MULTISCALE, batch=batch))
    assert max(shape[0] for shape in engine.batches) == batch
    assert sum(shape[0] for shape in engine.batches) == 66


@pytest.mark.parametrize("fixed", [1, 4])
@pytest.mark.parametrize("asked", [1, 3, 8])
def test_a_model_of_a_fixed_batch_gets_it_and_answers_as_ever(
    manifest: Manifest, pictures: Callable[..., list[Path]], fixed: int, asked: int
) -> None:
    edge = AxisRange(64, 64)
    paths = pictures(SQUARE, TALL, None, WIDE, SQUARE, SQUARE, TALL)
    with FakeEngine(manifest.with_(shapes=ShapeRange(AxisRange(fixed, fixed), edge, edge))) as engine:
        results = list(predict(engine, paths, CENTER, batch=asked))
    assert set(engine.batches) == {(fixed, 64, 64, 3)}
    free = FakeEngine(manifest)
    for path, result in zip(paths, results, strict=True):
        if path.read_bytes() == b"not an image":
            assert isinstance(result, Failure)
        else:
            assert isinstance(result, Prediction), result
            np.testing.assert_allclose(result.probabilities, alone(free, path, CENTER), rtol=1e-6)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_batches_do_not_depend_on_how_long_decoding_or_running_takes(
    manifest: Manifest,
    pictures: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int,
) -> None:
    sizes = [SQUARE, TALL, SQUARE, WIDE, None, SQUARE, TALL, SQUARE, SQUARE, (70, 64), SQUARE, TALL] * 2
    paths = pictures(*sizes)
    import vgg_deploy.inference.prediction as module

    def seen(delay: Callable[[int], float], latency_s: float, decoders: int) -> list[tuple[float, ...]]:
        def slow_decode(path: Path, short_side: int | None) -> Decoded:
            time.sleep(delay(int(path.stem)))
            return decode_reduced(path, short_side)

        batches = []

        def answer(images: np.ndarray) -> np.ndarray:
            batches.append((float(len(images)), *images.mean(axis=(1, 2, 3)).tolist()))
            return marked(images)

        with monkeypatch.context() as patched:
            patched.setattr(module, "decode_reduced", slow_decode)
            engine = FakeEngine(manifest, answer, latency_s=latency_s, concurrency=concurrency)
            list(predict(engine, paths, MULTISCALE, batch=3, decoders=decoders))
        return sorted(batches)

    calm = seen(lambda _number: 0, 0, 1)
    assert len(calm) > 10
    assert seen(lambda number: 0.01 * (number % 3 == 0), 0, 4) == calm
    assert seen(lambda number: 0.01 * (number % 5 == 1), 0.002, 2) == calm


def test_an_engine_that_takes_several_requests_gets_them_at_once(
    manifest: Manifest, pictures: Callable[..., list[Path]]
) -> None:
    both = threading.Barrier(2)

    def answer(images: np.ndarray) -> np.ndarray:
        both.wait(30)  # breaks unless two calls meet
        return marked(images)

    engine = FakeEngine(manifest, answer, concurrency=2)
    assert len(probabilities(predict(engine, pictures(*[SQUARE] * 4), DENSE, batch=1))) == 4


def test_an_engine_that_takes_one_request_gets_one(manifest: Manifest, pictures: Callable[..., list[Path]]) -> None:
    lock = threading.Lock()

    def answer(images: np.ndarray) -> np.ndarray:
        assert lock.acquire(blocking=False), "two calls at once"
        time.sleep(0.002)
        lock.release()
        return marked(images)

    assert len(probabilities(predict(FakeEngine(manifest, answer), pictures(*[SQUARE] * 8), DENSE, batch=1))) == 8


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("protocol", [DENSE, MULTISCALE], ids=str)
def test_an_engine_that_fails_raises_once_earlier_results_were_given(
    manifest: Manifest, pictures: Callable[..., list[Path]], protocol: Protocol, batch: int
) -> None:
    sound, damned = pictures(*[SQUARE] * 6), pictures(*[SQUARE] * 6)[0].parent / "damned.png"
    pixels = np.zeros((64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(damned)

    def answer(images: np.ndarray) -> np.ndarray:
        if (images == 0).all(axis=(1, 2, 3)).any():
            raise EngineError("out of device memory")
        return marked(images)

    given: list[Path] = []
    results = predict(FakeEngine(manifest, answer), [*sound, damned, *sound], protocol, batch=batch)
    with pytest.raises(EngineError, match="out of device memory"):
        given.extend(result.path for result in results)
    # Every view of these ran before the failing batch began.
    assert given == sound[: len(given)]
    assert len(given) == 6
    assert next(results, None) is None


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
    assert "300x64 pixels is outside what the model takes: 64..256 wide, 64..256 high" in wide.reason
    assert isinstance(square, Prediction)


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "engine"))}


@pytest.mark.parametrize("end", ["closed", "finished", "failed"])
def test_no_thread_outlives_the_stream(manifest: Manifest, pictures: Callable[..., list[Path]], end: str) -> None:
    (path,) = pictures(SQUARE)

    def answer(images: np.ndarray) -> np.ndarray:
        if end == "failed" and len(engine.batches) > 3:
            raise EngineError("it failed")
        return marked(images)

    engine = FakeEngine(manifest, answer, latency_s=0.001)
    results = predict(engine, [path] * 40, DENSE, batch=1, decoders=3)
    next(results)
    assert our_threads()
    if end == "closed":
        results.close()  # type: ignore[attr-defined]
        assert len(engine.batches) < 40
    elif end == "failed":
        with pytest.raises(EngineError, match="it failed"):
            list(results)
    else:
        list(results)
    assert not our_threads()
    assert next(results, None) is None


def test_score_maps_come_with_their_views_where_they_are_asked_for(
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


def test_a_batch_of_no_views_is_bad_use(manifest: Manifest, pictures: Callable[..., list[Path]]) -> None:
    with pytest.raises(UsageError, match="batch is 0; expected 1 or more"):
        list(predict(FakeEngine(manifest), pictures(SQUARE), DENSE, batch=0))
