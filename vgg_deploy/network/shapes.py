"""The image batches that an artifact accepts: ranges of batch, height and width, and the profiles of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.errors import UsageError

Shape = tuple[int, int, int]  # batch, height, width


@dataclass(frozen=True, slots=True)
class AxisRange:
    """Whole numbers from `minimum` to `maximum`, both included. A maximum of None means no limit."""

    minimum: int
    maximum: int | None = None

    def __post_init__(self) -> None:
        if self.minimum < 1 or (self.maximum is not None and self.maximum < self.minimum):
            raise UsageError(f"a size range is {self.minimum}..{self.maximum}; expected 1 <= minimum <= maximum")

    def accepts(self, size: int) -> bool:
        return size >= self.minimum and (self.maximum is None or size <= self.maximum)

    @property
    def fixed(self) -> bool:
        return self.minimum == self.maximum

    def __str__(self) -> str:
        if self.fixed:
            return str(self.minimum)
        return f"{self.minimum}.." + ("" if self.maximum is None else str(self.maximum))


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The image batches that an artifact accepts: N x H x W x 3."""

    batch: AxisRange
    height: AxisRange
    width: AxisRange

    def accepts(self, batch: int, height: int, width: int) -> bool:
        return self.batch.accepts(batch) and self.height.accepts(height) and self.width.accepts(width)

    @property
    def free(self) -> bool:
        """Whether height and width are dynamic, so that whole images fit (dense evaluation)."""
        return not (self.height.fixed or self.width.fixed)

    def __str__(self) -> str:
        return f"{self.batch} x {self.height} x {self.width} x 3"


@dataclass(frozen=True, slots=True)
class Profile:
    """The batches that one optimization profile of a plan accepts: N x H x W x 3, from `minimum` to `maximum`.

    Attributes:
        scales: the test scales Q that it serves; empty if the model accepts only one size.
        minimum, maximum: the smallest and largest batch, height and width, each separately.
        optimum: the shape for which TensorRT chooses kernels.
    """

    scales: tuple[int, ...]
    minimum: Shape
    optimum: Shape
    maximum: Shape

    def accepts(self, shape: Shape) -> bool:
        return all(low <= size <= high for low, size, high in zip(self.minimum, shape, self.maximum, strict=True))

    @property
    def shapes(self) -> ShapeRange:
        batch, height, width = (AxisRange(*ends) for ends in zip(self.minimum, self.maximum, strict=True))
        return ShapeRange(batch, height, width)

    def __str__(self) -> str:
        name = f"Q={','.join(map(str, self.scales))}: " if self.scales else ""
        return f"{name}{self.shapes}"


def shapes_of(profiles: tuple[Profile, ...]) -> ShapeRange:
    """The smallest range that contains every profile. A shape in this range may still be in no profile."""
    lows = (min(profile.minimum[axis] for profile in profiles) for axis in range(3))
    highs = (max(profile.maximum[axis] for profile in profiles) for axis in range(3))
    return ShapeRange(*(AxisRange(low, high) for low, high in zip(lows, highs, strict=True)))


@dataclass(frozen=True, slots=True)
class PlanProfiles:
    """What an engine needs to know about its plan.

    Attributes:
        name: the plan's file name, for messages.
        profiles: its optimization profiles, in the plan's order.
        command: the command that built it; messages adapt it to build a plan for another shape.
    """

    name: str
    profiles: tuple[Profile, ...]
    command: str
