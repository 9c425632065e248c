"""The four proofs of a file, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.cli.tables import progress
from vgg_deploy.cli.verify.reference import Opener, Reference
from vgg_deploy.errors import EngineError, ManifestError, ModelFileError, PlanError
from vgg_deploy.evaluation.proof import ANSWERS, LAYERS, Proof

if TYPE_CHECKING:
    from export.proof.answers import Answers
    from vgg_deploy.inference.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Proving:
    """Makes the proofs of files.

    Attributes:
        opener: opens the files.
        reference: what they are compared with.
        answers: compares their answers with those of the reference.
        runtimes: the runtime of each file that was run, by its name.
    """

    opener: Opener
    reference: Reference
    answers: Answers
    runtimes: dict[str, str] = field(default_factory=dict)

    def forms(self) -> Iterator[Proof]:
        """The proof that both forms of a checkpoint give the same answers."""
        if self.reference.fc is not None:
            with progress("comparing the two forms", None, lines=True) as advance:
                yield self.answers.form(self.reference.fc, "FC form", advance)

    def of(self, path: Path) -> Iterator[Proof]:
        """The proofs of a file. A file that cannot be opened fails those that run it."""
        try:
            engine = self.opener.judged(path)
        except (ModelFileError, ManifestError, PlanError, EngineError) as error:
            for number in (LAYERS, ANSWERS):
                yield Proof(
                    number=number,
                    artifact=path.name,
                    against=self.reference.path.name,
                    summary="it cannot be run",
                    failures=(str(error),),
                )
            return
        with engine:
            self.runtimes[path.name] = engine.info.runtime
            yield self._answers(path, engine)

    def _answers(self, path: Path, engine: Engine) -> Proof:
        with progress(f"{path.name}: answers", self.answers.steps(path, engine), lines=True) as advance:
            return self.answers.file(path, engine, advance)
