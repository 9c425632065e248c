"""The copy of a graph that also gives every layer's activation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines import RUNTIMES, open_engine
from export.float16 import rounding_copy
from export.taps import with_activations
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("outputs", [{}, {"score_map": True, "features": True}])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_layers_activation_is_the_one_pytorch_computes(
    configuration: str,
    outputs: dict[str, bool],
    runtime: str,
    exported: Callable[..., Any],
    narrow_checkpoint: Callable[..., Path],
    batch: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    from train.network.checkpoint import read
    from train.network.reference import Reference

    made = exported(configuration, dynamic=True, **outputs)
    path, images = tmp_path / "tapped.onnx", batch(2, 70, 101)
    onnx.save(with_activations(onnx.load(made.path), made.manifest.spec), path)
    with open_engine(made.path, runtime=runtime) as plain, open_engine(path, runtime=runtime) as tapped:
        answers, received = plain.run(images), tapped.run(images)
    with Reference(read(narrow_checkpoint(configuration)), keep_activations=True) as reference:
        expected = reference.run(images)
    np.testing.assert_allclose(received.probabilities, answers.probabilities, atol=1e-6)
    assert set(received.activations) == {layer.name for layer in made.manifest.spec.layers}
    for name, value in received.activations.items():
        wanted = expected.activations[name]
        if name == "fc8" and not outputs:  # it ran on the mean, with which it commutes
            wanted = wanted.mean(axis=(2, 3), keepdims=True)
        np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


def test_activations_are_fp32_arrays_whatever_the_graph_computes_in(
    graph: Callable[..., onnx.ModelProto], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    spec = narrow_spec("A-LRN")
    for model in (graph("A-LRN", half=True), rounding_copy(graph("A-LRN", half=True))):
        tapped = with_activations(model, spec)
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(tapped, check_type=True, strict_mode=True))
        added = [value for value in tapped.graph.output if value.name.startswith("activation/")]
        assert [value.name.removeprefix("activation/") for value in added] == [layer.name for layer in spec.layers]
        assert {value.type.tensor_type.elem_type for value in added} == {onnx.TensorProto.FLOAT}


def test_the_graph_given_stays_as_it_was(
    graph: Callable[..., onnx.ModelProto], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    model = graph("A")
    before = model.SerializeToString(deterministic=True)
    with_activations(model, narrow_spec("A"))
    assert model.SerializeToString(deterministic=True) == before


def test_layers_whose_node_has_another_name_are_passed_over(
    graph: Callable[..., onnx.ModelProto], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    model = graph("A")
    for node in model.graph.node:
        if node.name != "conv3_1":
            node.name = f"renamed_{node.name}"
    tapped = with_activations(model, narrow_spec("A"))
    assert [value.name for value in tapped.graph.output] == ["probabilities", "activation/conv3_1"]
