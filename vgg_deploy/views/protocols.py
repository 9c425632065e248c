"""Named test protocols as data: which views of an image are scored; their posteriors are averaged (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import Manifest, Rescaling, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import centre_box, rescaled_size
from vgg_deploy.views.view import Box, View, centre_square, corners_and_centre, merged, regular_grid, three_squares

PAPER_CROP = 224  # for which the Q's of other papers' protocols are given
SCALE_STEP = 32  # section 4.2: a network trained at a fixed S is tested at S - 32, S and S + 32


Cut = tuple[Box | None, int | None]  # a box of the rescaled image (None: all of it), and the side that it is resized to


def _whole(_rows: int, _columns: int, _crop: int) -> Iterator[Cut]:
    yield None, None


def _centre(rows: int, columns: int, crop: int) -> Iterator[Cut]:
    yield (*centre_box(rows, columns, crop), crop, crop), None


def _ten_crops(rows: int, columns: int, crop: int) -> Iterator[Cut]:
    for box in corners_and_centre(centre_square(rows, columns), crop):
        yield box, None


def _googlenet_crops(rows: int, columns: int, crop: int) -> Iterator[Cut]:
    for square in three_squares(rows, columns):
        for box in corners_and_centre(square, crop):
            yield box, None
        yield square, crop


def _grid(rows: int, columns: int, crop: int) -> Iterator[Cut]:
    for box in regular_grid(rows, columns, crop):
        yield box, None


@dataclass(frozen=True, slots=True)
class Kind:
    """What a protocol's name means.

    Attributes:
        what: what is scored, in words; {crop} stands for the crop's side.
        parts: cuts of a rescaled image, from its rows, columns and the crop; each part counts as much as the other.
        scales: one (Q = S), several (section 4.2's), or the Q's themselves, for crops of 224 pixels.
        mirror: whether mirrors are scored too, where the network was trained on mirrors.
    """

    what: str
    parts: tuple[Callable[[int, int, int], Iterator[Cut]], ...]
    scales: str | tuple[int, ...]
    mirror: bool = True

    @property
    def one_scale(self) -> bool:
        return self.scales == "one" or len(self.scales) == 1

    @property
    def whole(self) -> bool:
        """Whether whole images are scored, which need a model of free height and width."""
        return _whole in self.parts

    @property
    def cropped(self) -> bool:
        return self.parts != (_whole,)


KINDS = {
    "center": Kind("central {crop}x{crop} crop", (_centre,), "one", mirror=False),
    # Section 3.2; sections 4.1 and 4.2.
    "dense": Kind("whole image", (_whole,), "one"),
    "multiscale": Kind("whole image", (_whole,), "several"),
    # Krizhevsky et al. 2012.
    "10-crop": Kind("corners and centre of the central square", (_ten_crops,), (256,)),
    # Szegedy et al. 2014 (GoogLeNet).
    "144-crop": Kind("corners, centre and whole of three squares", (_googlenet_crops,), (256, 288, 320, 352)),
    # Section 3.2: 50 crops a scale, a 5x5 regular grid with mirrors; section 4.3.
    "50-crop": Kind("5x5 grid of {crop}x{crop} crops", (_grid,), "one"),
    "150-crop": Kind("5x5 grid of {crop}x{crop} crops", (_grid,), "several"),
    "multiscale+150-crop": Kind("whole image and 5x5 grid of {crop}x{crop} crops", (_whole, _grid), "several"),
}
PROTOCOLS = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to test.

    Attributes:
        name: one of `PROTOCOLS`.
        scales: the Q's, ascending.
        crop: side of the crops, or None where only whole images are scored.
        mirror: whether each view is scored mirrored too.
    """

    name: str
    scales: tuple[int, ...]
    crop: int | None
    mirror: bool

    def views(self, height: int, width: int, rescaling: Rescaling) -> tuple[View, ...]:
        """The views of an image of height x width pixels, with what each counts in the mean of their posteriors."""
        sizes = {scale: rescaled_size(height, width, scale, rescaling.rounding) for scale in self.scales}
        parts = [
            [
                View(scale, box, mirror, side)
                for scale in self.scales
                for box, side in cuts(*sizes[scale], self.crop or 0)
                for mirror in ((False, True) if self.mirror else (False,))
            ]
            for cuts in KINDS[self.name].parts
        ]
        if len(parts) == 1:
            return merged(parts[0])
        return merged(replace(view, weight=1 / len(part)) for part in parts for view in part)

    def macs(self, spec: NetworkSpec, height: int, width: int, rescaling: Rescaling) -> int:
        """Multiply-accumulates of all views of an image of height x width pixels; views below the network's crop are not scored."""
        total = 0
        for view in self.views(height, width, rescaling):
            rows, columns = view.size(height, width, rescaling)
            if min(rows, columns) >= spec.crop:
                total += spec.macs(rows, columns)
        return total

    @property
    def parts(self) -> tuple[Protocol, ...]:
        """The protocols whose posteriors have this one's as their mean (section 4.3); itself, where it is of one part."""
        return tuple(
            replace(self, name=name, crop=self.crop if KINDS[name].cropped else None) for name in self.name.split("+")
        )

    def __str__(self) -> str:
        mirrors = ", with mirrors" if self.mirror else ""
        what = KINDS[self.name].what.format(crop=self.crop)
        return f"{self.name}: {what} at Q={','.join(map(str, self.scales))}{mirrors}"


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
    built_for: tuple[int, ...] = (),
) -> ProtocolChoice:
    """The protocol that was asked for, with the paper's defaults for what was not.

    Args:
        name: one of `PROTOCOLS`; None: multiscale (dense for one scale), or center where the model's size is fixed.
        scales: the Q's; None: those that the plan was built for, else from the training S. Defaults below the crop are
            dropped with a notice.
        mirror: None: as the network was trained; the center protocol has no mirror.
        free_size: whether the model takes images of any height and width.
        built_for: the Q's of a plan, whole images of which it takes.

    Raises:
        UsageError: unknown name; whole images for a model of fixed size; a given scale below the crop; several scales for a
            protocol of one; for a foreign model of free size, no scales, or crops.
    """
    notices = []
    if name is None:
        if not free_size:
            name = "center"
            notices.append(
                "the model takes one size only, so each image is scored by its central crop (--dynamic exports one for whole images)"
            )
        else:
            name = "dense" if len(scales or built_for) == 1 else "multiscale"
    if name not in KINDS:
        raise UsageError(f"protocol is {name!r}; expected {', '.join(PROTOCOLS)}")
    kind = KINDS[name]
    if kind.whole and not free_size:
        raise UsageError(
            f"protocol {name} scores whole images; this model takes one size only: export it with --dynamic, or use --protocol center"
        )
    if kind.cropped and free_size and manifest.spec is None:
        raise UsageError(
            f"protocol {name} cuts the network's crop, and a model without manifest states none: use dense"
        )
    if scales is None:
        scales = _default_scales(name, manifest, built_for, notices)
    else:
        _check_scales(name, scales, manifest.crop)
    if mirror is None:
        mirror = kind.mirror and manifest.mirror
    crop = manifest.crop if kind.cropped else None
    return ProtocolChoice(Protocol(name, tuple(sorted(scales)), crop, mirror), tuple(notices))


def _default_scales(name: str, manifest: Manifest, built_for: tuple[int, ...], notices: list[str]) -> tuple[int, ...]:
    kind = KINDS[name]
    if built_for and kind.whole and not kind.one_scale:
        return built_for
    if built_for and kind.whole:
        default = single_scale_default(manifest.train_scale)
        return (default if default in built_for else built_for[len(built_for) // 2],)
    if manifest.spec is None and kind.whole:
        raise UsageError(
            "the model has no manifest, so its training scale is unknown: give --scales, such as --scales 256"
        )
    if not isinstance(kind.scales, str):
        return tuple(round(scale * manifest.crop / PAPER_CROP) for scale in kind.scales)
    if kind.one_scale:
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
    if KINDS[name].one_scale and len(scales) > 1:
        several = {"50-crop": "150-crop"}.get(name, "multiscale")
        raise UsageError(f"protocol {name} has one scale, {len(scales)} were given; use --protocol {several}")
