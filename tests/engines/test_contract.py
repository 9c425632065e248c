"""Every runtime does what `vgg_deploy.inference.engine.Engine` promises."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from engines import RUNTIMES, open_engine
from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.inference.engine import Engine, Scores
from vgg_deploy.network.tensors import Images


@pytest.fixture(params=list(RUNTIMES))
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Engine]:
    pytest.importorskip(RUNTIMES[request.param].module)
    with open_engine(tiny_model, runtime=request.param, threads=1) as opened:
        yield opened


def arrays(scores: Scores) -> dict[str, np.ndarray]:
    assert scores.score_map is not None
    assert scores.features is not None
    return {"probabilities": scores.probabilities, "score_map": scores.score_map, "features": scores.features}


@pytest.mark.parametrize(("count", "height", "width"), [(1, 32, 32), (2, 97, 64)])
def test_scores_are_fp32_arrays_of_the_documented_shapes(count: int, height: int, width: int, engine: Engine) -> None:
    images = np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    outputs = arrays(engine.run(images))
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes == {
        "probabilities": (count, 5),
        "score_map": (count, 5, height // 32, width // 32),
        "features": (count, 8),
    }
    assert {value.dtype for value in outputs.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, rtol=1e-5)


def test_probabilities_are_the_soft_max_of_the_averaged_score_map(engine: Engine, images: Images) -> None:
    outputs = arrays(engine.run(images))
    scores = outputs["score_map"].mean(axis=(2, 3), dtype=np.float64)
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        outputs["probabilities"], exponents / exponents.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )


def test_an_image_gets_the_same_answer_alone_and_in_a_batch(engine: Engine, images: Images) -> None:
    together = arrays(engine.run(images))
    for index in range(len(images)):
        for name, value in arrays(engine.run(images[index : index + 1])).items():
            np.testing.assert_allclose(value[0], together[name][index], rtol=1e-4, atol=1e-4)


def test_several_threads_get_the_same_answers_as_one(engine: Engine, images: Images) -> None:
    # Several shapes at the same time, as for a folder with images of different sizes.
    batches = [images[index % 4 :, : 32 + 2 * (index % 6)] for index in range(48)]
    alone = [arrays(engine.run(batch)) for batch in batches]
    start = threading.Barrier(6)

    def work(first: int) -> list[dict[str, np.ndarray]]:
        start.wait()
        return [arrays(engine.run(batch)) for batch in batches[first::6]]

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, range(6)))
    for first, results in enumerate(together):
        for expected, received in zip(alone[first::6], results, strict=True):
            for name, value in received.items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_answers_belong_to_the_caller(engine: Engine, images: Images) -> None:
    first = arrays(engine.run(images))
    copies = {name: value.copy() for name, value in first.items()}
    engine.run(255 - images)
    for name, value in first.items():
        np.testing.assert_array_equal(value, copies[name])
        value[...] = -1  # and they may be written to
    for name, value in arrays(engine.run(images)).items():
        np.testing.assert_array_equal(value, copies[name])


def test_answers_outlive_the_engine(engine: Engine, images: Images) -> None:
    outputs = arrays(engine.run(images))
    copies = {name: value.copy() for name, value in outputs.items()}
    engine.close()
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, copies[name])


def test_images_are_never_written(engine: Engine, images: Images) -> None:
    frozen = images.copy()
    frozen.flags.writeable = False
    expected = engine.run(images).probabilities
    np.testing.assert_array_equal(engine.run(frozen).probabilities, expected)
    np.testing.assert_array_equal(frozen, images)


def test_images_need_not_be_contiguous(engine: Engine, images: Images) -> None:
    for view in (images[:, :, ::-1], images[..., ::-1], images[::2, 3:40], np.asfortranarray(images)):
        expected = engine.run(np.ascontiguousarray(view)).probabilities
        np.testing.assert_array_equal(engine.run(view).probabilities, expected)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), r"images is float32 \[1, 32, 32, 3\]; expected uint8 \[n, height, "),
        (np.zeros((1, 31, 40, 3), np.uint8), r"images is 1 x 31 x 40 x 3; this model takes 1\.\. x 32\.\. x 32\.\."),
    ],
)
def test_other_types_and_sizes_are_refused(wrong: Images, reason: str, engine: Engine) -> None:
    with pytest.raises(UsageError, match=reason):
        engine.run(wrong)


def test_a_closed_engine_says_so(tiny_model: Path, images: Images, engine: Engine) -> None:
    with engine as entered:
        assert entered is engine
        engine.run(images)
    with pytest.raises(EngineError, match=f"{tiny_model} was closed; open it again"):
        engine.run(images)
    engine.close()  # a second time does nothing


def test_its_info_describes_it(engine: Engine) -> None:
    info = engine.info
    name, _, version = info.runtime.partition(" ")
    assert name in RUNTIMES
    assert version[0].isdigit()
    assert (info.device, info.precision) == ("cpu", "float32")
    assert str(info.shapes) == "1.. x 32.. x 32.. x 3"
    assert info.concurrency >= 1
    assert [label.label for label in info.manifest.classes][:2] == ["tench", "English springer"]
