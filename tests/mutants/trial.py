"""Makes the files of one network in every form, damages them, and judges each mutant."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from export.proof.views import read_views
from tests.mutants.artifacts import FORMS, Network, write, write_plan
from tests.mutants.file_judges import FileJudges, Subject
from tests.mutants.judgement import Judgement
from tests.mutants.mutants import chosen, of_external, of_onnx, of_plan
from tests.mutants.unchanged import Healthy
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.errors import EngineError, UsageError
from vgg_deploy.evaluation.proof import Proof

if TYPE_CHECKING:
    from tests.mutants.runtime_judges import RuntimeJudges

REFERENCE = "onnxruntime"  # it runs every file
FILE = "file"  # instead of a runtime: the judges that need none


@dataclass(frozen=True, slots=True)
class Judged:
    """A judgement, with where it belongs in a report.

    Attributes:
        precision: fp32, fp16, int8 tensorrt, int8 onnxruntime, int8 tensorrt+fp16 or plan.
        form: of the file.
        runtime: a runtime's name, or FILE.
        judgement: the judgement.
    """

    precision: str
    form: str
    runtime: str
    judgement: Judgement


class Trial:
    """Judges the mutants of one network.

    Attributes:
        healthy: the proofs of the healthy files, by form and runtime.

    Args:
        network: the network.
        folder: an empty folder to work in.
        runtimes: in which the damaged files are computed.
        views: how many images become views.
    """

    def __init__(self, network: Network, folder: Path, runtimes: Sequence[str], *, views: int) -> None:
        self._network, self._folder, self._runtimes = network, folder, runtimes
        reference = self._written("fp32")
        chosen = network.images[:views]
        self._subject = Subject(network, reference, read_views(chosen, read_manifest(reference)))
        self._files = FileJudges(self._subject)
        self.healthy: dict[tuple[str, str], list[Proof]] = {}

    def _written(self, form: str) -> Path:
        path = self._folder / form / "model.onnx"
        if not path.exists():
            path.parent.mkdir()
            write(self._network, FORMS[form], path)
        return path

    def file_proof(self, name: str) -> Proof:
        """Proof 1 of the healthy file of a form."""
        return self._files.proof(self._written(name))

    def healthy_proofs(self, name: str, runtime: str) -> tuple[Proof, Proof]:
        """Proofs 2 and 3 of the healthy file of a form in a runtime."""
        from tests.mutants.runtime_judges import RuntimeJudges

        return RuntimeJudges(self._subject_of(name), self._written(name), runtime).healthy

    def _subject_of(self, name: str) -> Subject:
        """The network, with a reference that gives class scores on the same grid as a form."""
        return replace(self._subject, reference=self._written("fp32 fine" if FORMS[name].fine else "fp32"))

    def form(self, name: str, only: Collection[str] | None = None) -> Iterator[Judged]:
        """Judges the mutants of one form; `only` names some damages."""
        form, healthy = FORMS[name], self._written(name)
        self.healthy[name, FILE] = [self.file_proof(name)]
        work = self._workplace()
        if form.external_data:
            for mutant in of_external(healthy, work):
                yield Judged(form.precision, name, FILE, self._files.judgement(mutant))
            return
        judges = dict(self._opened(name, healthy))
        answers = {runtime: Healthy(healthy, self._subject.views, runtime) for runtime in (REFERENCE, *judges)}
        for mutant in of_onnx(healthy, work, chosen(only, form.groups)):
            judgement = answers[REFERENCE].completed(self._files.judgement(mutant), mutant)
            yield Judged(form.precision, name, FILE, judgement)
            for runtime, judge in judges.items():
                judgement = answers[runtime].completed(judge.judgement(mutant), mutant)
                yield Judged(form.precision, name, runtime, judgement)
        if name != "fp32":
            shutil.rmtree(healthy.parent)

    def plan(self) -> Iterator[Judged]:
        """Builds a plan of the FP16 file, and judges damages of it and of its sidecar."""
        plan = write_plan(self._written("fp16"), self._written("fp16").parent)
        self.healthy["plan", FILE] = [self._files.proof(plan)]
        for mutant in of_plan(plan, self._workplace()):
            yield Judged("plan", "plan", FILE, self._files.judgement(mutant))

    def _opened(self, name: str, healthy: Path) -> Iterator[tuple[str, RuntimeJudges]]:
        for runtime in self._runtimes:
            from tests.mutants.runtime_judges import RuntimeJudges

            try:
                judges = RuntimeJudges(self._subject_of(name), healthy, runtime)
            except (UsageError, EngineError):  # such as INT8 in ncnn
                continue
            self.healthy[name, runtime] = list(judges.healthy)
            yield runtime, judges

    def _workplace(self) -> Path:
        work = self._folder / "mutants"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        return work
