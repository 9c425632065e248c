"""The figures of a training: of a pass over a set, of an epoch, and their sums while they grow."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Metrics:
    """Of one pass over a set: mean cross-entropy in nats, and the fraction of images, 0..1, whose class is the first, or
    among the first five, of the network's answer."""

    loss: float
    top1: float
    top5: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of history.

    Attributes:
        number: from 1.
        steps: since the beginning.
        train: on the random crops, with dropout, while the weights moved.
        val: on the central crops, after the epoch.
        seconds: of training and validation.
        images_per_s: while training.
    """

    number: int
    steps: int
    learning_rate: float
    train: Metrics
    val: Metrics
    seconds: float
    images_per_s: float

    def __str__(self) -> str:
        return (
            f"epoch {self.number:2}  lr {self.learning_rate:g}  train loss {self.train.loss:.4f} top-1 "
            f"{self.train.top1:7.2%}  val loss {self.val.loss:.4f} top-1 {self.val.top1:7.2%} top-5 {self.val.top5:7.2%}  "
            f"{self.images_per_s:,.0f} images/s"
        )


@dataclass(frozen=True, slots=True)
class MetricSums:
    """Sums over the images of a pass so far.

    Attributes:
        loss: of the images' cross-entropies.
        first, first_five: images whose class was the answer's first, or among its first five.
        seconds: that the pass took.
    """

    images: int = 0
    loss: float = 0.0
    first: int = 0
    first_five: int = 0
    seconds: float = 0.0

    def plus(self, images: int, loss: float, first: float, first_five: float) -> MetricSums:
        return replace(
            self,
            images=self.images + images,
            loss=self.loss + loss,
            first=self.first + int(first),
            first_five=self.first_five + int(first_five),
        )

    def figures(self) -> Metrics:
        return Metrics(self.loss / self.images, self.first / self.images, self.first_five / self.images)


NOTHING = MetricSums()
