"""The cost of INT8 by layer, which layers a budget keeps, and what exactly meets a budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines import open_engine
from export.calibrate import MeasuredRanges
from export.int8 import Calibration, Variants, calibrate
from export.qdq import observed_inputs
from export.sample import ImageSample
from export.sensitivity import RANKING_IMAGES, Budget, HeldOut, Int8Trials, Sensitivity
from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.errors import UsageError, VGGDeployError
from vgg_deploy.evaluation.parity import NamedView
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import Manifest, Rescaling
from vgg_deploy.network.precision import TARGETS, Quantization
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import Protocol

DENSE = Protocol("dense", (73,), None, False)


@contextmanager
def unseen(_what: str, _total: int) -> Iterator[Callable[[], None]]:
    """A progress bar that is not shown."""
    yield lambda: None


class Scripted:
    """Variants in which each layer in INT8 changes the answers of a given number of images, the first ones.

    The brightness of an image is its number. In FP32 the answer for an image is its number modulo 5.
    """

    def __init__(self, manifest: Manifest, turned: Mapping[str, int]) -> None:
        self._manifest, self._turned = manifest, turned
        self.opened: list[tuple[tuple[str, ...], FakeEngine]] = []

    def open(self, quantization: Quantization | None = None) -> Engine:
        layers = () if quantization is None else quantization.layers
        turned = max((self._turned.get(layer, 0) for layer in layers), default=0)

        def answer(images: Images) -> Floats:
            number = int(images[0, 0, 0, 0])
            posterior = np.full((1, 5), 0.1, np.float32)
            posterior[0, (number + (number < turned)) % 5] = 0.6
            return posterior

        engine = FakeEngine(self._manifest, answer)
        self.opened.append((layers, engine))
        return engine


@pytest.fixture
def scripted(
    narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]
) -> Callable[..., tuple[Int8Trials, Scripted]]:
    """`scripted(images, target="tensorrt", conv3_1=4, ...)` -> trials over that many images, and its variants."""

    def make(images: int, target: str = "tensorrt", **turned: int) -> tuple[Int8Trials, Scripted]:
        spec = narrow_spec("A")
        variants = Scripted(manifest_for(spec), turned)
        spans = dict.fromkeys(observed_inputs(spec, False), (0.0, 1.0))
        sample = ImageSample((Path("a.png"),), DENSE, Rescaling())
        calibration = Calibration(spec, MeasuredRanges(spans, {}), sample, (), "minmax", target)
        views = tuple(NamedView(str(number), np.full((64, 64, 3), number, np.uint8)) for number in range(images))
        held_out = HeldOut(views, np.arange(images) % 5)
        return Int8Trials(variants, calibration, held_out, unseen), variants  # type: ignore[arg-type]

    return make


def test_each_layer_is_judged_alone_and_in_the_networks_order(scripted: Callable[..., Any]) -> None:
    trials, variants = scripted(20, conv3_1=5, fc7=10)
    rows = trials.sensitivities()
    agreements = {row.layer: row.agreement for row in rows}
    assert list(agreements) == [layer.name for layer in variants._manifest.spec.weight_layers]
    assert agreements.pop("conv3_1") == 0.75
    assert agreements.pop("fc7") == 0.5
    assert set(agreements.values()) == {1.0}
    assert [row.divergence > 0 for row in rows] == [row.layer in ("conv3_1", "fc7") for row in rows]
    assert [layers for layers, _engine in variants.opened] == [(), *((row.layer,) for row in rows)]
    assert all(engine.closed for _layers, engine in variants.opened)


def test_for_onnxruntime_fc8_is_not_a_candidate_because_its_scores_would_be_quantized_too(
    scripted: Callable[..., Any],
) -> None:
    trials, _variants = scripted(4, target="onnxruntime")
    assert [row.layer for row in trials.sensitivities()][-2:] == ["fc6", "fc7"]
    assert trials.fewest_kept(trials.sensitivities(), Budget(min_agreement=100)).kept == ("fc8",)


@pytest.mark.parametrize(
    ("percent", "kept"),
    [(49, ()), (50, ()), (50.1, ("fc7",)), (75, ("fc7",)), (75.1, ("conv3_1", "fc7")), (100, ("conv3_1", "fc7"))],
)
@pytest.mark.parametrize("unit", ["agreement", "drop"])
def test_the_fewest_layers_that_meet_the_budget_are_kept_the_worst_first(
    unit: str, percent: float, kept: tuple[str, ...], scripted: Callable[..., Any]
) -> None:
    trials, _variants = scripted(20, conv3_1=5, fc7=10)
    # FP32 is always right here, so the agreement is the accuracy.
    budget = Budget(min_agreement=percent) if unit == "agreement" else Budget(max_drop=100 - percent)
    quantization = trials.fewest_kept(trials.sensitivities(), budget)
    assert quantization.kept == kept
    assert set(quantization.layers).isdisjoint(kept)
    assert len(quantization.layers) + len(kept) == 11
    reached = {0: 50, 1: 75, 2: 100}[len(kept)]
    if unit == "agreement":
        assert quantization.budget == f"agreement {reached:.2f} % (at least {percent:g}) on 20 images"
    else:
        assert quantization.budget == f"top-1 drop {100 - reached:.2f} points (at most {100 - percent:g}) on 20 images"


def test_nothing_is_tried_once_the_budget_is_met(scripted: Callable[..., Any]) -> None:
    trials, variants = scripted(20, conv3_1=5, fc7=10)
    rows = trials.sensitivities()
    variants.opened.clear()
    trials.fewest_kept(rows, Budget(min_agreement=75))
    assert [len(layers) for layers, _engine in variants.opened] == [11, 10]  # and FP32 only once


def test_layers_are_ranked_on_some_images_and_the_budget_is_judged_on_all(scripted: Callable[..., Any]) -> None:
    trials, variants = scripted(50, fc6=50)
    rows = trials.sensitivities()
    ran = [len(engine.batches) for _layers, engine in variants.opened]
    assert ran == [50, *[RANKING_IMAGES] * 11]
    quantization = trials.fewest_kept(rows, Budget(min_agreement=99))
    assert quantization.kept == ("fc6",)
    assert quantization.budget.endswith("on 50 images")


def test_a_budget_that_no_single_layer_meets_fails_and_says_what_was_reached(
    scripted: Callable[..., Any],
) -> None:
    spec_layers = scripted(1)[1]._manifest.spec.weight_layers
    trials, _variants = scripted(20, **{layer.name: 10 + index for index, layer in enumerate(spec_layers)})
    message = r"within the budget: even with conv1_1 alone, agreement 50\.00 % \(at least 60\) on 20 images"
    with pytest.raises(VGGDeployError, match=message) as raised:
        trials.fewest_kept(trials.sensitivities(), Budget(min_agreement=60))
    assert raised.value.exit_code == 1


def test_a_layer_that_gives_nan_in_int8_is_named(scripted: Callable[..., Any]) -> None:
    trials, variants = scripted(4)
    make = variants.open

    def broken(quantization: Quantization | None = None) -> Engine:
        if quantization is not None and "conv4_2" in quantization.layers:
            return FakeEngine(variants._manifest, lambda images: np.full((len(images), 5), np.nan, np.float32))
        return make(quantization)

    variants.open = broken
    with pytest.raises(VGGDeployError, match="with conv4_2 alone in INT8, posteriors are NaN"):
        trials.sensitivities()


def posteriors(*classes: int) -> Floats:
    """One row for each class: 0.6 for it, 0.1 for the other four."""
    rows = np.full((len(classes), 5), 0.1, np.float32)
    rows[np.arange(len(classes)), classes] = 0.6
    return rows


@pytest.mark.parametrize("images", [3, 29, 393])
def test_a_budget_that_is_reached_exactly_is_met_and_one_more_image_exceeds_it(images: int) -> None:
    reference, truth = posteriors(*[0] * images), np.zeros(images, np.int64)
    for wrong in range(images // 2):
        candidate = posteriors(*[1] * wrong, *[0] * (images - wrong))
        agreement, drop = 100 * (images - wrong) / images, 100 * wrong / images
        assert Budget(min_agreement=agreement).judge(reference, candidate, None)[0]
        assert Budget(max_drop=drop).judge(reference, candidate, truth)[0]
        assert (
            not Budget(min_agreement=min(agreement + 1 / images, 100)).judge(reference, candidate, None)[0] or not wrong
        )
        assert wrong == 0 or not Budget(max_drop=drop - 1 / images).judge(reference, candidate, truth)[0]


def test_budgets_are_met_despite_rounding_of_percentages() -> None:
    reference = posteriors(*[0] * 100)
    candidate = posteriors(*[0] * 29, *[1] * 71)
    assert 100 * 0.29 < 29  # a plain comparison would fail
    assert Budget(min_agreement=29).judge(reference, candidate, None) == (
        True,
        "agreement 29.00 % (at least 29) on 100 images",
    )


def test_a_candidate_that_is_better_than_fp32_has_a_negative_drop_and_meets_a_budget_of_0() -> None:
    truth = np.array([1, 1, 2, 2])
    met, text = Budget(max_drop=0).judge(posteriors(1, 0, 2, 0), posteriors(1, 1, 2, 0), truth)
    assert (met, text) == (True, "top-1 drop -25.00 points (at most 0) on 4 images")


def test_other_mistakes_are_neither_a_drop_nor_agreement() -> None:
    truth, reference, candidate = np.array([1, 1]), posteriors(1, 0), posteriors(1, 2)
    assert Budget(max_drop=0).judge(reference, candidate, truth)[0]
    assert not Budget(min_agreement=51).judge(reference, candidate, None)[0]


@pytest.mark.parametrize("budget", [Budget(min_agreement=1.5), Budget(max_drop=99)])
def test_nan_meets_no_budget(budget: Budget) -> None:
    reference, candidate = posteriors(1, 2), posteriors(1, 2)
    candidate[1] = np.nan
    met, text = budget.judge(reference, candidate, np.array([1, 2]))
    assert not met
    assert "nan" in text


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "exactly one of --max-drop and --min-agreement"),
        ({"max_drop": 0.5, "min_agreement": 99}, "exactly one of --max-drop and --min-agreement"),
        ({"max_drop": -0.1}, r"--max-drop is -0\.1; expected percentage points"),
        ({"min_agreement": 0.995}, r"--min-agreement is 0\.995; expected percent, such as 99\.5"),
        ({"min_agreement": 100.1}, r"--min-agreement is 100\.1"),
        ({"min_agreement": math.nan}, "--min-agreement is nan"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(fields: dict[str, float], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Budget(**fields)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """36 pictures in four shapes."""
    folder = tmp_path_factory.mktemp("album")
    chance, paths = np.random.default_rng(5), []
    for number in range(36):
        height, width = ((90, 130), (150, 80), (100, 100), (70, 99))[number % 4]
        patches = Image.fromarray(chance.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        paths.append(folder / f"{number:02}.png")
        patches.resize((width, height), Image.Resampling.BILINEAR).save(paths[-1])
    return tuple(paths)


def loud_channel(weights: dict[str, Any], layer: str, reader: str, factor: float = 300.0) -> None:
    """Multiplies a channel of `layer` by `factor` and divides it in `reader`, which then quantizes badly."""
    channel = 2
    weights[f"{layer}.weight"][channel] *= factor
    weights[f"{layer}.bias"][channel] *= factor
    if reader == "fc6":
        crops = weights["fc6.weight"].view(len(weights["fc6.weight"]), -1, 2, 2)
        crops[:, channel] /= factor
    else:
        weights[f"{reader}.weight"][:, channel] /= factor


@pytest.fixture
def trials_of(narrow_checkpoint: Callable[..., Path], album: tuple[Path, ...]) -> Iterator[Callable[..., Int8Trials]]:
    """`trials_of("A", target, change=None)` -> trials of a narrow network; 8 images calibrate, 28 are held out."""
    from train.network.checkpoint import read

    folders: list[Variants] = []

    def make(configuration: str, target: str, change: Callable[[dict[str, Any]], None] | None = None) -> Int8Trials:
        checkpoint = read(narrow_checkpoint(configuration))
        weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
        if change is not None:
            change(weights)
        checkpoint = dataclasses.replace(checkpoint, weights=weights)
        variants = Variants(checkpoint, lambda path: open_engine(path, threads=1))
        folders.append(variants)
        sample = ImageSample(album[:8], Protocol("multiscale", (64, 73), None, True), Rescaling())
        calibration = calibrate(variants, sample, "minmax", target, unseen)
        held_out = HeldOut.of(ImageSample(album[8:], DENSE, Rescaling()), checkpoint.manifest, labelled=False)
        return Int8Trials(variants, calibration, held_out, unseen)

    yield make
    for variants in folders:
        variants.close()


@pytest.mark.parametrize(
    ("configuration", "layer", "reader"),
    [("A-LRN", "conv2_1", "conv3_1"), ("D", "conv4_3", "conv5_1"), ("A", "conv5_2", "fc6")],
)
def test_a_layer_made_sensitive_on_purpose_is_ranked_first_and_kept(
    configuration: str, layer: str, reader: str, trials_of: Callable[..., Int8Trials]
) -> None:
    trials = trials_of(configuration, "tensorrt", lambda weights: loud_channel(weights, layer, reader))
    rows = trials.sensitivities()
    ranked = sorted(rows, key=lambda row: row.divergence, reverse=True)
    assert ranked[0].layer == reader
    assert ranked[0].divergence > 10 * ranked[1].divergence
    assert trials.fewest_kept(rows, Budget(min_agreement=90)).kept == (reader,)


def test_for_onnxruntime_the_layer_that_returns_the_loud_channel_is_as_sensitive_as_its_reader(
    trials_of: Callable[..., Int8Trials],
) -> None:
    trials = trials_of("A", "onnxruntime", lambda weights: loud_channel(weights, "conv3_1", "conv3_2"))
    rows = trials.sensitivities()
    ranked = [row.layer for row in sorted(rows, key=lambda row: row.divergence, reverse=True)]
    assert set(ranked[:2]) == {"conv3_1", "conv3_2"}
    assert trials.fewest_kept(rows, Budget(min_agreement=90)).kept == ("conv3_1", "conv3_2", "fc8")


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_that_quantizes_well_keeps_only_what_its_target_requires(
    target: str, trials_of: Callable[..., Int8Trials]
) -> None:
    trials = trials_of("A", target)
    rows = trials.sensitivities()
    assert all(isinstance(row, Sensitivity) and 0 < row.divergence < 0.01 for row in rows)
    assert trials.fewest_kept(rows, Budget(min_agreement=90)).kept == (() if target == "tensorrt" else ("fc8",))


def test_every_progress_bar_is_announced_and_completed(
    narrow_checkpoint: Callable[..., Path], album: tuple[Path, ...]
) -> None:
    from train.network.checkpoint import read

    bars: list[list[Any]] = []

    @contextmanager
    def watched(what: str, total: int) -> Iterator[Callable[[], None]]:
        bars.append([what, total, 0])

        def advance() -> None:
            bars[-1][2] += 1

        yield advance

    checkpoint = read(narrow_checkpoint("A"))
    with Variants(checkpoint, lambda path: open_engine(path, threads=1)) as variants:
        sample = ImageSample(album[:3], Protocol("multiscale", (64, 73), None, True), Rescaling())
        calibration = calibrate(variants, sample, "minmax", "onnxruntime", watched)
        held_out = HeldOut.of(ImageSample(album[3:8], DENSE, Rescaling()), checkpoint.manifest, labelled=False)
        trials = Int8Trials(variants, calibration, held_out, watched)
        trials.fewest_kept(trials.sensitivities(), Budget(min_agreement=2))
    assert bars == [
        ["calibrating", 3, 3],
        ["FP32 reference", 5, 5],
        ["quantizing each layer alone", 50, 50],
        ["every layer in INT8", 5, 5],
    ]


def test_the_checkpoint_is_left_as_it_was(narrow_checkpoint: Callable[..., Path], album: tuple[Path, ...]) -> None:
    from train.network.checkpoint import read

    checkpoint = read(narrow_checkpoint("A"))
    before = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    half = ExportOptions(graph=GraphOptions(half=True))  # it observes the largest activations too
    with Variants(checkpoint, lambda path: open_engine(path, threads=1), half) as variants:
        sample = ImageSample(album[:2], DENSE, Rescaling())
        calibrated = calibrate(variants, sample, "minmax", "tensorrt", unseen)
        variants.open(calibrated.quantization(calibrated.candidates)).close()
        folder = Path(variants._folder.name)
        assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert not folder.exists()
    assert list(checkpoint.weights) == list(before)
    assert all(bool((checkpoint.weights[name] == before[name]).all()) for name in before)


def test_held_out_images_are_one_view_each_with_the_class_that_their_folder_names(
    tmp_path: Path, narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]
) -> None:
    classes = tuple(ClassName(f"n0000000{index}", label) for index, label in enumerate("abcde"))
    manifest = manifest_for(narrow_spec("A"), classes=classes)
    paths = []
    for number, folder in enumerate(["n00000003", "b", "n00000000_a"]):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / f"{number}.png")
        Image.new("RGB", (80, 100), (number, 0, 0)).save(paths[-1])
    held_out = HeldOut.of(ImageSample(tuple(paths), DENSE, Rescaling()), manifest, labelled=True)
    assert held_out.truth.tolist() == [3, 1, 0]
    assert [view.name for view in held_out.views] == ["0.png", "1.png", "2.png"]
    assert [view.pixels.shape for view in held_out.views] == [(91, 73, 3)] * 3
    assert [int(view.pixels[0, 0, 0]) for view in held_out.views] == [0, 1, 2]
    assert HeldOut.of(ImageSample(tuple(paths), DENSE, Rescaling()), manifest, labelled=False).truth is None
