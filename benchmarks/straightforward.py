"""What a user would write: the network in each runtime, and the paper's multi-scale test in one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vgg_deploy.bench.timing import Stopwatch
from vgg_deploy.bench.turns import Calls, Forward, Turn
from vgg_deploy.network.tensors import Floats, Images


def pytorch(checkpoint: Path, compiled: bool = False) -> Forward:
    """PyTorch eager in FP32, the FC layers as convolutions; with `compiled`, through torch.compile."""
    import torch

    from train.network.checkpoint import read
    from train.network.model import VGG, folded

    weights = read(checkpoint)
    spec, normalization = weights.manifest.spec, weights.manifest.normalization
    assert spec is not None
    assert normalization is not None
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    network = VGG(spec, convolutional=True).eval()
    network.load_state_dict(folded(spec, weights.weights))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        scores = network(((pixels.float() - mean) / std).permute(0, 3, 1, 2))  # [n, classes, rows, cols]
        return torch.softmax(scores.mean(dim=(2, 3)), dim=1)  # [n, classes]

    answer = torch.compile(forward, dynamic=False) if compiled else forward

    def run(images: Images) -> Floats:
        with torch.inference_mode():
            return np.asarray(answer(torch.from_numpy(images)).numpy())

    return run


def torchvision_vgg16(checkpoint: Path) -> Forward:
    """torchvision's vgg16 in PyTorch eager, with our weights and widths. Its FC layers accept only the crop."""
    import torch
    from torch import nn
    from torchvision.models.vgg import VGG, cfgs, make_layers

    from train.network.checkpoint import read

    weights = read(checkpoint)
    spec, normalization = weights.manifest.spec, weights.manifest.normalization
    assert spec is not None
    assert normalization is not None
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    table = [size if isinstance(size, str) else size // spec.width_divisor for size in cfgs["D"]]
    network = VGG(make_layers(table), num_classes=spec.classes, init_weights=False)
    fc6, fc7, fc8 = (layer for layer in spec.layers if layer.kind == "fc")
    network.classifier[0] = nn.Linear(fc6.in_channels * fc6.kernel**2, fc6.out_channels)
    network.classifier[3] = nn.Linear(fc7.in_channels, fc7.out_channels)
    network.classifier[6] = nn.Linear(fc8.in_channels, fc8.out_channels)
    ours = (weights.weights[f"{layer.name}.{kind}"] for layer in spec.weight_layers for kind in ("weight", "bias"))
    network.load_state_dict(dict(zip(network.state_dict(), ours, strict=True)))
    network.eval()

    def run(images: Images) -> Floats:
        with torch.inference_mode():
            pixels = ((torch.from_numpy(images).float() - mean) / std).permute(0, 3, 1, 2)  # [n, 3, h, w]
            return np.asarray(torch.softmax(network(pixels), dim=1).numpy())  # [n, classes]

    return run


def onnxruntime_session(model: Path) -> Forward:
    """A bare session of ONNX Runtime with its defaults."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))

    def run(images: Images) -> Floats:
        return np.asarray(session.run(["probabilities"], {"images": images})[0])

    return run


def openvino_model(model: Path, precision: str | None) -> Forward:
    """A bare compiled model of OpenVINO with its defaults, except for the precision of floating point, f32 or bf16.

    None: its default for that too, which is BF16 on CPUs that support it, without a message.
    """
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("this CPU does not compute in bfloat16")
    properties = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(str(model), "CPU", properties)

    def run(images: Images) -> Floats:
        return np.array(compiled([images])["probabilities"])

    return run


def answer(run: Forward, path: Path, scales: Sequence[int]) -> Floats:
    """The multi-scale dense test of one image: rescaled to each Q, scored with its mirror, and averaged."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    short = min(image.size)
    posteriors = []
    for scale in scales:
        width, height = (side * scale // short for side in image.size)
        view = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))  # [height, width, 3]
        posteriors.append(run(np.stack([view, view[:, ::-1]])))  # [2, height, width, 3] -> [2, classes]
    return np.asarray(np.concatenate(posteriors).mean(axis=0))  # [classes]


def bare_calls(make: Callable[..., Forward], arguments: Sequence[object], least_s: float) -> Calls:
    """Calls of a bare runtime, one at a time; see `Calls`."""
    return Calls(make(*arguments), least_s=least_s)


def program(
    make: Callable[..., Forward], arguments: Sequence[object], scales: Sequence[int]
) -> Callable[[Sequence[Path], bool], Turn]:
    """Passes over image files, from the first file to the last answer, one image after the other."""
    run = make(*arguments)

    def one_pass(paths: Sequence[Path], _once: bool = False) -> Turn:
        watch = Stopwatch()
        with watch.sample():
            answers = [answer(run, path, scales) for path in paths]
        return Turn(len(paths), tuple(watch.seconds), watch.cpu_s, (np.stack(answers),))  # answers [images, classes]

    return one_pass
