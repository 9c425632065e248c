"""Judges that compute a damaged file in a runtime, as if the runtime miscomputed the healthy one."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from engines import open_engine, open_piece
from export.proof.answers.fidelity import Fidelity, fidelity_of
from export.proof.answers.proof import Answers
from export.proof.layers.pieces import CutFile
from export.proof.layers.proof import PieceRuntime, prove_layers
from export.proof.layers.simulation import Simulation
from tests.mutants.damage import ANSWERS, LAYERS, SIMULATED
from tests.mutants.fault import Fault, OpenPiece, Remembered
from tests.mutants.file_judges import Subject
from tests.mutants.judgement import Judgement, found_by
from tests.mutants.mutants import Mutant
from vgg_deploy.evaluation.parity import posteriors
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.engine_options import EngineOptions


class RuntimeJudges:
    """The judges that compute the damaged file in a runtime, beside the healthy one.

    Args:
        subject: the network.
        healthy: the healthy file.
        runtime: onnxruntime, openvino or ncnn.
    """

    def __init__(self, subject: Subject, healthy: Path, runtime: str) -> None:
        self._subject, self._healthy, self._runtime = subject, healthy, runtime
        self._options = EngineOptions(runtime=runtime)
        self._reference = open_engine(subject.reference, runtime="onnxruntime")
        self._answers = Answers(self._reference, "the FP32 file", subject.views, self._open_rounding)
        with self._open(healthy) as engine:
            self._info = engine.info
        self._few = subject.views.few(self._info.shapes.free)
        self._cut = CutFile(healthy)
        self._remembered = Remembered(lambda piece: open_piece(piece, self._options, runtime))

    def judgement(self, mutant: Mutant) -> Judgement:
        """Judges a mutant; nothing is found of damages that no runtime can cause."""
        fault, found = mutant.fault, {}
        if fault is not None:
            found = {
                LAYERS: found_by(lambda: self._layers(Fault(fault, self._cut, self._remembered))[0].failures),
                SIMULATED: found_by(lambda: self._fidelity(mutant.forgotten).failures),
                ANSWERS: found_by(lambda: self._answered(mutant.forgotten, None).failures),
            }
        return Judgement(mutant.name, found, mutant.caught & found.keys())

    @cached_property
    def healthy(self) -> tuple[Proof, Proof]:
        """Proofs 2 and 3 of the healthy file."""
        layers, simulation = self._proved
        return layers, self._answered(self._healthy, simulation)

    @cached_property
    def _proved(self) -> tuple[Proof, Simulation | None]:
        return self._layers(self._remembered)

    def _layers(self, opener: OpenPiece) -> tuple[Proof, Simulation | None]:
        """Proof 2 of the healthy file, with pieces from `opener`."""
        runtime = PieceRuntime(open=opener, version=self._info.runtime, bf16=self._info.bf16)
        return prove_layers(self._healthy, self._few, runtime)

    def _fidelity(self, path: Path) -> Fidelity:
        """A file's answers beside the exact answers of the healthy one."""
        _, simulation = self._proved
        assert simulation is not None
        with self._open(path) as engine:
            return fidelity_of(self._info, simulation, posteriors(engine, self._few))

    def _answered(self, path: Path, simulation: Simulation | None) -> Proof:
        """Proof 3 of a file."""
        with self._open(path) as engine:
            return self._answers.file(path, engine, simulation)

    def _open(self, path: Path) -> Engine:
        return open_engine(path, runtime=self._runtime)

    def _open_rounding(self, path: Path) -> Engine:
        return open_engine(path, runtime="onnxruntime")
