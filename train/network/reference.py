"""PyTorch as an engine: the reference with which every other engine is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.network.checkpoint import Checkpoint
from train.network.model import VGG, folded
from vgg_deploy.inference.engine import BaseEngine, EngineInfo
from vgg_deploy.network.manifest import Normalization
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.tensors import ACTIVATION, FEATURES, PROBABILITIES, SCORE_MAP, Floats, Images


def normalize(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w], (pixel - mean) / std."""
    mean = torch.tensor(normalization.mean, device=images.device)
    std = torch.tensor(normalization.std, device=images.device)
    return ((images.to(torch.float32) - mean) / std).permute(0, 3, 1, 2).contiguous()


class Reference(BaseEngine[VGG]):
    """Runs a checkpoint in PyTorch, float32.

    Args:
        checkpoint: weights in FC form, with their manifest.
        form: "fc", as trained: images of exactly crop x crop. "convolutional": any size of at least the crop.
        device: a torch device, such as cpu or cuda:0.
        keep_activations: return every layer's output, before its ReLU, in `Scores.activations`.
        fine: compute class scores on OverFeat's finer grid; see `NetworkSpec.fine`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        form: str = "convolutional",
        device: str = "cpu",
        keep_activations: bool = False,
        fine: bool = False,
    ) -> None:
        manifest = checkpoint.manifest
        assert manifest.spec is not None
        assert manifest.normalization is not None
        convolutional = form == "convolutional"
        # A crop has a single position, on the finer grid too.
        spec = dataclasses.replace(manifest.spec, fine=fine and convolutional)
        with torch.device("meta"):
            network = VGG(spec, convolutional=convolutional)
        weights = folded(spec, checkpoint.weights) if convolutional else checkpoint.weights
        network.load_state_dict(weights, assign=True)
        self._normalization, self._device, self._keep = manifest.normalization, device, keep_activations
        crop = manifest.spec.crop
        edge = AxisRange(crop) if convolutional else AxisRange(crop, crop)
        outputs = (PROBABILITIES, SCORE_MAP, FEATURES)
        shapes = ShapeRange(AxisRange(1), edge, edge)
        info = EngineInfo(
            f"torch {torch.__version__}", device, "float32", outputs, shapes, 1, manifest.with_(spec=spec)
        )
        super().__init__("the PyTorch engine", info, network.eval().to(device))

    @torch.inference_mode()
    def _infer(self, worker: VGG, images: Images) -> Mapping[str, Floats]:
        # torch warns about read-only arrays, and Pillow returns such arrays.
        pixels = torch.from_numpy(np.require(images, requirements=("C", "W"))).to(self._device)  # [n, h, w, 3]
        activations: dict[str, Tensor] = {}
        scores = features = pixels
        for name, output in worker.steps(normalize(pixels, self._normalization)):  # of [n, 3, h, w]
            if self._keep:
                activations[name] = output
            if name == "fc7":
                features = functional.relu(output)  # [n, fc_width], or [n, fc_width, rows, cols]
            scores = output
        # Section 3.2: the scores of all positions are averaged, then soft-max.
        score_map = scores if scores.ndim == 4 else scores[:, :, None, None]  # [n, classes, rows, cols]
        if features.ndim == 4:
            features = features.mean(dim=(2, 3))  # [n, fc_width]
        probabilities = functional.softmax(score_map.mean(dim=(2, 3)), dim=1)  # [n, classes]
        outputs = {PROBABILITIES: probabilities, SCORE_MAP: score_map, FEATURES: features}
        outputs |= {ACTIVATION + name: output for name, output in activations.items()}
        return {name: _owned(output) for name, output in outputs.items()}


def _owned(tensor: Tensor) -> Floats:
    return tensor.detach().to("cpu", torch.float32).numpy().copy()
