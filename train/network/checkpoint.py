"""Checkpoints: weights in FC form under the paper's names, float32, with their manifest.

Our own are .safetensors files with the manifest in the metadata. `train.network.foreign` reads foreign ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from train.network.containers import contents_of
from train.network.foreign import identify
from train.network.model import fc_weight_shape
from train.network.stored_classes import stored_classes
from train.network.weight_sets import chosen_weights, passed_over_notice
from vgg_deploy.errors import CheckpointError, UsageError
from vgg_deploy.files import Source, whole_file
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.label_files import classes_from_labels
from vgg_deploy.network.manifest import BGR, MANIFEST_KEY, Manifest, Normalization, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import NOTHING_STATED, WeightFacts

# For weights whose file does not state S: the usual test of ImageNet networks rescales to 256 for a crop of 224.
ASSUMED_S_OVER_CROP = (256, 224)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights and their manifest.

    Attributes:
        weights: float32, FC form: conv1_1.weight [out, in, k, k], conv1_1.bias [out], ..., fc8.weight [classes,
            fc_width].
        manifest: its `spec` and `normalization` are never None.
        source: the file of the weights.
        notices: assumptions about the file that the user should know.
        choice_notices: those of the notices that say which tensors of the file were taken, and which passed over.
        describes_itself: whether the file states its classes, normalization and S itself. If not, the user did, or they
            were assumed.
    """

    weights: dict[str, Tensor]
    manifest: Manifest
    source: Source
    notices: tuple[str, ...] = ()
    choice_notices: tuple[str, ...] = ()
    describes_itself: bool = False


def save(path: Path, weights: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Writes a checkpoint of our own, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in weights.items()}
    with whole_file(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata={MANIFEST_KEY: manifest.to_json()})
        except safetensors.SafetensorError as error:
            raise OSError(*_os_error_arguments(error)) from error


def _os_error_arguments(error: Exception) -> tuple[int, str] | tuple[str]:
    """safetensors reports a full disk as text: 'I/O error: No space left on device (os error 28)'."""
    _, marker, rest = str(error).partition("(os error ")
    return (int(rest.split(")")[0]), str(error)) if marker else (str(error),)


def read(path: Path, facts: WeightFacts = NOTHING_STATED) -> Checkpoint:
    """Reads our own weights, or those of torchvision or timm, in a file of any ending, float32 or float16.

    Raises:
        CheckpointError: the file is unreadable, cut off, holds code, is not a VGG, or has missing, extra, misshapen or
            non-finite tensors.
        UsageError: no such file; a foreign checkpoint without `facts.normalization`; several sets of weights of which
            `facts.key` names none; or facts that contradict the file.
    """
    contents, where = contents_of(path), str(path)
    source = Source(path.name, contents.sha256)
    if contents.manifest is not None:
        return _own(contents.loaded, contents.manifest, facts, source, where)
    chosen = chosen_weights(contents.loaded, facts.key, where)
    passed_over = passed_over_notice(chosen.passed_over, where)
    checkpoint = foreign(chosen.tensors, facts, source, where)
    choice_notices = (*chosen.notices, *(() if passed_over is None else (passed_over,)))
    notices = [*choice_notices, *checkpoint.notices]
    manifest = checkpoint.manifest
    if facts.labels is None:
        names, found = stored_classes(contents.loaded, contents.metadata, len(manifest.classes), where)
        if names is not None:
            notices.remove(_unnamed(where))
            manifest = manifest.named(names)
        notices += found
    return dataclasses.replace(checkpoint, manifest=manifest, notices=tuple(notices), choice_notices=choice_notices)


def foreign(tensors: Mapping[str, Tensor], facts: WeightFacts, source: Source, where: str) -> Checkpoint:
    """A checkpoint from tensors under foreign names; see `read`."""
    spec, weights = identify(tensors, facts.configuration, where)
    if facts.normalization is None:
        raise UsageError(
            f"{where} does not state the normalization of its pixels; give --normalization paper (0..255 minus a "
            "mean), torchvision, unit (0..1), tf (-1..1) or raw (0..255), or --mean R,G,B [--std R,G,B] in units of "
            "0..255 (vgg-deploy probe finds out which one fits)"
        )
    scale, crop = ASSUMED_S_OVER_CROP
    assumed = max(spec.crop, spec.crop * scale // crop)
    notices = []
    if facts.train_scale is None:
        notices.append(f"{where} does not state its training scale S; {assumed} is assumed (--train-scale changes it)")
    if facts.labels is None:
        notices.append(_unnamed(where))
    if (text := _looks_like_bgr(facts.normalization)) is not None:
        notices.append(text)
    classes = (
        numbered_classes(spec.classes) if facts.labels is None else classes_from_labels(facts.labels, spec.classes)
    )
    manifest = Manifest(
        classes=classes,
        spec=spec,
        normalization=facts.normalization,
        train_scale=facts.train_scale or TrainScale(assumed, assumed),
        channels_reversed=facts.channels == BGR,
        classes_numbered=facts.labels is None,
    )
    checked = _checked(spec, weights, where)
    if manifest.channels_reversed:
        checked = with_channels_reversed(checked)
    return Checkpoint(checked, manifest, source, tuple(notices))


def _unnamed(where: str) -> str:
    return f"{where} has no class names; classes are numbered from 0 (--labels FILE gives names)"


def with_channels_reversed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network that takes RGB, from those of one that takes BGR, or the other way round."""
    return {**weights, "conv1_1.weight": weights["conv1_1.weight"].flip(1).contiguous()}  # [out, 3, kernel, kernel]


def _looks_like_bgr(normalization: Normalization) -> str | None:
    """A notice if the mean rises from R to B. The mean of photos falls: blue is their darkest channel."""
    red, green, blue = normalization.mean
    if not red < green < blue:
        return None
    mean = ",".join(f"{value:.6g}" for value in normalization.mean)
    return f"the mean {mean} looks like B,G,R, as Caffe writes it; --mean is R,G,B, also with --channels bgr"


def _own(tensors: dict[str, Tensor], manifest: Manifest, facts: WeightFacts, source: Source, where: str) -> Checkpoint:
    spec = manifest.spec
    if facts.key is not None:
        raise UsageError(f"{where} holds one set of weights, without a name; leave --key out")
    if spec is None or manifest.normalization is None:
        raise CheckpointError(
            f"{where}: its manifest lacks the network or the normalization, so it is not the manifest of a checkpoint"
        )
    if facts.configuration not in (None, spec.configuration):
        raise UsageError(
            f"{where} holds configuration {spec.configuration}, which contradicts --arch {facts.configuration}; leave "
            "--arch out"
        )
    if facts.normalization not in (None, manifest.normalization):
        raise UsageError(
            f"{where} was trained with {_options(manifest.normalization)}, but {_options(facts.normalization)} is "
            "given; leave out the normalization, or give the same"
        )
    if facts.channels == BGR:
        raise UsageError(f"{where} takes RGB, as its manifest states, but --channels bgr is given; leave it out")
    if facts.labels is not None:
        manifest = manifest.named(classes_from_labels(facts.labels, spec.classes))
    if facts.train_scale is not None:
        manifest = manifest.with_(train_scale=facts.train_scale)
    return Checkpoint(_checked(spec, tensors, where), manifest, source, describes_itself=True)


def _options(normalization: Normalization) -> str:
    """The normalization as command-line options."""
    values = (("--mean", normalization.mean), ("--std", normalization.std))
    return " ".join(f"{name} {','.join(f'{value:.6g}' for value in three)}" for name, three in values)


def _checked(spec: NetworkSpec, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors as contiguous float32. CheckpointError unless they are exactly those of the spec, and finite."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in spec.weight_layers:
        shapes[f"{layer.name}.weight"] = fc_weight_shape(layer)
        shapes[f"{layer.name}.bias"] = (layer.out_channels,)
    missing, extra = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or extra:
        problems = [f"{what} {_few(names)}" for what, names in (("lacks", missing), ("has unexpected", extra)) if names]
        raise CheckpointError(
            f"{where} {' and '.join(problems)}: it is not a complete configuration {spec.configuration}"
        )
    checked = {}
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{where}: {name} has shape {list(tensor.shape)}; expected {list(shape)}")
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{where}: {name} is {tensor.dtype}; expected float32 or float16 weights")
        checked[name] = tensor.to(torch.float32).contiguous()
        if not torch.isfinite(checked[name]).all():
            raise CheckpointError(
                f"{where}: {name} holds NaN or infinity: its training diverged; use an earlier checkpoint"
            )
    return checked


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
