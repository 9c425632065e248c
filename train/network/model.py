"""The network in PyTorch, in its FC form (as trained) and its fully convolutional form (as tested densely)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vgg_deploy.network.spec import Layer, NetworkSpec

# Krizhevsky et al. 2012: n=5, k=2, alpha=1e-4, beta=0.75, with the plain sum of squares. PyTorch and ONNX divide the
# sum by n, so alpha is 5e-4 here.
LRN = {"size": 5, "alpha": 5e-4, "beta": 0.75, "k": 2.0}

GAUSSIAN_STD = 0.01  # the paper prints "variance 10^-2"; its released models use a std of 0.01
# Measured on the digits (width / 8): a narrow A reaches 97 to 100 % from Glorot. From N(0, 0.01) it stays at chance at
# learning rates 2e-3 and 1e-2: with 8 to 64 channels, weights of std 0.01 shrink the signal layer by layer. At full
# width, the paper trained its A from N(0, 0.01) (section 3.1).
GLOROT, GAUSSIAN = "glorot", "gaussian"


def random_initialisation(spec: NetworkSpec) -> str:
    """The distribution of random weights: gaussian at full width, as in the paper; glorot for narrower networks."""
    return GAUSSIAN if spec.width_divisor == 1 else GLOROT


class VGG(nn.Module):
    """One column of Table 1. Input: float32 [n, 3, h, w], normalized. Output: class scores before the soft-max.

    Args:
        spec: the network. A fine grid needs the convolutional form.
        convolutional: False, the FC form: images of exactly crop x crop, output [n, classes]. True, the fully
            convolutional form: images of at least the crop, output [n, classes, rows, columns].

    Both forms have the same names of parameters. The shapes of fc6, fc7 and fc8 differ; see `folded`.
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
        """Each layer's name and output, in order. For layers with weights, the output before the ReLU.

        Args:
            images: float32 [n, 3, h, w], normalized.
            masks: dropout masks, float32 [n, fc_width] for fc6 and fc7 in the FC form; see `train.network.dropout`.
                Empty: no dropout.
        """
        x, dropout = images, iter(masks)  # [n, 3, h, w]
        for layer in self.spec.layers:
            if layer.kind == "pool":
                x = functional.max_pool2d(x, layer.kernel, layer.stride)  # [n, channels, rows, cols]
            elif layer.kind == "lrn":
                # Squares of activations overflow half precision, so LRN stays in float32.
                x = functional.local_response_norm(x.float() if x.dtype.itemsize < 4 else x, **LRN)  # type: ignore[arg-type]
            else:
                if layer.kind == "fc" and not self.convolutional:
                    x = x.flatten(1)  # [n, channels * rows * cols]
                # [n, out_channels, rows, cols]; an FC layer of the FC form: [n, out_channels]
                x = self.get_submodule(layer.name)(x)
            yield layer.name, x
            if layer.has_relu:
                x = functional.relu(x)
                if layer.kind == "fc" and masks:
                    x = x * next(dropout).to(x.dtype)  # [n, fc_width]

    def forward(self, images: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        scores = images
        for _name, output in self.steps(images, masks):
            scores = output
        return scores  # [n, classes], or [n, classes, rows, cols] in the convolutional form

    @torch.no_grad()
    def initialise(self, how: str, generator: torch.Generator) -> None:
        """Random weights, zero biases. gaussian: N(0, `GAUSSIAN_STD`^2). glorot: uniform (Glorot & Bengio 2010)."""
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
    """Weights of the FC form in convolutional form: fc6 [fc, c*k*k] -> [fc, c, k, k], fc7 and fc8 -> 1x1.

    It only reshapes the memory: pool5 is flattened by channel, row and column, the order of a convolution's weights.
    """
    result = dict(weights)
    for layer in spec.weight_layers:
        result[f"{layer.name}.weight"] = weights[f"{layer.name}.weight"].reshape(layer.weight_shape)
    return result


def fc_weight_shape(layer: Layer) -> tuple[int, ...]:
    """The shape of a layer's weight in the FC form."""
    if layer.kind == "fc":
        return (layer.out_channels, math.prod(layer.weight_shape[1:]))
    return layer.weight_shape
