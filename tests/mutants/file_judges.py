"""Judges that look at a damaged file: alone, and beside the source of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.proof.file.source import SourceWeights, prove_source
from export.proof.views import ComparisonViews
from tests.mutants.artifacts import Network
from tests.mutants.damage import INSPECT, SOURCE, STATIC
from tests.mutants.judgement import Judgement, found_by
from tests.mutants.mutants import Mutant
from train.network.checkpoint import read
from vgg_deploy.artifacts.integrity import examine
from vgg_deploy.evaluation.proof import Proof


@dataclass(frozen=True, slots=True)
class Subject:
    """What the mutants of one network are judged with.

    Attributes:
        network: the network.
        reference: its FP32 file.
        views: of its images, for posteriors.
        layer_views: how many of the views are taken for single layers.
    """

    network: Network
    reference: Path
    views: ComparisonViews
    layer_views: int = 2

    def source(self) -> SourceWeights:
        facts = self.network.facts
        return SourceWeights.from_checkpoint(read(self.network.checkpoint, facts), facts)


class FileJudges:
    """The judges that look at files and need no runtime."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source()

    def judgement(self, mutant: Mutant) -> Judgement:
        found = {
            INSPECT: found_by(lambda: examine(mutant.path).contradictions),
            STATIC: found_by(lambda: examine(mutant.forgotten).contradictions),
            SOURCE: found_by(lambda: prove_source(mutant.forgotten, self._source, examine).failures),
        }
        return Judgement(mutant.name, found, mutant.caught & found.keys())

    def proof(self, healthy: Path) -> Proof:
        """Proof 1 of the healthy file."""
        return prove_source(healthy, self._source, examine)
