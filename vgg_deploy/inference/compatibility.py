"""Which views of images an engine takes. A plan takes what lies in one of its profiles, which may leave gaps between them."""

from __future__ import annotations

from vgg_deploy.artifacts.build_command import refusal
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.shapes import ShapeRange
from vgg_deploy.views.protocols import KINDS, Protocol


def check_compatible(info: EngineInfo, protocol: Protocol) -> None:
    """Raises UsageError where an engine takes none of a protocol's views, of whatever image: its crop, or whole images at one Q."""
    ranges = [info.shapes] if info.plan is None else [profile.shapes for profile in info.plan.profiles]
    crops = () if protocol.crop is None else (protocol.crop,)
    whole = protocol.scales if KINDS[protocol.name].whole else ()
    for sides, exactly in ((crops, True), (whole, False)):
        for side in sides:
            if not any(_takes(shapes, side, exactly=exactly) for shapes in ranges):
                raise UsageError(f"protocol {protocol}: {view_refusal(info, side, side)}")


def _takes(shapes: ShapeRange, side: int, *, exactly: bool) -> bool:
    """Whether an image fits whose short side is `side`, or both sides."""
    one, other = shapes.height, shapes.width
    if exactly:
        return one.accepts(side) and other.accepts(side)
    return any(
        short.accepts(side) and (long.maximum is None or long.maximum >= side)
        for short, long in ((one, other), (other, one))
    )


def view_refusal(info: EngineInfo, height: int, width: int) -> str | None:
    """Why an engine does not take views of this size, in words; None where it does."""
    shapes = info.shapes
    if info.plan is not None:
        reason = refusal(info.plan, (shapes.batch.minimum, height, width))
        return None if reason is None else f"a view of {width}x{height} pixels, as a batch {reason}"
    if shapes.height.accepts(height) and shapes.width.accepts(width):
        return None
    return (
        f"a view of {width}x{height} pixels is outside what the model takes: {shapes.width} wide, {shapes.height} high"
    )
