"""Proof 4: the file gives the answers of the pipeline that the network was trained with.

Only the user's own pipeline can show this. A reference that takes its normalization from the file, or from the same
options, shares every misreading with it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from export.proof.pipeline.blind_spots import BlindSpots
from export.proof.pipeline.comparison import SMALLEST, WitnessComparison, compared
from export.proof.pipeline.witness import Witness
from export.proof.pipeline.witness_rows import Rows
from vgg_deploy.errors import UsageError, counted
from vgg_deploy.evaluation.proof import PIPELINE, Proof, Table
from vgg_deploy.inference.compatibility import view_refusal
from vgg_deploy.inference.engine import Engine, EngineInfo
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.protocols import Protocol, choose_protocol

# More than another rescaling filter makes.
UNEXPLAINED_SCORE_ERROR = 0.35
# Differences of exact pixels below this also come from TF32 or FP16 on a GPU.
REDUCED_PRECISION = 0.03

MOST_NAMED = 8  # images that differ most, in reports and to try other readings on


def prove_witness(
    engine: Engine,
    witness: Witness,
    artifact: str,
    protocol: Protocol | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Proof:
    """Compares an engine's answers with those of the user's own pipeline.

    Args:
        engine: runs the file that is judged.
        witness: what the pipeline answers.
        artifact: the name of the file, for the report.
        protocol: how image files are scored; None: the central crop. Exact pixels are one view each, as they are.
        progress: called after each image.

    Raises:
        UsageError: a protocol for exact pixels; an image or a protocol that the engine does not accept; answers for
            other classes.
    """
    began = time.perf_counter()
    expected, reordered = witness.ordered(engine.info.manifest.classes)
    protocol = chosen_protocol(engine.info, witness, protocol)
    answers = answers_of(engine, witness, protocol, range(len(expected)), progress)
    against = f"{witness.source.name} (columns ordered by name)" if reordered else witness.source.name
    kept = list(answers.rows)
    lost = tuple(f"{name}: {reason}" for name, reason in answers.failures.items())
    if not kept:
        return Proof(
            number=PIPELINE,
            artifact=artifact,
            against=against,
            summary=f"none of {counted(len(expected), 'image')} has an answer",
            failures=lost[:MOST_NAMED],
            seconds=time.perf_counter() - began,
        )
    names = [witness.names[index] for index in kept]
    received = np.stack([answers.rows[index] for index in kept])  # [n, classes]
    result = compared(engine.info, expected[kept], received, names, exact=witness.exact)
    per_image = np.abs(np.exp(expected[kept]) - received).max(axis=1)  # [n]
    worst = np.argsort(-np.nan_to_num(per_image, nan=math.inf), kind="stable")[:MOST_NAMED].tolist()
    failures = list(lost[:MOST_NAMED])
    if result.failures:
        failures.append(f"the answers differ from {witness.source.name}: {'; '.join(result.failures)}")
        failures.append(_explanation(engine.info, witness, result, expected[kept], received))
    spots = BlindSpots.of(witness, kept)
    kind = counted(len(kept), "exact image" if protocol is None else "image")
    if protocol is not None:
        kind += f", {protocol.name}"
    tables = (_table_of_figures(result), _table_of_images(engine.info, names, worst, expected[kept], received))
    return Proof(
        number=PIPELINE,
        artifact=artifact,
        against=against,
        summary=f"{kind}, max |dp| {result.parity.max_dp:.1e}{spots.remark}",
        failures=tuple(failures),
        tables=tables if spots.table is None else (*tables, spots.table),
        figures={
            "images": len(kept),
            "exact": witness.exact,
            "protocol": None if protocol is None else str(protocol),
            "precision": engine.info.lowest,
            "coloured": spots.coloured,
            "labels_shown": spots.labelled,
            "columns_reordered": reordered,
            "max_dp": result.parity.max_dp,
            "mean_dp": result.parity.mean_dp,
            "divergence": result.parity.divergence,
            "agreement": result.parity.agreement,
            "score_error": result.score_error,
            "floor": result.floor,
            "limits": {name: getattr(result.limits.parity, name) for name in _LIMITED}
            | {"score_error": result.limits.score_error},
            "flips": [dataclasses.asdict(flip) for flip in result.parity.flips],
            "worst": [kept[position] for position in worst],
        },
        seconds=time.perf_counter() - began,
    )


_LIMITED = ("max_dp", "mean_dp", "divergence", "agreement")


def chosen_protocol(info: EngineInfo, witness: Witness, protocol: Protocol | None) -> Protocol | None:
    """The protocol for image files: by default the central crop. None for exact pixels.

    Raises:
        UsageError: a protocol for exact pixels.
    """
    if not witness.exact:
        return protocol or choose_protocol(info.manifest, "center", free_size=info.shapes.free).protocol
    if protocol is not None:
        raise UsageError(
            f"{witness.source} has the exact pixels that the network sees, so protocol {protocol.name} does not apply: "
            "leave it out, or give paths instead of images"
        )
    return None


@dataclass(frozen=True, slots=True)
class EngineAnswers:
    """Posteriors float32 [classes] by the index of an image, and by name why an image has none."""

    rows: dict[int, Floats]
    failures: dict[str, str]


def answers_of(
    engine: Engine,
    witness: Witness,
    protocol: Protocol | None,
    indices: Sequence[int],
    progress: Callable[[], None] = lambda: None,
) -> EngineAnswers:
    """An engine's answers for some images of the witness.

    Raises:
        UsageError: the engine does not accept an exact image, or the protocol.
    """
    answers = EngineAnswers({}, {})
    if protocol is None:
        for index in indices:
            answers.rows[index] = _answer(engine, witness, index)
            progress()
        return answers
    paths = [witness.paths[index] for index in indices]
    for index, result in zip(indices, predict(engine, paths, protocol), strict=True):
        if isinstance(result, Failure):
            answers.failures[witness.names[index]] = result.reason
        else:
            answers.rows[index] = result.probabilities
        progress()
    return answers


def _answer(engine: Engine, witness: Witness, index: int) -> Floats:
    pixels = witness.images[index]  # [h, w, 3]
    height, width = pixels.shape[:2]
    refusal = view_refusal(engine.info, height, width)
    if refusal is not None:
        raise UsageError(
            f"{witness.source}: image {index} is used as it is, and {refusal}. Save the pixels that your network sees, "
            "after rescaling and cropping, or export with --dynamic"
        )
    batch: Images = np.zeros((engine.info.shapes.batch.minimum, *pixels.shape), np.uint8)  # [n, h, w, 3]
    batch[0] = pixels
    row: Floats = engine.run(batch).probabilities[0]
    return row


def _explanation(
    info: EngineInfo, witness: Witness, result: WitnessComparison, expected: Rows, received: Floats
) -> str:
    """What a difference may come from, and what to do."""
    order = _other_order(info, witness, expected, received)
    if order is not None:
        return order
    parity = result.parity
    probe = "vgg-deploy probe ranks the readings of its weights on labelled images"
    if not math.isfinite(parity.max_dp):
        return "the model gives NaN: its weights are damaged, or FP16 overflowed"
    if not witness.exact and result.score_error <= UNEXPLAINED_SCORE_ERROR:
        return (
            "not clear: another rescaling filter does this, and so does a slightly wrong normalization. Save the exact "
            "pixels as images instead of paths"
        )
    crop = info.manifest.crop
    if any(max(pixels.shape[:2]) > crop for pixels in witness.images):
        return (
            f"some images are larger than the crop of {crop}. There FC layers behind adaptive pooling answer otherwise "
            f"than a dense network: save crops of {crop}x{crop}"
        )
    if witness.exact and parity.max_dp <= REDUCED_PRECISION and parity.agreement == 1:
        return (
            "so small a difference comes from a slightly wrong mean or std, or from TF32, FP16 or rounded figures in "
            "your pipeline: write the answers in float32 on a CPU. If it stays, the normalization differs"
        )
    return f"this network sees other pixels, or is another network: check normalization, channel order; {probe}"


def _other_order(info: EngineInfo, witness: Witness, expected: Rows, received: Floats) -> str | None:
    """Says so if the same posteriors come in another order of the classes."""
    before = np.exp(expected)  # [n, classes]
    distance = np.stack([np.abs(before - column[:, None]).max(axis=0) for column in received.T])  # [classes, columns]
    order = distance.argmin(axis=1)  # [classes], the column that has the posteriors of each class
    if len(set(order.tolist())) < len(order) or (order == np.arange(len(order))).all():
        return None
    names = [str(index) for index in range(len(received))]
    if compared(info, expected[:, order], received, names, exact=witness.exact).failures:
        return None
    first = int((order != np.arange(len(order))).argmax())
    label = info.manifest.classes[first].label
    named = "" if label == str(first) else f", {label}"
    return (
        f"the answers agree in another order of the classes: column {int(order[first])} has the answers of class "
        f"{first}{named}. Name the columns, or export with --labels in the right order"
    )


def _table_of_figures(result: WitnessComparison) -> Table:
    parity, limits = result.parity, result.limits
    rows = [(name, f"{getattr(parity, name):.3g}", f"{getattr(limits.parity, name):g}") for name in _LIMITED]
    rows.append(("score_error", f"{result.score_error:.3g}", f"{limits.score_error:g}"))
    title = "answers beside those of your pipeline"
    if result.floor > SMALLEST:
        title += f" (rounded: posteriors below {result.floor:.0e} count as that)"
    return Table(title, ("figure", "value", "limit"), tuple(rows))


def _table_of_images(
    info: EngineInfo, names: Sequence[str], worst: Sequence[int], expected: Rows, received: Floats
) -> Table:
    rows = []
    before = np.exp(expected)
    for position in worst:
        tops = [(rows_of[position].argmax(), rows_of[position].max()) for rows_of in (before, received)]
        cells = [f"{info.manifest.classes[top].label} {probability:.4f}" for top, probability in tops]
        rows.append((names[position], *cells, f"{np.abs(before[position] - received[position]).max():.1e}"))
    columns = ("image", "your pipeline", "this file", "max |dp|")
    return Table("images that differ most", columns, tuple(rows), text_columns=(0, 1, 2))
