"""The types in which a network computes: layer by layer, the lowest of them, and as text."""

from __future__ import annotations

from typing import Any

import pytest

from vgg_deploy.errors import ManifestError
from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.network.precision import Precision, Quantization, differences, summary
from vgg_deploy.network.spec import NetworkSpec

LAYERS = ("conv1_1", "conv1_2", "conv2_1", "fc6", "fc7", "fc8")


def quantization(*kept: str, **changes: Any) -> Quantization:
    """All of `LAYERS` but `kept` in INT8."""
    fields: dict[str, Any] = {
        "target": "tensorrt",
        "layers": tuple(name for name in LAYERS if name not in kept),
        "kept": kept,
        "method": "minmax",
        "ranges": dict.fromkeys(LAYERS, (0.0, 1.0)),
        "images": (),
        "scales": (64,),
        "mirror": True,
    }
    return Quantization(**{**fields, **changes})


NONE_INT8 = quantization(*LAYERS)


@pytest.mark.parametrize(
    ("precision", "types"),
    [
        (Precision(), ["float32"] * 6),
        (Precision("float16"), ["float16"] * 6),
        (Precision("float16", ("conv1_2", "fc8")), ["float16", "float32", "float16", "float16", "float16", "float32"]),
        (Precision(quantization=quantization()), ["int8"] * 6),
        (Precision(quantization=quantization("fc8")), [*["int8"] * 5, "float32"]),
        (Precision("float16", quantization=quantization("fc7", "fc8")), [*["int8"] * 4, "float16", "float16"]),
        # A layer that would overflow FP16 returns FP32, but with INT8 weights and inputs it is still INT8.
        (
            Precision("float16", ("conv1_1", "fc7"), quantization=quantization("fc7", "fc8")),
            [*["int8"] * 4, "float32", "float16"],
        ),
        (Precision("float16", quantization=NONE_INT8), ["float16"] * 6),
    ],
)
def test_a_layer_is_int8_or_of_the_arithmetic_or_fp32_if_it_would_overflow(
    precision: Precision, types: list[str]
) -> None:
    assert [precision.of(layer) for layer in LAYERS] == types


@pytest.mark.parametrize(
    ("precision", "lowest"),
    [
        (Precision(), "float32"),
        (Precision("float16", LAYERS), "float16"),
        (Precision(quantization=quantization()), "int8"),
        (Precision("float16", quantization=quantization("fc8")), "int8"),
        (Precision(quantization=NONE_INT8), "float32"),
        (Precision("float16", quantization=NONE_INT8), "float16"),
    ],
)
def test_the_lowest_type_names_the_row_of_thresholds(precision: Precision, lowest: str) -> None:
    assert precision.lowest == lowest
    assert lowest in THRESHOLDS


@pytest.mark.parametrize(
    ("precision", "text"),
    [
        (Precision(), "float32"),
        (Precision("float16"), "float16"),
        (Precision("float16", ("conv1_2", "fc6")), "float16 (conv1_2, fc6 in float32)"),
        (Precision(quantization=quantization()), "int8 (the rest in float32)"),
        (Precision("float16", quantization=quantization()), "int8 (the rest in float16)"),
        (Precision("float16", quantization=quantization("fc7", "fc8")), "int8 (fc7, fc8 in float16)"),
        (
            Precision("float16", ("fc7",), quantization=quantization("fc7", "fc8")),
            "int8 (fc8 in float16; fc7 in float32)",
        ),
        (
            Precision("float16", ("fc8",), quantization=quantization("fc8")),
            "int8 (the rest in float16; fc8 in float32)",
        ),
        # INT8 layers are not listed as float32 as well.
        (Precision("float16", ("conv1_1",), quantization=quantization("fc8")), "int8 (fc8 in float16)"),
        (Precision("float16", ("fc6",), quantization=NONE_INT8), "float16 (fc6 in float32)"),
    ],
)
def test_in_words_each_layer_is_named_with_one_type_at_most(precision: Precision, text: str) -> None:
    assert str(precision) == text


@pytest.mark.parametrize("arithmetic", ["int8", "FP16"])
def test_arithmetic_that_this_version_does_not_know_is_refused(arithmetic: str) -> None:
    with pytest.raises(ManifestError, match=f"precision is '{arithmetic}'"):
        Precision(arithmetic)


def test_a_range_is_measured_or_not_or_has_no_limit() -> None:
    for known in ("not limited", "measured", "unmeasured"):
        assert Precision(range=known).range == known
    with pytest.raises(ManifestError, match="range is 'guessed'"):
        Precision(range="guessed")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "tflite"}, "quantization target is 'tflite'; expected tensorrt or onnxruntime"),
        ({"method": "mse"}, "calibration method is 'mse'; expected minmax, entropy, percentile"),
        (
            {"ranges": {"conv1_1": (0.0, 1.0)}},
            "conv1_2, conv2_1, fc6, fc7, fc8 should be INT8, but calibration gave no ranges",
        ),
        (
            {"ranges": dict.fromkeys(LAYERS, (0.1, 1.0))},
            r"the range of conv1_1 is \[0\.1, 1\.0\]; expected a range that includes 0",
        ),
        ({"ranges": dict.fromkeys(LAYERS, (-1.0, -0.5))}, "expected a range that includes 0"),
        ({"ranges": dict.fromkeys(LAYERS, (0.0, float("nan")))}, "expected a range that includes 0"),
    ],
)
def test_a_quantization_that_cannot_be_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        quantization(**changes)


def types_of(configuration: str, *rest: tuple[str, str], otherwise: str = "int8") -> dict[str, str]:
    """The types of a configuration's layers; `rest` lists layers with another type."""
    names = [layer.name for layer in NetworkSpec(configuration).weight_layers]
    return dict.fromkeys(names, otherwise) | dict(rest)


FC = ("fc6", "fc7", "fc8")


@pytest.mark.parametrize(
    ("types", "text"),
    [
        (types_of("D", *((name, "float16") for name in FC)), "13/13 convolutions INT8, fc6-fc8 FP16"),
        (types_of("A", otherwise="float32"), "8/8 convolutions FP32, fc6-fc8 FP32"),
        (types_of("D", ("fc8", "float32")), "13/13 convolutions INT8, fc6-fc7 INT8, fc8 FP32"),
        (
            types_of("D", ("conv1_1", "float16"), ("fc7", "float16")),
            "1/13 convolutions FP16, 12/13 convolutions INT8, fc6 INT8, fc7 FP16, fc8 INT8",
        ),
        (
            types_of("A", ("conv3_1", "float16"), ("conv3_2", "float32"), ("conv5_2", "float16")),
            "5/8 convolutions INT8, 2/8 convolutions FP16, 1/8 convolutions FP32, fc6-fc8 INT8",
        ),
        ({"conv1": "bfloat16", "head": "unknown"}, "1/1 convolutions bfloat16, head unknown"),
        (
            {"features.0": "int8", "features.2": "int8", "classifier": "float32"},
            "features.0-features.2 INT8, classifier FP32",
        ),
        ({}, ""),
    ],
)
def test_the_summary_counts_convolutions_and_names_the_fully_connected_layers(types: dict[str, str], text: str) -> None:
    assert summary(types) == text


def test_at_most_three_differences_are_named() -> None:
    declared = dict.fromkeys("abcde", "int8")
    assert differences(declared, declared) is None
    found = {**declared, "b": "float32"}
    assert differences(declared, found) == "b is float32 instead of int8"
    assert differences(declared, dict.fromkeys("abcde", "float16")) == (
        "a is float16 instead of int8, b is float16 instead of int8, c is float16 instead of int8 and 2 more"
    )
