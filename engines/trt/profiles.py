"""Optimization profiles: the shapes for which a plan is built, from the scales that it will serve."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

from engines.trt.build_options import BuildOptions
from vgg_deploy.errors import BuildError, UsageError
from vgg_deploy.inference.engine import DEVICE_BATCH
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import AxisRange, Profile, Shape
from vgg_deploy.views.protocols import choose_protocol

MAX_BATCH, MAX_ASPECT = 8, 2.0
_PHOTO = Fraction(4, 3)


def resolve(manifest: Manifest, options: BuildOptions) -> tuple[BuildOptions, tuple[str, ...]]:
    """The options with this model's defaults for scales, batch and aspect, and notices about them.

    Raises:
        UsageError: scales, batch or aspect for a model that accepts one shape only; scales below the crop, or given
            twice; no scales for a foreign model with free axes.
        BuildError: a foreign model with only one side fixed.
    """
    shapes = manifest.shapes
    assert shapes is not None
    changes: dict[str, Any] = {}
    notices: tuple[str, ...] = ()
    if shapes.height.fixed != shapes.width.fixed:
        raise BuildError(
            f"the model accepts {shapes}, with one side fixed and one free; export it with both fixed or both free"
        )
    if shapes.batch.fixed and options.max_batch is not None:
        raise UsageError(
            f"--max-batch {options.max_batch}: the model accepts batches of {shapes.batch} only; {_dynamic(manifest)}"
        )
    if not shapes.batch.fixed and options.max_batch is None:
        changes["max_batch"] = MAX_BATCH
    if not shapes.free:
        values = {"--scales": options.scales, "--max-aspect": options.max_aspect, "--one-profile": options.one_profile}
        for name, value in values.items():
            if value:
                raise UsageError(
                    f"{name}: the model accepts images of {shapes.height} x {shapes.width} only; {_dynamic(manifest)}"
                )
    else:
        choice = choose_protocol(manifest, "multiscale", options.scales, free_size=True)
        notices = choice.notices
        changes |= {"scales": choice.protocol.scales, "max_aspect": options.max_aspect or MAX_ASPECT}
    return dataclasses.replace(options, **changes), notices


def profiles_of(manifest: Manifest, options: BuildOptions) -> tuple[Profile, ...]:
    """The profiles for resolved options: one for each scale, one for all, or one for the only shape of the model.

    A profile for Q accepts upright and flat images whose short side is Q. Their long side is at most Q times the
    largest aspect. Kernels are chosen for a batch of photos (4:3), as `infer` makes them by default.
    """
    shapes = manifest.shapes
    assert shapes is not None
    batches = shapes.batch if options.max_batch is None else AxisRange(shapes.batch.minimum, options.max_batch)
    assert batches.maximum is not None
    optimal = max(batches.minimum, min(batches.maximum, DEVICE_BATCH))
    if options.scales is None or options.max_aspect is None:
        size = shapes.height.minimum, shapes.width.minimum
        return (Profile((), (batches.minimum, *size), (optimal, *size), (batches.maximum, *size)),)
    aspect = Fraction(options.max_aspect).limit_denominator(1000)  # 1.15 as 23/20, and 1.3333 as 4/3
    groups = [options.scales] if options.one_profile else [(scale,) for scale in options.scales]
    profiles = []
    for scales in groups:
        low, middle, high = min(scales), scales[len(scales) // 2], max(scales)
        longest = _long_side(high, aspect, manifest.rescaling.rounding)
        profiles.append(
            Profile(
                scales,
                minimum=(batches.minimum, low, low),
                optimum=(optimal, middle, min(math.floor(middle * _PHOTO), longest)),
                maximum=(batches.maximum, longest, longest),
            )
        )
    return tuple(profiles)


def input_shape(shape: Shape) -> tuple[int, int, int, int]:
    """N x H x W x 3."""
    return (*shape, 3)


def _long_side(scale: int, aspect: Fraction, rounding: str) -> int:
    return math.floor(scale * aspect + (Fraction(1, 2) if rounding == "nearest" else 0))


def _dynamic(manifest: Manifest) -> str:
    return "leave it out, or export the model " + ("with --dynamic" if manifest.spec is not None else "with free axes")
