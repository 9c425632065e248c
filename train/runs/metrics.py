"""Loss and accuracy: of a pass over a set, of an epoch, and as sums during a pass."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of one pass over a set.

    Attributes:
        loss: mean cross-entropy in nats.
        top1, top5: fraction of images, 0..1, whose class has the highest score, or one of the five highest.
    """

    loss: float
    top1: float
    top5: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One entry of a run's history.

    Attributes:
        number: the epoch's number, from 1.
        steps: the number of steps since the start of the training.
        train: metrics on the random crops, with dropout, while the weights changed.
        val: metrics on the central crops, after the epoch.
        seconds: duration of training and validation.
        images_per_s: speed of training.
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
            f"{self.train.top1:7.2%}  val loss {self.val.loss:.4f} top-1 {self.val.top1:7.2%} top-5 "
            f"{self.val.top5:7.2%}  {self.images_per_s:,.0f} images/s"
        )


@dataclass(frozen=True, slots=True)
class MetricSums:
    """Sums over the images of a pass so far.

    Attributes:
        loss: sum of the images' cross-entropies.
        first, first_five: images whose class had the highest score, or one of the five highest.
        seconds: duration of the pass so far.
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

    def metrics(self) -> Metrics:
        return Metrics(self.loss / self.images, self.first / self.images, self.first_five / self.images)


NOTHING = MetricSums()
