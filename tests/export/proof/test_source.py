"""Proof 1: every kind of healthy file passes, and what cannot be compared is not claimed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export import export
from export.proof.file.source import SourceWeights, prove_source
from tests.export.edited import (
    Files,
    Made,
    attribute,
    damaged,
    flipped,
    proved,
    unexamined,
    with_manifest,
)
from tests.vgg_deploy.artifacts.damage import without_digests
from train.network.checkpoint import read
from vgg_deploy.artifacts.integrity import Examination, examine
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.plan import PlanManifest, write_plan
from vgg_deploy.errors import ModelFileError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, TrainScale
from vgg_deploy.network.shapes import Profile
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

HEALTHY: dict[str, dict[str, Any]] = {
    "FP32 of a fixed size": {},
    "dynamic": {"dynamic": True},
    "B": {"configuration": "B", "dynamic": True},
    "C with 1x1 convolutions": {"configuration": "C"},
    "A-LRN in FP16": {"configuration": "A-LRN", "half": True},
    "E": {"configuration": "E"},
    "fine": {"fine": True, "dynamic": True},
    "score map": {"score_map": True, "dynamic": True},
    "features": {"features": True},
    "all outputs in FP16": {"score_map": True, "features": True, "half": True, "dynamic": True},
    "external data": {"external_data": True, "checkpoint": {"fc_width": 256}},
    "FP16": {"half": True},
    "another crop": {"checkpoint": {"crop": 96}},
    "a std": {"checkpoint": {"manifest": {"normalization": TORCHVISION_NORMALIZATION}}},
    "INT8 for TensorRT": {"int8": "tensorrt", "dynamic": True},
    "INT8 for TensorRT with a score map": {"int8": "tensorrt", "score_map": True, "features": True},
    "INT8 for ONNX Runtime": {"int8": "onnxruntime", "dynamic": True},
    "INT8 for ONNX Runtime, A-LRN": {"configuration": "A-LRN", "int8": "onnxruntime", "score_map": True},
    "INT8 and FP16": {"int8": "tensorrt", "half": True, "fine": True},
    "layers kept by a budget": {"int8": "onnxruntime", "kept": ("conv3_1", "conv5_2", "fc6")},
    "layers kept in FP16": {"int8": "tensorrt", "kept": ("conv1_1", "fc7"), "half": True},
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_file_follows_bit_for_bit_from_its_checkpoint_and_from_the_fp32_file(
    kind: str, made: Made, tmp_path: Path
) -> None:
    file, checkpoint = made(**HEALTHY[kind])
    reference = export(read(checkpoint), tmp_path / "fp32.onnx", dynamic=True).path
    stored = onnx.load(file).graph.initializer
    for source in (
        SourceWeights.from_checkpoint(read(checkpoint)),
        SourceWeights.from_onnx(OnnxFile(reference), unexamined),
    ):
        proof = prove_source(file, source, unexamined)
        assert (proof.failures, proof.passed, proof.number) == ((), True, 1)
        assert proof.figures["tensors_compared"] == len(stored)
        assert proof.figures["values_compared"] == sum(int(np.prod(tensor.dims)) for tensor in stored)
        assert proof.figures["assumed"] == []
        assert len(proof.summary) <= 50
        assert json.dumps(dict(proof.figures))


def test_a_file_with_layers_kept_in_fp32_follows_from_its_checkpoint(
    enlarged_checkpoint: Files, batch: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = enlarged_checkpoint(1e4, "conv3_1")
    file = export(read(checkpoint), tmp_path / "half.onnx", half=True, calibration=[batch(1, 64, 64)])
    assert "conv3_1" in file.manifest.precision.float32_layers
    assert proved(file.path, checkpoint).failures == ()


def test_facts_of_a_foreign_checkpoint_are_compared_only_if_the_user_states_them(
    made: Made, random_weights: Callable[..., Any], tmp_path: Path, narrow_spec: Any
) -> None:
    from safetensors.torch import save_file

    checkpoint = tmp_path / "foreign.safetensors"
    save_file(random_weights(narrow_spec("A")), checkpoint)
    facts = WeightFacts(
        normalization=PAPER_NORMALIZATION, labels="a\nb\nc\nd\ne\n", train_scale=TrainScale(80, 80), channels="RGB"
    )
    file = export(read(checkpoint, facts), tmp_path / "model.onnx").path
    proof = proved(file, checkpoint, facts)
    assert (proof.failures, proof.figures["assumed"]) == ((), [])

    # As `verify` reads it if the user states nothing: the file's own manifest completes the facts.
    weights = read(checkpoint, dataclasses.replace(facts, labels=None))
    proof = prove_source(file, SourceWeights.from_checkpoint(weights), unexamined)
    assert proof.failures == ()
    assert proof.figures["assumed"] == ["classes", "normalization", "train_scale", "channels_reversed"]
    assert any("not compared" in row[1] for row in proof.tables[0].rows)

    other = dataclasses.replace(facts, normalization=TORCHVISION_NORMALIZATION, labels=None, train_scale=None)
    (failure,) = prove_source(file, SourceWeights.from_checkpoint(weights, other), unexamined).failures or ("",)
    assert failure == ""  # the checkpoint was read with the facts of the file
    (failure,) = proved(file, checkpoint, other).failures
    assert failure.startswith("its normalization is ")


def test_labels_and_scale_that_only_export_was_given_fail_with_advice(narrow_checkpoint: Files, tmp_path: Path) -> None:
    checkpoint = narrow_checkpoint("A")
    facts = WeightFacts(labels="nought\none\ntwo\nthree\nfour\n", train_scale=TrainScale(100, 100))
    file = export(read(checkpoint, facts), tmp_path / "model.onnx").path
    classes, scale = proved(file, checkpoint).failures
    assert classes == (
        f"class 0 is 'nought' in the file and '0' in {checkpoint.name}: if --labels was given to export, give it to "
        "verify too"
    )
    assert scale.endswith("if --train-scale was given to export, give it to verify too")
    assert proved(file, checkpoint, facts).passed


def test_batch_norms_and_convolutional_heads_are_folded_before_the_comparison(
    narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    spec = narrow_spec("A")
    weights, state, index = random_weights(spec), {}, 0
    generator = torch.Generator().manual_seed(0)
    heads = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
    for layer in spec.layers:
        if layer.kind == "pool":
            index += 1
        elif layer.kind == "conv":
            state[f"features.{index}.weight"] = weights[f"{layer.name}.weight"]
            for part in ("weight", "running_var"):
                state[f"features.{index + 1}.{part}"] = torch.rand(layer.out_channels, generator=generator) + 0.5
            for part in ("bias", "running_mean"):
                state[f"features.{index + 1}.{part}"] = torch.randn(layer.out_channels, generator=generator)
            index += 3
        else:
            shape = layer.weight_shape if layer.name != "fc8" else layer.weight_shape[:2]
            state[f"{heads[layer.name]}.weight"] = weights[f"{layer.name}.weight"].reshape(shape)
            state[f"{heads[layer.name]}.bias"] = weights[f"{layer.name}.bias"]
    torch.save(state, tmp_path / "timm.pth")
    facts = WeightFacts(normalization=TORCHVISION_NORMALIZATION)
    for half in (False, True):
        file = export(read(tmp_path / "timm.pth", facts), tmp_path / "model.onnx", half=half).path
        assert proved(file, tmp_path / "timm.pth", facts).passed
    damaged(file, flipped("conv3_1.bias", 0))
    assert not proved(file, tmp_path / "timm.pth", facts).passed


def test_a_damaged_reference_fails_and_is_named(made: Made, tmp_path: Path) -> None:
    file, checkpoint = made(half=True)
    reference = export(read(checkpoint), tmp_path / "fp32.onnx", dynamic=True).path
    damaged(reference, attribute("pool3", "strides", [1, 1]))
    source = SourceWeights.from_onnx(OnnxFile(reference), unexamined)
    (failure,) = prove_source(file, source, unexamined).failures
    assert failure.startswith("fp32.onnx: the node pool3: strides is [1, 1]; expected [2, 2]")


def test_a_reference_is_examined_and_must_hold_all_weights(made: Made) -> None:
    file, _ = made()
    source = SourceWeights.from_onnx(OnnxFile(file), lambda path: Examination((f"{path}: a is not b",), 23, True, 0.0))
    assert source.damage == ("a is not b",)
    damaged(file, lambda model: model.graph.initializer.pop())
    with pytest.raises(ModelFileError, match=r"does not hold fc8\.bias"):
        SourceWeights.from_onnx(OnnxFile(file), unexamined)


def test_an_onnx_file_that_lost_the_weights_is_no_source(made: Made) -> None:
    with pytest.raises(UsageError, match="is float16, so the weights that it was made from are lost"):
        SourceWeights.from_onnx(OnnxFile(made(half=True)[0]), unexamined)
    file, _ = made()
    damaged(file, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(UsageError, match="has no vgg_deploy manifest"):
        SourceWeights.from_onnx(OnnxFile(file), unexamined)


def test_without_a_source_a_file_is_only_examined(made: Made) -> None:
    file, _ = made()
    proof = prove_source(file, None, lambda _: Examination((), 23, True, 0.0))
    assert (proof.summary, proof.passed) == ("23 tensors and the graph are as exported", True)
    proof = prove_source(file, None, unexamined)
    assert (proof.shown, proof.failures) == (False, ())
    assert "--reference" in proof.summary
    proof = prove_source(file, None, lambda _: Examination(("a is not b",), 23, True, 0.0))
    assert (proof.shown, proof.failures) == (True, ("a is not b",))


def test_a_foreign_file_is_not_judged(made: Made) -> None:
    file, checkpoint = made()

    def rename(model: onnx.ModelProto) -> None:
        model.ClearField("metadata_props")
        model.producer_name = "another"

    damaged(file, rename)
    proof = proved(file, checkpoint)
    assert (proof.shown, proof.failures, proof.summary) == (False, (), "it has no vgg_deploy manifest")


@pytest.fixture
def planned(made: Made, tmp_path: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """`planned(**arguments of made)` -> a plan with its sidecar, its ONNX file beside it, and the checkpoint."""

    def write(**options: Any) -> tuple[Path, Path, Path]:
        file, checkpoint = made(dynamic=True, **options)
        plan, data = tmp_path / "model.plan", b"what TensorRT wrote"
        profile = Profile((64,), (1, 64, 64), (4, 64, 85), (8, 128, 128))
        manifest = OnnxFile(file).manifest
        assert manifest is not None
        assert manifest.spec is not None
        sidecar = PlanManifest(
            backend="tensorrt-rtx",
            version="1.7.1",
            compute_capabilities=(),
            hardware_compatibility="none",
            profiles=(profile,),
            layers={layer.name: manifest.precision.of(layer.name) for layer in manifest.spec.weight_layers},
            layers_from="declared",
            plan=Source(plan.name, hashlib.sha256(data).hexdigest()),
            onnx=Source.of(file),
            build_seconds=1.0,
            command="vgg-deploy build model.onnx",
            manifest=manifest.with_(shapes=profile.shapes),
        )
        write_plan(plan, data, sidecar)
        return plan, file, checkpoint

    return write


@pytest.mark.parametrize("int8", [None, "tensorrt"])
def test_a_plan_is_judged_by_its_sidecar_and_the_onnx_file_beside_it(
    int8: str | None, planned: Callable[..., tuple[Path, Path, Path]], narrow_checkpoint: Files
) -> None:
    plan, file, checkpoint = planned(int8=int8)
    source = SourceWeights.from_checkpoint(read(checkpoint))
    proof = prove_source(plan, source, examine)
    assert (proof.failures, proof.passed, proof.artifact) == ((), True, "model.plan")
    assert proof.figures["tensors_compared"] == len(onnx.load(file).graph.initializer)
    assert prove_source(plan, None, examine).passed

    other = SourceWeights.from_checkpoint(read(narrow_checkpoint("A", seed=1)))
    assert prove_source(plan, other, examine).failures[0].startswith("model.onnx: ")

    damaged(file, flipped("conv3_1.bias", 0))
    assert not prove_source(plan, None, examine).passed
    assert prove_source(plan, None, examine).failures

    file.unlink()
    proof = prove_source(plan, source, examine)
    assert (proof.shown, proof.failures) == (False, ())
    assert "its ONNX file is not beside it" in proof.summary
    plan.write_bytes(b"another plan")
    assert prove_source(plan, source, examine).failures


def test_a_plan_without_its_onnx_file_is_still_compared_with_the_facts_of_the_checkpoint(
    planned: Callable[..., tuple[Path, Path, Path]], narrow_checkpoint: Files
) -> None:
    plan, file, _ = planned()
    file.unlink()
    proof = prove_source(plan, SourceWeights.from_checkpoint(read(narrow_checkpoint("A", seed=1))), examine)
    assert proof.shown
    (failure,) = proof.failures
    assert "it was made from vgg11-0.safetensors" in failure
    (failure,) = prove_source(plan, SourceWeights.from_checkpoint(read(narrow_checkpoint("B"))), examine).failures
    assert failure.startswith("its configuration is A, but that of vgg13-0.safetensors is B")


def test_a_plan_without_a_sidecar_is_not_judged(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"what TensorRT wrote")
    proof = prove_source(plan, None, examine)
    assert (proof.shown, proof.summary) == (False, "it has no manifest beside it")


@pytest.mark.parametrize("kind", [{}, {"half": True, "features": True}, {"int8": "onnxruntime"}])
@pytest.mark.parametrize("recorded", [True, False], ids=["with digests", "of an older version"])
def test_the_examination_and_the_derivation_are_one_proof(kind: dict[str, Any], recorded: bool, made: Made) -> None:
    file, checkpoint = made(**kind)
    if not recorded:
        manifest = OnnxFile(file).manifest
        assert manifest is not None
        damaged(file, lambda model: with_manifest(model, manifest.with_(digests=None).to_json()))
    source = SourceWeights.from_checkpoint(read(checkpoint))
    proof = prove_source(file, source, examine)
    assert (proof.failures, proof.figures["digests_recorded"]) == ((), recorded)
    alone = prove_source(file, None, examine)
    assert (alone.failures, alone.shown) == ((), recorded)
    damaged(file, attribute("pool3", "strides", [1, 1]))
    failures = prove_source(file, source, examine).failures
    assert failures[0].startswith("the node pool3: strides is [1, 1]")
    assert len(failures) > 1
    assert prove_source(file, None, examine).failures


ONE_FAULT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "the mean": ({}, ("mean_rgb",)),
    "a bias": ({"half": True}, ("fc7.bias",)),
    "a scale of an input": ({"int8": "tensorrt"}, ("conv4_1.input.scale",)),
    "a zero point of an input": ({"int8": "onnxruntime"}, ("conv2_1.input.zero_point",)),
    "a scale of weights": ({"int8": "onnxruntime"}, ("conv4_1.weight.scale",)),
    "a scale of a bias": ({"int8": "onnxruntime"}, ("conv4_1.bias.scale",)),
}


@pytest.mark.parametrize(("kind", "tensors"), ONE_FAULT.values(), ids=ONE_FAULT)
@pytest.mark.parametrize("recorded", [True, False], ids=["with digests", "of an older version"])
def test_one_fault_of_a_tensor_is_one_line(
    kind: dict[str, Any], tensors: tuple[str, ...], recorded: bool, made: Made
) -> None:
    file, checkpoint = made(**kind)
    if not recorded:
        without_digests(file)
    damaged(file, flipped(tensors[0], 1))
    proof = prove_source(file, SourceWeights.from_checkpoint(read(checkpoint)), examine)
    assert len(proof.failures) == 1, proof.failures
    failure = proof.failures[0]
    assert tensors[0] in failure
    assert proof.summary == "1 difference from its checkpoint"
    assert bool(proof.figures["contradictions"]) or not recorded
    row = dict(proof.tables[0].rows)["digests"]
    assert row.startswith("of " if recorded else "no digests (exported by an older vgg_deploy): derived instead")


def test_a_damage_that_the_derivation_does_not_name_keeps_its_line_beside_it(made: Made) -> None:
    file, checkpoint = made()
    damaged(file, flipped("mean_rgb", 1))
    source = SourceWeights.from_checkpoint(read(checkpoint))
    texts = (
        "the tensor fc8.bias was changed after the export",
        "it subtracts the mean 1,2,3 (mean_rgb), but it is not",
    )
    proof = prove_source(file, source, lambda path: Examination(tuple(f"{path}: {text}" for text in texts), 2, True, 0))
    assert proof.failures[1:] == (texts[0],)


def test_many_changed_tensors_are_not_counted_a_second_time(made: Made) -> None:
    file, checkpoint = made()
    for layer in ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"):
        damaged(file, flipped(f"{layer}.bias", 1))
    proof = prove_source(file, SourceWeights.from_checkpoint(read(checkpoint)), examine)
    assert proof.summary == "8 differences from its checkpoint"


def test_training_is_not_compared_with_a_foreign_checkpoint(
    made: Made, random_weights: Callable[..., Any], tmp_path: Path, narrow_spec: Any
) -> None:
    from safetensors.torch import save_file

    file, _ = made(checkpoint={"manifest": {"mirror": False, "training": {"epochs": 3}}})
    checkpoint = tmp_path / "foreign.safetensors"
    save_file(random_weights(narrow_spec("A")), checkpoint)
    facts = WeightFacts(normalization=PAPER_NORMALIZATION)
    for failure in proved(file, checkpoint, facts).failures:
        assert not any(word in failure for word in ("mirror", "rescaling", "training", "{"))


def test_a_file_whose_manifest_was_removed_fails(made: Made) -> None:
    file, checkpoint = made()
    damaged(file, lambda model: model.ClearField("metadata_props"))
    (failure,) = prove_source(file, SourceWeights.from_checkpoint(read(checkpoint)), examine).failures
    assert "its manifest is missing" in failure


def test_a_file_cut_off_fails_and_says_so(made: Made) -> None:
    file, checkpoint = made()
    file.write_bytes(file.read_bytes()[:-100])
    (failure,) = proved(file, checkpoint).failures
    assert "truncated" in failure


def test_a_file_with_an_onnx_reference_is_judged_without_torch(made: Made, tmp_path: Path) -> None:
    file, checkpoint = made(int8="tensorrt")
    export(read(checkpoint), tmp_path / "fp32.onnx")
    program = (
        "import sys; from pathlib import Path\n"
        "from export.proof.file.source import OnnxFile, SourceWeights, prove_source\n"
        "from vgg_deploy.artifacts.integrity import examine\n"
        "source = SourceWeights.from_onnx(OnnxFile(Path(sys.argv[2])), examine)\n"
        "assert prove_source(Path(sys.argv[1]), source, examine).passed\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file), str(tmp_path / "fp32.onnx")], check=True, timeout=60)
