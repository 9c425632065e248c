"""torchvision's ImageNet weights."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from torchvision import models

from train.network.checkpoint import Checkpoint, foreign
from vgg_deploy.errors import CheckpointError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION, TrainScale
from vgg_deploy.network.weight_facts import WeightFacts

_WEIGHTS = {
    "A": models.VGG11_Weights.IMAGENET1K_V1,
    "B": models.VGG13_Weights.IMAGENET1K_V1,
    "D": models.VGG16_Weights.IMAGENET1K_V1,
    "E": models.VGG19_Weights.IMAGENET1K_V1,
}


def cached(configuration: str) -> Path:
    """The file of torchvision's weights in torch's cache, downloaded if necessary. Raises the errors of `imagenet`."""
    imagenet(configuration)
    return Path(torch.hub.get_dir(), "checkpoints", _WEIGHTS[configuration].url.rpartition("/")[2])


def imagenet(configuration: str) -> Checkpoint:
    """torchvision's ImageNet weights for A, B, D or E, downloaded once into torch's cache.

    Raises:
        UsageError: torchvision has none for this configuration.
        CheckpointError: they cannot be downloaded.
    """
    if configuration not in _WEIGHTS:
        raise UsageError(
            f"torchvision has no ImageNet weights for {configuration}, only for {', '.join(_WEIGHTS)}; train it, or "
            "give a checkpoint: --weights FILE"
        )
    weights = _WEIGHTS[configuration]
    name = weights.url.rpartition("/")[2]
    try:
        tensors = weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        cached = Path(torch.hub.get_dir(), "checkpoints", name)
        if cached.exists():
            raise CheckpointError(
                f"{cached} cannot be read: it is damaged or cut off; delete it to download it again"
            ) from error
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"cannot download {weights.url} ({reason}); put the file into {torch.hub.get_dir()}/checkpoints, "
            f"give a checkpoint (--weights FILE), or train one (python -m train --arch {configuration})"
        ) from error
    facts = WeightFacts(
        configuration=configuration,
        normalization=TORCHVISION_NORMALIZATION,
        labels="\n".join(weights.meta["categories"]),
        train_scale=TrainScale(256, 256),
    )
    # The file's name ends with the beginning of its SHA-256, which torchvision checks.
    checkpoint = foreign(tensors, facts, Source(name, name.rpartition("-")[2].removesuffix(".pth")), name)
    return dataclasses.replace(checkpoint, describes_itself=True)  # torchvision states all of it
