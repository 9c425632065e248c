"""What a user would write: the network in each runtime with its defaults, and the paper's multi-scale test around it, in one thread.

A `Run` maps uint8 [n, h, w, 3], RGB, to posteriors, float32 [n, classes].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vgg_deploy.network.tensors import Floats, Images

Run = Callable[[Images], Floats]


def pytorch(checkpoint: Path, compiled: bool = False) -> Run:
    """PyTorch eager, FP32, the FC layers as convolutions; with `compiled`, torch.compile of it."""
    import torch

    from train.network.checkpoint import read
    from train.network.model import VGG, folded

    found = read(checkpoint)
    spec, normalization = found.manifest.spec, found.manifest.normalization
    assert spec is not None
    assert normalization is not None
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    network = VGG(spec, convolutional=True).eval()
    network.load_state_dict(folded(spec, found.weights))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        scores = network(((pixels.float() - mean) / std).permute(0, 3, 1, 2))
        return torch.softmax(scores.mean(dim=(2, 3)), dim=1)

    answer = torch.compile(forward, dynamic=False) if compiled else forward

    def run(images: Images) -> Floats:
        with torch.inference_mode():
            return np.asarray(answer(torch.from_numpy(images)).numpy())

    return run


def torchvision_vgg16(checkpoint: Path) -> Run:
    """torchvision's vgg16 in PyTorch eager: the FC form, which takes the crop alone. The same weights, in layers of our widths."""
    import torch
    from torch import nn
    from torchvision.models.vgg import VGG, cfgs, make_layers

    from train.network.checkpoint import read

    found = read(checkpoint)
    spec, normalization = found.manifest.spec, found.manifest.normalization
    assert spec is not None
    assert normalization is not None
    mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
    table = [size if isinstance(size, str) else size // spec.width_divisor for size in cfgs["D"]]
    network = VGG(make_layers(table), num_classes=spec.classes, init_weights=False)
    fc6, fc7, fc8 = (layer for layer in spec.layers if layer.kind == "fc")
    network.classifier[0] = nn.Linear(fc6.in_channels * fc6.kernel**2, fc6.out_channels)
    network.classifier[3] = nn.Linear(fc7.in_channels, fc7.out_channels)
    network.classifier[6] = nn.Linear(fc8.in_channels, fc8.out_channels)
    ours = (found.weights[f"{layer.name}.{kind}"] for layer in spec.weight_layers for kind in ("weight", "bias"))
    network.load_state_dict(dict(zip(network.state_dict(), ours, strict=True)))
    network.eval()

    def run(images: Images) -> Floats:
        with torch.inference_mode():
            pixels = ((torch.from_numpy(images).float() - mean) / std).permute(0, 3, 1, 2)
            return np.asarray(torch.softmax(network(pixels), dim=1).numpy())

    return run


def onnxruntime_session(model: Path) -> Run:
    """A bare session of ONNX Runtime with its defaults."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model))

    def run(images: Images) -> Floats:
        return np.asarray(session.run(["probabilities"], {"images": images})[0])

    return run


def openvino_model(model: Path, precision: str | None) -> Run:
    """A bare compiled model of OpenVINO with its defaults but for the precision of its floating point, f32 or bf16.

    None leaves that to it too: it then computes in BF16 on CPUs that have it, without a word.
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


def answer(run: Run, path: Path, scales: Sequence[int]) -> Floats:
    """The multi-scale dense test of one image: rescaled to each Q, scored with its mirror, posteriors averaged."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    short = min(image.size)
    posteriors = []
    for scale in scales:
        width, height = (side * scale // short for side in image.size)
        view = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        posteriors.append(run(np.stack([view, view[:, ::-1]])))
    return np.asarray(np.concatenate(posteriors).mean(axis=0))


def program(make: Callable[..., Run], arguments: Sequence[object], scales: Sequence[int]) -> Callable[..., object]:
    """For a `Contestant`: image files -> seconds from the first file to the last answer, and the answers [n, classes]."""
    run = make(*arguments)

    def images(paths: Sequence[Path]) -> tuple[float, Floats]:
        began = time.perf_counter()
        answers = [answer(run, path, scales) for path in paths]
        return time.perf_counter() - began, np.stack(answers)

    return images
