"""A misread checkpoint gives files that agree with it. Only answers of the true pipeline show the mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from engines import open_engine
from export.proof.file.source import SourceWeights, prove_source
from export.proof.pipeline.proof import prove_witness
from export.proof.pipeline.witness import Witness, read_witness
from tests.mutants.artifacts import FORMS, Network, write
from train.network.checkpoint import read, save
from train.network.reference import Reference
from vgg_deploy.artifacts.integrity import examine
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Normalization
from vgg_deploy.views.images import decode

# What each misreading makes of the weights, and of the manifest.
MISREADINGS: dict[str, tuple[Callable[[str, Any], Any], dict[str, Any]]] = {
    "the normalization of another tool": (lambda _name, tensor: tensor, {"normalization": PAPER_NORMALIZATION}),
    "pixels of 0..1 instead of 0..255": (
        lambda _name, tensor: tensor,
        {"normalization": Normalization((0, 0, 0), (255, 255, 255))},
    ),
    "weights for BGR": (lambda name, tensor: tensor.flip(1) if name == "conv1_1.weight" else tensor, {}),
    "classes in another order": (lambda name, tensor: tensor.flip(0) if name.startswith("fc8") else tensor, {}),
}


@pytest.fixture
def witness(network: Network, tmp_path: Path) -> Witness:
    """Crops, and the answers of the true network on them."""
    checkpoint = read(network.checkpoint)
    images = np.stack([decode(path)[:64, :64] for path in network.images])  # [n, crop, crop, 3]
    with Reference(checkpoint) as reference:
        probabilities = reference.run(images).probabilities
    np.savez(tmp_path / "answers.npz", images=images, probabilities=probabilities)
    return read_witness(tmp_path / "answers.npz")


@pytest.fixture
def proofs(network: Network, witness: Witness, tmp_path: Path) -> Callable[..., tuple[Proof, Proof]]:
    """`proofs(change, fields, form)` -> proofs 1 and 4 of a file of the network, read in this way."""

    def prove(change: Callable[[str, Any], Any], fields: dict[str, Any], form: str) -> tuple[Proof, Proof]:
        true = read(network.checkpoint)
        weights = {name: change(name, tensor) for name, tensor in true.weights.items()}
        save(tmp_path / "misread.safetensors", weights, true.manifest.with_(**fields))
        path = write(Network(tmp_path / "misread.safetensors", network.images), FORMS[form], tmp_path / "model.onnx")
        source = SourceWeights.from_checkpoint(read(tmp_path / "misread.safetensors"))
        with open_engine(path, runtime="onnxruntime") as engine:
            return prove_source(path, source, examine), prove_witness(engine, witness, path.name)

    return prove


@pytest.mark.parametrize("form", ["fp32", "int8 onnxruntime"])
@pytest.mark.parametrize("misreading", MISREADINGS)
def test_only_the_true_pipeline_shows_a_misreading(
    misreading: str, form: str, proofs: Callable[..., tuple[Proof, Proof]]
) -> None:
    file, pipeline = proofs(*MISREADINGS[misreading], form)
    assert file.passed
    assert not pipeline.passed


@pytest.mark.parametrize("form", ["fp32", "fp16"])
def test_a_network_that_was_read_rightly_agrees_with_its_pipeline(
    form: str, proofs: Callable[..., tuple[Proof, Proof]]
) -> None:
    file, pipeline = proofs(lambda _name, tensor: tensor, {}, form)
    assert file.passed
    assert pipeline.failures == ()
