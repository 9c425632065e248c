"""The shape of a batch of images."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.errors import UsageError
from vgg_deploy.network.spec import NetworkSpec


@dataclass(frozen=True, slots=True)
class BatchShape:
    """A batch of images of one size: how many images, and their height and width in pixels."""

    images: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.images, self.height, self.width) < 1:
            raise UsageError(f"a shape is {self}; expected NxHxW of at least 1 each, such as 1x224x224")

    def __str__(self) -> str:
        return f"{self.images}x{self.height}x{self.width}"

    @staticmethod
    def parse(text: str) -> BatchShape:
        """'8x224x224' -> 8 images of 224 rows and 224 columns.

        Raises:
            UsageError: anything else.
        """
        numbers = text.strip().lower().split("x")
        if len(numbers) != 3 or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise UsageError(f"a shape is {text!r}; expected NxHxW: images, rows and columns, such as 1x224x224")
        return BatchShape(*map(int, numbers))

    def gflop(self, spec: NetworkSpec) -> float:
        """Work of one batch in 1e9 operations: two (a multiplication and an addition) per multiply-accumulate of the
        spec.

        VGG-16 at 224x224: 30.9. This is the work of the network as the paper defines it. Our files do less: they run
        fc8 once, on the mean over positions.

        Raises:
            UsageError: the shape is smaller than the network's crop.
        """
        return 2 * self.images * spec.macs(self.height, self.width) / 1e9
