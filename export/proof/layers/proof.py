"""Proof 2: the runtime computes each layer as the file says.

    prove_layers(path, views, runtime, *, progress, pieces) -> (Proof, Simulation | None)
    layer_count(path) -> how often `progress` is called
    no_layers(path) -> the Proof for a plan; `export.proof.layers.simulation.simulate` simulates its ONNX file

Every layer runs alone, cut from the file itself, on the input that the exact evaluation of the file gives it. Errors do
not pile up from layer to layer, so the limits are those of one layer; see `export.proof.layers.limits`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.proof.layers.chain import Chain, LayerValues
from export.proof.layers.error import ShapeError, error_of
from export.proof.layers.limits import limit_of
from export.proof.layers.pieces import Cut, CutFile
from export.proof.layers.simulation import Simulation, simulation_of
from vgg_deploy.errors import EngineError, ModelFileError, counted
from vgg_deploy.evaluation.parity import NamedView
from vgg_deploy.evaluation.proof import LAYERS, Proof, Table
from vgg_deploy.inference.piece import Piece, PieceModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRuntime:
    """The runtime whose layers are proved.

    Attributes:
        open: opens a piece, such as `engines.open_piece` with the options of the whole file.
        version: name and version, such as "openvino 2026.4.1"; see `EngineInfo.runtime`.
        bf16: whether it computes floating point in bfloat16; see `EngineInfo.bf16`.
    """

    open: Callable[[PieceModel], Piece]
    version: str
    bf16: bool = False

    @property
    def name(self) -> str:
        """onnxruntime, openvino or ncnn."""
        return self.version.partition(" ")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerResult:
    """How far a runtime's output of a layer is from the exact one.

    Attributes:
        layer: its name.
        kind: what it is, such as "Conv float32" or "MaxPool".
        error: the largest error beyond what rounding the output allows, as a share of the layer's largest value.
        limit: for `error`.
        view: the view with the largest error.
        reason: why there is no error: the runtime refused the layer, or its output has another shape.
    """

    layer: str
    kind: str
    error: float
    limit: float
    view: str
    reason: str | None = None

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # false for NaN

    def failure(self, runtime: str) -> str:
        """The failure as text."""
        if self.reason is not None:
            return f"{self.layer}: {self.reason} ({self.view})"
        if not math.isfinite(self.error):
            return f"{self.layer}: the output is {self.error} in {runtime} ({self.view}); try another --runtime"
        return (
            f"{self.layer}: {self.error:.1e} of its largest value in {runtime}, limit {self.limit:g} ({self.view}); "
            "try another --runtime"
        )


@np.errstate(over="ignore", invalid="ignore")  # damaged weights give infinity and NaN, which are compared
def prove_layers(
    path: Path,
    views: Sequence[NamedView],
    runtime: PieceRuntime,
    *,
    progress: Callable[[], None] = lambda: None,
    pieces: Path | None = None,
) -> tuple[Proof, Simulation | None]:
    """Compares each layer of a file in a runtime with its exact evaluation.

    Args:
        path: an ONNX file.
        views: at least one. They run from the largest to the smallest, since a runtime may keep something of a larger
            image.
        runtime: the runtime.
        progress: called after each layer.
        pieces: the file from which the runtime's layers are cut, to show that faults are found; None: `path`.

    Returns:
        the proof, and the exact posteriors of the file; None if it has nodes that cannot be evaluated.
    """
    begin = time.perf_counter()
    results: list[LayerResult] = []
    simulation: Simulation | None = None
    failures: tuple[str, ...]
    try:
        file = CutFile(path)
        judge = _Judge(file, file if pieces is None else CutFile(pieces), runtime, views)
        for cut in judge.chain.cuts:
            results.append(judge.judge(cut))
            progress()
        failures = tuple(result.failure(runtime.version) for result in results if not result.passed)
        simulation = simulation_of(judge.chain, views)
    except ModelFileError as error:
        failures = (str(error),)
    proof = Proof(
        number=LAYERS,
        artifact=path.name,
        against=runtime.version,
        summary=_summary(results, views),
        failures=failures,
        tables=(_table(path, runtime, results),),
        figures={"runtime": runtime.version, "views": len(views), "layers": [asdict(result) for result in results]},
        seconds=time.perf_counter() - begin,
    )
    return proof, simulation


def _summary(results: Sequence[LayerResult], views: Sequence[NamedView]) -> str:
    failed = sum(not result.passed for result in results)
    if failed or not results:
        limits = "its limit" if len(results) == 1 else "their limits"
        return f"{failed} of {counted(len(results), 'layer')} beyond {limits}"
    share = max(result.error / result.limit for result in results)
    return f"{counted(len(results), 'layer')} on {counted(len(views), 'view')}, at most {share:.0%} of a limit"


def layer_count(path: Path) -> int:
    """How many layers `prove_layers` judges: how often it calls `progress`."""
    return len(CutFile(path).cuts)


def no_layers(path: Path, runtime: str) -> Proof:
    """The proof of a plan: nothing is shown."""
    return Proof(
        number=LAYERS,
        artifact=path.name,
        against=runtime,
        summary="a plan has no layers to take",
        shown=False,
        figures={"runtime": runtime, "views": 0, "layers": []},
    )


class _Judge:
    """Runs the layers of one file in a runtime and compares them with the exact values of another."""

    def __init__(self, file: CutFile, pieces: CutFile, runtime: PieceRuntime, views: Sequence[NamedView]) -> None:
        self.chain = Chain(file, views)
        self._file, self._pieces, self._runtime, self._views = file, pieces, runtime, views
        self._order = sorted(range(len(views)), key=lambda view: -views[view].pixels.size)
        self._counterparts = {cut.layer: cut for cut in pieces.cuts}

    def judge(self, cut: Cut) -> LayerResult:
        """Evaluates the next layer on all views."""
        kind = self._file.kind(cut)
        limit = limit_of(self._runtime.name, kind, bf16=self._runtime.bf16).limit
        worst, worst_view, reason = -math.inf, self._views[self._order[0]].name, None
        with ExitStack() as stack:
            piece: Piece | None = None
            try:
                piece = stack.enter_context(self._runtime.open(self._model(cut)))
            except EngineError as refusal:
                reason = f"it cannot run alone, so nothing is shown: {refusal}"
            for view in self._order:
                values = self.chain.advance(cut, view)
                if piece is None or reason is not None or math.isnan(worst):
                    continue
                try:
                    error = self._error(cut, values, piece.run(values.given), limit)
                except (EngineError, ShapeError) as failure:
                    worst_view, reason = self._views[view].name, str(failure)
                    continue
                if not error <= worst:  # true for NaN too
                    worst, worst_view = error, self._views[view].name
        if reason is not None:
            worst = math.nan
        return LayerResult(layer=cut.layer, kind=kind, error=worst, limit=limit, view=worst_view, reason=reason)

    def _model(self, cut: Cut) -> PieceModel:
        if cut.layer not in self._counterparts:
            raise EngineError(f"{self._pieces.path.name} has no such layer")
        return self._pieces.model(self._counterparts[cut.layer])

    def _error(self, cut: Cut, values: LayerValues, received: Any, limit: float) -> float:
        constants = self._file.constants
        error = error_of(received, cut, values.exact, constants)
        for rounding in self.chain.roundings[1:]:
            # Some runtimes compute FP16 in FP32 and do not round what the nodes inside a layer hand to each other.
            if not error <= limit / 10:
                other = error_of(received, cut, self.chain.evaluated(cut, values.given, rounding), constants)
                error = min(error, other)
        return error


def _table(path: Path, runtime: PieceRuntime, results: Sequence[LayerResult]) -> Table:
    return Table(
        title=f"layers of {path.name} in {runtime.version}",
        columns=("layer", "type", "error", "limit", "view"),
        rows=tuple(
            (result.layer, result.kind, f"{result.error:.1e}", f"{result.limit:g}", result.view) for result in results
        ),
        text_columns=(0, 1, 4),
    )
