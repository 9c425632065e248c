"""How far healthy files stay below the limits of the proofs."""

from __future__ import annotations

from collections.abc import Iterator

from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.evaluation.proof import ANSWERS, LAYERS, Proof

ALLOWED = 1 / 3  # of a limit, for a healthy file


def shares(proof: Proof) -> Iterator[tuple[str, float]]:
    """The figures of a proof as shares of their limits. Proof 1 has no limits: everything is equal."""
    if proof.number == LAYERS:
        for layer in proof.figures["layers"]:
            yield layer["layer"], layer["error"] / layer["limit"]
    if proof.number == ANSWERS:
        for comparison in proof.figures["comparisons"]:
            limits, parity = THRESHOLDS[comparison["precision"]], comparison["parity"]
            for name in ("max_dp", "mean_dp", "divergence"):
                yield name, parity[name] / getattr(limits, name)
        exact = proof.figures["exact_evaluation"]
        if exact is not None:
            for view, difference, limit in zip(exact["views"], exact["differences"], exact["limits"], strict=True):
                yield f"exact evaluation of {view}", difference / limit


def worst(proof: Proof) -> tuple[str, float] | None:
    """The figure with the largest share of its limit; None if the proof has no limits."""
    return max(shares(proof), key=lambda share: share[1], default=None)
