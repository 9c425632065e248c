"""PyTorch with torch.compile as an engine: what a user of PyTorch tries first to make a network faster."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from train.network.checkpoint import Checkpoint
from train.network.model import VGG
from train.network.reference import Reference, normalize
from vgg_deploy.errors import EngineError, reason_of
from vgg_deploy.network.tensors import PROBABILITIES, Floats, Images

_COMPILERS = ("g++", "clang++", "c++", "cl")
_RECOMPILE_LIMIT = 8  # compiled versions of a function that torch keeps (2.4 to 2.15; formerly cache_size_limit)


class CompiledReference(Reference):
    """Runs a checkpoint in PyTorch, float32, compiled. The first call of each shape takes longer, to compile.

    Args:
        checkpoint, device, fine: see `Reference`.
        any_size: True, torch's default: compile one version for the first shape, and a slower one for all other shapes.
            False: compile one version for each shape.

    Raises:
        EngineError: there is no C++ compiler, which torch.compile needs on the CPU.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: str = "cpu", fine: bool = False, any_size: bool = False
    ) -> None:
        compilers = [os.environ["CXX"]] if os.environ.get("CXX") else list(_COMPILERS)
        if device == "cpu" and not any(map(shutil.which, compilers)):
            raise EngineError(
                f"torch.compile needs a C++ compiler, and none was found (looked for {', '.join(compilers)}); "
                "install one, such as g++, or leave out torch-compile"
            )
        super().__init__(checkpoint, device=device, fine=fine)
        self.info = dataclasses.replace(self.info, runtime=f"{self.info.runtime} compiled", outputs=(PROBABILITIES,))
        torch.compiler.reset()  # the compiled versions of other engines would count towards the limit
        self._any_size, self._shapes = any_size, set[tuple[int, ...]]()
        self._compiled = torch.compile(self._posteriors, dynamic=None if any_size else False)

    def _posteriors(self, pixels: Tensor) -> Tensor:
        assert self._worker is not None
        scores = self._worker(normalize(pixels, self._normalization))
        return functional.softmax(scores.mean(dim=(2, 3)), dim=1)

    def _infer(self, worker: VGG, images: Images) -> Mapping[str, Floats]:
        pixels = torch.from_numpy(np.require(images, requirements=("C", "W"))).to(self._device)
        if not self._any_size and images.shape not in self._shapes:
            if len(self._shapes) == _RECOMPILE_LIMIT:  # beyond it, torch runs a new shape uncompiled, with a warning
                torch.compiler.reset()
                self._shapes.clear()
            self._shapes.add(images.shape)
        try:
            with torch.inference_mode():
                probabilities = self._compiled(pixels)
        except Exception as error:  # the compiler's exceptions have no common base class
            raise EngineError(
                f"torch.compile failed: {reason_of(error)}; without a working C++ compiler, leave out torch-compile"
            ) from error
        return {PROBABILITIES: probabilities.cpu().numpy().copy()}
