"""Adapts the `vgg-deploy build` command of an existing plan to a plan for other shapes or in another place."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from vgg_deploy.network.shapes import PlanProfiles, Shape

_FLAGS = frozenset({"--one-profile", "--verbose"})  # options of `build` without a value


def with_changed_options(command: str, changes: Mapping[str, str | None]) -> str:
    """A build command with other values for some options. A value of None removes the option."""
    unchanged = [token for name, tokens in _parts(command) if name not in changes for token in tokens]
    changed = [token for name, value in changes.items() if value is not None for token in (name, value)]
    return shlex.join(unchanged + changed)


def model_named_in(command: str) -> str | None:
    """The ONNX file in a build command, as it is written there."""
    arguments = [name for name, _tokens in _parts(command) if not name.startswith("-")]
    return arguments[2] if len(arguments) > 2 else None  # after `vgg-deploy build`


def relocated_command(command: str, plan: Path, onnx: str) -> str:
    """The build command of a plan that may have been renamed or moved since it was built.

    Args:
        command: the command that built the plan.
        plan: the plan's path today.
        onnx: the name of the ONNX file that the plan was built from. If it exists only beside the plan, the command
            names that file.
    """
    model, model_beside_plan = model_named_in(command), plan.parent / Path(onnx).name
    if model is not None and not Path(model).is_file() and model_beside_plan.is_file():
        tokens = shlex.split(command)
        tokens[tokens.index(model)] = str(model_beside_plan)
        command = shlex.join(tokens)
    output = Path(_option(command, "-o") or plan)
    if output.name != plan.name or (output.is_absolute() and output != plan.absolute()):
        command = with_changed_options(command, {"-o": str(plan)})
    return command


def refusal(plan: PlanProfiles, shape: Shape) -> str | None:
    """Why no profile of a plan accepts a batch, which batches they accept, and the command for a plan that accepts it.

    None if a profile accepts it.
    """
    if any(profile.accepts(shape) for profile in plan.profiles):
        return None
    batch, ranges = " x ".join(map(str, shape)), "; ".join(map(str, plan.profiles))
    return f"{batch} x 3 is in no profile of {plan.name}, which takes {ranges}; {_remedy(plan, shape)}"


def _remedy(plan: PlanProfiles, shape: Shape) -> str:
    batch, *sides = shape
    short, long = min(sides), max(sides)
    scales = {scale for profile in plan.profiles for scale in profile.scales}
    if batch < min(profile.minimum[0] for profile in plan.profiles):
        return f"give at least {min(profile.minimum[0] for profile in plan.profiles)} images"
    if not scales:
        fixed = all(profile.minimum[1:] == profile.maximum[1:] for profile in plan.profiles)
        return "export the model with --dynamic and build that" if fixed else "build a plan that takes it"
    changes: dict[str, str | None] = {}
    of_this_size = [
        profile
        for profile in plan.profiles
        if profile.shapes.height.accepts(shape[1]) and profile.shapes.width.accepts(shape[2])
    ]
    if batch > max(profile.maximum[0] for profile in of_this_size or plan.profiles):
        changes["--max-batch"] = str(batch)
    near = [profile for profile in plan.profiles if min(profile.minimum[1:]) <= short <= max(profile.maximum[1:])]
    if not near:
        changes["--scales"] = ",".join(map(str, sorted(scales | {short})))
    scale = max((scale for profile in near for scale in profile.scales), default=short)
    aspect = math.ceil(100 * long / scale) / 100
    if aspect > float(_option(plan.command, "--max-aspect") or 2):
        changes["--max-aspect"] = f"{aspect:g}"
    return f"build a plan that takes it: {with_changed_options(plan.command, changes)}"


def _option(command: str, name: str) -> str | None:
    """The value of an option with a value; None if the command does not have it."""
    tokens = dict(_parts(command)).get(name)
    return None if tokens is None else tokens[-1]


def _parts(command: str) -> list[tuple[str, tuple[str, ...]]]:
    """The tokens of a command in order: an option with its value by its name, and an argument by itself."""
    tokens = shlex.split(command)
    parts: list[tuple[str, tuple[str, ...]]] = []
    while tokens:
        token = tokens.pop(0)
        name, assigned, value = token.partition("=")
        if not name.startswith("-"):
            parts.append((token, (token,)))
        elif assigned:
            parts.append((name, (name, value)))
        elif name in _FLAGS or not tokens:
            parts.append((name, (name,)))
        else:
            parts.append((name, (name, tokens.pop(0))))
    return parts
