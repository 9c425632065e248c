"""A network whose fc6 takes the mean of pool5 over all positions, as behind a global average pooling."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from train.network.checkpoint import Checkpoint
from train.network.model import VGG, folded
from train.network.reference import normalize
from vgg_deploy.network.tensors import Floats, Images


class PooledReference:
    """Runs a checkpoint in PyTorch, float32, with the mean of pool5 before fc6.

    A dense network averages the class scores of all positions instead, which is not the same behind a ReLU.

    Args:
        checkpoint: weights in FC form, with their manifest. fc6 reads one position.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        manifest = checkpoint.manifest
        assert manifest.spec is not None
        assert manifest.normalization is not None
        with torch.device("meta"):
            network = VGG(manifest.spec, convolutional=True)
        network.load_state_dict(folded(manifest.spec, checkpoint.weights), assign=True)
        self._network, self._normalization = network.eval(), manifest.normalization

    @torch.inference_mode()
    def scores(self, images: Images) -> Floats:
        """Class scores before the soft-max, float32 [n, classes], of images uint8 [n, h, w, 3]."""
        pixels = torch.from_numpy(np.require(images, requirements=("C", "W")))
        x = normalize(pixels, self._normalization)  # [n, 3, h, w]
        for name, output in self._network.steps(x):
            x = output
            if name == "pool5":
                break
        x = x.mean(dim=(2, 3), keepdim=True)  # [n, channels, 1, 1]
        for name in ("fc6", "fc7"):
            x = functional.relu(self._network.get_submodule(name)(x))  # [n, fc_width, 1, 1]
        scores: Floats = self._network.get_submodule("fc8")(x)[:, :, 0, 0].numpy()  # [n, classes]
        return scores
