"""One step of SGD: micro-batches, frozen layers, colours, and the options for speed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from train.compute.execution import Execution
from train.data.loader import BatchShare
from train.learner import Learner
from train.network.model import GLOROT, VGG
from train.network.reference import normalize
from train.recipe import Recipe
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import Normalization, TrainScale
from vgg_deploy.network.spec import NetworkSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RECIPE = Recipe(
    NetworkSpec("A", 8, crop=32, fc_width=64, classes=5), train_scale=TrainScale(36, 36), batch=10, rgb_shift=0.0
)
WHOLE = Execution()


def batch(count: int = 10, total: int = 10) -> BatchShare:
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, 256, (10, 32, 32, 3), generator=generator, dtype=torch.uint8)[:count]
    return BatchShare(
        values, torch.arange(10)[:count] % 5, torch.arange(10)[:count], torch.zeros(count, 3), total, True
    )


def new_learner(recipe: Recipe, execution: Execution) -> Learner:
    network = VGG(recipe.spec)
    network.initialise(GLOROT, torch.Generator().manual_seed(0))
    return Learner(recipe, network.state_dict(), Normalization((128, 128, 128), (60, 60, 60)), execution)


def after_steps(
    recipe: Recipe = RECIPE, execution: Execution = WHOLE, steps: int = 3, data: BatchShare | None = None
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The weights after some steps on one batch, and the sums that each step returned."""
    learner = new_learner(recipe, execution)
    figures = [learner.step(data or batch(), epoch, 0.01) for epoch in range(steps)]
    return {name: value.clone() for name, value in learner.weights.items()}, figures


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor's weights, as a fraction of the tensor's norm."""
    return max(((first[name] - second[name]).norm() / first[name].norm()).item() for name in first)


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 64])
def test_micro_batches_give_the_weights_and_sums_of_the_whole_batch(micro_batch: int):
    whole, sums = after_steps()
    parts, their_sums = after_steps(execution=Execution(micro_batch=micro_batch))
    assert difference(whole, parts) < 1e-5
    for one, other in zip(sums, their_sums, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_validation_computes_at_most_a_micro_batch_at_once(micro_batch: int, monkeypatch: pytest.MonkeyPatch):
    at_once: list[int] = []

    def noted(pixels: torch.Tensor, normalization: Normalization) -> torch.Tensor:
        at_once.append(len(pixels))
        return normalize(pixels, normalization)

    monkeypatch.setattr("train.learner.normalize", noted)
    whole, parts = (
        new_learner(RECIPE, execution).validate(batch()) for execution in (WHOLE, Execution(micro_batch=micro_batch))
    )
    assert at_once[0] == sum(at_once[1:]) == 10
    assert max(at_once[1:]) == min(micro_batch, 10)
    assert torch.allclose(whole, parts, rtol=1e-6)


def test_another_dropout_gives_other_weights():
    assert difference(after_steps()[0], after_steps(replace(RECIPE, seed=1))[0]) > 1e-3


def test_the_step_is_that_of_torchs_own_sgd_on_the_mean_loss():
    recipe = replace(RECIPE, dropout=0.0)
    network = VGG(recipe.spec)
    network.initialise(GLOROT, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4)
    data = batch()
    images = ((data.values.float() - 128) / 60).permute(0, 3, 1, 2)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), data.targets).backward()
        optimizer.step()
    assert difference(network.state_dict(), after_steps(recipe)[0]) < 1e-5


def test_a_step_returns_the_sum_of_losses_and_the_numbers_of_hits():
    _weights, sums = after_steps(replace(RECIPE, dropout=0.0), steps=1)
    loss, first, first_five = sums[0].tolist()
    assert 0.1 < loss / 10 < 20
    assert first == int(first)
    assert first_five == 10  # of five classes


def test_frozen_convolutions_stay_bit_for_bit_and_the_fc_layers_learn():
    recipe = replace(RECIPE, initialisation="w.pth", freeze_features=True)
    before, trained = after_steps(recipe, steps=0)[0], after_steps(recipe)[0]
    for name in before:
        assert torch.equal(before[name], trained[name]) is name.startswith("conv"), name


def test_frozen_convolutions_save_no_activations_for_the_backward_pass():
    saved: list[int] = []

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.ndim)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        after_steps(replace(RECIPE, initialisation="w.pth", freeze_features=True), steps=1)
        assert 2 in saved  # the FC layers' matrices
        assert 4 not in saved
        after_steps(steps=1)
        assert 4 in saved


def test_a_shift_of_colours_is_a_shift_of_the_pixels():
    recipe = replace(RECIPE, rgb_shift=0.1)
    data = batch()._replace(values=batch().values // 2)
    shifted = data._replace(shifts=torch.full((10, 3), 7.0))
    brighter = data._replace(values=data.values + 7)
    assert difference(after_steps(recipe, data=shifted)[0], after_steps(recipe, data=brighter)[0]) < 1e-5
    assert difference(after_steps(recipe, data=shifted)[0], after_steps(recipe, data=data)[0]) > 1e-3


@pytest.mark.parametrize(
    ("switches", "near"),
    [({"channels_last": True}, 1e-4), ({"bf16": True}, 0.02), ({"bf16": True, "micro_batch": 4}, 0.02)],
)
def test_the_options_for_speed_only_change_the_rounding(switches: dict[str, Any], near: float):
    plain, sums = after_steps(steps=2)
    fast, their_sums = after_steps(execution=Execution(**switches), steps=2)
    assert {value.dtype for value in fast.values()} == {torch.float32}
    assert their_sums[0][0].item() == pytest.approx(sums[0][0].item(), rel=0.02)
    matrices = {name: value for name, value in plain.items() if name.endswith(".weight")}  # biases are still near zero
    assert difference(matrices, fast) < near


def test_lrn_is_computed_in_float32_under_bf16():
    recipe = replace(RECIPE, spec=NetworkSpec("A-LRN", 8, crop=32, fc_width=64, classes=5))
    seen: list[torch.dtype] = []
    real = torch.nn.functional.local_response_norm

    def noted(x: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(x.dtype)
        return real(x, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "local_response_norm", noted)
        after_steps(recipe, Execution(bf16=True), steps=1)
    assert seen == [torch.float32]


@pytest.mark.parametrize(
    ("field", "value"), [("micro_batch", 0), ("save_minutes", -1.0), ("save_minutes", float("nan"))]
)
def test_an_execution_with_a_value_out_of_range_is_refused(field: str, value: Any):
    with pytest.raises(UsageError, match=f"{field} is {value}; expected"):
        Execution(**{field: value})
