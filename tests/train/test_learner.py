"""One step of SGD: micro-batches, frozen layers, colours, and the switches for speed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from train.compute.execution import Execution
from train.compute.processes import ALONE
from train.data.loader import Batch
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


def batch(count: int = 10, total: int = 10) -> Batch:
    generator = torch.Generator().manual_seed(3)
    views = torch.randint(0, 256, (10, 32, 32, 3), generator=generator, dtype=torch.uint8)[:count]
    return Batch(views, torch.arange(10)[:count] % 5, torch.arange(10)[:count], torch.zeros(count, 3), total, True)


def new_learner(recipe: Recipe, execution: Execution) -> Learner:
    network = VGG(recipe.spec)
    network.initialise(GLOROT, torch.Generator().manual_seed(0))
    return Learner(recipe, network.state_dict(), Normalization((128, 128, 128), (60, 60, 60)), execution, ALONE)


def after(
    recipe: Recipe = RECIPE, execution: Execution = WHOLE, steps: int = 3, one: Batch | None = None
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The weights after some steps on a batch, and what each step gave."""
    learner = new_learner(recipe, execution)
    figures = [learner.step(one or batch(), epoch, 0.01) for epoch in range(steps)]
    return {name: value.clone() for name, value in learner.weights.items()}, figures


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor's weights, as a fraction of the tensor's norm."""
    return max(((first[name] - second[name]).norm() / first[name].norm()).item() for name in first)


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 64])
def test_micro_batches_give_the_weights_and_figures_of_the_whole_batch(micro_batch: int):
    whole, figures = after()
    parts, their_figures = after(execution=Execution(micro_batch=micro_batch))
    assert difference(whole, parts) < 1e-5
    for one, other in zip(figures, their_figures, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3, 64])
def test_validation_too_computes_no_more_than_a_micro_batch_at_once(micro_batch: int, monkeypatch: pytest.MonkeyPatch):
    at_once: list[int] = []

    def noted(pixels: torch.Tensor, normalization: Normalization) -> torch.Tensor:
        at_once.append(len(pixels))
        return normalize(pixels, normalization)

    monkeypatch.setattr("train.learner.normalize", noted)
    whole, parts = (
        new_learner(RECIPE, execution).judge(batch()) for execution in (WHOLE, Execution(micro_batch=micro_batch))
    )
    assert at_once[0] == sum(at_once[1:]) == 10
    assert max(at_once[1:]) == min(micro_batch, 10)
    assert torch.allclose(whole, parts, rtol=1e-6)


def test_other_dropout_would_be_noticed():
    assert difference(after()[0], after(replace(RECIPE, seed=1))[0]) > 1e-3


def test_the_step_is_that_of_torchs_own_sgd_on_the_mean_loss():
    recipe = replace(RECIPE, dropout=0.0)
    network = VGG(recipe.spec)
    network.initialise(GLOROT, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=5e-4)
    one = batch()
    images = ((one.views.float() - 128) / 60).permute(0, 3, 1, 2)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), one.targets).backward()
        optimizer.step()
    assert difference(network.state_dict(), after(recipe)[0]) < 1e-5


def test_the_figures_are_the_sum_of_losses_and_the_hits():
    _weights, figures = after(replace(RECIPE, dropout=0.0), steps=1)
    loss, first, first_five = figures[0].tolist()
    assert 0.1 < loss / 10 < 20
    assert first == int(first)
    assert first_five == 10  # of five classes


def test_frozen_convolutions_stay_bit_for_bit_and_the_fc_layers_learn():
    recipe = replace(RECIPE, initialisation="w.pth", freeze_features=True)
    before, trained = after(recipe, steps=0)[0], after(recipe)[0]
    for name in before:
        assert torch.equal(before[name], trained[name]) is name.startswith("conv"), name


def test_nothing_is_kept_of_frozen_convolutions_for_a_way_back():
    kept: list[int] = []

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.ndim)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        after(replace(RECIPE, initialisation="w.pth", freeze_features=True), steps=1)
        assert 2 in kept  # the FC layers' matrices
        assert 4 not in kept
        after(steps=1)
        assert 4 in kept


def test_a_shift_of_colours_is_a_shift_of_the_pixels():
    recipe = replace(RECIPE, rgb_shift=0.1)
    one = batch()._replace(views=batch().views // 2)
    shifted = one._replace(shifts=torch.full((10, 3), 7.0))
    brighter = one._replace(views=one.views + 7)
    assert difference(after(recipe, one=shifted)[0], after(recipe, one=brighter)[0]) < 1e-5
    assert difference(after(recipe, one=shifted)[0], after(recipe, one=one)[0]) > 1e-3


@pytest.mark.parametrize(
    ("switches", "near"),
    [({"channels_last": True}, 1e-4), ({"bf16": True}, 0.02), ({"bf16": True, "micro_batch": 4}, 0.02)],
)
def test_the_switches_for_speed_change_the_rounding_only(switches: dict[str, Any], near: float):
    plain, figures = after(steps=2)
    fast, their_figures = after(execution=Execution(**switches), steps=2)
    assert {value.dtype for value in fast.values()} == {torch.float32}
    assert their_figures[0][0].item() == pytest.approx(figures[0][0].item(), rel=0.02)
    matrices = {name: value for name, value in plain.items() if name.endswith(".weight")}  # biases are near zero yet
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
        after(recipe, Execution(bf16=True), steps=1)
    assert seen == [torch.float32]


@pytest.mark.parametrize(
    ("field", "value"), [("micro_batch", 0), ("save_minutes", -1.0), ("save_minutes", float("nan"))]
)
def test_a_place_that_makes_no_sense_is_refused(field: str, value: Any):
    with pytest.raises(UsageError, match=f"{field} is {value}; expected"):
        Execution(**{field: value})
