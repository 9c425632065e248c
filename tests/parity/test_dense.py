"""Dense evaluation equals fc6 to fc8 on every window of pool5, each treated as a crop, and the mean of the results.

Here this is computed the slow way, with the matrices as they were trained, without folding. Every engine must agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from engines import RUNTIMES, open_engine
from export import export
from train.network.checkpoint import Checkpoint, read
from train.network.model import VGG, folded
from train.network.reference import Reference, normalize
from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.prediction import Prediction, predict
from vgg_deploy.network.manifest import PAPER_NORMALIZATION
from vgg_deploy.network.spec import CONFIGURATIONS, TOTAL_STRIDE
from vgg_deploy.network.weight_facts import WeightFacts
from vgg_deploy.views.images import decode, mirrored, rescale, rescaled_size
from vgg_deploy.views.protocols import Protocol

LIMIT = THRESHOLDS["float32"]
SHARE = 1e-4  # of the largest class score: what float32 loses in all layers together
# No multiples of 32, not square, odd; the crop itself; a single row of windows, and a single column.
SIZES = ((97, 131), (64, 64), (64, 161), (190, 64), (113, 113))
GRIDS = pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])


@torch.inference_mode()
def slowly(checkpoint: Checkpoint, images: np.ndarray, *, fine: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posteriors, class score map and mean fc7 of uint8 [n, h, w, 3], window by window."""
    spec, normalization = checkpoint.manifest.spec, checkpoint.manifest.normalization
    network = VGG(dataclasses.replace(spec, fine=False), convolutional=True).eval()
    network.load_state_dict(folded(spec, checkpoint.weights))
    last = torch.relu(
        dict(network.steps(normalize(torch.from_numpy(images), normalization)))[spec.convolutions[-1].name]
    )
    window = spec.crop // TOTAL_STRIDE
    # Fine: pool5 at every offset; a window takes every other position, those of one offset.
    step = 2 if fine else 1
    pool5 = functional.max_pool2d(last, 2, 1 if fine else 2)
    reach = (window - 1) * step + 1
    rows, columns = (side - reach + 1 for side in pool5.shape[2:])
    assert min(rows, columns) >= 1
    scores = torch.empty((len(images), spec.classes, rows, columns))
    features = torch.zeros((len(images), spec.fc_width))
    for row in range(rows):
        for column in range(columns):
            seen = pool5[:, :, row : row + reach : step, column : column + reach : step]
            scores[:, :, row, column], fc7 = fully_connected(checkpoint.weights, seen.flatten(1))
            features += fc7
    posteriors = functional.softmax(scores.mean((2, 3)), dim=1)
    return posteriors.numpy(), scores.numpy(), (features / (rows * columns)).numpy()


def fully_connected(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """fc6 to fc8 of a flattened window: class scores, and fc7 after its ReLU."""
    for name in ("fc6", "fc7"):
        x = torch.relu(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
    return x @ weights["fc8.weight"].T + weights["fc8.bias"], x


def engines_of(checkpoint: Checkpoint, folder: Path, *, fine: bool) -> Iterator[tuple[str, Engine]]:
    """PyTorch, and each installed runtime with a file that has every output."""
    yield "torch", Reference(checkpoint, fine=fine)
    path = folder / "model.onnx"
    export(checkpoint, path, dynamic=True, fine=fine, score_map=True, features=True)
    for name, runtime in RUNTIMES.items():
        if runtime.installed:
            yield name, open_engine(path, runtime=name, threads=1)


def images(height: int, width: int) -> np.ndarray:
    """Two images that get darker towards opposite corners, so that the scores of all windows differ."""
    noise = np.random.default_rng(height * width).integers(0, 256, (2, height, width, 3))
    slope = np.linspace(1, 0.2, height)[:, None, None] * np.linspace(1, 0.3, width)[:, None]
    return (noise * np.stack([slope, slope[::-1, ::-1]])).astype(np.uint8)


@GRIDS
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_engine_equals_the_windows_scored_one_by_one(
    configuration: str, fine: bool, narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = read(narrow_checkpoint(configuration))
    expected = {size: slowly(checkpoint, images(*size), fine=fine) for size in SIZES}
    posteriors, score_map, _features = expected[SIZES[0]]
    assert score_map.shape[2:] == ((3, 5) if fine else (2, 3))
    assert score_map.std(axis=(2, 3)).min() > 1e-3
    assert np.abs(posteriors - functional.softmax(torch.from_numpy(score_map[:, :, 0, 0]), 1).numpy()).max() > 1e-3
    for name, engine in engines_of(checkpoint, tmp_path, fine=fine):
        with engine:
            for size, (posteriors, score_map, features) in expected.items():
                scores = engine.run(images(*size))
                assert np.abs(scores.probabilities - posteriors).max() <= LIMIT.max_dp, (name, size)
                for received, right in ((scores.score_map, score_map), (scores.features, features)):
                    assert received.shape == right.shape
                    assert np.abs(received - right).max() <= SHARE * np.abs(right).max(), (name, size)


def test_on_a_crop_both_grids_give_the_answers_of_the_trained_form(
    narrow_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = read(narrow_checkpoint("D"))
    with Reference(checkpoint, form="fc") as trained:
        right = trained.run(images(64, 64))
    for fine in (False, True):
        posteriors, score_map, features = slowly(checkpoint, images(64, 64), fine=fine)
        assert score_map.shape[2:] == (1, 1)
        np.testing.assert_allclose(posteriors, right.probabilities, atol=1e-6)
        np.testing.assert_allclose(features, right.features, rtol=1e-4, atol=1e-5)


def of_the_protocol(checkpoint: Checkpoint, path: Path, protocol: Protocol, *, fine: bool) -> np.ndarray:
    """Section 3.2 the slow way: the mean posteriors of the image and its mirror at each Q."""
    rows = []
    for scale in protocol.scales:
        pixels = rescale(decode(path), scale, checkpoint.manifest.rescaling)
        rows += [slowly(checkpoint, view[None].copy(), fine=fine)[0][0] for view in (pixels, mirrored(pixels))]
    return np.asarray(np.mean(rows, axis=0))


@GRIDS
def test_the_dense_protocol_equals_the_slow_computation_from_file_to_answer(
    fine: bool, narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = read(narrow_checkpoint("B"))
    paths = []
    for number, size in enumerate(((101, 77), (64, 203), (80, 80))):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(images(*size)[0]).save(paths[-1])
    protocol = Protocol("multiscale", (71, 90), None, True)
    expected = [of_the_protocol(checkpoint, path, protocol, fine=fine) for path in paths]
    for name, engine in engines_of(checkpoint, tmp_path, fine=fine):
        with engine:
            for result, right in zip(predict(engine, paths, protocol), expected, strict=True):
                assert isinstance(result, Prediction)
                assert np.abs(result.probabilities - right).max() <= LIMIT.max_dp, (name, result.path)


@pytest.mark.slow
@GRIDS
def test_the_real_networks_dense_answers_equal_the_slow_computation(
    fine: bool, test_data: Path, tmp_path: Path
) -> None:
    """A trained VGG-16, and photos at their natural sizes, rescaled to no multiple of 32."""
    labels = (test_data / "imagenette_labels.txt").read_text()
    checkpoint = read(
        test_data / "vgg16_imagenette_fp16.safetensors", WeightFacts(normalization=PAPER_NORMALIZATION, labels=labels)
    )
    protocol = Protocol("dense", (301,), None, True)
    paths = portraits_and_landscapes(sorted((test_data / "photos").iterdir()))
    expected = [of_the_protocol(checkpoint, path, protocol, fine=fine) for path in paths]
    with ExitStack() as stack:
        for name, engine in engines_of(checkpoint, tmp_path, fine=fine):
            stack.enter_context(engine)
            for result, right in zip(predict(engine, paths, protocol, batch=1), expected, strict=True):
                assert isinstance(result, Prediction)
                assert np.abs(result.probabilities - right).max() <= LIMIT.max_dp, (name, result.path)
                assert result.probabilities.argmax() == right.argmax()


def portraits_and_landscapes(paths: list[Path]) -> list[Path]:
    """The first portrait and the first landscape whose long side is odd once the short one is 301."""
    chosen: dict[bool, Path] = {}
    for path in paths:
        rows, columns = rescaled_size(*decode(path).shape[:2], 301)
        if max(rows, columns) % 2 and rows != columns:
            chosen.setdefault(rows > columns, path)
    assert len(chosen) == 2
    return list(chosen.values())
