"""Fusion: the mean of several networks' posteriors (section 4.4), or of several tests of one network (section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgg_deploy.errors import UsageError
from vgg_deploy.network.tensors import Floats


def fused(posteriors: Sequence[Floats]) -> Floats:
    """The mean of arrays of posteriors of one shape, float32 [..., classes]; NaN if one of them is NaN.

    Raises:
        UsageError: they have different numbers of classes.
    """
    if len({rows.shape for rows in posteriors}) > 1:
        counts = ", ".join(str(rows.shape[-1]) for rows in posteriors)
        raise UsageError(f"networks of {counts} classes cannot be fused: their classes must be the same")
    # [networks, ..., classes] -> [..., classes]
    return np.asarray(np.mean(np.stack(posteriors), axis=0, dtype=np.float64), np.float32)
