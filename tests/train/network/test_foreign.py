"""Weights with the names of torchvision, timm and the paper give the same scores as in the original network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg as torchvision_vgg

from train.network.checkpoint import foreign, read
from train.network.foreign import identify
from train.network.reference import Reference, normalize
from vgg_deploy.errors import CheckpointError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

TORCHVISION = WeightFacts(normalization=TORCHVISION_NORMALIZATION)
SOURCE = Source("weights.pth", "0" * 64)


def torchvision_network(configuration: str, *, batch_norm: bool, seed: int = 0) -> Any:
    """torchvision's VGG with channels / 16, FC width 24, 5 classes, and random weights and statistics."""
    channels = [size // 16 if isinstance(size, int) else size for size in torchvision_vgg.cfgs[configuration]]
    network = torchvision_vgg.VGG(torchvision_vgg.make_layers(channels, batch_norm), init_weights=False)
    network.classifier = nn.Sequential(
        *(nn.Linear(32 * 7 * 7, 24), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(24, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 5)),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.7, 1.3),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 2.0),
                ):
                    tensor.uniform_(low, high, generator=generator)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return network.eval()


def torchvision_indices(spec: NetworkSpec, *, batch_norm: bool = False) -> dict[str, int]:
    """The position of each convolution within `features` of torchvision and timm."""
    positions, index = {}, 0
    for layer in spec.layers:
        if layer.kind == "conv":
            positions[layer.name] = index
            index += 3 if batch_norm else 2
        elif layer.kind == "pool":
            index += 1
    return positions


def as_torchvision(spec: NetworkSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    names = {name: f"features.{index}" for name, index in torchvision_indices(spec).items()} | heads
    return {f"{names[name.partition('.')[0]]}.{name.partition('.')[2]}": value for name, value in weights.items()}


def as_timm(spec: NetworkSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of timm: fc6 and fc7 are convolutions, and fc8 is a matrix."""
    heads = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
    names = {name: f"features.{index}" for name, index in torchvision_indices(spec).items()} | heads
    shapes = {layer.name: layer.weight_shape for layer in spec.weight_layers if layer.name in ("fc6", "fc7")}
    renamed = {}
    for name, value in weights.items():
        stem, _, part = name.partition(".")
        renamed[f"{names[stem]}.{part}"] = value.reshape(shapes[stem]) if part == "weight" and stem in shapes else value
    return renamed


@pytest.fixture
def spec_and_weights(
    narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, Tensor]]
) -> Callable[..., tuple[NetworkSpec, dict[str, Tensor]]]:
    def make(configuration: str, **fields: Any) -> tuple[NetworkSpec, dict[str, Tensor]]:
        spec = narrow_spec(configuration, **fields)
        return spec, random_weights(spec)

    return make


@pytest.mark.parametrize(("configuration", "batch_norm"), [("A", False), ("B", True), ("D", False), ("E", True)])
def test_torchvisions_network_gives_the_same_scores_here(configuration: str, batch_norm: bool) -> None:
    network = torchvision_network(configuration, batch_norm=batch_norm)
    checkpoint = foreign(network.state_dict(), TORCHVISION, SOURCE, "weights.pth")
    assert checkpoint.manifest.spec == NetworkSpec(configuration, 16, 224, 24, 5)
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    images[1] //= 4
    images[2, 100:] = 0
    with torch.inference_mode():
        expected = network(normalize(torch.from_numpy(images), TORCHVISION_NORMALIZATION))
    assert expected.std(dim=0).max() > 0.01
    for form in ("fc", "convolutional"):
        scores = Reference(checkpoint, form=form).run(images)
        torch.testing.assert_close(torch.from_numpy(scores.score_map[:, :, 0, 0]), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(scores.probabilities), expected.softmax(dim=1), rtol=0, atol=1e-4)


def test_batch_norm_changes_the_scores() -> None:
    state = torchvision_network("A", batch_norm=True).state_dict()
    changed = {name: value + 1 if name.endswith("running_mean") else value for name, value in state.items()}
    first, second = (identify(tensors, None, "x")[1] for tensors in (state, changed))
    assert not torch.allclose(first["conv1_1.bias"], second["conv1_1.bias"])
    assert torch.equal(first["conv1_1.weight"], second["conv1_1.weight"])


def test_convolutions_without_a_bias_get_one_from_their_batch_norm() -> None:
    network = torchvision_network("A", batch_norm=True)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.bias.zero_()
    state = network.state_dict()
    convolutions = {name.rpartition(".")[0] for name, value in state.items() if value.ndim == 4}
    without = {name: value for name, value in state.items() if name not in {f"{stem}.bias" for stem in convolutions}}
    assert len(without) == len(state) - 8
    expected, received = (identify(tensors, None, "x")[1] for tensors in (state, without))
    assert all(torch.equal(received[name], value) for name, value in expected.items())


@pytest.mark.parametrize("configuration", ["A", "C", "E"])
@pytest.mark.parametrize(
    "rename", [as_torchvision, as_timm, lambda spec, weights: weights], ids=["tv", "timm", "paper"]
)
def test_all_names_give_the_same_network(configuration: str, rename: Any, spec_and_weights: Callable[..., Any]) -> None:
    spec, weights = spec_and_weights(configuration)
    identified, tensors = identify(rename(spec, weights), None, "x")
    assert identified == spec
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    "fields", [{"width_divisor": 64}, {"width_divisor": 8, "crop": 96}, {"crop": 32, "fc_width": 7, "classes": 1}]
)
def test_width_crop_fc_width_and_classes_are_read_from_the_shapes(
    fields: dict[str, int], spec_and_weights: Callable[..., Any]
) -> None:
    spec, weights = spec_and_weights("D", **fields)
    assert identify(as_torchvision(spec, weights), None, "x")[0] == spec


def test_tensors_of_a_are_a_lrn_if_the_user_says_so(spec_and_weights: Callable[..., Any]) -> None:
    spec, weights = spec_and_weights("A-LRN")
    named = as_torchvision(spec, weights)
    assert identify(named, None, "x")[0].configuration == "A"
    assert identify(named, "A", "x")[0].configuration == "A"
    assert identify(named, "A-LRN", "x")[0] == spec


@pytest.mark.parametrize("prefixes", ["module.", "_orig_mod.", "model.", "module._orig_mod.model."])
def test_prefixes_of_wrappers_are_removed(prefixes: str, spec_and_weights: Callable[..., Any]) -> None:
    spec, weights = spec_and_weights("B")
    wrapped = {prefixes + name: value for name, value in as_torchvision(spec, weights).items()}
    assert identify(wrapped, None, "x")[0] == spec


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda t: t.pop("classifier.3.weight"), "lacks fc7.weight"),
        (lambda t: t.pop("features.3.weight"), "no column of the paper's Table 1"),
        (lambda t: t.pop("features.3.bias"), "lacks conv2_1.bias"),
        (lambda t: t.update({"extra.weight": torch.zeros(3)}), "unexpected extra.weight"),
        (lambda t: t.update({"features.3.bias": torch.zeros(7)}), r"conv2_1.bias has shape \[7\]; expected \[8\]"),
        (lambda t: t.update({"features.0.weight": torch.zeros(5, 3, 3, 3)}), "first convolution has 5 channels"),
        (lambda t: t.update({"features.0.weight": torch.zeros(0, 3, 3, 3)}), "first convolution has 0 channels"),
        (lambda t: t.update({"features.0.weight": torch.zeros(4, 3, 3, 5)}), "not square"),
        (lambda t: t.update({"classifier.0.weight": torch.zeros(24, 100)}), r"fc6.weight has shape \[24, 100\]"),
        (lambda t: t.update({"classifier.0.weight": torch.zeros(0, 128)}), r"fc6.weight has shape \[0, 128\]"),
        (lambda t: t.update({"classifier.6.weight": torch.tensor(1.0)}), r"fc8.weight has shape \[\]"),
        (lambda t: t.update({"classifier.3.weight": torch.zeros(30, 24)}), "fc6 has 24 units and fc7 has 30"),
        (lambda t: t.update({"classifier.6.weight": torch.zeros(5, 25)}), r"fc8.weight has shape \[5, 25\]"),
        (lambda t: t["features.0.weight"].view(-1)[3:4].fill_(torch.nan), "conv1_1.weight holds NaN or infinity"),
        (lambda t: t.update({"classifier.6.bias": torch.zeros(5, dtype=torch.int64)}), "fc8.bias is torch.int64"),
    ],
)
def test_damaged_weights_are_refused_with_the_name_of_the_tensor(
    damage: Callable[[dict[str, Tensor]], object], named: str, spec_and_weights: Callable[..., Any]
) -> None:
    tensors = as_torchvision(*spec_and_weights("A"))
    damage(tensors)
    with pytest.raises(CheckpointError, match=named) as raised:
        foreign(tensors, TORCHVISION, SOURCE, "weights.pth")
    assert "weights.pth" in str(raised.value)


def without_batch_norms(tensors: dict[str, Tensor]) -> None:
    """Removes the batch norms of a _bn network and keeps the numbers of its convolutions."""
    norms = {name.rpartition(".")[0] for name in tensors if name.endswith(".running_var")}
    for name in list(tensors):
        if name.rpartition(".")[0] in norms:
            del tensors[name]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda t: t.pop("features.1.running_var"), "lacks features.1.running_var: the batch norm after features.0"),
        (lambda t: t.update({"features.1.running_mean": torch.zeros(9)}), r"has shape \[9\]; expected \[4\]"),
        (lambda t: t.update({"features.0.bias": torch.zeros(9)}), r"has shape \[9\]; expected \[4\]"),
        (lambda t: t["features.1.running_var"].fill_(-1.0), "features.1.running_var has negative values"),
        (lambda t: [t.pop(name) for name in list(t) if name.startswith("features.1.")], "lacks features.1.weight"),
        (without_batch_norms, "lacks features.1.weight, features.1.bias"),
        (
            lambda t: t.update({f"features.3.{part}": t.pop(f"features.4.{part}") for part in ("weight", "bias")}),
            "has them elsewhere",
        ),
    ],
)
def test_a_damaged_batch_norm_is_refused(damage: Callable[[dict[str, Tensor]], object], named: str) -> None:
    tensors = dict(torchvision_network("A", batch_norm=True).state_dict())
    damage(tensors)
    with pytest.raises(CheckpointError, match=named):
        foreign(tensors, TORCHVISION, SOURCE, "weights.pth")


@pytest.mark.parametrize(
    "tensors",
    [
        {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "fc.weight": torch.zeros(10, 512)},  # ResNet
        {"features.0.weight": torch.zeros(64, 3, 11, 11), "classifier.6.weight": torch.zeros(10, 4096)},  # AlexNet
        {"features.0.gamma": torch.zeros(3)},
    ],
)
def test_another_network_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        foreign(tensors, TORCHVISION, SOURCE, "weights.pth")


def test_the_real_weights_have_ten_classes(test_data: Path) -> None:
    from vgg_deploy.network.manifest import PAPER_NORMALIZATION
    from vgg_deploy.views.images import decode

    labels = (test_data / "imagenette_labels.txt").read_text()
    checkpoint = read(
        test_data / "vgg16_imagenette_fp16.safetensors", WeightFacts(normalization=PAPER_NORMALIZATION, labels=labels)
    )
    assert checkpoint.manifest.spec == NetworkSpec("D", fc_width=512, classes=10)
    assert [name.label for name in checkpoint.manifest.classes] == labels.split("\n")[:10]
    folders = sorted((test_data / "imagenette" / "val").iterdir())
    images = np.stack([decode(sorted(folder.iterdir())[0]) for folder in folders[:3]])
    expected = [next(i for i, c in enumerate(checkpoint.manifest.classes) if c.label in f.name) for f in folders[:3]]
    assert Reference(checkpoint).run(images).probabilities.argmax(axis=1).tolist() == expected
