"""How far posteriors may be from the simulation of their file."""

from __future__ import annotations

import numpy as np
import pytest

from export.proof.answers.limits import LIMITS, answer_limit
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8


@pytest.mark.parametrize("precision", [FLOAT32, FLOAT16])
def test_floating_point_has_the_same_limit_on_every_view(precision: str) -> None:
    simulated = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(answer_limit(precision).of(simulated), [1e-5, 1e-5])


def test_int8_may_move_an_unsure_answer_more_than_a_sure_one() -> None:
    simulated = np.array([[0.5, 0.5, 0.0], [0.9, 0.05, 0.05], [1.0, 0.0, 0.0]])
    limits = answer_limit(INT8).of(simulated)
    np.testing.assert_allclose(limits, [1e-3 + 0.5 * 0.25, 1e-3 + 0.5 * 0.09, 1e-3])


def test_bfloat16_is_never_stricter_than_the_file_without_it() -> None:
    simulated = np.array([[0.5, 0.5], [1.0, 0.0]])
    for precision, limit in LIMITS.items():
        assert (answer_limit(precision, bf16=True).of(simulated) >= limit.of(simulated)).all()
