"""Every engine, precision, configuration and shape against PyTorch, held against every threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines import RUNTIMES, open_engine
from vgg_deploy.engine import Engine, Floats, Images, Scores
from vgg_deploy.images import find_images
from vgg_deploy.manifest import TORCHVISION_NORMALIZATION, Manifest
from vgg_deploy.parity import THRESHOLDS, Parity, compare
from vgg_deploy.spec import CONFIGURATIONS, NetworkSpec

pytest.importorskip("torch")

from export import export
from export.half import rounding_copy
from train.checkpoint import Checkpoint, Facts, read, save
from train.reference import Reference

CROP = 64
# None of them an export's size but the crop; not square, and no multiples of 32 but one.
SHAPES = ((1, 64, 64), (3, 64, 64), (1, 65, 131), (3, 100, 77), (1, 160, 64), (1, 223, 99))
PRECISIONS = ("float32", "float16")
OUTPUTS = {"plain": {}, "all": {"score_map": True, "features": True}}


def bright_and_dark(count: int, height: int, width: int) -> Images:
    """uint8 [count, height, width, 3]: noise on patches of colour, others in each image."""
    chance = np.random.default_rng(count * height * width)
    patches = chance.integers(0, 200, (count, 4, 5, 3)).repeat(-(-height // 4), axis=1).repeat(-(-width // 5), axis=2)
    noise = chance.integers(0, 56, (count, height, width, 3))
    return (patches[:, :height, :width] + noise).astype(np.uint8)


@pytest.fixture(scope="module")
def checkpoints(
    narrow_spec: Callable[..., NetworkSpec],
    manifest_for: Callable[..., Manifest],
    random_weights: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """A narrow checkpoint of each configuration; B and E normalize as torchvision does, with a division."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(configuration: str) -> Path:
        path = folder / f"{configuration}.safetensors"
        if not path.exists():
            spec = narrow_spec(configuration)
            fields = {"normalization": TORCHVISION_NORMALIZATION} if configuration in ("B", "E") else {}
            weights = random_weights(spec, seed=2)
            if fields:  # pixels are of units then
                weights["fc6.weight"] *= 100
                for name in weights:
                    if name.endswith("bias"):
                        weights[name] /= 50
            save(path, weights, manifest_for(spec, **fields))
        return path

    return make


@pytest.fixture(scope="module")
def references(checkpoints: Callable[[str], Path]) -> Callable[[str], dict[tuple[int, ...], Scores]]:
    """PyTorch's scores of each shape, computed once for each configuration."""
    known: dict[str, dict[tuple[int, ...], Scores]] = {}

    def scores(configuration: str) -> dict[tuple[int, ...], Scores]:
        if configuration not in known:
            with Reference(read(checkpoints(configuration))) as reference:
                known[configuration] = {shape: reference.run(bright_and_dark(*shape)) for shape in SHAPES}
        return known[configuration]

    return scores


@pytest.fixture(scope="module")
def models(
    checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Path]:
    """`models(configuration, precision, outputs)` -> a dynamic ONNX file, written once."""
    folder = tmp_path_factory.mktemp("models")

    def make(configuration: str, precision: str, outputs: str, *, dynamic: bool = True) -> Path:
        path = folder / f"{configuration}-{precision}-{outputs}-{dynamic}.onnx"
        if not path.exists():
            half = precision == "float16"
            export(read(checkpoints(configuration)), path, dynamic=dynamic, half=half, **OUTPUTS[outputs])  # type: ignore[arg-type]
        return path

    return make


def parity_of(pairs: Sequence[tuple[Floats, Floats]], engine: Engine) -> Parity:
    expected, received = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return compare(expected, received, [str(index) for index in range(len(expected))], engine.info.manifest.classes)


def assert_close(received: Floats | None, expected: Floats | None, precision: str) -> None:
    """Within the threshold of a layer: a share of the largest value."""
    assert received is not None
    assert expected is not None
    assert received.shape == expected.shape
    error = np.abs(received.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert error <= THRESHOLDS[precision].layer


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("outputs", list(OUTPUTS))
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_dynamic_file_answers_as_pytorch_does_at_every_shape(
    configuration: str, precision: str, outputs: str, runtime: str, models: Any, references: Any
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    pairs = []
    with open_engine(models(configuration, precision, outputs), runtime=runtime, threads=1) as engine:
        for shape, expected in references(configuration).items():
            received = engine.run(bright_and_dark(*shape))
            pairs.append((expected.probabilities, received.probabilities))
            if outputs == "all":
                assert_close(received.score_map, expected.score_map, precision)
                assert_close(received.features, expected.features, precision)
            else:
                assert received.score_map is received.features is None
    parity = parity_of(pairs, engine)
    assert parity.views == sum(count for count, _height, _width in SHAPES)
    assert parity.failures(THRESHOLDS[precision]) == ()


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_fixed_file_answers_as_pytorch_does(
    configuration: str, precision: str, runtime: str, models: Any, references: Any
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    shape = (1, CROP, CROP)
    with open_engine(models(configuration, precision, "all", dynamic=False), runtime=runtime, threads=1) as engine:
        received, expected = engine.run(bright_and_dark(*shape)), references(configuration)[shape]
    assert_close(received.score_map, expected.score_map, precision)
    assert_close(received.features, expected.features, precision)
    pairs = [(expected.probabilities, received.probabilities)]
    assert parity_of(pairs, engine).failures(THRESHOLDS[precision]) == ()


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_fp16_holds_with_every_activation_rounded_to_half(
    configuration: str, models: Any, references: Any, tmp_path: Path
) -> None:
    path = tmp_path / "rounded.onnx"
    onnx.save(rounding_copy(onnx.load(models(configuration, "float16", "all"))), path)
    pairs = []
    with open_engine(path, runtime="onnxruntime", threads=1) as engine:
        for shape, expected in references(configuration).items():
            pairs.append((expected.probabilities, engine.run(bright_and_dark(*shape)).probabilities))
    parity = parity_of(pairs, engine)
    assert parity.failures(THRESHOLDS["float16"]) == ()
    assert parity.max_dp > THRESHOLDS["float32"].max_dp  # it did round


def test_the_answers_compared_are_not_all_the_same(references: Any) -> None:
    for configuration in CONFIGURATIONS:
        rows = np.concatenate([scores.probabilities for scores in references(configuration).values()])
        assert rows.std(axis=0).max() > 0.01, configuration
        assert rows.max() < 0.999, configuration


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nan_holds_no_threshold(precision: str, runtime: str, models: Any, references: Any, tmp_path: Path) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    model, path = onnx.load(models("A", precision, "plain")), tmp_path / "nan.onnx"
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc8.bias")
    values = numpy_helper.to_array(bias).copy()
    values[2] = np.nan
    bias.raw_data = values.tobytes()
    onnx.save(model, path)
    with open_engine(path, runtime=runtime, threads=1) as engine:
        pairs = [
            (expected.probabilities, engine.run(bright_and_dark(*shape)).probabilities)
            for shape, expected in references("A").items()
        ]
    parity = parity_of(pairs, engine)
    failures = parity.failures(THRESHOLDS[precision])
    assert math.isnan(parity.max_dp)
    assert [failure.split()[0] for failure in failures] == ["max_dp", "mean_dp", "divergence", "top-1"]


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_difference_just_past_the_threshold_is_found(
    runtime: str, models: Any, references: Any, tmp_path: Path
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    model, path = onnx.load(models("A", "float32", "plain")), tmp_path / "off.onnx"
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc8.bias")
    values = numpy_helper.to_array(bias).copy()
    values[0] += 2e-4  # moves a posterior p by about 2e-4 * p * (1 - p)
    bias.raw_data = values.tobytes()
    onnx.save(model, path)
    with open_engine(path, runtime=runtime, threads=1) as engine:
        pairs = [
            (expected.probabilities, engine.run(bright_and_dark(*shape)).probabilities)
            for shape, expected in references("A").items()
        ]
    assert any("max_dp" in failure for failure in parity_of(pairs, engine).failures(THRESHOLDS["float32"]))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_real_vgg16_holds_on_photos(
    runtime: str, test_data: Path, vgg_deploy_command: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    weights = test_data / "vgg16_imagenette_fp16.safetensors"
    photos = [str(path) for path in find_images([str(test_data / "photos")])][::30]
    known = ("--normalization", "paper", "--labels", str(test_data / "imagenette_labels.txt"), "--train-scale", "256")
    single, half = tmp_path / "vgg16.onnx", tmp_path / "vgg16-fp16.onnx"
    made = vgg_deploy_command("export", "--weights", str(weights), *known, "--dynamic", "-o", str(single))
    assert made.code == 0, made.err
    words = ("--dynamic", "--fp16", "--calibration", str(test_data / "photos"), "--calibration-images", "2")
    made = vgg_deploy_command("export", "--weights", str(weights), *known, *words, "-o", str(half))
    assert made.code == 0, made.err
    images = [word for photo in photos for word in ("--images", photo)]
    done = vgg_deploy_command(
        "verify", str(single), str(half), "--reference", str(weights), "--runtime", runtime, *known[2:4], *images
    )
    assert done.code == 0, done.out
    assert len([line for line in done.out.splitlines() if line.endswith(" ok")]) == 4


def test_facts_of_a_foreign_checkpoint_reach_the_graph(
    checkpoints: Callable[[str], Path], tmp_path: Path, models: Any
) -> None:
    """The same weights as a foreign file, told the same normalization, give the same graph."""
    from safetensors.torch import save_file

    own = read(checkpoints("B"))
    save_file(own.weights, tmp_path / "foreign.safetensors")
    foreign: Checkpoint = read(tmp_path / "foreign.safetensors", Facts(normalization=TORCHVISION_NORMALIZATION))
    export(foreign, tmp_path / "foreign.onnx", dynamic=True)
    assert onnx.load(tmp_path / "foreign.onnx").graph == onnx.load(models("B", "float32", "plain")).graph
