"""A runtime that computes a damaged file instead of the healthy one is found, layer by layer; a healthy one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from tests.mutants.artifacts import FORMS, Network
from tests.mutants.damage import ANSWERS, LAYERS
from tests.mutants.fault import remembered_convolutions
from tests.mutants.headroom import ALLOWED, shares
from tests.mutants.judgement import Judgement
from tests.mutants.kinds import HARMLESS, SHORT
from tests.mutants.report import Report
from tests.mutants.test_files import escaped
from tests.mutants.trial import Trial

RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture
def trial(network: Network, tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    """`trial("onnxruntime", ...)` -> the trial of the narrow network in these runtimes."""
    with remembered_convolutions():
        yield lambda *runtimes: Trial(network, tmp_path, runtimes, views=1)


@pytest.mark.parametrize(
    ("form", "runtime"),
    [
        ("fp32", "openvino"),
        ("int8 onnxruntime", "onnxruntime"),
        pytest.param("int8+fp16", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("fp16", "openvino", marks=pytest.mark.slow),
    ],
)
def test_a_runtime_that_computes_another_layer_is_found(form: str, runtime: str, trial: Callable[..., Trial]) -> None:
    judged = list(trial(runtime).form(form, (*SHORT, *HARMLESS)))
    assert escaped(judged) == []
    assert Report(judged).false_alarms == []
    found = [each.judgement.mutant for each in judged if each.judgement.caught(LAYERS)]
    assert len(found) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_fault_of_a_runtime_is_found(form: str, trial: Callable[..., Trial]) -> None:
    judged = list(trial(*RUNTIMES).form(form))
    if form.startswith(
        "int8"
    ):  # random weights are unsure of every class, and the limits on the price of INT8 are wide
        judged = [replace(each, judgement=_without(ANSWERS, each.judgement)) for each in judged]
    assert escaped(judged) == []
    assert Report(judged).false_alarms == []


def _without(judge: str, judgement: Judgement) -> Judgement:
    """A judgement from which one judge is left out."""
    return replace(judgement, expected=judgement.expected - {judge})


@pytest.mark.parametrize(
    ("form", "runtime"),
    [
        ("fp32", "onnxruntime"),
        ("int8+fp16", "openvino"),
        *(pytest.param(form, runtime, marks=pytest.mark.slow) for form in FORMS for runtime in RUNTIMES),
    ],
)
def test_a_healthy_runtime_stays_below_a_third_of_every_limit(
    form: str, runtime: str, trial: Callable[..., Trial]
) -> None:
    layers, answers = trial(runtime).healthy_proofs(form, runtime)
    assert layers.failures == ()
    assert dict(shares(layers)) == pytest.approx(dict.fromkeys(dict(shares(layers)), 0), abs=ALLOWED)
    # The price of the precision is that of random weights here, and says nothing of trained networks.
    exact = answers.figures["exact_evaluation"]
    assert (np.array(exact["differences"]) <= ALLOWED * np.array(exact["limits"])).all()
