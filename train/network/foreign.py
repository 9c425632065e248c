"""Weights under foreign names: recognizes their configuration, and renames them to the paper's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from train.network.weight_sets import prefixes_of
from vgg_deploy.errors import CheckpointError, UsageError
from vgg_deploy.network.spec import BASE_WIDTH, CONFIGURATIONS, TOTAL_STRIDE, NetworkSpec

BATCH_NORM_EPSILON = 1e-5  # of torchvision and timm

_TORCHVISION_FC = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
_TIMM_FC = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def identify(
    tensors: Mapping[str, Tensor], configuration: str | None, where: str
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The network of the tensors, and the tensors under the paper's names in FC form.

    Known names are those of torchvision's vgg11 ... vgg19 and their _bn forms (batch norm is folded into the
    convolutions), of timm, and of the paper. Configuration, width, crop, FC width and class count follow from the
    shapes.

    Args:
        configuration: the user's statement. Only A-LRN needs it: its tensors are the same as those of A.
        where: names the file in messages.

    Raises:
        CheckpointError: the tensors are not a column of Table 1.
        UsageError: `configuration` contradicts the tensors.
    """
    plain = _without_prefix(tensors)
    if "conv1_1.weight" in plain:
        renamed, convolutions = dict(plain), _paper_convolutions(plain)
    elif any(name.startswith("features.") for name in plain):
        renamed, convolutions = _from_features(plain, where)
    else:
        some = ", ".join(sorted(tensors)[:4])
        raise CheckpointError(
            f"{where} has tensors named {some}, ...; expected a VGG with the names of torchvision, timm or the paper"
        )
    spec = _spec_of(convolutions, renamed, configuration, where)
    if convolutions[0].startswith("features."):
        _check_layout(spec, convolutions, plain, where)
    return spec, _in_fc_form(_named(spec, convolutions, renamed))


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes what stands before the names of the convolutions, such as "module." or the user's name of a network."""
    prefixes = prefixes_of(tensors)
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _paper_convolutions(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(name.removesuffix(".weight") for name in tensors if re.fullmatch(r"conv\d_\d\.weight", name))


def _from_features(tensors: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """For the `features.N` of torchvision and timm: folds batch norm, and renames the head to fc6, fc7, fc8."""
    heads = _TIMM_FC if any(name.startswith("pre_logits.") for name in tensors) else _TORCHVISION_FC
    paper = {foreign: name for name, foreign in heads.items()}
    indices = sorted({int(match[1]) for name in tensors if (match := re.fullmatch(r"features\.(\d+)\.\w+", name))})
    renamed: dict[str, Tensor] = {}
    convolutions: list[str] = []
    used: set[str] = set()
    for index in indices:
        name = f"features.{index}"
        weight = tensors.get(f"{name}.weight")
        if weight is not None and weight.ndim == 4:
            convolutions.append(name)
            renamed.update({key: tensors[key] for key in (f"{name}.weight", f"{name}.bias") if key in tensors})
            used.update(renamed)
        elif convolutions and any(f"{name}.{part}" in tensors for part in _BATCH_NORM if part != "bias"):
            _fold_batch_norm(tensors, name, convolutions[-1], renamed, where)
            used.update(f"{name}.{part}" for part in (*_BATCH_NORM, "num_batches_tracked"))
    for name, tensor in tensors.items():
        if name not in used:
            stem, _, part = name.rpartition(".")
            renamed[f"{paper.get(stem, stem)}.{part}"] = tensor
    return renamed, convolutions


def _check_layout(spec: NetworkSpec, convolutions: list[str], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises CheckpointError unless the convolutions have their positions without batch norm, or with one after each.

    The numbers N of `features.N` distinguish the two even if all tensors of the batch norms are missing.
    """
    positions = [int(name.partition(".")[2]) for name in convolutions]
    for modules in (2, 3):  # a convolution and its ReLU, with batch norm between them or not
        expected, index = [], 0
        for layer in spec.layers:
            if layer.kind == "conv":
                expected.append(index)
                index += modules
            elif layer.kind == "pool":
                index += 1
        if positions != expected:
            continue
        norms = [f"features.{position + 1}.{part}" for position in positions for part in _BATCH_NORM]
        missing = [name for name in norms if name not in tensors] if modules == 3 else []
        if missing:
            raise CheckpointError(
                f"{where} lacks {', '.join(missing[:4])}: the numbers of its layers leave room for batch norms"
            )
        return
    raise CheckpointError(
        f"{where} has convolutions at features.{', '.join(map(str, positions))}; configuration {spec.configuration} "
        "has them elsewhere, with and without batch norm: layers are missing, or it is another network"
    )


def _fold_batch_norm(
    tensors: Mapping[str, Tensor], norm: str, conv: str, renamed: dict[str, Tensor], where: str
) -> None:
    """w' = w * gamma / sqrt(var + eps); b' = beta + (b - mean) * gamma / sqrt(var + eps), computed in float64."""
    missing = [f"{norm}.{part}" for part in _BATCH_NORM if f"{norm}.{part}" not in tensors]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}: the batch norm after {conv} is incomplete")
    weight = renamed[f"{conv}.weight"].double()  # [out, in, kernel, kernel]
    gamma, beta, mean, variance = (tensors[f"{norm}.{part}"].double() for part in _BATCH_NORM)
    bias = renamed.get(f"{conv}.bias", torch.zeros(len(weight))).double()  # [out], as gamma, beta, mean, variance
    shapes = [tuple(value.shape) for value in (gamma, beta, mean, variance, bias)]
    if wrong := [shape for shape in shapes if shape != (len(weight),)]:
        raise CheckpointError(
            f"{where}: {norm} or {conv}.bias has shape {list(wrong[0])}; expected [{len(weight)}], the channels of "
            f"{conv}"
        )
    if (variance < 0).any():
        raise CheckpointError(
            f"{where}: {norm}.running_var has negative values, which a variance cannot have: the file is damaged"
        )
    factor = gamma / torch.sqrt(variance + BATCH_NORM_EPSILON)  # [out]
    renamed[f"{conv}.weight"] = (weight * factor[:, None, None, None]).float()  # [out, in, kernel, kernel]
    renamed[f"{conv}.bias"] = (beta + (bias - mean) * factor).float()  # [out]


def _spec_of(
    convolutions: list[str], tensors: Mapping[str, Tensor], configuration: str | None, where: str
) -> NetworkSpec:
    shapes = [tuple(tensors[f"{name}.weight"].shape) for name in convolutions]
    if not shapes or any(len(shape) != 4 or shape[2] != shape[3] for shape in shapes):
        raise CheckpointError(f"{where} has no convolutions, or kernels that are not square; expected a VGG")
    layers = [(shape[0], shape[2]) for shape in shapes]  # channels, kernel
    width = layers[0][0]
    if width < 1 or BASE_WIDTH % width:
        raise CheckpointError(f"{where}: its first convolution has {width} channels; expected 64 or a divisor of it")
    divisor = BASE_WIDTH // width
    matches = [
        name
        for name in CONFIGURATIONS
        if layers == [(c.out_channels, c.kernel) for c in NetworkSpec(name, divisor).convolutions]
    ]
    if not matches:
        listed = " ".join(f"{kernel}-{channels}" for channels, kernel in layers)
        raise CheckpointError(
            f"{where}: its convolutions ({listed}) match no column of the paper's Table 1: tensors are missing, or it "
            "is another network"
        )
    if configuration is not None and configuration not in matches:
        raise UsageError(
            f"{where} holds configuration {matches[0]}, which contradicts --arch {configuration}; leave --arch out"
        )
    absent = [f"{name}.weight" for name in ("fc6", "fc7", "fc8") if f"{name}.weight" not in tensors]
    if absent:
        raise CheckpointError(
            f"{where} lacks {', '.join(absent)}: its classifier is missing, or has layers other than fc6, fc7 and fc8"
        )
    fc6, fc7, fc8 = (tensors[f"{name}.weight"] for name in ("fc6", "fc7", "fc8"))
    for name, weight in (("fc6", fc6), ("fc7", fc7), ("fc8", fc8)):
        if weight.ndim not in (2, 4) or not weight.numel():
            raise CheckpointError(
                f"{where}: {name}.weight has shape {list(weight.shape)}; expected the two axes of a matrix, or the "
                "four of a convolution"
            )
    fc_width, channels = len(fc6), layers[-1][0]
    if len(fc7) != fc_width:
        raise CheckpointError(f"{where}: fc6 has {fc_width} units and fc7 has {len(fc7)}; expected the same number")
    positions = fc6.numel() // fc_width // channels
    kernel = math.isqrt(positions)
    if kernel < 1 or fc6.numel() != fc_width * channels * kernel**2:
        raise CheckpointError(
            f"{where}: fc6.weight has shape {list(fc6.shape)}; expected {channels} * k * k inputs, with k = crop / "
            f"{TOTAL_STRIDE}"
        )
    return NetworkSpec(configuration or matches[0], divisor, kernel * TOTAL_STRIDE, fc_width, len(fc8))


def _named(spec: NetworkSpec, convolutions: list[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {old: layer.name for old, layer in zip(convolutions, spec.convolutions, strict=True)}
    named = {}
    for name, tensor in tensors.items():
        stem, _, part = name.rpartition(".")
        named[f"{names.get(stem, stem)}.{part}"] = tensor
    return named


def _in_fc_form(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turns FC weights that are folded to convolutions, as in timm, into matrices again."""
    return {
        name: tensor.flatten(1) if name.startswith("fc") and name.endswith(".weight") and tensor.ndim == 4 else tensor
        for name, tensor in tensors.items()
    }
