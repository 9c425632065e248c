"""Plans on a GPU agree with PyTorch in every precision, at shapes between the profiles' ends, eager and replayed.

Skipped, with the reason, without a GPU for a backend. `pytest -m gpu` runs them on a machine that has one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines import open_engine
from engines.trt.availability import availability
from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from engines.trt.lane import SHAPES as KEPT
from tests.parity.layer_limits import LAYER_LIMITS
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.evaluation.parity import THRESHOLDS, compare
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.prediction import Prediction, predict
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import decode, rescale
from vgg_deploy.views.search import find_images

pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

from train.network.checkpoint import read  # noqa: E402
from train.network.reference import Reference  # noqa: E402
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, TrainScale  # noqa: E402
from vgg_deploy.network.weight_facts import WeightFacts  # noqa: E402

PRECISIONS = {"float32": (), "float16": ("--fp16",), "int8": ("--int8", "--fp16")}
CROP, SCALES, BATCH = 64, (64, 96), 4
# Ends of the profiles and shapes between them; not square, and no multiples of 32.
SHAPES = ((1, 64, 64), (4, 64, 128), (3, 65, 99), (1, 96, 192), (4, 192, 192), (2, 101, 150))


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    runs, why = availability(request.param)
    if not runs:
        pytest.skip(f"plans of {request.param} do not run here: {why}")
    name: str = request.param
    return name


def patches(count: int, height: int, width: int) -> Images:
    """uint8 [count, height, width, 3]: noise on patches of colour, different in each image."""
    chance = np.random.default_rng((count, height, width))
    coarse = chance.integers(0, 200, (count, 4, 5, 3)).repeat(-(-height // 4), axis=1).repeat(-(-width // 5), axis=2)
    return (coarse[:, :height, :width] + chance.integers(0, 56, (count, height, width, 3))).astype(np.uint8)


@pytest.fixture(params=list(PRECISIONS))
def precision(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def narrow(
    narrow_checkpoint: Callable[..., Path], vgg_deploy_command: Callable[..., Any], tmp_path: Path, backend: str
) -> Callable[..., tuple[Path, Path]]:
    """`narrow(precision, *flags, scales=...)` -> a checkpoint of configuration D, and its plan beside the ONNX file."""

    def make(precision: str, *flags: str, **options: Any) -> tuple[Path, Path]:
        calibration, model = tmp_path / "calibration", tmp_path / "narrow.onnx"
        calibration.mkdir(exist_ok=True)
        for index, image in enumerate(patches(8, 96, 130)):
            Image.fromarray(image).save(calibration / f"{index}.png")
        checkpoint = narrow_checkpoint("D")
        measured = ("--calibration", str(calibration)) if PRECISIONS[precision] else ()
        options = ("--dynamic", *PRECISIONS[precision], *measured, *flags)
        made = vgg_deploy_command("export", "--weights", str(checkpoint), *options, "-o", str(model))
        assert made.code == 0, made.err
        wanted = BuildOptions(backend, **{"scales": SCALES, "max_batch": BATCH, **options})
        return checkpoint, build(model, options=wanted).path

    return make


def differences(reference: Engine, engine: Engine, precision: str) -> tuple[str, ...]:
    """The thresholds that are exceeded over all shapes, in the first run of each and in its replays."""
    expected, received = [], []
    for shape in SHAPES:
        images = patches(*shape)
        posteriors = reference.run(images).probabilities
        for _ in range(6):  # each lane runs a shape eagerly, then records it, then replays it
            expected.append(posteriors)
            received.append(engine.run(images).probabilities)
    rows = np.concatenate(expected), np.concatenate(received)
    names = [str(index) for index in range(len(rows[0]))]
    return compare(*rows, names, engine.info.manifest.classes).failures(THRESHOLDS[precision])


def test_a_plan_answers_as_pytorch_does_at_every_shape_every_time(
    precision: str, narrow: Callable[..., tuple[Path, Path]]
) -> None:
    checkpoint, plan = narrow(precision)
    with Reference(read(checkpoint)) as reference, open_engine(plan) as engine:
        assert engine.info.concurrency == 2
        assert differences(reference, engine, precision) == ()


def test_all_outputs_are_those_of_the_onnx_file(precision: str, narrow: Callable[..., tuple[Path, Path]]) -> None:
    _, plan = narrow(precision, "--score-map", "--features")
    with open_engine(plan.with_suffix(".onnx"), runtime="onnxruntime") as onnx, open_engine(plan) as engine:
        for shape in SHAPES:
            expected, received = onnx.run(patches(*shape)), engine.run(patches(*shape))
            for name in ("score_map", "features"):
                wanted, got = getattr(expected, name), getattr(received, name)
                assert got.shape == wanted.shape
                error = np.abs(got - wanted).max() / np.abs(wanted).max()
                assert error <= LAYER_LIMITS[precision], (name, shape)


def test_threads_get_the_same_answers_as_one_for_more_shapes_than_are_kept(
    narrow: Callable[..., tuple[Path, Path]],
) -> None:
    _, plan = narrow("float16")
    batches = [patches(1 + index % 3, 64 + index % 11, 100 + index % 7) for index in range(5 * KEPT)]
    with open_engine(plan) as engine:
        alone = [engine.run(images).probabilities for images in batches]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                for expected, received in zip(alone, pool.map(engine.run, batches), strict=True):
                    np.testing.assert_allclose(received.probabilities, expected, atol=1e-5)


def test_one_profile_for_all_scales_gives_the_same_answers(narrow: Callable[..., tuple[Path, Path]]) -> None:
    checkpoint, plan = narrow("float16", one_profile=True)
    with Reference(read(checkpoint)) as reference, open_engine(plan) as engine:
        assert len(engine.info.plan.profiles) == 1  # type: ignore[union-attr]
        assert differences(reference, engine, "float16") == ()


@pytest.mark.parametrize("cuda_api", ["cuda-python", "pycuda"])
def test_both_cuda_apis_give_the_same_answers(cuda_api: str, narrow: Callable[..., tuple[Path, Path]]) -> None:
    pytest.importorskip("pycuda" if cuda_api == "pycuda" else "cuda.bindings.runtime")
    checkpoint, plan = narrow("float16")
    with Reference(read(checkpoint)) as reference, open_engine(plan, cuda_api=cuda_api) as engine:
        assert differences(reference, engine, "float16") == ()


def test_rtx_s_compiled_kernels_are_kept_and_reused(backend: str, narrow: Callable[..., tuple[Path, Path]]) -> None:
    if backend != "tensorrt-rtx":
        pytest.skip("tensorrt compiles its kernels when it builds")
    checkpoint, plan = narrow("float16")
    cache = plan.with_name(f"{plan.name}.cache")
    for _ in range(2):
        with Reference(read(checkpoint)) as reference, open_engine(plan) as engine:
            assert engine.info.notices == ()
            assert differences(reference, engine, "float16") == ()
        assert cache.stat().st_size > 0


def test_closing_frees_the_memory(narrow: Callable[..., tuple[Path, Path]]) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    _, plan = narrow("float16")
    free = []
    for _ in range(4):
        with open_engine(plan) as engine:
            for shape in SHAPES:
                engine.run(patches(*shape))
        free.append(runtime.cudaMemGetInfo()[1])
    assert free[-1] >= free[0] - (16 << 20)


def test_doctor_says_that_a_plan_can_run(
    narrow: Callable[..., tuple[Path, Path]], vgg_deploy_command: Callable[..., Any]
) -> None:
    _, plan = narrow("float32")
    finished = vgg_deploy_command("doctor", str(plan))
    assert finished.code == 0, finished.out


@pytest.fixture(scope="session")
def real(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A folder for plans of the real VGG-16, and its weights. The folder is deleted at the end."""
    folder = tmp_path_factory.mktemp("real")
    yield folder, test_data / "vgg16_imagenette_fp16.safetensors"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_real_vgg16_agrees_on_photos(
    precision: str, backend: str, real: tuple[Path, Path], test_data: Path, vgg_deploy_command: Callable[..., Any]
) -> None:
    (folder, weights), labels = real, test_data / "imagenette_labels.txt"
    model = folder / "vgg16.onnx"
    known = ("--normalization", "paper", "--labels", str(labels), "--train-scale", "256", "--dynamic")
    calibration = ("--calibration", str(test_data / "imagenette" / "train"), "--calibration-images", "64")
    flags = (*PRECISIONS[precision], *calibration) if PRECISIONS[precision] else ()
    made = vgg_deploy_command("export", "--weights", str(weights), *known, *flags, "-o", str(model))
    assert made.code == 0, made.err
    plan = build(model, options=BuildOptions(backend, scales=(256,), max_batch=8, max_aspect=3)).path
    facts = WeightFacts(normalization=PAPER_NORMALIZATION, labels=labels.read_text(), train_scale=TrainScale(256, 256))
    validation = list(find_images([str(test_data / "imagenette" / "val")]))[::8]
    photos = [path for path in find_images([str(test_data / "photos")]) if _aspect(path) <= 3][::3]
    checkpoint = read(weights, facts)
    with Reference(checkpoint) as reference, open_engine(plan) as engine:
        views = [rescale(decode(path), 256, checkpoint.manifest.rescaling) for path in (*validation, *photos)]
        pairs = [(reference.run(view[None]).probabilities, engine.run(view[None]).probabilities) for view in views]
        expected, received = (np.concatenate(side) for side in zip(*pairs, strict=True))
        names = [path.name for path in (*validation, *photos)]
        parity = compare(expected, received, names, engine.info.manifest.classes)
        assert parity.failures(THRESHOLDS[precision]) == ()
        results = list(predict(engine, validation, batch=8))
        assert all(isinstance(result, Prediction) for result in results)


def _aspect(path: Path) -> float:
    with Image.open(path) as image:
        return max(image.size) / min(image.size)
