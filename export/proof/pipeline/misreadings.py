"""Other readings of a file's pixels: which of them gives the answers of the user's own pipeline.

Each reading is the file with other constants in front of its first convolution, so the pixels are exact in every
reading: exchanging the channels of the images instead would exchange those of the mean too.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.proof.pipeline.comparison import WitnessComparison, compared
from export.proof.pipeline.proof import UNEXPLAINED_SCORE_ERROR, answers_of, chosen_protocol
from export.proof.pipeline.witness import Witness
from vgg_deploy.artifacts.kinds import ONNX, kind_of
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.manifest import BGR, NORMALIZATIONS, RGB, Manifest, Normalization
from vgg_deploy.network.normalization_options import normalization_options
from vgg_deploy.network.precision import FLOAT32
from vgg_deploy.views.protocols import Protocol

# Names in our graphs; see export/graph.py.
_MEAN, _STD, _SUBTRACT, _DIVIDE = "mean_rgb", "std_rgb", "subtract_mean", "divide_std"
_FIRST_WEIGHTS = ("conv1_1.weight", "conv1_1.weight.integers")

_AGREES = "another reading of the pixels agrees"
_LARGE = 100_000  # bytes; the weights of conv1_1 are smaller at every width
_TRIED = 4  # images on which each reading is tried
_NEARER = 2  # a reading that does not agree is named if its score error is this many times smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Misreading:
    """How the pixels may be meant.

    Attributes:
        normalization: in the order R, G, B of the pixels.
        exchanged: whether the input channels of conv1_1 are reversed.
        remedy: what to do if this reading is right.
    """

    normalization: Normalization
    exchanged: bool
    remedy: str


def misreadings(manifest: Manifest) -> Iterator[Misreading]:
    """The usual readings of the pixels, without the file's own."""
    own = manifest.normalization
    if own is None:
        return
    here, other = (BGR, RGB) if manifest.channels_reversed else (RGB, BGR)
    same = " ".join(normalization_options(own))
    yield Misreading(normalization=own, exchanged=True, remedy=f"export with {same} --channels {other}")
    turned = Normalization(_reversed(own.mean), _reversed(own.std))
    if turned != own:
        options = " ".join(normalization_options(turned))
        yield Misreading(
            normalization=turned,
            exchanged=True,
            remedy=f"the images reach the network in BGR, so give RGB; or export with {options} --channels {other}",
        )
        yield Misreading(
            normalization=turned, exchanged=False, remedy=f"export with {options}: the mean is in the order R,G,B"
        )
    for name, normalization in NORMALIZATIONS.items():
        if normalization == own:
            continue
        for exchanged, channels in ((False, here), (True, other)):
            remedy = f"export with --normalization {name} --channels {channels}"
            yield Misreading(normalization=normalization, exchanged=exchanged, remedy=remedy)


def _reversed(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return values[2], values[1], values[0]


def explained(
    proof: Proof,
    witness: Witness,
    path: Path,
    open_engine: Callable[[Path], Engine],
    protocol: Protocol | None = None,
) -> Proof:
    """The proof with one more line: which other reading of the pixels gives the witness's answers.

    It runs each reading on the few images that differ most.

    Args:
        proof: from `prove_witness`. One that passed, or that has no answers, is returned as it is.
        witness: what the user's pipeline answers.
        path: the file that was judged. A plan, or another exporter's file, is not read otherwise: the proof is returned
            as it is.
        open_engine: opens a copy of the file in the runtime that judged it.
        protocol: that of the proof.
    """
    if not proof.failures or "worst" not in proof.figures or kind_of(path) != ONNX:
        return proof
    manifest = OnnxFile(path).manifest
    if manifest is None or manifest.normalization is None:
        return proof
    indices = list(proof.figures["worst"])[:_TRIED]
    tried: list[tuple[Misreading, WitnessComparison]] = []
    with tempfile.TemporaryDirectory() as folder:
        for reading, copy in _copies(path, manifest, Path(folder)):
            with open_engine(copy) as engine:
                expected, _ = witness.ordered(engine.info.manifest.classes)
                answers = answers_of(engine, witness, chosen_protocol(engine.info, witness, protocol), indices)
                kept = list(answers.rows)
                if kept:
                    received = np.stack([answers.rows[index] for index in kept])  # [n, classes]
                    names = [witness.names[index] for index in kept]
                    result = compared(engine.info, expected[kept], received, names, exact=witness.exact)
                    tried.append((reading, result))
    figures = proof.figures
    best = _best(tried, float(figures["score_error"]), str(figures["precision"]), exact=witness.exact)
    if best is None:
        return proof
    # The last line guesses in general what may be wrong. A reading that agrees says it.
    before = proof.failures[:-1] if best.startswith(_AGREES) else proof.failures
    return dataclasses.replace(proof, failures=(*before, best))


def _best(
    tried: list[tuple[Misreading, WitnessComparison]], before: float, precision: str, *, exact: bool
) -> str | None:
    """What the reading with the smallest score error shows."""
    finite = [item for item in tried if np.isfinite(item[1].score_error)]
    if not finite:
        return None
    reading, result = min(finite, key=lambda item: item[1].score_error)
    figures = f"score error {result.score_error:.1g} instead of {before:.1g}"
    if not result.failures:
        return f"{_AGREES} ({figures}): {reading.remedy}"
    sharp = exact and precision == FLOAT32
    if not sharp and result.score_error <= min(UNEXPLAINED_SCORE_ERROR, before / _NEARER):
        better = "the FP32 export" if exact else "exact pixels"
        return f"another reading is nearer ({figures}); {better} would show whether it is right: {reading.remedy}"
    return (
        f"none of {len(tried)} other readings of the pixels agrees (normalization {', '.join(NORMALIZATIONS)}; RGB or "
        "BGR)"
    )


def _copies(path: Path, manifest: Manifest, folder: Path) -> Iterator[tuple[Misreading, Path]]:
    """A copy of the file for each reading. They share one file of weights."""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = next((constants[name] for name in _FIRST_WEIGHTS if name in constants), None)
    nodes = [node.name for node in model.graph.node]
    if weight is None or _MEAN not in constants or _SUBTRACT not in nodes:
        return
    values = numpy_helper.to_array(weight)  # [out, 3, rows, columns]
    # From here on `model` has no large weights: they are in the second file.
    onnx.save_model(
        model,
        folder / "original.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="weights",
        size_threshold=_LARGE,
    )
    header = onnx.load(folder / "original.onnx", load_external_data=False)
    del model
    for number, reading in enumerate(misreadings(manifest)):
        copy = onnx.ModelProto()
        copy.CopyFrom(header)
        _set_normalization(copy.graph, reading.normalization)
        if reading.exchanged:
            _set(copy.graph, weight.name, np.ascontiguousarray(values[:, ::-1]))
        onnx.save(copy, folder / f"{number}.onnx")
        yield reading, folder / f"{number}.onnx"


def _set_normalization(graph: onnx.GraphProto, normalization: Normalization) -> None:
    _set(graph, _MEAN, np.array(normalization.mean, np.float32))
    std = np.array(normalization.std, np.float32)
    if any(node.name == _DIVIDE for node in graph.node):
        _set(graph, _STD, std)
        return
    place = next(index for index, node in enumerate(graph.node) if node.name == _SUBTRACT)
    before = graph.node[place].output[0]
    for node in graph.node:
        node.input[:] = [_DIVIDE if name == before else name for name in node.input]
    graph.node.insert(place + 1, helper.make_node("Div", [before, _STD], [_DIVIDE], name=_DIVIDE))
    graph.initializer.append(numpy_helper.from_array(std, _STD))


def _set(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    tensor = next(item for item in graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
