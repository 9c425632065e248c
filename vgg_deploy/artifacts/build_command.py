"""The `vgg-deploy build` command that makes the plan which is wanted, from the one that made the plan which is there."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from vgg_deploy.network.shapes import PlanProfiles, Shape

_FLAGS = frozenset({"--one-profile", "--verbose"})  # options of `build` without a value


def with_changed_options(command: str, changes: Mapping[str, str | None]) -> str:
    """A build command with other values of some options; None leaves an option out."""
    kept = [word for name, words in _parts(command) if name not in changes for word in words]
    return shlex.join(kept + [word for name, value in changes.items() if value is not None for word in (name, value)])


def model_named_in(command: str) -> str | None:
    """The ONNX file that a build command names, as it names it."""
    words = [words[0] for name, words in _parts(command) if name == words[0] and not name.startswith("-")]
    return words[2] if len(words) > 2 else None


def relocated_command(command: str, plan: Path, onnx: str) -> str:
    """A plan's build command where the plan may have been renamed or moved since.

    Args:
        command: as it was when the plan was built.
        plan: the plan, where it is now.
        onnx: the name of the ONNX file that it was built from, which is taken beside the plan where it is only there.
    """
    model, beside = model_named_in(command), plan.with_name(onnx)
    if model is not None and not Path(model).is_file() and beside.is_file():
        words = shlex.split(command)
        words[words.index(model)] = str(beside)
        command = shlex.join(words)
    output = Path(dict(_parts(command)).get("-o", ("", str(plan)))[-1])
    if output.name != plan.name or (output.is_absolute() and output != plan.absolute()):
        command = with_changed_options(command, {"-o": str(plan)})
    return command


def refusal(plan: PlanProfiles, shape: Shape) -> str | None:
    """Why no profile of a plan takes a batch of this shape, what they take, and the command for a plan that does; None where
    one does.
    """
    if any(profile.accepts(shape) for profile in plan.profiles):
        return None
    taken = "; ".join(map(str, plan.profiles))
    return f"{' x '.join(map(str, shape))} x 3 is in no profile of {plan.name}, which takes {taken}; {_remedy(plan, shape)}"


def _remedy(plan: PlanProfiles, shape: Shape) -> str:
    batch, *sides = shape
    short, long = min(sides), max(sides)
    scales = {scale for profile in plan.profiles for scale in profile.scales}
    if batch < min(profile.minimum[0] for profile in plan.profiles):
        return "fill the batch up"
    if not scales:
        fixed = all(profile.minimum[1:] == profile.maximum[1:] for profile in plan.profiles)
        return "export the model with --dynamic and build that" if fixed else "build one that takes it"
    changes: dict[str, str | None] = {}
    taking = [
        profile
        for profile in plan.profiles
        if profile.shapes.height.accepts(shape[1]) and profile.shapes.width.accepts(shape[2])
    ]
    if batch > max(profile.maximum[0] for profile in taking or plan.profiles):
        changes["--max-batch"] = str(batch)
    near = [profile for profile in plan.profiles if min(profile.minimum[1:]) <= short <= max(profile.maximum[1:])]
    if not near:
        changes["--scales"] = ",".join(map(str, sorted(scales | {short})))
    scale = max((scale for profile in near for scale in profile.scales), default=short)
    known = dict(_parts(plan.command)).get("--max-aspect", ("", "2"))[-1]
    aspect = math.ceil(100 * long / scale) / 100
    if aspect > float(known):
        changes["--max-aspect"] = f"{aspect:g}"
    return f"build one that takes it: {with_changed_options(plan.command, changes)}"


def _parts(command: str) -> list[tuple[str, tuple[str, ...]]]:
    """Options by their names, each with its words, and all that is none, in order."""
    words = shlex.split(command)
    parts: list[tuple[str, tuple[str, ...]]] = []
    while words:
        word = words.pop(0)
        name, assigned, value = word.partition("=")
        if not name.startswith("-"):
            parts.append((word, (word,)))
        elif assigned:
            parts.append((name, (name, value)))
        elif name in _FLAGS or not words:
            parts.append((name, (name,)))
        else:
            parts.append((name, (name, words.pop(0))))
    return parts
