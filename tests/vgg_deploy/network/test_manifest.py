"""Manifests as JSON and back, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from vgg_deploy.errors import ManifestError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import (
    MANIFEST_VERSION,
    PAPER_NORMALIZATION,
    TORCHVISION_NORMALIZATION,
    Manifest,
    Normalization,
    Rescaling,
    TrainScale,
)
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec


@pytest.fixture
def full(narrow_spec: Callable[..., NetworkSpec]) -> Manifest:
    """A manifest with every field set."""
    return Manifest(
        classes=(ClassName("n01", "tench"), ClassName("n02", 'größe, 鳥, "quoted"\n')),
        spec=narrow_spec("A-LRN", classes=2),
        normalization=TORCHVISION_NORMALIZATION,
        train_scale=TrainScale(256, 512),
        mirror=False,
        rescaling=Rescaling("bicubic", "nearest"),
        precision=Precision("float16", ("lrn1", "conv1_1"), "measured", {"conv1_1": 812.5, "fc8": 17.0}),
        shapes=ShapeRange(AxisRange(1, 8), AxisRange(64), AxisRange(64, 64)),
        outputs=("probabilities", "score_map"),
        source=Source("vgg11-lrn.safetensors", "ab" * 32),
        tools={"onnx": "1.17.0"},
        training={"epochs": 74, "top1": 0.25, "curve": [1, 2.5, None], "diverged": False},
        classes_numbered=True,
    )


def changed(manifest: Manifest, path: str, value: Any) -> str:
    """The manifest's JSON with one value replaced; `...` removes it."""
    data = json.loads(manifest.to_json())
    *parents, last = path.split(".")
    target = data
    for name in parents:
        target = target[int(name)] if isinstance(target, list) else target[name]
    key = int(last) if isinstance(target, list) else last
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return json.dumps(data)


def test_json_gives_back_an_equal_manifest(full: Manifest) -> None:
    text = full.to_json()
    assert "\n" not in text
    assert json.loads(text)["version"] == MANIFEST_VERSION
    assert Manifest.from_json(text, "x") == full


def test_a_manifest_of_a_foreign_file_survives_json_too() -> None:
    plain = Manifest(numbered_classes(3), None, None, TrainScale(224, 224))
    assert Manifest.from_json(plain.to_json(), "x") == plain


def test_unknown_fields_are_ignored(full: Manifest) -> None:
    assert Manifest.from_json(changed(full, "spec.colour", "red"), "x") == full


@pytest.mark.parametrize("version", [MANIFEST_VERSION + 1, "1", ...])
def test_another_version_is_refused_with_what_to_do(full: Manifest, version: object) -> None:
    with pytest.raises(ManifestError, match=rf"model\.onnx: .*reads {MANIFEST_VERSION}; export it again"):
        Manifest.from_json(changed(full, "version", version), "model.onnx")


@pytest.mark.parametrize("text", ["", "[]", "not JSON", "[" * 100_000])
def test_text_that_is_not_a_manifest_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match=r"^model\.onnx: its manifest "):
        Manifest.from_json(text, "model.onnx")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("classes", ..., "manifest.classes is missing"),
        ("spec.configuration", ..., "manifest.spec.configuration is missing"),
        ("classes", None, "manifest.classes is None; expected a list"),
        ("classes.1", "tench", r"manifest.classes\[1\] is 'tench'; expected an object"),
        ("classes.0.id", 7, r"manifest.classes\[0\].id is 7; expected str"),
        ("spec", [], "manifest.spec is .*expected an object"),
        ("spec.crop", 224.0, "manifest.spec.crop is 224.0; expected int"),
        ("spec.crop", True, "manifest.spec.crop is True; expected int"),
        ("spec.crop", 225, "crop is 225"),
        ("spec.classes", 1000, "2 class names for a network of 1000 classes"),
        ("mirror", 1, "manifest.mirror is 1; expected bool"),
        ("normalization.mean.0", "red", r"manifest.normalization.mean\[0\] is 'red'; expected float"),
        ("normalization.mean.0", math.nan, "NaN"),
        ("normalization.std.2", 0, "std is .*above 0"),
        ("normalization.mean.0", 10**400, "too large"),
        ("train_scale.maximum", 8, "expected 1 <= Smin <= Smax"),
        ("rescaling.filter", "nearest", "rescaling filter is 'nearest'"),
        ("rescaling.rounding", "up", "rounding is 'up'"),
        ("precision.arithmetic", "int4", "precision is 'int4'"),
        ("shapes.height.minimum", 0, r"0\.\.None; expected 1 <= minimum"),
    ],
)
def test_a_damaged_field_is_named_with_its_file(full: Manifest, path: str, value: Any, named: str) -> None:
    with pytest.raises(ManifestError, match=named) as raised:
        Manifest.from_json(changed(full, path, value), "model.onnx")
    assert str(raised.value).startswith("model.onnx: ")


def test_whole_numbers_serve_where_floats_are_expected(full: Manifest) -> None:
    manifest = Manifest.from_json(changed(full, "normalization.mean", [1, 2, 3]), "x")
    assert manifest.normalization.mean == (1.0, 2.0, 3.0)
    assert all(isinstance(value, float) for value in manifest.normalization.mean)


@pytest.mark.parametrize("figure", [math.nan, -math.inf])
def test_a_figure_that_json_cannot_hold_is_not_written(full: Manifest, figure: float) -> None:
    with pytest.raises(ManifestError, match="NaN or infinite"):
        full.with_(training={"loss": figure}).to_json()


def test_class_ids_are_unique(full: Manifest) -> None:
    twice = (ClassName("n01", "tench"), ClassName("n01", "other"))
    with pytest.raises(ManifestError, match="'n01' occurs more than once"):
        full.with_(classes=twice)
    assert full.with_(classes=(ClassName("n01", "crane"), ClassName("n02", "crane"))).classes[1].label == "crane"


def test_the_crop_is_the_networks_or_the_smallest_size_that_the_file_takes(full: Manifest) -> None:
    assert full.crop == 64
    shapes = ShapeRange(AxisRange(1), AxisRange(96), AxisRange(128, 128))
    assert full.with_(spec=None, shapes=shapes).crop == 128
    assert full.with_(spec=None, shapes=None).crop == 1


@pytest.mark.parametrize(
    ("mean", "std"), [((math.nan, 0, 0), (1, 1, 1)), ((0, 0, 0), (1, 0, 1)), ((0, 0, 0), (1, math.inf, 1))]
)
def test_a_normalization_that_cannot_be_computed_is_refused(mean: Any, std: Any) -> None:
    with pytest.raises(UsageError, match=r"units of 0\.\.255"):
        Normalization(mean, std)


def test_the_papers_normalization_subtracts_and_torchvisions_divides_too() -> None:
    assert Normalization((123.68, 116.779, 103.939), (1, 1, 1)) == PAPER_NORMALIZATION
    assert TORCHVISION_NORMALIZATION.mean == pytest.approx((123.675, 116.28, 103.53))
    assert TORCHVISION_NORMALIZATION.std == pytest.approx((58.395, 57.12, 57.375))


def test_a_shape_range_accepts_both_its_ends() -> None:
    shapes = ShapeRange(AxisRange(1, 8), AxisRange(224), AxisRange(224, 512))
    assert shapes.accepts(1, 224, 224)
    assert shapes.accepts(8, 100_000, 512)
    assert not any(shapes.accepts(*shape) for shape in ((0, 224, 224), (9, 224, 224), (1, 223, 224), (1, 224, 513)))
    assert str(shapes) == "1..8 x 224.. x 224..512 x 3"
    assert shapes.free
    assert not ShapeRange(AxisRange(1), AxisRange(224, 224), AxisRange(224)).free


@pytest.fixture
def quantized(full: Manifest) -> Manifest:
    """A manifest of an INT8 file, with every field of its quantization set."""
    quantization = Quantization(
        target="tensorrt",
        layers=("conv1_1", "conv2_1"),
        kept=("fc8",),
        method="entropy",
        ranges={"conv1_1": (-123.68, 151.061), "conv2_1": (0.0, 812.5), "fc8": (0.0, 0.0)},
        images=(Source("a.jpg", "cd" * 32), Source("größe.png", "ef" * 32)),
        scales=(64, 96),
        mirror=False,
        budget="top-1 drop 0.25 points (at most 0.5) on 200 images",
    )
    return full.with_(precision=dataclasses.replace(full.precision, quantization=quantization))


def test_a_quantization_survives_json_with_every_range_and_hash(quantized: Manifest) -> None:
    text = quantized.to_json()
    again = Manifest.from_json(text, "x")
    assert again == quantized
    assert again.precision.quantization.ranges["conv1_1"] == (-123.68, 151.061)
    assert all(isinstance(span, tuple) for span in again.precision.quantization.ranges.values())
    assert json.loads(text)["version"] == 1  # readers of version 1 read these too, because the fields are optional


def test_a_manifest_from_before_int8_still_reads(full: Manifest) -> None:
    data = json.loads(full.to_json())
    assert data["version"] == 1
    for section, name in (("precision", "quantization"), ("spec", "fine")):
        del data[section][name]
    old = Manifest.from_json(json.dumps(data), "x")
    assert old == full
    assert old.precision.quantization is None
    assert old.precision.lowest == "float16"


def test_a_file_without_a_budget_has_none(quantized: Manifest) -> None:
    manifest = Manifest.from_json(changed(quantized, "precision.quantization.budget", None), "x")
    assert manifest.precision.quantization.budget is None
    assert Manifest.from_json(changed(quantized, "precision.quantization.budget", ...), "x") == manifest


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("target", ..., "quantization.target is missing"),
        ("layers.0", 1, r"quantization.layers\[0\] is 1; expected str"),
        ("ranges", [], "quantization.ranges is .*expected an object"),
        ("ranges.conv2_1", ..., "conv2_1 should be INT8, but calibration gave no ranges"),
        ("ranges.conv2_1", [812.5], "quantization.ranges.conv2_1 is .*expected a list"),
        ("ranges.conv2_1.1", math.nan, "NaN"),
        ("ranges.conv2_1.1", "812", r"quantization.ranges.conv2_1\[1\] is '812'; expected float"),
        ("images.0.sha256", ..., r"quantization.images\[0\].sha256 is missing"),
    ],
)
def test_a_damaged_quantization_is_named_with_its_file(quantized: Manifest, path: str, value: Any, named: str) -> None:
    field = f"precision.quantization.{path}".rstrip(".")
    with pytest.raises(ManifestError, match=named) as raised:
        Manifest.from_json(changed(quantized, field, value), "model.onnx")
    assert str(raised.value).startswith("model.onnx: ")


def test_classes_without_names_are_told_apart_from_classes_that_are_called_by_numbers(full: Manifest) -> None:
    digits = full.with_(classes=numbered_classes(2), classes_numbered=False)
    assert not digits.unnamed
    assert digits.with_(classes_numbered=True).unnamed
    assert not digits.with_(classes_numbered=True).named(digits.classes).unnamed  # a user stated them
    # Older files do not state it. Our own checkpoints always named their classes.
    older = changed(digits, "classes_numbered", ...)
    assert not Manifest.from_json(older, "digits.safetensors").unnamed
    foreign = Manifest.from_json(changed(digits.with_(training=None), "classes_numbered", ...), "foreign.onnx")
    assert foreign.unnamed
    assert not foreign.with_(classes=full.classes).unnamed
