"""Integers and scales: a range, weights and a bias in eight bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.quantize import quantized_bias, quantized_weights
from vgg_deploy.network.levels import Levels, activation_levels

TARGETS = ("tensorrt", "onnxruntime")
SPANS = [(0.0, 6.0), (-123.68, 151.061), (-3.0, 0.0), (-1e-3, 2e-7), (0.0, 1e-7), (0.0, 3e37)]


def stored(values: np.ndarray, levels: Levels) -> np.ndarray:
    """QuantizeLinear as ONNX defines it: ties go to the even integer, and values out of range are clipped."""
    limits = np.iinfo(levels.zero_point.dtype)
    exact = np.rint(values / levels.scale.astype(np.float64)) + int(levels.zero_point)
    return np.clip(exact, limits.min, limits.max)


def read_back(integers: np.ndarray, levels: Levels) -> np.ndarray:
    """DequantizeLinear."""
    return (integers - int(levels.zero_point)) * levels.scale.astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("span", SPANS)
def test_every_value_in_range_is_read_back_within_half_a_step(
    span: tuple[float, float], target: str, dtype: Any
) -> None:
    span = (span[0], min(span[1], float(np.finfo(dtype).max)))
    levels = activation_levels(span, target, dtype)
    assert levels.scale.dtype == dtype
    assert levels.scale.shape == levels.zero_point.shape == ()
    values = np.linspace(*span, 10_001)
    step = float(levels.scale)
    # The step itself is rounded to `dtype`, which over 255 steps adds up to a part of one.
    error = np.abs(read_back(stored(values, levels), levels) - values).max()
    assert error <= step * (0.5 + 255 * np.finfo(dtype).eps)
    if step > 2 * np.finfo(dtype).tiny:  # and no bits are wasted
        steps = max(-span[0], span[1]) / 127 if target == "tensorrt" else (span[1] - span[0]) / 255
        assert step == pytest.approx(steps, rel=float(np.finfo(dtype).eps))


@pytest.mark.parametrize(("span", "zero_point"), [((0, 6), 0), ((-6, 0), 255), ((-1, 3), 64), ((-1, 2), 85)])
def test_onnxruntimes_zero_point_is_uint8_and_0_after_a_relu(span: tuple[float, float], zero_point: int) -> None:
    levels = activation_levels(span, "onnxruntime")
    assert (levels.zero_point.dtype, int(levels.zero_point)) == (np.uint8, zero_point)


@pytest.mark.parametrize("target", TARGETS)
def test_zero_is_read_back_as_zero_from_every_range(target: str) -> None:
    for span in SPANS:
        levels = activation_levels(span, target)
        assert read_back(stored(np.zeros(1), levels), levels) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_tensor_that_is_zero_everywhere_has_a_step_of_one(target: str) -> None:
    levels = activation_levels((0.0, 0.0), target)
    assert (float(levels.scale), int(levels.zero_point)) == (1.0, 0)


def channels(*rows: list[float]) -> np.ndarray:
    """Weights float32 [out, in, 1, 1]."""
    return np.array(rows, np.float32)[:, :, None, None]


def test_each_output_channel_has_a_scale_of_its_own_from_its_largest_weight() -> None:
    chance = np.random.default_rng(0)
    weights = (
        chance.normal(0, 1, (6, 5, 3, 3)).astype(np.float32)
        * np.logspace(-4, 3, 6).astype(np.float32)[:, None, None, None]
    )
    integers, scales = quantized_weights(weights)
    assert (integers.dtype, integers.shape) == (np.int8, weights.shape)
    assert (scales.dtype, scales.shape) == (np.float32, (6,))
    np.testing.assert_allclose(scales, np.abs(weights).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    np.testing.assert_array_equal(np.abs(integers).max(axis=(1, 2, 3)), 127)
    error = np.abs(integers * scales[:, None, None, None].astype(np.float64) - weights)
    assert (error.max(axis=(1, 2, 3)) <= scales * 0.50001).all()


def test_weights_are_rounded_to_the_nearest_integer_and_ties_to_the_even_one() -> None:
    integers, scales = quantized_weights(channels([127, 1.4, 1.6, -1.4, -1.6, 0.5, 1.5, 2.5, -2.5]))
    assert scales.tolist() == [1.0]
    assert integers[0, :, 0, 0].tolist() == [127, 1, 2, -1, -2, 0, 2, 2, -2]


def test_weights_never_reach_minus_128_since_plus_128_does_not_exist() -> None:
    integers, _scales = quantized_weights(channels([-254, 254, -253.9, 0], [-1, 0.5, -1, 0.99]))
    assert integers[:, :, 0, 0].tolist() == [[-127, 127, -127, 0], [-127, 64, -127, 126]]


def test_a_channel_of_zeros_stays_zero_and_disturbs_no_other() -> None:
    weights = channels([0, 0], [0.5, -1])
    integers, scales = quantized_weights(weights)
    assert integers[:, :, 0, 0].tolist() == [[0, 0], [64, -127]]
    assert scales.tolist() == [1.0, np.float32(1 / 127)]


def test_the_integers_are_made_for_the_fp16_scale_as_it_was_rounded() -> None:
    chance = np.random.default_rng(1)
    weights = chance.uniform(-1, 1, (64, 40, 3, 3)).astype(np.float32)
    integers, scales = quantized_weights(weights, np.float16)
    assert scales.dtype == np.float16
    exact = scales.astype(np.float64)[:, None, None, None]
    np.testing.assert_array_equal(integers, np.clip(np.rint(weights / exact), -127, 127))
    assert (np.abs(integers * exact - weights) <= exact * (0.5 + 127 * 2**-11)).all()
    # With the scale before rounding some integers would differ, so this test can fail.
    before = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (integers != np.rint(weights / before)).any()


@pytest.mark.parametrize("largest", [1e-4, 1.06e-5, 7.6e-6, 1e-9])
def test_weights_too_small_for_fp16s_normal_scales_are_not_clipped(largest: float) -> None:
    """FP16's smallest numbers are 6e-8 apart, so a scale that is rounded down would clip the largest weights."""
    weights = channels(np.linspace(-largest, largest, 101).tolist())
    integers, scales = quantized_weights(weights, np.float16)
    step = float(scales[0])
    assert np.isfinite(step)
    assert step > 0
    assert np.abs(integers[0, :, 0, 0] * step - weights[0, :, 0, 0]).max() <= step * 0.51


@pytest.mark.parametrize("largest", [1e-36, 1e-42])
def test_weights_near_the_end_of_fp32_give_finite_scales(largest: float) -> None:
    weights = channels([largest, -largest / 3])
    integers, scales = quantized_weights(weights)
    assert (scales > 0).all()
    assert np.abs(integers[0, :, 0, 0] * float(scales[0]) - weights[0, :, 0, 0]).max() <= float(scales[0]) * 0.501


def test_a_bias_is_in_units_of_the_sum_that_it_is_added_to() -> None:
    levels = activation_levels((0.0, 25.5), "onnxruntime")
    weights = channels([1.27, 0], [0.0127, 0.001])
    integers, scales = quantized_weights(weights)
    bias = np.array([1.0, -2.0], np.float32)
    stored_bias, bias_scales = quantized_bias(bias, levels, scales)
    assert (stored_bias.dtype, bias_scales.dtype) == (np.int32, np.float32)
    np.testing.assert_allclose(bias_scales, [0.1 * 0.01, 0.1 * 0.0001], rtol=1e-6)
    assert stored_bias.tolist() == [1000, -200_000]
    # The sum computed in integers equals the sum in floating point.
    x = np.array([200, 17])
    total = (integers[:, :, 0, 0].astype(np.int64) @ x + stored_bias) * bias_scales
    np.testing.assert_allclose(total, weights[:, :, 0, 0] @ (x * 0.1) + bias, rtol=2e-3)


@pytest.mark.parametrize("weight", [0.0, 1e-12, 1e-7])
@pytest.mark.parametrize("size", [0.05, -800.0])
def test_a_channel_with_near_zero_weights_keeps_its_bias(weight: float, size: float) -> None:
    """In units of its weights of 1e-12 the bias would exceed int32; with a scale of 1 it would be 0."""
    levels = activation_levels((0.0, 18_000.0), "onnxruntime")
    weights, bias = channels([weight, -weight], [0.5, 0.25]), np.array([size, 1.0], np.float32)
    integers, scales = quantized_weights(weights, bias=bias, activation=levels)
    stored_bias, bias_scales = quantized_bias(bias, levels, scales)
    # int32 must also hold the sum that a kernel adds to the bias.
    assert abs(int(stored_bias[0])) < 2**31 - 4608 * 127 * 255
    largest_sum = 2 * 18_000 * weight
    assert stored_bias[0] * float(bias_scales[0]) == pytest.approx(size, rel=1e-5, abs=largest_sum / 127)
    assert np.abs(integers[0].astype(float) * float(scales[0]) - weights[0]).max() * 18_000 <= max(
        largest_sum / 127, abs(size) * 1e-4
    )
    np.testing.assert_array_equal(integers[1].ravel(), [127, 64])  # the other channel did not change
    assert scales[1] == np.float32(0.5 / 127)


def test_without_a_bias_the_scales_depend_on_the_weights_alone() -> None:
    weights = np.random.default_rng(2).normal(0, 0.1, (8, 4, 3, 3)).astype(np.float32)
    levels = activation_levels((0.0, 6.0), "onnxruntime")
    bias = np.random.default_rng(3).normal(0, 1, 8).astype(np.float32)
    alone, with_bias = quantized_weights(weights), quantized_weights(weights, bias=bias, activation=levels)
    np.testing.assert_array_equal(alone[0], with_bias[0])
    np.testing.assert_array_equal(alone[1], with_bias[1])
