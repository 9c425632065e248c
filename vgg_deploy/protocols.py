"""Named test protocols as data: which views of an image are scored; their posteriors are averaged (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.errors import UsageError
from vgg_deploy.images import centre_box, rescaled_size
from vgg_deploy.manifest import Manifest, Rescaling, TrainScale

SCALE_STEP = 32  # section 4.2: a network trained at a fixed S is tested at S - 32, S and S + 32


@dataclass(frozen=True, slots=True)
class View:
    """One view of an image.

    Attributes:
        short_side: Q, to which the image is rescaled first.
        box: top, left, height and width within the rescaled image; None: the whole image.
        mirror: whether it is flipped left to right.
    """

    short_side: int
    box: tuple[int, int, int, int] | None
    mirror: bool


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to test.

    Attributes:
        name: center, dense or multiscale.
        scales: the Q's, ascending.
        crop: side of the central crop, or None for whole images, which need a model of free height and width.
        mirror: whether each view is scored mirrored too.
    """

    name: str
    scales: tuple[int, ...]
    crop: int | None
    mirror: bool

    def views(self, height: int, width: int, rescaling: Rescaling) -> tuple[View, ...]:
        """The views of an image of height x width pixels; their posteriors count equally."""
        views = []
        for scale in self.scales:
            box = None
            if self.crop is not None:
                rows, columns = rescaled_size(height, width, scale, rescaling.rounding)
                box = (*centre_box(rows, columns, self.crop), self.crop, self.crop)
            views.append(View(scale, box, False))
            if self.mirror:
                views.append(View(scale, box, True))
        return tuple(views)

    def __str__(self) -> str:
        what = f"central {self.crop}x{self.crop} crop" if self.crop else "whole image"
        mirrors = ", with mirrors" if self.mirror else ""
        return f"{self.name}: {what} at Q={','.join(map(str, self.scales))}{mirrors}"


PROTOCOLS = ("center", "dense", "multiscale")


def multiscale_defaults(train_scale: TrainScale) -> tuple[int, ...]:
    """Section 4.2: Q in {S-32, S, S+32} for a fixed S, {Smin, (Smin+Smax)/2, Smax} for a range."""
    if train_scale.fixed:
        middle = train_scale.minimum
        return (middle - SCALE_STEP, middle, middle + SCALE_STEP)
    # A range of two numbers has its lower one as its middle.
    return tuple(sorted({train_scale.minimum, train_scale.middle, train_scale.maximum}))


def single_scale_default(train_scale: TrainScale) -> int:
    """Section 4.1: Q = S for a fixed S, the middle of a range."""
    return train_scale.middle


@dataclass(frozen=True, slots=True)
class ProtocolChoice:
    """A protocol, and what had to be said about how it was chosen."""

    protocol: Protocol
    notices: tuple[str, ...]


def choose_protocol(
    manifest: Manifest,
    name: str | None = None,
    scales: tuple[int, ...] | None = None,
    mirror: bool | None = None,
    *,
    free_size: bool,
) -> ProtocolChoice:
    """The protocol that was asked for, with the paper's defaults for what was not.

    Args:
        name: center, dense or multiscale; None: multiscale (dense for one scale), or center where the model's size is fixed.
        scales: the Q's; None: from the training S. Defaults below the crop are dropped with a notice.
        mirror: None: as the network was trained; the center protocol has no mirror.
        free_size: whether the model takes images of any height and width.

    Raises:
        UsageError: unknown name; whole images for a model of fixed size; a given scale below the crop; several scales for a
            protocol of one; for a foreign model of free size, no scales or center.
    """
    notices = []
    if name is None:
        if not free_size:
            name = "center"
            notices.append(
                "the model takes one size only, so each image is scored by its central crop (--dynamic exports one for whole images)"
            )
        else:
            name = "dense" if scales is not None and len(scales) == 1 else "multiscale"
    if name not in PROTOCOLS:
        raise UsageError(f"protocol is {name!r}; expected {', '.join(PROTOCOLS)}")
    if name != "center" and not free_size:
        raise UsageError(
            f"protocol {name} scores whole images; this model takes one size only: export it with --dynamic, or use --protocol center"
        )
    if name == "center" and free_size and manifest.spec is None:
        raise UsageError("protocol center cuts the network's crop, and a model without manifest states none: use dense")
    if scales is None:
        scales = _default_scales(name, manifest, notices)
    else:
        _check_scales(name, scales, manifest.crop)
    if name == "center":
        return ProtocolChoice(Protocol(name, scales, manifest.crop, bool(mirror)), tuple(notices))
    wanted = manifest.mirror if mirror is None else mirror
    return ProtocolChoice(Protocol(name, tuple(sorted(scales)), None, wanted), tuple(notices))


def _default_scales(name: str, manifest: Manifest, notices: list[str]) -> tuple[int, ...]:
    if manifest.spec is None and name != "center":
        raise UsageError(
            "the model has no manifest, so its training scale is unknown: give --scales, such as --scales 256"
        )
    if name != "multiscale":
        return (max(single_scale_default(manifest.train_scale), manifest.crop),)
    defaults = multiscale_defaults(manifest.train_scale)
    kept = tuple(scale for scale in defaults if scale >= manifest.crop)
    if len(kept) < len(defaults):
        dropped = ", ".join(str(scale) for scale in defaults if scale < manifest.crop)
        notices.append(f"default scale {dropped} dropped: smaller than the network's crop of {manifest.crop}")
    return kept or (manifest.crop,)


def _check_scales(name: str, scales: tuple[int, ...], crop: int) -> None:
    small = [scale for scale in scales if scale < crop]
    if small:
        raise UsageError(
            f"scale {small[0]} is below the network's crop of {crop}: fc6 would see less than it was trained on; give {crop} or more"
        )
    if len(set(scales)) != len(scales) or not scales:
        raise UsageError(f"scales are {','.join(map(str, scales))}; expected different whole numbers")
    if name != "multiscale" and len(scales) > 1:
        raise UsageError(f"protocol {name} has one scale, {len(scales)} were given; use --protocol multiscale")
