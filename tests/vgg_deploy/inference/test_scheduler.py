"""Which batches run, and when: through `predict`, with engines that wait, fail and count."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vgg_deploy.inference.preparation
from tests.vgg_deploy.inference.answers import CENTER, DENSE, MULTISCALE, SQUARE, TALL, WIDE, marked, probabilities
from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.inference.prediction import Failure, Prediction, predict
from vgg_deploy.inference.scheduler import PIXELS_PER_REQUEST
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import Decoded, decode_reduced
from vgg_deploy.views.protocols import Protocol

Pictures = Callable[..., list[Path]]

LIMIT_S = 60  # how long a test waits for what should come at once
MEGAPIXEL = Protocol("dense", (1024,), None, False)  # a square view has 1 Mi pixels
SHARE = PIXELS_PER_REQUEST // 1024**2  # so many of them are held for each request
AHEAD = 4  # images that are prepared ahead of those, with two decoders and batches of one or two


def of_grey(level: int, folder: Path) -> Path:
    path = folder / f"grey{level}.png"
    Image.new("RGB", (64, 64), (level, level, level)).save(path)
    return path


class Taken:
    """Paths; `count` of them were taken."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths, self.count = paths, 0

    def __iter__(self) -> Iterator[Path]:
        for path in self._paths:
            self.count += 1
            yield path

    def settled(self, expected: int) -> int:
        """Waits until `expected` paths are taken, and a moment longer; gives how many were."""
        deadline = time.monotonic() + LIMIT_S
        while self.count < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        return self.count


@contextmanager
def in_thread(work: Callable[[], list[Any]]) -> Iterator[list[Any]]:
    """Runs `work` beside the block; what it gives is in the list after the block."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(work()))
    thread.start()
    yield results
    thread.join(2 * LIMIT_S)
    assert not thread.is_alive()


# ---- which views share a batch ----


def test_views_of_one_shape_share_batches_across_images(manifest: Manifest, pictures: Pictures) -> None:
    paths = pictures(SQUARE, TALL, SQUARE, TALL, SQUARE, TALL, SQUARE)
    with FakeEngine(manifest) as engine:
        probabilities(predict(engine, paths, DENSE, batch=4))
    assert engine.batches == [(4, 64, 64, 3), (3, 96, 64, 3)]


@pytest.mark.parametrize("maximum", [1, 2, 3])
def test_batches_are_no_larger_than_the_engine_takes(manifest: Manifest, pictures: Pictures, maximum: int) -> None:
    edge = AxisRange(64)
    narrow = manifest.with_(shapes=ShapeRange(AxisRange(1, maximum), edge, edge))
    with FakeEngine(narrow) as engine:
        probabilities(predict(engine, pictures(*[SQUARE] * 7), DENSE, batch=16))
    assert max(batch[0] for batch in engine.batches) == maximum
    assert sum(batch[0] for batch in engine.batches) == 7


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_are_no_larger_than_was_asked_for(manifest: Manifest, pictures: Pictures, batch: int) -> None:
    with FakeEngine(manifest) as engine:
        probabilities(predict(engine, pictures(*[SQUARE] * 11), MULTISCALE, batch=batch))
    assert max(shape[0] for shape in engine.batches) == batch
    assert sum(shape[0] for shape in engine.batches) == 66


def test_a_batch_of_no_views_is_bad_use(manifest: Manifest, pictures: Pictures) -> None:
    with pytest.raises(UsageError, match="batch is 0; expected 1 or more"):
        list(predict(FakeEngine(manifest), pictures(SQUARE), DENSE, batch=0))


@pytest.mark.parametrize("fixed", [1, 4])
@pytest.mark.parametrize("asked", [1, 3, 8])
def test_a_model_of_a_fixed_batch_gets_it_and_gives_the_same_answers(
    manifest: Manifest, pictures: Pictures, fixed: int, asked: int
) -> None:
    edge = AxisRange(64, 64)
    paths = pictures(SQUARE, TALL, None, WIDE, SQUARE, SQUARE, TALL)
    with FakeEngine(manifest.with_(shapes=ShapeRange(AxisRange(fixed, fixed), edge, edge))) as engine:
        results = list(predict(engine, paths, CENTER, batch=asked))
    assert set(engine.batches) == {(fixed, 64, 64, 3)}
    one_by_one = list(predict(FakeEngine(manifest), paths, CENTER, batch=1))
    for result, alone in zip(results, one_by_one, strict=True):
        assert type(result) is type(alone)
        if isinstance(result, Prediction) and isinstance(alone, Prediction):
            np.testing.assert_allclose(result.probabilities, alone.probabilities, rtol=1e-6)


@pytest.mark.parametrize("requests", [1, 2, 32])
def test_batches_and_answers_do_not_depend_on_how_long_decoding_or_running_takes(
    manifest: Manifest, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    sizes = [SQUARE, TALL, SQUARE, WIDE, None, SQUARE, TALL, SQUARE, SQUARE, (70, 64), SQUARE, TALL] * 2
    paths = pictures(*sizes)

    def run(
        decode_s: Callable[[int], float], run_s: Callable[[int], float], decoders: int
    ) -> tuple[list[tuple[float, ...]], list[Any]]:
        """The batches that ran, by their size and the brightness of each view; and the answers with their maps."""

        def slow_decode(path: Path, short_side: int | None) -> Decoded:
            time.sleep(decode_s(int(path.stem)))
            return decode_reduced(path, short_side)

        batches: list[tuple[float, ...]] = []

        def answer(images: np.ndarray) -> np.ndarray:
            batches.append((float(len(images)), *images.mean(axis=(1, 2, 3)).tolist()))
            time.sleep(run_s(len(batches)))
            return marked(images)

        with monkeypatch.context() as patched:
            patched.setattr(vgg_deploy.inference.preparation, "decode_reduced", slow_decode)
            engine = FakeEngine(manifest, answer, score_map=True, concurrency=requests)
            results = list(predict(engine, paths, MULTISCALE, batch=3, decoders=decoders, keep_score_maps=True))
        answers = [
            (result.probabilities.tolist(), [(each.view, each.scores.tolist()) for each in result.score_maps])
            for result in results
            if isinstance(result, Prediction)
        ]
        return sorted(batches), answers

    calm = run(lambda _image: 0, lambda _batch: 0, 1)
    assert len(calm[0]) > 10
    assert [view for view, _scores in calm[1][0][1]] == list(MULTISCALE.views(64, 64, manifest.rescaling))
    assert run(lambda image: 0.01 * (image % 3 == 0), lambda _batch: 0, 4) == calm
    assert run(lambda image: 0.01 * (image % 5 == 1), lambda batch: 0.004 * (batch % 3), 2) == calm


def test_an_image_of_an_unusual_shape_does_not_wait_for_long(manifest: Manifest, pictures: Pictures) -> None:
    usual, unusual = pictures(SQUARE, TALL)
    paths = [unusual if number % 100 == 0 else usual for number in range(300)]
    with FakeEngine(manifest) as engine:
        assert [result.path for result in predict(engine, paths, DENSE, batch=2)] == paths
    # Four images are taken on while it waits for another of its shape: two batches of usual ones.
    positions = [position for position, shape in enumerate(engine.batches) if shape == (1, 96, 64, 3)]
    assert positions == [2, 52, 103]


def test_views_that_wait_for_others_hold_no_more_pixels_than_a_batch_of_the_largest(
    manifest: Manifest, pictures: Pictures
) -> None:
    # Each view is the only one of its shape. A batch of four has 16 Mi pixels at most. Eight smaller views could wait.
    paths = pictures(*[(64, 128 + width) for width in range(8)])
    engine = FakeEngine(manifest, marked)
    large = Protocol("dense", (1408,), None, False)  # 3.8 Mi pixels
    assert len(list(predict(engine, paths[:5], large, batch=4))) == 5
    # The fifth is one too many, so the oldest goes first; the rest are flushed from the largest on.
    widths = [shape[2] for shape in engine.batches]
    assert widths[0] == min(widths)
    assert widths[1:] == sorted(widths[1:], reverse=True)


# ---- which batches run at the same time ----


@pytest.mark.parametrize("requests", [2, 32])
def test_an_engine_that_takes_several_requests_gets_as_many_at_once(
    manifest: Manifest, pictures: Pictures, requests: int
) -> None:
    all_of_them = threading.Barrier(requests)

    def answer(images: np.ndarray) -> np.ndarray:
        all_of_them.wait(LIMIT_S)  # breaks unless as many calls meet
        return marked(images)

    engine = FakeEngine(manifest, answer, concurrency=requests)
    paths = pictures(SQUARE) * (2 * requests)
    assert len(probabilities(predict(engine, paths, DENSE, batch=1))) == 2 * requests


def test_an_engine_that_takes_one_request_gets_one(manifest: Manifest, pictures: Pictures) -> None:
    lock = threading.Lock()

    def answer(images: np.ndarray) -> np.ndarray:
        assert lock.acquire(blocking=False), "two calls at once"
        time.sleep(0.002)
        lock.release()
        return marked(images)

    assert len(probabilities(predict(FakeEngine(manifest, answer), pictures(*[SQUARE] * 8), DENSE, batch=1))) == 8


@pytest.mark.parametrize(("requests", "others"), [(2, 30), (32, 150)])
def test_while_one_request_computes_a_slow_batch_the_others_compute_all_that_follow(
    manifest: Manifest, tmp_path: Path, requests: int, others: int
) -> None:
    assert others > requests * SHARE  # more than may be held at once
    paths = [of_grey(255, tmp_path), *[of_grey(level, tmp_path) for level in range(others)]]
    taken, lock, while_slow = Taken(paths), threading.Lock(), set()
    go, all_others_ran, slow_ended = threading.Event(), threading.Event(), threading.Event()

    def answer(images: np.ndarray) -> np.ndarray:
        level = int(images[0, 0, 0, 0])
        if level == 255:
            all_others_ran.wait(LIMIT_S)
            slow_ended.set()
            return marked(images)
        assert go.wait(LIMIT_S)
        with lock:
            if not slow_ended.is_set():
                while_slow.add(level)
            if len(while_slow) == others:
                all_others_ran.set()
        return marked(images)

    engine = FakeEngine(manifest, answer, concurrency=requests)
    with in_thread(lambda: list(predict(engine, taken, MEGAPIXEL, batch=1, decoders=2))) as results:
        taken.settled(requests * SHARE + AHEAD)
        go.set()
    assert while_slow == set(range(others))
    assert [result.path for result in results] == paths


def test_views_larger_than_a_requests_share_still_keep_each_request_busy(
    manifest: Manifest, pictures: Pictures
) -> None:
    both = threading.Barrier(2)

    def answer(images: np.ndarray) -> np.ndarray:
        both.wait(LIMIT_S)
        return marked(images)

    side = 2100
    assert side * side > PIXELS_PER_REQUEST
    engine = FakeEngine(manifest, answer, concurrency=2)
    protocol = Protocol("dense", (side,), None, False)
    results = predict(engine, pictures(SQUARE) * 4, protocol, batch=1, max_view_pixels=side * side)
    assert len(probabilities(results)) == 4


# ---- what is held at once ----


@pytest.mark.parametrize("requests", [1, 2])
def test_what_waits_for_a_slow_engine_is_bounded_in_pixels(
    manifest: Manifest, pictures: Pictures, requests: int
) -> None:
    taken, go = Taken(pictures(SQUARE) * 60), threading.Event()

    def answer(images: np.ndarray) -> np.ndarray:
        assert go.wait(LIMIT_S)
        return marked(images)

    engine = FakeEngine(manifest, answer, concurrency=requests)
    with in_thread(lambda: list(predict(engine, taken, MEGAPIXEL, batch=1, decoders=2))) as results:
        held = taken.settled(requests * SHARE + AHEAD)
        go.set()
    assert held == requests * SHARE + AHEAD
    assert len(results) == 60


def test_the_pixels_under_way_are_bounded_at_any_length_of_input(manifest: Manifest, pictures: Pictures) -> None:
    (path,) = pictures(SQUARE)
    taken, lock, computed, most = Taken(itertools.repeat(path)), threading.Lock(), 0, 0

    def answer(images: np.ndarray) -> np.ndarray:
        nonlocal computed, most
        with lock:
            most = max(most, taken.count - computed)
        time.sleep(0.01)
        with lock:
            computed += len(images)
        return marked(images)

    results = predict(FakeEngine(manifest, answer, concurrency=2), taken, MEGAPIXEL, batch=2, decoders=2)
    for number in range(1, 80):
        assert isinstance(next(results), Prediction)
        assert taken.count - number < 40  # the first results come long before the last images are looked at
    results.close()  # type: ignore[attr-defined]
    # One more may wait for another of its shape.
    assert most <= 2 * SHARE + AHEAD + 1


def test_images_are_decoded_while_the_engine_runs(manifest: Manifest, pictures: Pictures) -> None:
    paths = pictures(*[SQUARE] * 4)
    third_taken = threading.Event()

    def slow_engine(images: np.ndarray) -> np.ndarray:
        # The first call ends only once a later image was asked for.
        assert third_taken.wait(LIMIT_S)
        return marked(images)

    def one_by_one() -> Iterator[Path]:
        for number, path in enumerate(paths):
            if number == 2:
                third_taken.set()
            yield path

    engine = FakeEngine(manifest, slow_engine, latency_s=0.01)
    assert len(probabilities(predict(engine, one_by_one(), DENSE, batch=1))) == 4


# ---- order, failures and the end ----


@pytest.mark.parametrize("requests", [1, 3, 32])
def test_results_keep_the_order_of_the_images_among_mixed_shapes_and_failures(
    manifest: Manifest, pictures: Pictures, requests: int
) -> None:
    sizes = [None, SQUARE, TALL, None, SQUARE, WIDE, (65, 64), SQUARE, None, TALL, SQUARE, None] * 2
    paths = pictures(*sizes)
    paths.insert(5, paths[0].parent / "absent.png")
    with FakeEngine(manifest, latency_s=0.002, concurrency=requests) as engine:
        results = list(predict(engine, paths, MULTISCALE, batch=3))
    assert [result.path for result in results] == paths
    sizes.insert(5, None)
    assert [isinstance(result, Failure) for result in results] == [size is None for size in sizes]
    absent = results[5]
    assert isinstance(absent, Failure)
    assert absent.reason == "no such file"


@pytest.mark.parametrize("requests", [1, 2, 32])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("protocol", [DENSE, MULTISCALE], ids=str)
def test_an_engine_that_fails_raises_once_earlier_results_were_given(
    manifest: Manifest, tmp_path: Path, protocol: Protocol, batch: int, requests: int
) -> None:
    sound = [of_grey(level, tmp_path) for level in range(1, 7)]
    damned, later = of_grey(0, tmp_path), of_grey(200, tmp_path)

    def answer(images: np.ndarray) -> np.ndarray:
        if (images == 0).all(axis=(1, 2, 3)).any():
            raise EngineError("out of device memory")
        if images[0, 0, 0, 0] < 200:
            time.sleep(0.01)  # the batch that fails ends before those that began before it
        return marked(images)

    received: list[Path] = []
    results = predict(
        FakeEngine(manifest, answer, concurrency=requests), [*sound, damned, *[later] * 6], protocol, batch=batch
    )
    with pytest.raises(EngineError, match="out of device memory"):
        received.extend(result.path for result in results)
    # Every view of these went to the engine before the batch that failed.
    assert received == sound
    assert next(results, None) is None


def test_of_two_batches_that_fail_the_first_is_named(manifest: Manifest, tmp_path: Path) -> None:
    second_failed = threading.Event()

    def answer(images: np.ndarray) -> np.ndarray:
        level = int(images[0, 0, 0, 0])
        if level == 1:
            assert second_failed.wait(LIMIT_S)
        else:
            second_failed.set()
        raise EngineError(f"batch {level} failed")

    paths = [of_grey(level, tmp_path) for level in (1, 2)]
    with pytest.raises(EngineError, match="batch 1 failed"):
        list(predict(FakeEngine(manifest, answer, concurrency=2), paths, DENSE, batch=1))


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("decode", "engine"))}


@pytest.mark.parametrize("end", ["closed", "finished", "failed"])
def test_no_thread_outlives_the_stream_and_what_is_queued_is_cancelled(
    manifest: Manifest, pictures: Pictures, end: str
) -> None:
    (path,) = pictures(SQUARE)

    def answer(images: np.ndarray) -> np.ndarray:
        if end == "failed" and len(engine.batches) > 3:
            raise EngineError("it failed")
        return marked(images)

    engine = FakeEngine(manifest, answer, latency_s=0.002)
    results = predict(engine, [path] * 200, DENSE, batch=1, decoders=3)
    next(results)
    assert our_threads()
    if end == "closed":
        results.close()  # type: ignore[attr-defined]
        assert len(engine.batches) < 100
    elif end == "failed":
        with pytest.raises(EngineError, match="it failed"):
            list(results)
        assert len(engine.batches) < 200
    else:
        assert len(list(results)) == 199
    assert not our_threads()
    assert next(results, None) is None
