"""The build command for the plan that is needed."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from vgg_deploy.artifacts.build_command import model_named_in, refusal, relocated_command, with_changed_options
from vgg_deploy.network.shapes import PlanProfiles, Profile

COMMAND = (
    "vgg-deploy build 'my model.onnx' -o 'my model.plan' --scales 224,256 --max-batch 8 --max-aspect 2 --one-profile"
)


@pytest.mark.parametrize(
    ("command", "changes", "expected"),
    [
        (COMMAND, {}, COMMAND),
        (
            COMMAND,
            {"--max-batch": "16"},
            "vgg-deploy build 'my model.onnx' -o 'my model.plan' --scales 224,256 --max-aspect 2 --one-profile "
            "--max-batch 16",
        ),
        (
            COMMAND,
            {"--one-profile": None, "--scales": None},
            "vgg-deploy build 'my model.onnx' -o 'my model.plan' --max-batch 8 --max-aspect 2",
        ),
        ("vgg-deploy build a.onnx --scales=224 b", {"--scales": "256"}, "vgg-deploy build a.onnx b --scales 256"),
        ("vgg-deploy build a.onnx --backend", {"--backend": "tensorrt"}, "vgg-deploy build a.onnx --backend tensorrt"),
    ],
)
def test_options_are_exchanged_and_words_stay_words(
    command: str, changes: dict[str, str | None], expected: str
) -> None:
    assert with_changed_options(command, changes) == expected
    assert with_changed_options(expected, changes) == expected


def test_the_command_of_a_plan_that_was_renamed_builds_that_plan() -> None:
    plan = Path("new plan.plan")
    assert relocated_command(COMMAND, Path("elsewhere/my model.plan"), "my model.onnx") == COMMAND
    assert relocated_command(COMMAND, plan, "my model.onnx") == with_changed_options(COMMAND, {"-o": str(plan)})


def test_the_command_of_a_plan_that_was_moved_with_its_model_names_both(tmp_path: Path) -> None:
    beside, plan = tmp_path / "a.onnx", tmp_path / "a.plan"
    beside.touch()
    moved = relocated_command("vgg-deploy build /gone/a.onnx -o /gone/a.plan --max-batch 2", plan, "a.onnx")
    assert moved == f"vgg-deploy build {beside} --max-batch 2 -o {plan}"
    assert (model_named_in(moved), model_named_in("vgg-deploy build")) == (str(beside), None)


def plan(*profiles: Profile, command: str = COMMAND) -> PlanProfiles:
    return PlanProfiles("vgg16.plan", profiles, command)


def scale(*scales: int, aspect: float = 2, batch: int = 8) -> Profile:
    low, high = min(scales), int(max(scales) * aspect)
    return Profile(scales, (1, low, low), (4, low, low), (batch, high, high))


def options_of(text: str) -> dict[str, str]:
    tokens = shlex.split(text[text.index("vgg-deploy build") :])
    return dict(itertools.pairwise(tokens))


@pytest.mark.parametrize("shape", [(1, 224, 224), (8, 512, 512), (3, 448, 256)])
def test_what_a_profile_takes_is_not_refused(shape: tuple[int, int, int]) -> None:
    assert refusal(plan(scale(224), scale(256)), shape) is None


@pytest.mark.parametrize(
    ("profiles", "shape", "changed"),
    [
        ((scale(224), scale(256)), (9, 224, 300), {"--max-batch": "9"}),
        ((scale(224), scale(256)), (1, 256, 600), {"--max-aspect": "2.35"}),
        ((scale(224), scale(256)), (1, 224, 460), {"--max-aspect": "2.06"}),
        ((scale(224, 256),), (1, 224, 600), {"--max-aspect": "2.35"}),
        ((scale(224), scale(256)), (1, 640, 640), {"--scales": "224,256,640"}),
        ((scale(224), scale(256)), (1, 192, 224), {"--scales": "192,224,256"}),
        (
            (scale(224), scale(256)),
            (16, 640, 2000),
            {"--scales": "224,256,640", "--max-aspect": "3.13", "--max-batch": "16"},
        ),
    ],
)
def test_what_none_takes_names_the_options_that_a_build_needs_and_no_others(
    profiles: tuple[Profile, ...], shape: tuple[int, int, int], changed: dict[str, str]
) -> None:
    text = refusal(plan(*profiles), shape)
    before = options_of(COMMAND)
    after = options_of(text)
    assert {name: after[name] for name in ("--scales", "--max-batch", "--max-aspect")} == {
        **{name: before[name] for name in ("--scales", "--max-batch", "--max-aspect")},
        **changed,
    }
    # The profiles of that build take it.
    aspect, batch = float(after["--max-aspect"]), int(after["--max-batch"])
    scales = tuple(map(int, after["--scales"].split(",")))
    rebuilt = [scale(*scales, aspect=aspect, batch=batch)]
    if len(profiles[0].scales) == 1:
        rebuilt = [scale(q, aspect=aspect, batch=batch) for q in scales]
    assert any(profile.accepts(shape) for profile in rebuilt)


def test_the_refusal_says_what_came_and_what_is_taken() -> None:
    text = refusal(plan(scale(224), scale(256)), (1, 100, 100))
    assert text.startswith(
        "1 x 100 x 100 x 3 is in no profile of vgg16.plan, which takes Q=224: 1..8 x 224..448 x 224..448 x 3; "
        "Q=256: 1..8 x 256..512 x 256..512 x 3; build a plan that takes it: vgg-deploy build"
    )


def test_a_plan_of_one_size_needs_another_export() -> None:
    fixed = Profile((), (4, 224, 224), (4, 224, 224), (4, 224, 224))
    assert str(refusal(plan(fixed), (4, 256, 256))).endswith("; export the model with --dynamic and build that")
    assert str(refusal(plan(fixed), (1, 224, 224))).endswith("; give at least 4 images")


def test_a_command_without_an_aspect_has_the_builds_default() -> None:
    command = "vgg-deploy build a.onnx"
    assert "--max-aspect" not in str(refusal(plan(scale(224), command=command), (1, 640, 700)))
    assert str(refusal(plan(scale(224), command=command), (1, 224, 700))).endswith("a.onnx --max-aspect 3.13")
