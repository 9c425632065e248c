"""Top-k classes, top-k error, agreement, divergence and margins of posteriors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vgg_deploy.network.tensors import Floats

Integers = npt.NDArray[np.int64]


def top_k(probabilities: Floats, k: int) -> Integers:
    """Indices of the k most probable classes, most probable first: [..., classes] -> [..., k].

    Ties go to the lower index. If there are fewer than k classes, all are given.
    """
    order: Integers = np.argsort(-probabilities, axis=-1, kind="stable")[..., :k]
    return order


def top_k_error(probabilities: Floats, truth: Integers, k: int) -> float:
    """Share of rows whose true class is not among the k most probable, in 0..1 (section 4). NaN if there are no rows.

    Args:
        probabilities: float32 [n, classes].
        truth: int64 [n], the index of each row's class.
        k: how many classes count.
    """
    if len(truth) == 0:
        return float("nan")
    right = (top_k(probabilities, k) == truth[:, None]).any(axis=1)  # [n, k] -> [n]
    return float(1 - right.mean())


def agreement(reference: Floats, candidate: Floats) -> float:
    """Share of rows [n, classes] with the same most probable class, in 0..1."""
    return float((top_k(reference, 1) == top_k(candidate, 1)).mean())


def divergence(reference: Floats, candidate: Floats) -> float:
    """Mean Kullback-Leibler divergence of the candidate's posteriors [n, classes] from the reference's, in nats.

    NaN if there are no rows.
    """
    tiny = np.finfo(np.float32).tiny
    p, q = reference.astype(np.float64), candidate.astype(np.float64)
    terms = p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))  # [n, classes]
    return float(np.maximum(terms.sum(axis=1), 0).mean()) if len(p) else float("nan")


def margins(probabilities: Floats) -> Floats:
    """The lead of the most probable class over the second, in 0..1: [n, classes] -> [n]."""
    first_two = -np.sort(-probabilities, axis=1)[:, :2]  # [n, 2], or [n, 1] if there is one class
    lead: Floats = first_two[:, 0] - (first_two[:, 1] if first_two.shape[1] > 1 else 0)
    return lead
