"""Named test protocols: which views of an image are scored. Their posteriors are averaged (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vgg_deploy.errors import UsageError, either
from vgg_deploy.network.manifest import Manifest, Rescaling, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import centre_box, rescaled_size
from vgg_deploy.views.view import Box, View, centre_square, corners_and_centre, merged, regular_grid, three_squares

PAPER_CROP = 224  # this paper and the others give the Q's of their protocols for crops of this side
# Section 4.2: a network trained at a fixed S is tested at S - 32, S and S + 32; in proportion for other crops, as S is.
SCALE_STEP = 32


# A box of the rescaled image (None: the whole image), and the side to which it is resized (None: it keeps its size).
Cut = tuple[Box | None, int | None]


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
class ProtocolKind:
    """What the name of a protocol means.

    Attributes:
        scored: describes what is scored; {crop} stands for the side of the crop.
        parts: functions that cut a rescaled image, from its rows, its columns and the crop. All parts have the same
            weight.
        scales: "one" (section 4.1), "several" (section 4.2), or the Q's for crops of 224 pixels.
        mirror: whether mirrors are scored too, if the network was trained on mirrors.
    """

    scored: str
    parts: tuple[Callable[[int, int, int], Iterator[Cut]], ...]
    scales: str | tuple[int, ...]
    mirror: bool = True

    @property
    def one_scale(self) -> bool:
        return self.scales == "one" or len(self.scales) == 1

    @property
    def whole(self) -> bool:
        """Whether whole images are scored. They need a model with dynamic height and width."""
        return _whole in self.parts

    @property
    def cropped(self) -> bool:
        return self.parts != (_whole,)


PROTOCOL_KINDS = {
    "center": ProtocolKind("central {crop}x{crop} crop", (_centre,), "one", mirror=False),
    # Section 3.2; sections 4.1 and 4.2.
    "dense": ProtocolKind("whole image", (_whole,), "one"),
    "multiscale": ProtocolKind("whole image", (_whole,), "several"),
    # Krizhevsky et al. 2012.
    "10-crop": ProtocolKind("corners and centre of the central square", (_ten_crops,), (256,)),
    # Szegedy et al. 2014 (GoogLeNet).
    "144-crop": ProtocolKind("corners, centre and whole of three squares", (_googlenet_crops,), (256, 288, 320, 352)),
    # Section 3.2: 50 crops per scale, a 5x5 regular grid with mirrors; section 4.3.
    "50-crop": ProtocolKind("5x5 grid of {crop}x{crop} crops", (_grid,), "one"),
    "150-crop": ProtocolKind("5x5 grid of {crop}x{crop} crops", (_grid,), "several"),
    "multiscale+150-crop": ProtocolKind("whole image and 5x5 grid of {crop}x{crop} crops", (_whole, _grid), "several"),
}
PROTOCOLS = tuple(PROTOCOL_KINDS)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How images are tested.

    Attributes:
        name: one of `PROTOCOLS`.
        scales: the Q's, ascending.
        crop: the side of the crops; None if only whole images are scored.
        mirror: whether the mirror of each view is scored too.
    """

    name: str
    scales: tuple[int, ...]
    crop: int | None
    mirror: bool

    def views(self, height: int, width: int, rescaling: Rescaling) -> tuple[View, ...]:
        """The views of an image of height x width pixels, with their weights in the mean of posteriors."""
        sizes = {scale: rescaled_size(height, width, scale, rescaling.rounding) for scale in self.scales}
        parts = [
            [
                View(scale, box, mirror, side)
                for scale in self.scales
                for box, side in cuts(*sizes[scale], self.crop or 0)
                for mirror in ((False, True) if self.mirror else (False,))
            ]
            for cuts in PROTOCOL_KINDS[self.name].parts
        ]
        if len(parts) == 1:
            return merged(parts[0])
        return merged(replace(view, weight=1 / len(part)) for part in parts for view in part)

    def macs(self, spec: NetworkSpec, height: int, width: int, rescaling: Rescaling) -> int:
        """Multiply-accumulates of all views of an image of height x width pixels.

        Views smaller than the network's crop are not scored and not counted.
        """
        total = 0
        for view in self.views(height, width, rescaling):
            rows, columns = view.size(height, width, rescaling)
            if min(rows, columns) >= spec.crop:
                total += spec.macs(rows, columns)
        return total

    @property
    def parts(self) -> tuple[Protocol, ...]:
        """The protocols whose posteriors are averaged to give this protocol's (section 4.3).

        A simple protocol has itself as its only part.
        """
        return tuple(
            replace(self, name=name, crop=self.crop if PROTOCOL_KINDS[name].cropped else None)
            for name in self.name.split("+")
        )

    def __str__(self) -> str:
        mirrors = ", with mirrors" if self.mirror else ""
        scored = PROTOCOL_KINDS[self.name].scored.format(crop=self.crop)
        return f"{self.name}: {scored} at Q={','.join(map(str, self.scales))}{mirrors}"


def multiscale_defaults(train_scale: TrainScale, crop: int = PAPER_CROP) -> tuple[int, ...]:
    """Section 4.2: Q in {S-32, S, S+32} for a fixed S, {Smin, (Smin+Smax)/2, Smax} for a range.

    32 is for crops of 224 pixels. For other crops the step is in proportion, rounded down as S is, so that S of 256 for
    a crop of 224 leads to the crop itself as the smallest Q, whatever the crop.
    """
    if train_scale.fixed:
        middle, step = train_scale.minimum, max(1, SCALE_STEP * crop // PAPER_CROP)
        return (middle - step, middle, middle + step)
    # The middle of a range of two numbers is the lower one.
    return tuple(sorted({train_scale.minimum, train_scale.middle, train_scale.maximum}))


def single_scale_default(train_scale: TrainScale) -> int:
    """Section 4.1: Q = S for a fixed S, and the middle of a range of S."""
    return train_scale.middle


@dataclass(frozen=True, slots=True)
class ProtocolChoice:
    """A protocol, and notices for the user about the choice."""

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
    """The requested protocol, with the paper's defaults for everything that is None.

    Args:
        manifest: of the model.
        name: one of `PROTOCOLS`; None: multiscale (dense for one scale), or center if the model takes only one size.
        scales: the Q's; None: those that the plan was built for, or the paper's for the training S. The crop takes the
            place of defaults below it, with a notice.
        mirror: whether mirrors are scored; None: yes if the network was trained on mirrors, except for center.
        free_size: whether the model's height and width are dynamic.
        built_for: the Q's whose whole images a plan takes.

    Raises:
        UsageError: the name is unknown; the protocol scores whole images and the model takes only one size; a given
            scale is below the crop; several scales are given for a protocol of one scale; or a foreign model of free
            size has no scales, or would be tested on crops.
    """
    notices = []
    if name is None:
        if not free_size:
            name = "center"
            notices.append(
                "the model takes only one size, so each image is scored by its central crop "
                "(export with --dynamic to score whole images)"
            )
        else:
            name = "dense" if len(scales or built_for) == 1 else "multiscale"
    if name not in PROTOCOL_KINDS:
        raise UsageError(f"protocol is {name!r}; expected {either(PROTOCOLS)}")
    kind = PROTOCOL_KINDS[name]
    if kind.whole and not free_size:
        raise UsageError(
            f"protocol {name} scores whole images, but this model takes only one size: export it with --dynamic, "
            "or use --protocol center"
        )
    if kind.cropped and free_size and manifest.spec is None:
        raise UsageError(
            f"protocol {name} needs the network's crop, which a model without a manifest does not state: "
            "use --protocol dense"
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
    kind = PROTOCOL_KINDS[name]
    if built_for and kind.whole and not kind.one_scale:
        return built_for
    if built_for and kind.whole:
        default = single_scale_default(manifest.train_scale)
        return (default if default in built_for else built_for[len(built_for) // 2],)
    if manifest.spec is None and kind.whole:
        raise UsageError(
            "the model has no manifest, so its training scale S is unknown: give --scales, such as --scales 256"
        )
    if not isinstance(kind.scales, str):
        return tuple(round(scale * manifest.crop / PAPER_CROP) for scale in kind.scales)
    if kind.one_scale:
        defaults: tuple[int, ...] = (single_scale_default(manifest.train_scale),)
    else:
        defaults = multiscale_defaults(manifest.train_scale, manifest.crop)
    small = [str(scale) for scale in defaults if scale < manifest.crop]
    scales = tuple(sorted({max(scale, manifest.crop) for scale in defaults}))
    if small:
        instead = f"Q={scales[0]} is scored" if len(scales) == 1 else f"Q={','.join(map(str, scales))} are averaged"
        notices.append(
            f"{name}: the default Q={','.join(small)} is below the network's crop of {manifest.crop}; {instead} instead"
        )
    return scales


def _check_scales(name: str, scales: tuple[int, ...], crop: int) -> None:
    small = [scale for scale in scales if scale < crop]
    if small:
        raise UsageError(
            f"scale {small[0]} is below the network's crop of {crop}, so fc6 would see less than in training; "
            f"give {crop} or more"
        )
    if len(set(scales)) != len(scales) or not scales:
        raise UsageError(f"scales are {','.join(map(str, scales)) or 'empty'}; expected different whole numbers")
    if PROTOCOL_KINDS[name].one_scale and len(scales) > 1:
        several = {"50-crop": "150-crop"}.get(name, "multiscale")
        raise UsageError(f"protocol {name} takes one scale, but {len(scales)} were given; use --protocol {several}")
