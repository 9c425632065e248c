"""What `vgg-deploy infer` counts while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgg_deploy.cli.tables import notice

if TYPE_CHECKING:
    from vgg_deploy.inference.results import ImageResult


class Tally:
    """Counts images that were classified or failed and, if the true classes are known, correct predictions."""

    def __init__(self, truth: Sequence[int] | None) -> None:
        """Takes the index of each image's class, in the order of the results; None if unknown."""
        self._truth = None if truth is None else iter(truth)
        self.failed = self._classified = self._top_1 = self._top_5 = 0

    def count(self, result: ImageResult) -> None:
        """Counts the next result or failure."""
        from vgg_deploy.inference.posteriors import top_k
        from vgg_deploy.inference.prediction import Failure

        truth = None if self._truth is None else next(self._truth)
        if isinstance(result, Failure):
            self.failed += 1
            return
        self._classified += 1
        if truth is not None:
            ranks = list(top_k(result.probabilities, 5))
            self._top_1 += ranks[0] == truth
            self._top_5 += truth in ranks

    def report(self) -> None:
        """Prints the counts on stderr."""
        if self._truth is not None and self._classified:
            rates = [
                f"{name} {self._rate(correct)}" for name, correct in (("top-1", self._top_1), ("top-5", self._top_5))
            ]
            notice(f"classes by folder name: {', '.join(rates)}")
        if self.failed:
            notice(f"{self._classified} images classified, {self.failed} failed")

    def _rate(self, correct: int) -> str:
        share = correct / self._classified
        return f"{correct}/{self._classified} correct ({share:.2%}, error {1 - share:.2%})"
