"""torchvision's ImageNet weights, from a cache and offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchvision.models import VGG11_Weights

from train.network.foreign import identify
from train.network.pretrained import imagenet
from vgg_deploy.errors import CheckpointError, UsageError
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION, TrainScale
from vgg_deploy.network.spec import NetworkSpec

NAMES = {"A": "vgg11-8a719046.pth", "B": "vgg13-19584684.pth", "D": "vgg16-397923af.pth", "E": "vgg19-dcbb9e9d.pth"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch, offline."""

    def offline(*_arguments: object, **_options: object) -> object:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("configuration", NAMES)
def test_offline_the_error_names_the_reason_and_the_alternatives(configuration: str, cache: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        imagenet(configuration)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert NAMES[configuration] in message
    for part in ("name resolution", str(cache), "--weights FILE", f"python -m train --arch {configuration}"):
        assert part in message
    assert raised.value.exit_code == 1
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("configuration", ["C", "A-LRN"])
def test_a_configuration_that_torchvision_lacks_is_refused(configuration: str, cache: Path) -> None:
    with pytest.raises(UsageError, match=f"no ImageNet weights for {configuration}, only for A, B, D, E"):
        imagenet(configuration)


def test_weights_in_the_cache_get_the_classes_and_normalization_of_torchvision(
    cache: Path, narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, torch.Tensor]]
) -> None:
    spec = narrow_spec("A", classes=1000)
    weights = random_weights(spec)
    torch.save(weights, cache / NAMES["A"])
    checkpoint = imagenet("A")
    assert checkpoint.manifest.spec == spec
    assert checkpoint.manifest.normalization == TORCHVISION_NORMALIZATION
    assert checkpoint.manifest.train_scale == TrainScale(256, 256)
    assert [name.label for name in checkpoint.manifest.classes] == VGG11_Weights.IMAGENET1K_V1.meta["categories"]
    assert len({name.id for name in checkpoint.manifest.classes}) == 1000
    assert checkpoint.notices == ()
    assert (checkpoint.source.name, checkpoint.source.sha256) == (NAMES["A"], "8a719046")
    assert all(torch.equal(checkpoint.weights[name], value) for name, value in identify(weights, None, "x")[1].items())


@pytest.mark.parametrize("content", [b"", b"<html>captive portal</html>", b"PK\x03\x04 cut off", b"\x80\x02cut off"])
def test_a_damaged_file_in_the_cache_is_named(content: bytes, cache: Path) -> None:
    (cache / NAMES["A"]).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{NAMES['A']} cannot be read: it is damaged or cut off; delete it"):
        imagenet("A")
