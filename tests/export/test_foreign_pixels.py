"""Foreign checkpoints that want BGR, or pixels in 0..1 or -1..1: their ONNX file answers as their own program does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from train.network.model import VGG
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats, Images

Command = Callable[..., Any]
CAFFE = np.array([103.939, 116.779, 123.68], np.float32)  # B, G, R


def caffe(pixels: Images) -> Floats:
    """What Caffe's programs feed: B, G, R minus the mean. A std keeps random weights in range."""
    return (pixels[..., ::-1] - CAFFE) / 60


def to_tensor(pixels: Images) -> Floats:
    """torchvision's ToTensor, without Normalize."""
    return pixels / np.float32(255)


def keras_tf(pixels: Images) -> Floats:
    """Keras' preprocessing with mode tf."""
    return pixels / np.float32(127.5) - 1


@pytest.fixture
def network(narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., Any]) -> VGG:
    weights = random_weights(narrow_spec("A"))
    weights["fc6.weight"] *= 60  # inputs of a few units, not hundreds
    for name in weights:
        if name.startswith("conv") and name.endswith("bias"):
            weights[name] /= 60
    network = VGG(narrow_spec("A"))
    network.load_state_dict(weights)
    return network


@pytest.fixture
def checkpoint(network: VGG, tmp_path: Path) -> Path:
    path = tmp_path / "foreign.pth"
    torch.save(network.state_dict(), path)
    return path


@torch.no_grad()
def own_answers(network: VGG, inputs: Floats) -> Floats:
    """Probabilities [n, classes] for what the user's program feeds, [n, h, w, 3]."""
    scores = network(torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).permute(0, 3, 1, 2))
    answers: Floats = scores.softmax(1).numpy()
    return answers


BGR = ("--channels", "bgr", "--mean", "123.68,116.779,103.939", "--std", "60")


@pytest.mark.parametrize(
    ("feeds", "options"),
    [(caffe, BGR), (to_tensor, ("--normalization", "unit")), (keras_tf, ("--normalization", "tf"))],
)
def test_the_file_answers_as_the_users_own_program(
    feeds: Callable[[Images], Floats],
    options: Sequence[str],
    network: VGG,
    checkpoint: Path,
    batch: Callable[..., Images],
    vgg_deploy_command: Command,
    tmp_path: Path,
) -> None:
    images = batch(3, 64, 64)
    wanted = own_answers(network, feeds(images))

    def answers(*options: str) -> Floats:
        path = tmp_path / "model.onnx"
        done = vgg_deploy_command("export", "--weights", str(checkpoint), *options, "--dynamic", "-o", str(path))
        assert done.code == 0, done.err
        found: Floats = onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
        return found

    assert np.abs(answers(*options) - wanted).max() < 1e-5
    assert np.abs(answers("--normalization", "torchvision") - wanted).max() > 1e-2
    if "--channels" in options:
        assert np.abs(answers(*BGR[2:]) - wanted).max() > 1e-2


def test_the_manifest_says_that_channels_were_reversed_and_verify_reverses_them_too(
    checkpoint: Path, vgg_deploy_command: Command, tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "model.onnx"
    done = vgg_deploy_command("export", "--weights", str(checkpoint), *BGR, "--dynamic", "-o", str(path))
    assert done.code == 0, done.err
    manifest = read_manifest(path)
    assert manifest.channels_reversed
    assert manifest.normalization is not None
    assert manifest.normalization.mean == (123.68, 116.779, 103.939)
    assert "conv1_1's input channels were reversed" in vgg_deploy_command("inspect", str(path)).out

    verify = ("verify", str(path), "--reference", str(checkpoint), "--images", str(pictures))
    done = vgg_deploy_command(*verify)
    assert done.code == 0, done.out + done.err
    assert vgg_deploy_command(*verify, "--channels", "bgr").code == 0
    assert vgg_deploy_command(*verify, "--channels", "rgb").code == 1

    without = json.loads(manifest.to_json())
    del without["channels_reversed"]
    assert not Manifest.from_json(json.dumps(without), "an older file").channels_reversed


def test_export_ends_by_saying_what_it_assumed_and_what_can_show_whether_it_is_right(
    checkpoint: Path, vgg_deploy_command: Command, tmp_path: Path, narrow_checkpoint: Callable[..., Path]
) -> None:
    output = ("--dynamic", "-o", str(tmp_path / "model.onnx"))
    done = vgg_deploy_command("export", "--weights", str(checkpoint), "--normalization", "tf", *output)
    line = done.err.splitlines()[-1]
    assert line == (
        "assumed: --normalization tf --channels rgb --train-scale 73, the long side rounded down, classes numbered, "
        "without names. No comparison with foreign.pth shows whether that is right. These do: "
        f"vgg-deploy probe --weights {checkpoint} --images DIR; vgg-deploy verify MODEL.onnx --expected FILE"
    )
    done = vgg_deploy_command("export", "--weights", str(checkpoint), *BGR, *output)
    assert "--mean 123.68,116.779,103.939 --std 60,60,60 --channels bgr --train-scale 73" in done.err.splitlines()[-1]
    own = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("A")), *output)
    assert own.err == ""
    refused = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("A")), "--channels", "bgr", *output)
    assert refused.code == 2
    assert "takes RGB, as its manifest states" in refused.err


@pytest.mark.parametrize("option", [("--channels", "bgr"), ("--normalization", "unit")])
def test_torchvisions_weights_state_their_own_pixels(option: tuple[str, str], vgg_deploy_command: Command) -> None:
    done = vgg_deploy_command("export", "--weights", "imagenet", *option)
    assert done.code == 2
    assert "leave out --normalization, --mean, --std, --channels, --train-scale and --key" in done.err
