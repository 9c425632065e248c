"""OverFeat's finer grid: pool5 with stride 1 and fc6 with dilation 2 interleave the four shifted poolings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from engines import RUNTIMES, open_engine
from export import export
from train.network.checkpoint import read
from train.network.model import VGG, folded
from train.network.reference import Reference
from vgg_deploy.network.spec import NetworkSpec


def images(count: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def scores_of_shifted_poolings(spec: NetworkSpec, weights: dict[str, Any], pixels: Any) -> Any:
    """Class score map computed slowly: pool5 of the map shifted by 0 or 1 in each direction, scored each time."""
    plain = dataclasses.replace(spec, fine=False)
    network = VGG(plain, convolutional=True).eval()
    network.load_state_dict(folded(plain, weights))
    steps = dict(network.steps(pixels))
    last = torch.relu(steps[plain.convolutions[-1].name])
    maps: dict[tuple[int, int], Any] = {}
    for down in (0, 1):
        for right in (0, 1):
            x = torch.nn.functional.max_pool2d(last[:, :, down:, right:], 2)
            if min(x.shape[2:]) < plain.crop // 32:
                continue  # the shifted map is too small for fc6
            for name in ("fc6", "fc7", "fc8"):
                x = network.get_submodule(name)(x)
                x = torch.relu(x) if name != "fc8" else x
            maps[down, right] = x
    rows = maps[0, 0].shape[2] + (maps[1, 0].shape[2] if (1, 0) in maps else 0)
    columns = maps[0, 0].shape[3] + (maps[0, 1].shape[3] if (0, 1) in maps else 0)
    result = torch.full((len(pixels), spec.classes, rows, columns), torch.nan)
    for (down, right), x in maps.items():
        result[:, :, down::2, right::2] = x
    return result


@pytest.mark.parametrize("size", [(64, 64), (95, 79), (130, 97)])
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
@torch.inference_mode()
def test_the_fine_grid_is_the_four_shifted_poolings_interleaved(
    configuration: str, size: tuple[int, int], narrow_spec: Callable[..., NetworkSpec], random_weights: Any
) -> None:
    spec = narrow_spec(configuration, fine=True)
    weights = random_weights(spec)
    pixels = torch.from_numpy(images(2, *size)).permute(0, 3, 1, 2).float() - 120
    network = VGG(spec, convolutional=True).eval()
    network.load_state_dict(folded(spec, weights))
    fine, slow = network(pixels), scores_of_shifted_poolings(spec, weights, pixels)
    assert fine.shape == slow.shape
    assert torch.isfinite(slow).all()
    torch.testing.assert_close(fine, slow, rtol=1e-4, atol=1e-4)
    if size == (130, 97):
        plain = VGG(dataclasses.replace(spec, fine=False), convolutional=True).eval()
        plain.load_state_dict(folded(spec, weights))
        assert plain(pixels).shape[2:] == ((fine.shape[2] + 1) // 2, (fine.shape[3] + 1) // 2)
        assert not torch.allclose(fine.mean((2, 3)), plain(pixels).mean((2, 3)), atol=1e-4)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_a_file_with_the_fine_grid_gives_the_answers_of_pytorch(
    configuration: str, runtime: str, narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    path = narrow_checkpoint(configuration)
    made = export(read(path), tmp_path / "fine.onnx", dynamic=True, fine=True, score_map=True, features=True)
    assert made.manifest.spec.fine
    with (
        Reference(read(path), fine=True) as fine,
        Reference(read(path)) as plain,
        open_engine(tmp_path / "fine.onnx", runtime=runtime, threads=1) as engine,
    ):
        assert engine.info.manifest.spec == fine.info.manifest.spec
        for shape in ((1, 96, 111), (2, 64, 130), (1, 161, 64)):
            expected, received = fine.run(images(*shape)), engine.run(images(*shape))
            for name in ("probabilities", "score_map", "features"):
                a, b = getattr(expected, name), getattr(received, name)
                assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()
        crop = images(1, 64, 64)
        for expected in (fine.run(crop), plain.run(crop)):
            np.testing.assert_allclose(engine.run(crop).probabilities, expected.probabilities, atol=1e-5)


def test_the_fine_grid_doubles_the_resolution_of_the_map(narrow_spec: Callable[..., NetworkSpec]) -> None:
    coarse, fine = NetworkSpec("D"), NetworkSpec("D", fine=True)
    assert (coarse.map_stride, fine.map_stride) == (32, 16)
    for height, width, expected in ((224, 224, (1, 1)), (256, 256, (3, 3)), (288, 256, (5, 3)), (384, 512, (11, 19))):
        assert fine.statistics(height, width)[-1].output[1:] == expected
        assert coarse.statistics(height, width)[-1].output[1:] == tuple((side + 1) // 2 for side in expected)
    assert fine.parameters == coarse.parameters
    # The receptive field of a position does not change.
    assert fine.statistics()[-1].receptive_field == coarse.statistics()[-1].receptive_field


def test_verify_compares_a_file_with_the_fine_grid_to_a_reference_with_it(
    narrow_checkpoint: Callable[..., Path], vgg_deploy_command: Callable[..., Any], tmp_path: Path
) -> None:
    from PIL import Image

    path = narrow_checkpoint("D")
    for name, options in (("fine", {"fine": True}), ("coarse", {})):
        export(read(path), tmp_path / f"{name}.onnx", dynamic=True, **options)
    Image.fromarray(images(1, 150, 131)[0]).save(tmp_path / "photo.png")
    arguments = ("--reference", str(path), "--images", str(tmp_path / "photo.png"))
    finished = vgg_deploy_command("verify", str(tmp_path / "fine.onnx"), *arguments)
    assert finished.code == 0, finished.out + finished.err
    finished = vgg_deploy_command("verify", str(tmp_path / "fine.onnx"), str(tmp_path / "coarse.onnx"), *arguments)
    assert finished.code == 2
    assert "fine.onnx was exported with --fine and other files were not" in finished.err
    finished = vgg_deploy_command(
        "verify", str(tmp_path / "fine.onnx"), "--reference", str(tmp_path / "coarse.onnx"), *arguments[2:]
    )
    assert finished.code == 2
    assert "they are different networks" in finished.err


def test_the_fine_grid_needs_free_sizes(
    narrow_checkpoint: Callable[..., Path], vgg_deploy_command: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = ("export", "--weights", str(narrow_checkpoint("A")), "--fine", "-o", str(tmp_path / "fine.onnx"))
    finished = vgg_deploy_command(*arguments)
    assert finished.code == 2
    assert "--fine requires --dynamic" in " ".join(finished.err.split())
    assert not (tmp_path / "fine.onnx").exists()
    finished = vgg_deploy_command(*arguments, "--dynamic")
    assert finished.code == 0, finished.err
    finished = vgg_deploy_command("inspect", str(tmp_path / "fine.onnx"))
    assert "class scores on the finer grid" in finished.out
