"""The two forms of the network agree, and LRN is that of Krizhevsky et al."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from train.network.dropout import masks
from train.network.model import GAUSSIAN, GLOROT, VGG, fc_weight_shape, folded, random_initialisation
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec

Network = Callable[..., VGG]


@pytest.fixture
def network(random_weights: Callable[..., dict[str, Any]]) -> Network:
    """`network(spec, convolutional=...)` -> a network in float64, in eval mode, with fixed weights."""

    def make(spec: NetworkSpec, *, convolutional: bool) -> VGG:
        made = VGG(spec, convolutional=convolutional)
        weights = random_weights(spec)
        made.load_state_dict(folded(spec, weights) if convolutional else weights)
        return made.double().eval()

    return make


def pictures(height: int, width: int, count: int = 2) -> torch.Tensor:
    """Float64 [n, 3, h, w] in the range of pixels minus their mean."""
    return 60 * torch.randn(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@torch.inference_mode()
def test_both_forms_agree_on_images_of_crop_size(
    configuration: str, narrow_spec: Callable[..., NetworkSpec], network: Network
) -> None:
    spec = narrow_spec(configuration)
    fc, convolutional = network(spec, convolutional=False), network(spec, convolutional=True)
    images = pictures(64, 64, count=3)
    scores = fc(images)
    assert scores.shape == (3, 5)
    assert scores.std() > 0.1
    torch.testing.assert_close(convolutional(images)[:, :, 0, 0], scores, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("configuration", ["A-LRN", "C", "E"])
@pytest.mark.parametrize("crop", [64, 96])
@pytest.mark.parametrize(("height", "width"), [(131, 203), (97, 224)])
@torch.inference_mode()
def test_the_convolutional_form_is_the_fc_form_on_every_window_of_pool5(
    configuration: str, crop: int, height: int, width: int, narrow_spec: Callable[..., NetworkSpec], network: Network
) -> None:
    spec = narrow_spec(configuration, crop=crop)
    fc, convolutional = network(spec, convolutional=False), network(spec, convolutional=True)
    outputs = dict(convolutional.steps(pictures(height, width)))
    pool5, kernel = outputs["pool5"], crop // 32
    rows, columns = pool5.shape[2] - kernel + 1, pool5.shape[3] - kernel + 1
    assert pool5.shape[2:] == (height // 32, width // 32)
    windows = []
    for row in range(rows):
        for column in range(columns):
            x = pool5[:, :, row : row + kernel, column : column + kernel].flatten(1)
            for name in ("fc6", "fc7"):
                x = torch.relu(fc.get_submodule(name)(x))
            windows.append(fc.get_submodule("fc8")(x))
    assert outputs["fc8"].shape == (2, 5, rows, columns)
    torch.testing.assert_close(
        outputs["fc8"].mean(dim=(2, 3)), torch.stack(windows).mean(dim=0), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(outputs["fc8"].flatten(2), torch.stack(windows).permute(1, 2, 0), rtol=1e-10, atol=1e-10)


@torch.inference_mode()
def test_lrn_does_not_divide_the_sum_by_n(narrow_spec: Callable[..., NetworkSpec], network: Network) -> None:
    spec = narrow_spec("A-LRN", width_divisor=4)
    outputs = {name: value.numpy() for name, value in network(spec, convolutional=True).steps(pictures(70, 90))}
    a = np.maximum(outputs["conv1_1"], 0)

    def normalized(alpha: float) -> Any:
        b = np.empty_like(a)
        for i in range(a.shape[1]):
            window = a[:, max(0, i - 2) : min(a.shape[1] - 1, i + 2) + 1]
            b[:, i] = a[:, i] / (2 + alpha * (window**2).sum(axis=1)) ** 0.75
        return b

    np.testing.assert_allclose(outputs["lrn1"], normalized(1e-4), rtol=1e-9)
    divided_by_n = normalized(1e-4 / 5)
    assert np.abs(divided_by_n - outputs["lrn1"]).max() > 0.1 * outputs["lrn1"].max()


@torch.inference_mode()
def test_steps_name_every_layer_before_its_relu(narrow_spec: Callable[..., NetworkSpec], network: Network) -> None:
    spec = narrow_spec("A-LRN")
    outputs = dict(network(spec, convolutional=True).steps(pictures(64, 64)))
    assert list(outputs) == [layer.name for layer in spec.layers]
    assert all(outputs[layer.name].min() < 0 for layer in spec.convolutions)
    assert outputs["pool1"].min() >= 0


def test_masks_of_dropout_act_on_fc6_and_fc7(narrow_spec: Callable[..., NetworkSpec], network: Network) -> None:
    fc, images = network(narrow_spec("A"), convolutional=False), pictures(64, 64)
    assert torch.equal(fc(images), fc(images))
    first, second = (dict(fc.steps(images, masks(0, epoch, torch.arange(2), 24, 0.5))) for epoch in (1, 2))
    assert torch.equal(first["fc6"], second["fc6"])
    assert not torch.equal(first["fc7"], second["fc7"])
    assert not torch.equal(first["fc8"], second["fc8"])


def test_folding_shares_the_memory_of_the_weights(
    narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., dict[str, torch.Tensor]]
) -> None:
    spec = narrow_spec("D")
    weights = random_weights(spec)
    convolutional = folded(spec, weights)
    assert convolutional.keys() == weights.keys()
    for layer in spec.weight_layers:
        name = f"{layer.name}.weight"
        assert tuple(weights[name].shape) == fc_weight_shape(layer)
        assert tuple(convolutional[name].shape) == layer.weight_shape
        assert convolutional[name].data_ptr() == weights[name].data_ptr()


@pytest.mark.parametrize("how", [GAUSSIAN, GLOROT])
def test_initialisation_is_seeded_and_biases_are_zero(how: str, narrow_spec: Callable[..., NetworkSpec]) -> None:
    networks = []
    for seed in (1, 1, 2):
        made = VGG(narrow_spec("B", width_divisor=4))
        made.initialise(how, torch.Generator().manual_seed(seed))
        networks.append(made.state_dict())
    first, same, other = networks
    for name, value in first.items():
        assert torch.equal(value, same[name])
        if name.endswith(".bias"):
            assert not value.any()
        else:
            assert not torch.equal(value, other[name])


def test_initialisations_have_the_expected_std(narrow_spec: Callable[..., NetworkSpec]) -> None:
    made = VGG(narrow_spec("A", width_divisor=2))
    made.initialise(GAUSSIAN, torch.Generator().manual_seed(0))
    weight = made.get_parameter("conv4_1.weight")
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    made.initialise(GLOROT, torch.Generator().manual_seed(0))
    assert weight.abs().max().item() == pytest.approx((6 / (9 * (128 + 256))) ** 0.5, rel=0.01)


def test_the_papers_initialisation_is_for_full_width(narrow_spec: Callable[..., NetworkSpec]) -> None:
    assert random_initialisation(NetworkSpec("A")) == GAUSSIAN
    assert random_initialisation(narrow_spec("A")) == GLOROT
    with pytest.raises(ValueError, match="expected glorot or gaussian"):
        VGG(narrow_spec("A")).initialise("he", torch.Generator())
