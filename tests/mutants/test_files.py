"""Every damage of a file is found in the file itself, and beside the checkpoint if the file has lost its digests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from tests.mutants.artifacts import FORMS, Network, write
from tests.mutants.damage import DAMAGES
from tests.mutants.fields import paths
from tests.mutants.trial import FILE, Judged, Trial
from vgg_deploy.artifacts.onnx_file import OnnxFile

# Each kind of damage is judged in the first of these forms to which it applies.
JUDGED_FORMS = ("fp32", "int8 onnxruntime", "fp16", "fp16 fine, all outputs")


@pytest.fixture
def trial(network: Network, tmp_path: Path) -> Trial:
    """The trial of the narrow network, without a runtime."""
    return Trial(network, tmp_path, (), views=1)


def escaped(judged: Sequence[Judged]) -> list[str]:
    """Damages that a judge had to find and did not."""
    return [f"{each.form}, {each.runtime}: {each.judgement}" for each in judged if each.judgement.escaped]


def test_every_kind_of_damage_is_found_in_the_file_and_beside_its_checkpoint(trial: Trial) -> None:
    waiting, judged = set(DAMAGES), list[Judged]()
    for form in JUDGED_FORMS:
        new = list(trial.form(form, waiting))
        judged += new
        waiting -= {each.judgement.mutant for each in new}
    assert escaped(judged) == []
    assert waiting == {"a fixed axis made free"}  # applies to files with fixed axes
    assert len(judged) > 200


def test_external_weights_that_do_not_belong_to_the_graph_are_found(trial: Trial) -> None:
    judged = list(trial.form("fp32 external"))
    assert escaped(judged) == []
    assert len(judged) == 7


def test_every_damage_of_a_plan_and_every_edit_of_its_sidecar_is_found(trial: Trial) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    judged = list(trial.plan())
    (healthy,) = trial.healthy["plan", FILE]
    assert healthy.passed, healthy.failures
    assert escaped(judged) == []
    assert len(judged) > 50


@pytest.mark.parametrize("form", FORMS)
def test_a_healthy_file_of_every_form_has_no_contradiction(form: str, trial: Trial) -> None:
    proof = trial.file_proof(form)
    assert proof.passed, proof.failures


def test_every_field_of_a_manifest_is_damaged(network: Network, tmp_path: Path) -> None:
    fields = set()
    for form in ("fp32", "int8 onnxruntime", "fp16"):
        manifest = OnnxFile(write(network, FORMS[form], tmp_path / "model.onnx")).manifest
        assert manifest is not None
        fields |= {".".join(path) for path in paths(json.loads(manifest.to_json()))}
        (tmp_path / "model.onnx").unlink()
    damaged = {name.removeprefix("manifest: ") for name in DAMAGES if name.startswith("manifest: ")}
    absent = {field for field in fields if any(other.startswith(f"{field}.") for other in fields)}  # null in some form
    # The verdict is written later, and says nothing about the file.
    assert fields - absent - damaged == {"verdict"}
