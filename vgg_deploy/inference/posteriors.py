"""Top-k error, agreement and divergence of posteriors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vgg_deploy.network.tensors import Floats

Integers = npt.NDArray[np.int64]


def top_k(probabilities: Floats, k: int) -> Integers:
    """Indices of the k most probable classes of each row [n, classes], most probable first; ties go to the lower index."""
    order: Integers = np.argsort(-probabilities, axis=-1, kind="stable")[..., :k]
    return order


def top_k_error(probabilities: Floats, truth: Integers, k: int) -> float:
    """Share of rows, in 0..1, whose true class is not among the k most probable (section 4). NaN for no rows."""
    if len(truth) == 0:
        return float("nan")
    return float(1 - (top_k(probabilities, k) == truth[:, None]).any(axis=1).mean())


def agreement(reference: Floats, candidate: Floats) -> float:
    """Share of rows [n, classes], in 0..1, with the same most probable class."""
    return float((top_k(reference, 1) == top_k(candidate, 1)).mean())


def divergence(reference: Floats, candidate: Floats) -> float:
    """Mean Kullback-Leibler divergence of the candidate's posteriors [n, classes] from the reference's, in nats."""
    tiny = np.finfo(np.float32).tiny
    p, q = reference.astype(np.float64), candidate.astype(np.float64)
    terms = p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))
    return float(np.maximum(terms.sum(axis=1), 0).mean()) if len(p) else float("nan")


def margins(probabilities: Floats) -> Floats:
    """By how much the most probable class of each row [n, classes] leads the next, in 0..1."""
    two = -np.sort(-probabilities, axis=1)[:, :2]
    lead: Floats = two[:, 0] - (two[:, 1] if two.shape[1] > 1 else 0)
    return lead
