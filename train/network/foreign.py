"""Weights under foreign names: which configuration they are, and the same weights under the paper's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vgg_deploy.errors import CheckpointError, UsageError
from vgg_deploy.network.spec import BASE_WIDTH, CONFIGURATIONS, TOTAL_STRIDE, NetworkSpec

BATCH_NORM_EPSILON = 1e-5  # torchvision's and timm's

# Names that wrappers put before every key: DataParallel, torch.compile, Lightning and the like.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_TORCHVISION_FC = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
_TIMM_FC = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def identify(
    tensors: Mapping[str, Tensor], configuration: str | None, where: str
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """The network that the tensors are, and the tensors under the paper's names in FC form.

    Known names: torchvision's vgg11 ... vgg19 and their _bn forms (batch norm is folded into the convolutions), timm's, and
    the paper's. Configuration, width, crop, FC width and class count are read from the shapes.

    Args:
        configuration: what the user says it is: needed for A-LRN only, whose tensors are A's.
        where: names the file in messages.

    Raises:
        CheckpointError: the tensors are no column of Table 1.
        UsageError: `configuration` is another one than the tensors show.
    """
    plain = _without_prefixes(tensors)
    if "conv1_1.weight" in plain:
        renamed, convolutions = dict(plain), _paper_convolutions(plain)
    elif any(name.startswith("features.") for name in plain):
        renamed, convolutions = _from_features(plain, where)
    else:
        some = ", ".join(sorted(tensors)[:4])
        raise CheckpointError(
            f"{where} has tensors named {some}, ...; expected a VGG under torchvision's, timm's or the paper's names"
        )
    spec = _spec_of(convolutions, renamed, configuration, where)
    if convolutions[0].startswith("features."):
        _check_layout(spec, convolutions, plain, where)
    return spec, _in_fc_form(_named(spec, convolutions, renamed))


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = dict(tensors)
    while prefix := next((p for p in _PREFIXES if names and all(name.startswith(p) for name in names)), None):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def _paper_convolutions(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(name.removesuffix(".weight") for name in tensors if re.fullmatch(r"conv\d_\d\.weight", name))


def _from_features(tensors: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """torchvision's and timm's `features.N`: batch norm folded away; heads renamed to fc6, fc7, fc8."""
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
    """Raises CheckpointError unless the convolutions stand where they do without batch norm, or with one behind each.

    The numbers N of `features.N` tell the two apart where every tensor of a batch norm is missing.
    """
    found = [int(name.partition(".")[2]) for name in convolutions]
    for behind in (2, 3):  # a convolution and its ReLU; with batch norm between them
        expected, index = [], 0
        for layer in spec.layers:
            if layer.kind == "conv":
                expected.append(index)
                index += behind
            elif layer.kind == "pool":
                index += 1
        if found != expected:
            continue
        norms = [f"features.{place + 1}.{part}" for place in found for part in _BATCH_NORM]
        missing = [name for name in norms if name not in tensors] if behind == 3 else []
        if missing:
            raise CheckpointError(f"{where} lacks {', '.join(missing[:4])}: its numbers leave room for batch norms")
        return
    raise CheckpointError(
        f"{where} has convolutions at features.{', '.join(map(str, found))}; those of {spec.configuration} stand elsewhere, "
        "with batch norm or without: layers are missing, or it is another network"
    )


def _fold_batch_norm(
    tensors: Mapping[str, Tensor], norm: str, conv: str, renamed: dict[str, Tensor], where: str
) -> None:
    """w' = w * gamma / sqrt(var + eps); b' = beta + (b - mean) * gamma / sqrt(var + eps), computed in float64."""
    missing = [f"{norm}.{part}" for part in _BATCH_NORM if f"{norm}.{part}" not in tensors]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}: the batch norm after {conv} is not whole")
    weight = renamed[f"{conv}.weight"].double()
    gamma, beta, mean, variance = (tensors[f"{norm}.{part}"].double() for part in _BATCH_NORM)
    bias = renamed.get(f"{conv}.bias", torch.zeros(len(weight))).double()
    shapes = [tuple(value.shape) for value in (gamma, beta, mean, variance, bias)]
    if wrong := [shape for shape in shapes if shape != (len(weight),)]:
        raise CheckpointError(
            f"{where}: {norm} or {conv}.bias has shape {list(wrong[0])}; expected [{len(weight)}], the channels of {conv}"
        )
    if (variance < 0).any():
        raise CheckpointError(
            f"{where}: {norm}.running_var has values below 0; a variance has none: the file is damaged"
        )
    factor = gamma / torch.sqrt(variance + BATCH_NORM_EPSILON)
    renamed[f"{conv}.weight"] = (weight * factor[:, None, None, None]).float()
    renamed[f"{conv}.bias"] = (beta + (bias - mean) * factor).float()


def _spec_of(
    convolutions: list[str], tensors: Mapping[str, Tensor], configuration: str | None, where: str
) -> NetworkSpec:
    shapes = [tuple(tensors[f"{name}.weight"].shape) for name in convolutions]
    if not shapes or any(len(shape) != 4 or shape[2] != shape[3] for shape in shapes):
        raise CheckpointError(f"{where} has no convolutions, or some that are not square; expected a VGG")
    found = [(shape[0], shape[2]) for shape in shapes]
    width = found[0][0]
    if width < 1 or BASE_WIDTH % width:
        raise CheckpointError(f"{where}: its first convolution has {width} channels; expected 64 or a divisor of it")
    divisor = BASE_WIDTH // width
    matches = [
        name
        for name in CONFIGURATIONS
        if found == [(c.out_channels, c.kernel) for c in NetworkSpec(name, divisor).convolutions]
    ]
    if not matches:
        listed = " ".join(f"{kernel}-{channels}" for channels, kernel in found)
        raise CheckpointError(
            f"{where}: convolutions {listed} are no column of the paper's Table 1; tensors are missing, or it is another network"
        )
    if configuration is not None and configuration not in matches:
        raise UsageError(f"{where} holds configuration {matches[0]}; --arch {configuration} contradicts it")
    absent = [f"{name}.weight" for name in ("fc6", "fc7", "fc8") if f"{name}.weight" not in tensors]
    if absent:
        raise CheckpointError(
            f"{where} lacks {', '.join(absent)}: its classifier is missing or has other layers than fc6, fc7 and fc8"
        )
    fc6, fc7, fc8 = (tensors[f"{name}.weight"] for name in ("fc6", "fc7", "fc8"))
    for name, weight in (("fc6", fc6), ("fc7", fc7), ("fc8", fc8)):
        if weight.ndim not in (2, 4) or not weight.numel():
            raise CheckpointError(
                f"{where}: {name}.weight has shape {list(weight.shape)}; expected a matrix, or a convolution's four axes"
            )
    fc_width, channels = len(fc6), found[-1][0]
    if len(fc7) != fc_width:
        raise CheckpointError(
            f"{where}: fc6 has {fc_width} units and fc7 {len(fc7)}; this toolchain has one FC width for both"
        )
    positions = fc6.numel() // fc_width // channels
    kernel = math.isqrt(positions)
    if kernel < 1 or fc6.numel() != fc_width * channels * kernel**2:
        raise CheckpointError(
            f"{where}: fc6.weight has shape {list(fc6.shape)}; expected {channels} * k * k inputs, k = crop / {TOTAL_STRIDE}"
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
    """fc weights that are already folded to convolutions (timm's) become matrices again."""
    return {
        name: tensor.flatten(1) if name.startswith("fc") and name.endswith(".weight") and tensor.ndim == 4 else tensor
        for name, tensor in tensors.items()
    }
