"""A runtime's answers beside the exact evaluation of its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from export.proof.answers.fidelity import Fidelity, fidelity_of
from export.proof.layers.exact import Rounding
from export.proof.layers.simulation import Simulation
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Precision
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.testing import FakeEngine

EXACT = np.array([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0]])
VIEWS = ("a.jpg 64x64", "b.jpg 64x64")


@pytest.fixture
def info(narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]) -> Callable[..., EngineInfo]:
    """`info(arithmetic="float32", device="cpu")` -> of an engine that runs such a file."""

    def make(arithmetic: str = "float32", device: str = "cpu") -> EngineInfo:
        manifest = manifest_for(narrow_spec("A")).with_(precision=Precision(arithmetic))
        return dataclasses.replace(FakeEngine(manifest).info, device=device)

    return make


def simulation(**readings: np.ndarray) -> Simulation:
    return Simulation(VIEWS, {Rounding[name]: rows for name, rows in readings.items()})


def moved(by: float, view: int = 0) -> np.ndarray:
    """The exact answers with one posterior of one view moved."""
    received = EXACT.copy()
    received[view, 2] += by
    return received.astype(np.float32)


def test_answers_within_the_limit_pass(info: Callable[..., EngineInfo]) -> None:
    fidelity = fidelity_of(info(), simulation(FILE=EXACT), moved(0.9e-5))
    assert fidelity.failures == ()
    assert fidelity.differences == pytest.approx((0.9e-5, 0), abs=1e-7)
    assert fidelity.max_dp == max(fidelity.differences)
    assert fidelity.limits == (1e-5, 1e-5)


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("by", [1.1e-5, -0.5, np.nan, np.inf])
def test_answers_beyond_it_fail_and_the_view_is_named(info: Callable[..., EngineInfo], by: float, view: int) -> None:
    fidelity = fidelity_of(info(), simulation(FILE=EXACT), moved(by, view))
    (failure,) = fidelity.failures
    assert failure.startswith("fake does not answer as the file says: a posterior is ")
    assert VIEWS[view] in failure
    assert VIEWS[1 - view] not in failure
    assert not fidelity.max_dp <= 1e-5


def test_the_nearest_reading_of_fp16_counts(info: Callable[..., EngineInfo]) -> None:
    rounded = EXACT + 1e-3
    readings = simulation(FILE=rounded, NONE=EXACT)
    assert fidelity_of(info("float16"), readings, moved(0)).reading == "none"
    assert fidelity_of(info("float16"), readings, rounded.astype(np.float32)).reading == "file"
    between = fidelity_of(info("float16"), readings, (EXACT + 5e-4).astype(np.float32))
    assert between.failures


def test_a_gpu_rounds_fp16_itself_so_its_limit_is_wider(info: Callable[..., EngineInfo]) -> None:
    received = moved(2e-3)
    assert fidelity_of(info("float16"), simulation(FILE=EXACT), received).failures
    assert not fidelity_of(info("float16", "cuda:0"), simulation(FILE=EXACT), received).failures
    assert fidelity_of(info("float32", "cuda:0"), simulation(FILE=EXACT), received).failures


def test_the_table_and_the_json_have_every_view() -> None:
    fidelity = Fidelity(runtime="fake", views=VIEWS, differences=(1e-6, 2e-6), limits=(1e-5, 1e-4), reading="file")
    assert fidelity.table.rows == ((VIEWS[0], "1.0e-06", "1.0e-05"), (VIEWS[1], "2.0e-06", "1.0e-04"))
    assert fidelity.as_json() == {
        "max_dp": 2e-6,
        "views": list(VIEWS),
        "differences": [1e-6, 2e-6],
        "limits": [1e-5, 1e-4],
        "reading": "file",
    }
