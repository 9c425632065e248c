"""Time by node, merged into the paper's layers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines import RUNTIMES
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.layer_times import by_layer, layer_of
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.spec import NetworkSpec

TINY = Path(__file__).parents[2] / "data" / "tiny.onnx"


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("conv1_2/WithoutBiases", "conv1_2"),
        ("conv2_1.input_quantize", "conv2_1"),
        ("relu5_3_nchwc", "conv5_3"),
        ("relu6_nchwc", "fc6"),
        ("InsertedPrecisionFreeCast_relu1_1_nchwc", "conv1_1"),
        ("InsertedPrecisionFreeCast_fc8_nchwc", "fc8"),
        ("conv1_1_token_4", "conv1_1"),
        ("fc7.weight_dequantize", "fc7"),
        ("lrn1", "lrn1"),
        ("score_map", "fc8"),
        ("cast", "input"),
        ("subtract_mean_q", "input"),
        ("divide_std", "input"),
        ("transpose_abcd_acdb_conv1_1/WithoutBiases", "input"),
        ("spatial_mean", "other"),
        ("Transpose_token_63", "other"),
        ("softmax", "other"),
    ],
)
def test_a_node_belongs_to_the_layer_that_its_name_begins_with(node: str, layer: str) -> None:
    assert layer_of(node) == layer


def test_nodes_are_summed_and_runs_give_their_median(narrow_spec: Callable[..., NetworkSpec]) -> None:
    spec = narrow_spec("A")  # crop 64, FC width 24, 5 classes
    runs = [
        {"fc8": 1.0, "conv1_1": 2.0, "relu1_1": 1.0, "softmax": 4.0, "cast": 2.0},
        {"fc8": 1.0, "conv1_1": 9.0, "softmax": 4.0, "cast": 2.0},
        {"fc8": 1.0, "conv1_1": 1.0, "softmax": 4.0, "cast": 2.0},
    ]
    times = by_layer(runs, spec, BatchShape(2, 96, 128))
    assert [(time.layer, time.ms, time.share) for time in times] == [
        ("input", 2.0, 0.2),
        ("conv1_1", 3.0, 0.3),
        ("fc8", 1.0, 0.1),
        ("other", 4.0, 0.4),
    ]
    # conv1_1: two images of 96 x 128 positions, 3 to 4 channels, 3 x 3. fc8: once an image, on the mean.
    gflop = 2 * 2 * 96 * 128 * 9 * 3 * 4 / 1e9
    assert times[1].gflop == pytest.approx(gflop)
    assert times[1].gflops_per_s == pytest.approx(gflop / 0.003)
    assert times[2].gflop == pytest.approx(2 * 2 * 24 * 5 / 1e9)
    assert (times[0].gflop, times[3].gflops_per_s) == (None, None)
    on_the_map = by_layer(runs, spec, BatchShape(2, 96, 128), score_map=True)
    assert on_the_map[2].gflop == pytest.approx(2 * 2 * 24 * 5 * (2 * 3) / 1e9)


def test_layers_of_a_foreign_model_have_times_without_work() -> None:
    (only,) = by_layer([{"conv1_1": 2.0}], None, BatchShape(1, 8, 8))
    assert (only.layer, only.ms, only.gflop, only.gflops_per_s) == ("conv1_1", 2.0, None, None)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_each_runtime_profiles_the_layers_of_a_real_model(runtime: str) -> None:
    pytest.importorskip(runtime)
    adapter = importlib.import_module(RUNTIMES[runtime].adapter)
    images = np.zeros((2, 40, 48, 3), np.uint8)
    runs = adapter.layer_times(TINY, EngineOptions(threads=1), images, 3)
    assert len(runs) == 3
    times = {time.layer: time for time in by_layer(runs, read_manifest(TINY).spec, BatchShape(2, 40, 48))}
    assert {"input", "conv1_1", "conv5_2", "pool1", "fc6", "fc8"} <= set(times)
    assert sum(time.share for time in times.values()) == pytest.approx(1)
    assert all(time.ms >= 0 for time in times.values())
