"""The network in PyTorch, in its FC form (as trained) and its fully convolutional form (as tested densely)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vgg_deploy.network.spec import Layer, NetworkSpec

# Krizhevsky et al. 2012: n=5, k=2, alpha=1e-4, beta=0.75 over the plain sum of squares. PyTorch and ONNX divide the sum by n,
# so their alpha is 5e-4.
LRN = {"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0}

GAUSSIAN_STD = 0.01  # the paper prints "variance 10^-2"; std 0.01 is what its released models use
# Measured on the digits (width / 8): from Glorot a narrow A reaches 97 to 100 %, from N(0, 0.01) it stays at chance at
# learning rates 2e-3 and 1e-2 alike, since 8 to 64 channels of weights of std 0.01 shrink the signal layer by layer. At full
# width the paper's N(0, 0.01) is what its A was trained from (section 3.1).
GLOROT, GAUSSIAN = "glorot", "gaussian"


def random_initialisation(spec: NetworkSpec) -> str:
    """What random weights are drawn from: gaussian at full width, as in the paper; glorot for narrower networks (see above)."""
    return GAUSSIAN if spec.width_divisor == 1 else GLOROT


class VGG(nn.Module):
    """One column of Table 1. Input: float32 [n, 3, h, w], normalized. Output: class scores before the soft-max.

    Args:
        spec: the network; of a fine grid only in convolutional form.
        convolutional: False, the FC form: images of exactly crop x crop, output [n, classes]. True, the fully convolutional
            form: any image from the crop on, output [n, classes, rows, columns].

    Both forms have parameters of the same names; fc6's and fc7's and fc8's shapes differ (see `folded`).
    """

    def __init__(self, spec: NetworkSpec, *, convolutional: bool = False) -> None:
        super().__init__()
        self.spec, self.convolutional = spec, convolutional
        for layer in spec.weight_layers:
            self.add_module(layer.name, self._module(layer))

    def _module(self, layer: Layer) -> nn.Module:
        if layer.kind == "conv" or self.convolutional:
            sizes = layer.in_channels, layer.out_channels, layer.kernel
            return nn.Conv2d(*sizes, padding=layer.padding, dilation=layer.dilation)
        return nn.Linear(layer.in_channels * layer.kernel**2, layer.out_channels)

    def steps(self, images: Tensor, masks: Sequence[Tensor] = ()) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and output, in order; layers with weights before their ReLU.

        Args:
            images: float32 [n, 3, h, w], normalized.
            masks: dropout's, float32 [n, fc_width] for fc6 and fc7 in the FC form (`train.network.dropout`); none: nothing is dropped.
        """
        x, dropout = images, iter(masks)
        for layer in self.spec.layers:
            if layer.kind == "pool":
                x = functional.max_pool2d(x, layer.kernel, layer.stride)
            elif layer.kind == "lrn":
                # Squares of activations pass what half precision holds: LRN stays in float32.
                x = functional.local_response_norm(x.float() if x.dtype.itemsize < 4 else x, **LRN)  # type: ignore[arg-type]
            else:
                if layer.kind == "fc" and not self.convolutional:
                    x = x.flatten(1)
                x = self.get_submodule(layer.name)(x)
            yield layer.name, x
            if layer.has_relu:
                x = functional.relu(x)
                if layer.kind == "fc" and masks:
                    x = x * next(dropout).to(x.dtype)

    def forward(self, images: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        scores = images
        for _name, output in self.steps(images, masks):
            scores = output
        return scores

    @torch.no_grad()
    def initialise(self, how: str, generator: torch.Generator) -> None:
        """Random weights, zero biases. gaussian: N(0, std 0.01); glorot: uniform, after Glorot & Bengio 2010.

        Section 3.1 prints "variance 10^-2"; a standard deviation of 10^-2 is what the paper's released models use, and what
        `GAUSSIAN_STD` is.
        """
        for layer in self.spec.weight_layers:
            module = self.get_submodule(layer.name)
            weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
            if how == GAUSSIAN:
                weight.normal_(0.0, GAUSSIAN_STD, generator=generator)
            elif how == GLOROT:
                nn.init.xavier_uniform_(weight, generator=generator)
            else:
                raise ValueError(f"initialisation is {how!r}; expected {GLOROT} or {GAUSSIAN}")
            bias.zero_()


def folded(spec: NetworkSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the FC form as those of the convolutional form: fc6 [fc, c*k*k] -> [fc, c, k, k], fc7 and fc8 -> 1x1.

    A reshape of the same memory: pool5 is flattened channel first, then row, then column, which is a convolution's order.
    """
    result = dict(weights)
    for layer in spec.weight_layers:
        result[f"{layer.name}.weight"] = weights[f"{layer.name}.weight"].reshape(layer.weight_shape)
    return result


def fc_weight_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of a layer's weight in the FC form."""
    if layer.kind == "fc":
        return (layer.out_channels, math.prod(layer.weight_shape[1:]))
    return layer.weight_shape
