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


def spec_of(configuration: str = "A") -> NetworkSpec:
    return make_spec(configuration, crop=32, width_divisor=8, fc_width=48, classes=len(CLASSES))


def coloured_image(name: str, chance: np.random.Generator) -> Images:
    """uint8 [48, 48, 3]: patches of a colour, with noise."""
    patches = np.clip(np.array(COLOURS[name]) + chance.normal(0, 45, (4, 4, 3)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(patches).resize((48, 48), Image.Resampling.BILINEAR))


def write_images(folder: Path, per_class: int, names: Sequence[str] = CLASSES) -> Path:
    """Writes folder/COLOUR/N.png for each colour."""
    chance = np.random.default_rng(1)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(coloured_image(name, chance)).save(folder / name / f"{number}.png")
    return folder


@torch.no_grad()
def coloured_weights(normalization: Normalization, channels: str = RGB, configuration: str = "A") -> dict[str, Tensor]:
    """Weights under the paper's names, in FC form, that take their pixels so. Random but for fc8, which is fitted."""
    spec, chance = spec_of(configuration), np.random.default_rng(0)
    weights = make_weights(spec)
    truth = np.repeat(np.arange(len(CLASSES)), 60)
    images = np.stack([coloured_image(CLASSES[index], chance)[8:40, 8:40] for index in truth])
    x = normalize(torch.from_numpy(images), normalization)  # [n, 3, 32, 32], RGB
    # So that the biases matter as much with inputs of about 1 as with those of about 100.
    size = float(x.std())
    for name in weights:
        if name.startswith("conv") and name.endswith("bias"):
            weights[name] *= size / 30
    weights["fc6.weight"] *= 100 / size
    network = VGG(spec)
    network.load_state_dict(weights)
    features = torch.relu(dict(network.steps(x))["fc7"])  # [n, fc_width]
    with_one = torch.cat([features, torch.ones(len(x), 1)], 1)
    targets = 8 * torch.nn.functional.one_hot(torch.from_numpy(truth), len(CLASSES)).float() - 4
    ridge = 1e-3 * float((with_one**2).mean()) * torch.eye(with_one.shape[1])
    solved = torch.linalg.solve(with_one.T @ with_one / len(x) + ridge, with_one.T @ targets / len(x))
    weights["fc8.weight"], weights["fc8.bias"] = solved[:-1].T.contiguous(), solved[-1].contiguous()
    if channels == BGR:
        weights["conv1_1.weight"] = weights["conv1_1.weight"].flip(1).contiguous()
    return weights
