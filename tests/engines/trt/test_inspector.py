"""Types of layers from the JSON of TensorRT's engine inspector, which has two forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.trt.inspector import types_of

INT8_WORDS = "Thirty-two wide channel vectorized row major Int8 format"
HALF_WORDS = "Channel major FP16 format where channel % 8 == 0"
FLOAT_WORDS = "Row major linear FP32"


def tensor(kind: str, axes: int = 4, name: str = "x") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [1, 64, 224, 224][:axes], "Format/Datatype": kind}


def fused(names: str, *inputs: dict[str, Any], kind: str = "CaskConvolution", **fields: Any) -> dict[str, Any]:
    """A layer as TensorRT's own optimizer writes it: names joined, formats in words."""
    return {
        "Name": names,
        "LayerType": kind,
        "Inputs": list(inputs),
        "Outputs": [tensor(HALF_WORDS, name="y")],
        "ParameterType": "Convolution" if kind == "CaskConvolution" else "",
        "Weights": {"Type": "Int8", "Count": 1728},
        "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32",
        **fields,
    }


def compiled(name: str, layers: list[str], *inputs: dict[str, Any], kind: str = "kgen") -> dict[str, Any]:
    """A layer as TensorRT's graph compiler writes it: a name of its own, ONNX layers as metadata, plain types."""
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": list(inputs),
        "Outputs": [tensor("Half", name="y")],
        "TacticName": name,
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {layer}]" for layer in layers),
    }


def types(*layers: dict[str, Any] | str, of: str = "conv1_1") -> str | None:
    return types_of(json.dumps({"Layers": layers, "Bindings": ["images", "probabilities"]}), [of]).get(of)


@pytest.mark.parametrize(
    ("format_text", "kind"),
    [(INT8_WORDS, "int8"), (HALF_WORDS, "float16"), (FLOAT_WORDS, "float32"), ("Row major linear FP8", None)],
)
def test_fused_layers_with_formats_in_words(format_text: str, kind: str | None) -> None:
    assert types(fused("conv1_1 + relu1_1", tensor(format_text))) == kind
    assert types(fused("conv1_1.weight + conv1_1.weight_dequantize + conv1_1 + relu1_1", tensor(format_text))) == kind


@pytest.mark.parametrize(
    ("plain", "kind"), [("Int8", "int8"), ("Half", "float16"), ("Float", "float32"), ("BFloat16", None)]
)
def test_compiled_layers_with_plain_types(plain: str, kind: str | None) -> None:
    layer = compiled("__myl_Conv_myl0_3", ["conv1_1", "relu1_1"], tensor(plain), tensor(plain, name="w"), kind="conv")
    assert types(layer) == kind


def test_names_are_whole_names() -> None:
    assert types(fused("conv1_10 + relu1_10", tensor(INT8_WORDS))) is None
    assert types(compiled("a", ["conv1_1.input_quantize"], tensor("Float"))) is None


def test_kernels_that_move_or_quantize_data_do_not_give_the_type() -> None:
    reformat = fused("Reformatting CopyNode for Input Tensor 0 to conv1_1", tensor(FLOAT_WORDS), kind="Reformat")
    named = fused("conv1_1", tensor(FLOAT_WORDS), kind="Reformat")
    constant = compiled("c", ["conv1_1"], tensor("Float"), kind="Constant")
    assert types(reformat, named, constant, fused("conv1_1 + relu1_1", tensor(INT8_WORDS))) == "int8"
    assert types(named) is None


def test_of_several_kernels_the_convolution_gives_the_type() -> None:
    before = compiled("__myl_CastTran_myl0_0", ["cast", "conv1_1"], tensor("Float"))
    convolution = compiled("sm80_xmma_fprop_myl0_1", ["conv1_1"], tensor("Half"), tensor("Half", name="w"), kind="conv")
    assert types(before, convolution) == "float16"


def test_kernels_that_disagree_give_no_type() -> None:
    assert types(compiled("a", ["conv1_1"], tensor("Half")), compiled("b", ["conv1_1"], tensor("Float"))) is None


def test_int8_weights_alone_are_not_int8_arithmetic() -> None:
    assert types(compiled("a", ["conv1_1"], tensor("Half"), tensor("Int8", name="w"))) == "float16"


def test_bias_and_scales_do_not_count() -> None:
    assert types(compiled("a", ["conv1_1"], tensor("Int8"), tensor("Float", 1, "bias"))) == "int8"


@pytest.mark.parametrize(
    "information",
    [
        "",
        "not JSON",
        "[]",
        '{"Layers": null}',
        '{"Layers": ["conv1_1 + relu1_1"]}',  # names only, as with another profiling verbosity
        '{"Layers": [{"Name": "conv1_1"}]}',
        '{"Layers": [{"Name": "conv1_1", "Inputs": "x"}]}',
        '{"Layers": [{"Name": "conv1_1", "Inputs": ["x", {"Dimensions": null}]}]}',
    ],
)
def test_unknown_descriptions_give_no_type(information: str) -> None:
    assert types_of(information, ["conv1_1"]) == {}


def test_each_layer_has_a_type_of_its_own() -> None:
    information = json.dumps(
        {"Layers": [fused("conv1_1 + relu1_1", tensor(INT8_WORDS)), compiled("f", ["fc6", "relu6"], tensor("Half"))]}
    )
    assert types_of(information, ["conv1_1", "conv1_2", "fc6"]) == {"conv1_1": "int8", "fc6": "float16"}
