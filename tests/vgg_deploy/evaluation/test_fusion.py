"""The mean of several networks' posteriors."""

from __future__ import annotations

import numpy as np
import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.fusion import fused


def test_fused_posteriors_are_the_mean_and_nan_if_one_is() -> None:
    first, second = (np.random.default_rng(seed).dirichlet(np.ones(7), 5).astype(np.float32) for seed in (1, 2))
    second[3] = np.nan
    mean = fused([first, second])
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean[:3], (first[:3].astype(np.float64) + second[:3]) / 2, rtol=1e-7)
    assert np.isnan(mean[3]).all()
    np.testing.assert_array_equal(fused([first]), first)
    with pytest.raises(UsageError, match="networks of 7, 6 classes cannot be fused"):
        fused([first, second[:, :6]])
