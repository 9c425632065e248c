"""A small network that recognizes colours, so that a wrong order of channels or a wrong normalization shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.conftest import make_spec, make_weights
from train.network.model import VGG
from train.network.reference import normalize
from vgg_deploy.network.manifest import BGR, RGB, Normalization
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Images

COLOURS = {
    "blue": (40, 60, 200),
    "dark": (50, 50, 50),
    "green": (60, 180, 60),
    "light": (200, 200, 200),
    "orange": (220, 150, 50),
    "red": (200, 50, 40),
}
CLASSES = tuple(COLOURS)  # in sorted order, as of their folders


def spec_of(configuration: str = "A", crop: int = 64) -> NetworkSpec:
    return make_spec(configuration, crop=crop, width_divisor=8, fc_width=48, classes=len(CLASSES))


def coloured_image(name: str, chance: np.random.Generator) -> Images:
    """uint8 [96, 96, 3]: patches of a colour, with noise."""
    patches = np.clip(np.array(COLOURS[name]) + chance.normal(0, 45, (4, 4, 3)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(patches).resize((96, 96), Image.Resampling.BILINEAR))


def write_images(folder: Path, per_class: int, names: Sequence[str] = CLASSES) -> Path:
    """Writes folder/COLOUR/N.png for each colour."""
    chance = np.random.default_rng(1)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(coloured_image(name, chance)).save(folder / name / f"{number}.png")
    return folder


@torch.no_grad()
def coloured_weights(
    normalization: Normalization, channels: str = RGB, configuration: str = "A", *, pooled: bool = False
) -> dict[str, Tensor]:
    """Weights under the paper's names, in FC form, that take their pixels so. Random but for fc8, which is fitted.

    Args:
        pooled: fc6 takes the mean of pool5 over a crop of 224 from images whose short side is 256.
    """
    # With a crop of 64, 72 images do not tell A from A-LRN.
    crop = 32 if pooled or configuration == "A-LRN" else 64
    spec, chance = spec_of(configuration, crop), np.random.default_rng(0)
    weights = make_weights(spec)
    truth = np.repeat(np.arange(len(CLASSES)), 20 if pooled else 60)
    images = np.stack([_crop(coloured_image(CLASSES[index], chance), spec.crop, pooled=pooled) for index in truth])
    x = normalize(torch.from_numpy(images), normalization)  # [n, 3, crop, crop], RGB
    # So that the biases matter as much with inputs of about 1 as with those of about 100.
    size = float(x.std())
    for name in weights:
        if name.startswith("conv") and name.endswith("bias"):
            weights[name] *= size / 30
    weights["fc6.weight"] *= 100 / size
    features = _pooled_features(spec, weights, x) if pooled else _features(spec, weights, x)  # [n, fc_width]
    with_one = torch.cat([features, torch.ones(len(x), 1)], 1)
    targets = 8 * torch.nn.functional.one_hot(torch.from_numpy(truth), len(CLASSES)).float() - 4
    ridge = 1e-3 * float((with_one**2).mean()) * torch.eye(with_one.shape[1])
    solved = torch.linalg.solve(with_one.T @ with_one / len(x) + ridge, with_one.T @ targets / len(x))
    weights["fc8.weight"], weights["fc8.bias"] = solved[:-1].T.contiguous(), solved[-1].contiguous()
    if channels == BGR:
        weights["conv1_1.weight"] = weights["conv1_1.weight"].flip(1).contiguous()
    return weights


def _crop(image: Images, crop: int, *, pooled: bool) -> Images:
    if not pooled and crop == 32:
        return np.asarray(Image.fromarray(image).resize((36, 36), Image.Resampling.BILINEAR))[2:34, 2:34]
    if not pooled:
        return image[16:80, 16:80]
    enlarged = np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR))
    return enlarged[16:240, 16:240]


def _features(spec: NetworkSpec, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    network = VGG(spec)
    network.load_state_dict(weights)
    return torch.relu(dict(network.steps(x))["fc7"])


def _pooled_features(spec: NetworkSpec, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    network = VGG(spec)
    network.load_state_dict(weights)
    for name, output in network.steps(x):
        if name == "pool5":
            mean = output.mean(dim=(2, 3))  # [n, channels]
            break
    for name in ("fc6", "fc7"):
        mean = torch.relu(mean @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])  # [n, fc_width]
    return mean
