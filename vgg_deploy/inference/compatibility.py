"""Which views an engine accepts. A plan accepts shapes inside its profiles; there may be gaps between profiles."""

from __future__ import annotations

from vgg_deploy.artifacts.build_command import refusal
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.shapes import ShapeRange
from vgg_deploy.views.protocols import PROTOCOL_KINDS, Protocol


def check_compatible(info: EngineInfo, protocol: Protocol) -> None:
    """Checks that an engine accepts a protocol's views of at least some images.

    Raises:
        UsageError: it does not accept the protocol's crop. Or, at one of the Q's, it accepts no whole image, whatever
            its aspect ratio.
    """
    ranges = [info.shapes] if info.plan is None else [profile.shapes for profile in info.plan.profiles]
    if protocol.crop is not None and not any(_takes_crop(shapes, protocol.crop) for shapes in ranges):
        raise UsageError(f"protocol {protocol}: {view_refusal(info, protocol.crop, protocol.crop)}")
    for scale in protocol.scales if PROTOCOL_KINDS[protocol.name].whole else ():
        if not any(_takes_whole(shapes, scale) for shapes in ranges):
            raise UsageError(f"protocol {protocol}: {view_refusal(info, scale, scale)}")


def _takes_crop(shapes: ShapeRange, side: int) -> bool:
    return shapes.height.accepts(side) and shapes.width.accepts(side)


def _takes_whole(shapes: ShapeRange, short_side: int) -> bool:
    """Whether an image with this short side can fit, as a landscape or a portrait."""
    return any(
        short.accepts(short_side) and (long.maximum is None or long.maximum >= short_side)
        for short, long in ((shapes.height, shapes.width), (shapes.width, shapes.height))
    )


def view_refusal(info: EngineInfo, height: int, width: int) -> str | None:
    """Why an engine does not accept views of this size; None if it does."""
    shapes = info.shapes
    if info.plan is not None:
        reason = refusal(info.plan, (shapes.batch.minimum, height, width))
        return None if reason is None else f"a view of {width}x{height} pixels does not fit: a batch of {reason}"
    if shapes.height.accepts(height) and shapes.width.accepts(width):
        return None
    takes = f"widths {shapes.width}, heights {shapes.height}"
    return f"a view of {width}x{height} pixels does not fit: the model takes {takes}"
