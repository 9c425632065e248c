"""What counts as a proof that passed."""

from __future__ import annotations

import pytest

from vgg_deploy.evaluation.proof import ANSWERS, FILE, LAYERS, PIPELINE, Proof


@pytest.mark.parametrize(
    ("shown", "failures", "passed"),
    [(True, (), True), (True, ("wrong",), False), (False, (), False), (False, ("wrong",), False)],
)
def test_only_what_was_compared_and_holds_has_passed(shown: bool, failures: tuple[str, ...], passed: bool) -> None:
    proof = Proof(number=FILE, artifact="a.onnx", against="b", summary="", shown=shown, failures=failures)
    assert proof.passed is passed


def test_a_proof_is_shown_and_without_failures_unless_it_says_otherwise() -> None:
    proof = Proof(number=FILE, artifact="a.onnx", against="b", summary="")
    assert proof.passed
    assert (proof.tables, proof.figures, proof.seconds) == ((), {}, 0.0)


def test_the_proofs_are_numbered_and_named_in_the_order_in_which_they_are_made() -> None:
    names = [Proof(number=number, artifact="", against="", summary="").name for number in (1, 2, 3, 4)]
    assert names == ["file", "layers", "answers", "pipeline"]
    assert (FILE, LAYERS, ANSWERS, PIPELINE) == (1, 2, 3, 4)
