"""The four proofs of a file, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.artifacts.kinds import PLAN, kind_of
from vgg_deploy.artifacts.plan import read_plan
from vgg_deploy.cli.tables import progress
from vgg_deploy.cli.verify.reference import OpenedReference, Opener
from vgg_deploy.errors import EngineError, ManifestError, ModelFileError, PlanError
from vgg_deploy.evaluation.proof import ANSWERS, LAYERS, PIPELINE, Proof

if TYPE_CHECKING:
    from export.proof.answers.proof import Answers
    from export.proof.layers.simulation import Simulation
    from export.proof.pipeline.witness import Witness
    from export.proof.views import ComparisonViews
    from vgg_deploy.inference.engine import Engine

NO_IMAGES, NO_EXPECTED = "no --images were given", "no --expected answers: see docs/witness.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proving:
    """Makes the proofs of files.

    Attributes:
        opener: opens the files.
        views: the images that they are run on; None: proofs 2 and 3 are not made.
        reference: what they are compared with; None: their answers are only compared with their exact evaluation.
        answers: compares the answers of files; None without `views`.
        witness: answers of the user's own pipeline, or None.
        protocol: the name of the protocol that the witness used for image files; None: the default.
        runtimes: the runtime of each file that was run, by its name.
    """

    opener: Opener
    views: ComparisonViews | None
    reference: OpenedReference | None
    answers: Answers | None
    witness: Witness | None
    protocol: str | None
    runtimes: dict[str, str] = field(default_factory=dict)

    def forms(self) -> Iterator[Proof]:
        """The proof that both forms of a checkpoint give the same answers."""
        if self.reference is None or self.reference.fc is None or self.answers is None:
            return
        runs = 2 * len(self.views.crops) if self.views is not None else None
        with progress("comparing the two forms", runs, lines=True) as advance:
            proof = self.answers.form(self.reference.engine, self.reference.fc, "FC form", advance)
        yield proof  # after the progress bar is gone

    def of(self, path: Path) -> Iterator[Proof]:
        """The proofs of a file. A file that cannot be opened fails those that run it."""
        from export.proof.file.source import prove_source
        from vgg_deploy.artifacts.integrity import examine

        file = prove_source(path, None if self.reference is None else self.reference.source, examine)
        yield file
        numbers = [*((LAYERS, ANSWERS) if self.views is not None else ()), *((PIPELINE,) if self.witness else ())]
        try:
            engine = self.opener.judged(path) if numbers else None
        except (ModelFileError, ManifestError, PlanError, EngineError) as error:
            for number, why in ((LAYERS, NO_IMAGES), (ANSWERS, NO_IMAGES), (PIPELINE, NO_EXPECTED)):
                text = str(error) if number == numbers[0] else f"see proof {numbers[0]}"
                yield _not_run(number, path, failures=(text,)) if number in numbers else _not_run(number, path, why)
            return
        if engine is None:
            yield _not_run(LAYERS, path, NO_IMAGES)
            yield _not_run(ANSWERS, path, NO_IMAGES)
            yield _not_run(PIPELINE, path, NO_EXPECTED)
            return
        with engine:
            self.runtimes[path.name] = engine.info.runtime
            yield from self._run(path, engine, file)

    def _run(self, path: Path, engine: Engine, file: Proof) -> Iterator[Proof]:
        from export.proof.answers.proof import advice

        if self.views is None or self.answers is None:
            yield _not_run(LAYERS, path, NO_IMAGES)
            yield _not_run(ANSWERS, path, NO_IMAGES)
        else:
            layers, simulation = self._layers(path, engine, self.views)
            yield layers
            with progress(f"{path.name}: answers", self.answers.steps(path, engine), lines=True) as advance:
                answers = self.answers.file(path, engine, simulation, advance)
            yield advice(answers, file)
        if self.witness is None:
            yield _not_run(PIPELINE, path, NO_EXPECTED)
        else:
            yield self._pipeline(path, engine, self.witness)

    def _layers(self, path: Path, engine: Engine, views: ComparisonViews) -> tuple[Proof, Simulation | None]:
        from engines import open_piece
        from export.proof.layers.proof import PieceRuntime, layer_count, no_layers, prove_layers
        from export.proof.layers.simulation import simulate
        from vgg_deploy.artifacts.integrity import onnx_beside

        if engine.info.manifest.spec is None:
            return _not_run(LAYERS, path, "no vgg_deploy manifest names its layers"), None
        few, info = views.few(engine.info.shapes.free), engine.info
        task = f"{path.name}: layers"
        if kind_of(path) == PLAN:
            plan = read_plan(path)
            onnx_path = None if plan is None else onnx_beside(path, plan)
            if onnx_path is None:
                return no_layers(path, info.runtime), None
            with progress(task, layer_count(onnx_path), lines=True) as advance:
                return no_layers(path, info.runtime), simulate(onnx_path, few, advance)
        open_one = partial(open_piece, runtime=info.runtime.partition(" ")[0], options=self.opener.options_for(path))
        runtime = PieceRuntime(open=open_one, version=info.runtime, bf16=info.bf16)
        with progress(task, layer_count(path), lines=True) as advance:
            return prove_layers(path, few, runtime, progress=advance)

    def _pipeline(self, path: Path, engine: Engine, witness: Witness) -> Proof:
        from export.proof.pipeline.misreadings import explained
        from export.proof.pipeline.proof import prove_witness
        from vgg_deploy.views.protocols import choose_protocol

        free = engine.info.shapes.free
        manifest = engine.info.manifest
        chosen = None if self.protocol is None else choose_protocol(manifest, self.protocol, free_size=free).protocol
        with progress(f"{path.name}: expected answers", len(witness.names), lines=True) as advance:
            proof = prove_witness(engine, witness, path.name, chosen, advance)
        if not proof.failures:
            return proof
        with progress(f"{path.name}: other readings of the pixels", None, lines=True):
            return explained(proof, witness, path, self.opener.quietly, chosen)


def _not_run(number: int, path: Path, why: str = "it cannot be run", failures: tuple[str, ...] = ()) -> Proof:
    return Proof(number=number, artifact=path.name, against="", summary=why, shown=bool(failures), failures=failures)
