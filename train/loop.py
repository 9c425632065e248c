"""The training loop: SGD with momentum over random crops, a validation and a checkpoint each epoch (section 3.1)."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import PIL
import torch
from rich.console import Console
from torch import Tensor

from train.compute.execution import Execution
from train.compute.processes import ALONE, Processes
from train.compute.progress import progress, say
from train.data.crops import CentreCrops, TrainCrops
from train.data.folder import DataFolder
from train.data.loader import BatchLoader
from train.data.survey import surveyed
from train.initialisation import initial_weights
from train.learner import Learner, torch_errors
from train.network.checkpoint import save
from train.network.model import VGG
from train.recipe import Recipe
from train.runs.curves import draw
from train.runs.metrics import Epoch, Metrics, MetricSums
from train.runs.metrics_log import MetricsLog
from train.runs.run import TrainingRun
from train.runs.state import Position, State
from vgg_deploy.errors import TrainingError
from vgg_deploy.network.manifest import Manifest, Normalization, Rescaling
from vgg_deploy.version import __version__

GPU_STEPS_A_LOOK = 20  # a look at the loss makes a GPU wait; on the CPU it costs nothing, and each step is looked at
CURVES_INTERVAL_S = 60.0  # between drawings while training goes on


@dataclass(slots=True)
class _Session:
    """What stays the same while a network is trained."""

    recipe: Recipe
    data: DataFolder
    run: TrainingRun | None  # None: another process writes
    execution: Execution
    processes: Processes
    console: Console
    metrics: MetricsLog | None
    crops: BatchLoader
    centres: BatchLoader
    saved: float = 0.0  # when the state was, on the clock of time.monotonic
    drawn: float = 0.0


def train(
    recipe: Recipe,
    data: DataFolder,
    run: TrainingRun | None,
    execution: Execution,
    console: Console,
    *,
    processes: Processes = ALONE,
    surveys: Path | None = None,
    tensorboard: bool = False,
) -> Epoch:
    """Trains a network and gives the best epoch, whose weights `run.best` holds; `run.last` holds the last epoch's.

    A run that has a state goes on from there. On one machine's CPU, with as many threads, the result depends on the recipe
    and the data only: not on where it was stopped, nor on the number of workers; and but for rounding, not on processes and
    micro-batches.

    Args:
        run: gets checkpoints and figures; None in all processes but the first.
        console: gets progress and a line an epoch.
        surveys: the folder in which the colours of training sets are kept; None: they are not.
        tensorboard: whether to write TensorBoard's files into the run.

    Raises:
        UsageError: the initial weights are missing or do not fit.
        ImageError: an image is broken; names its file.
        TrainingError: the loss became NaN or infinite, memory ran out, or a data worker died.
        OutputError: a checkpoint or run.json cannot be written.
    """
    rescaling = Rescaling()
    found = processes.agreed(lambda: run.state.position if run is not None and run.state is not None else None)
    with torch_errors(recipe, execution):
        if found is None:
            position, weights = _begun(recipe, data, rescaling, execution, processes, console, surveys)
        else:
            position, weights = found, _kept(run, "weights/") or VGG(recipe.spec).state_dict()
        learner = Learner(recipe, weights, position.normalization, execution, processes)
        learner.restore(_kept(run, "momentum/"))
    del weights
    if run is not None:
        run.state = None  # as large as the network and its momentum
    share = {"rank": processes.rank, "processes": processes.size}
    common: dict[str, Any] = {"workers": execution.workers, "pinned": execution.on_gpu, **share}
    crops = BatchLoader(
        TrainCrops(data.train, recipe, rescaling, position.colours), recipe.batch, shuffle_seed=recipe.seed, **common
    )
    centres = BatchLoader(CentreCrops(data.val, recipe, rescaling), recipe.batch, **common)
    metrics = None
    if run is not None:
        metrics = MetricsLog(run.folder, position.steps(len(crops)), position.history, tensorboard=tensorboard)
    now = time.monotonic()
    with metrics or nullcontext(), torch_errors(recipe, execution):
        session = _Session(recipe, data, run, execution, processes, console, metrics, crops, centres, now, now)
        if position.history and not position.batches:
            _publish(session, learner, position)  # it may have been killed in between
        while True:
            learning_rate = recipe.next_learning_rate([epoch.val.top1 for epoch in position.history])
            if learning_rate is None:
                break
            position = _epoch(session, learner, position, learning_rate)
            say(console, str(position.history[-1]))
            if metrics is not None:
                metrics.epoch(position.history[-1])
            _save(session, learner, position)
            _publish(session, learner, position)
    if run is not None:
        reason = draw(run.folder, position.history)
        if reason is not None:
            say(console, f"no picture of the curves: {reason}")
    best = position.best
    assert best is not None
    return best


def _begun(
    recipe: Recipe,
    data: DataFolder,
    rescaling: Rescaling,
    execution: Execution,
    processes: Processes,
    console: Console,
    surveys: Path | None,
) -> tuple[Position, dict[str, Tensor]]:
    """Where a new training stands, and its weights."""
    start = initial_weights(recipe, data.classes) if processes.first else None
    colours = surveyed(recipe, data, rescaling, execution, processes, console, surveys)
    given = recipe.normalization or processes.agreed(lambda: start and start.normalization)
    if given is None:
        assert colours is not None
        red, green, blue = colours.mean
        say(console, f"mean RGB {red:.3f}, {green:.3f}, {blue:.3f} of {len(data.train):,} training images")
    if start is not None and start.source is not None:
        say(console, str(start))
    normalization = given or Normalization(colours.mean if colours else (0.0, 0.0, 0.0))
    position = Position(normalization, colours if recipe.rgb_shift else None)
    return position, VGG(recipe.spec).state_dict() if start is None else start.weights


def _kept(run: TrainingRun | None, beginning: str) -> dict[str, Tensor]:
    """Tensors of the state to go on from, whose names begin so; none where another process has it."""
    tensors = {} if run is None or run.state is None else run.state.tensors
    return {name.removeprefix(beginning): tensor for name, tensor in tensors.items() if name.startswith(beginning)}


def _epoch(session: _Session, learner: Learner, position: Position, learning_rate: float) -> Position:
    """An epoch, or the rest of it, and its validation."""
    recipe, crops, images = session.recipe, session.crops, len(session.data.train)
    number = len(position.history) + 1
    total, began = position.total, time.perf_counter() - position.total.seconds
    looks = GPU_STEPS_A_LOOK if session.execution.on_gpu else 1
    pending: list[tuple[int, Tensor]] = []
    with progress(session.console, f"epoch {number} of {recipe.epochs}", images, total.images) as advance:
        for done, batch in enumerate(crops.epoch(number, position.batches), position.batches + 1):
            pending.append((batch.total, learner.step(batch, number, learning_rate)))
            if len(pending) < looks and done < len(crops):
                continue
            before = total.images
            total = _looked_at(session, position, learning_rate, done, total, pending)
            pending.clear()
            seconds = time.perf_counter() - began
            advance(total.images - before, f"loss {total.loss / total.images:.4f}")
            if done < len(crops) and time.monotonic() - session.saved >= 60 * session.execution.save_minutes:
                total = replace(total, seconds=seconds)
                _save(session, learner, replace(position, batches=done, total=total))
    trained = time.perf_counter()
    val = _validate(session, learner)
    steps = number * len(crops)
    if not math.isfinite(val.loss):
        raise _diverged(session, position, learning_rate, f"the validation loss became {val.loss} after step {steps}")
    seconds = time.perf_counter() - began
    epoch = Epoch(number, steps, learning_rate, total.figures(), val, seconds, images / (trained - began))
    return replace(position, history=(*position.history, epoch), batches=0, total=MetricSums())


def _looked_at(
    session: _Session,
    position: Position,
    learning_rate: float,
    done: int,
    total: MetricSums,
    pending: list[tuple[int, Tensor]],
) -> MetricSums:
    """The sums with those of the last steps, of all processes; the same in each of them."""
    summed = session.processes.summed(torch.stack([figures for _images, figures in pending])).tolist()
    epoch = len(position.history) + 1
    first = len(position.history) * len(session.crops) + done - len(pending) + 1
    for step, ((images, _figures), (loss, top1, top5)) in enumerate(zip(pending, summed, strict=True), first):
        if not math.isfinite(loss):
            raise _diverged(session, position, learning_rate, f"the loss became {loss / images} at step {step}")
        total = total.plus(images, loss, top1, top5)
        if session.metrics is not None:
            session.metrics.step(epoch, step, learning_rate, loss / images)
    return total


def _validate(session: _Session, learner: Learner) -> Metrics:
    count = len(session.data.val)
    sums = torch.zeros(3, dtype=torch.float64, device=session.execution.device)
    with progress(session.console, "validation", count) as advance:
        for batch in session.centres.epoch(0):
            sums += learner.judge(batch)
            advance(batch.total)
    return MetricSums().plus(count, *session.processes.summed(sums).tolist()).figures()


def _save(session: _Session, learner: Learner, position: Position) -> None:
    if session.run is not None:
        session.run.save(State(position, learner.tensors()))
        session.saved = time.monotonic()


def _publish(session: _Session, learner: Learner, position: Position) -> None:
    """Writes what follows from the state at the end of an epoch: checkpoints, record and curves."""
    run = session.run
    if run is None:
        return
    epoch, recipe, data = position.history[-1], session.recipe, session.data
    manifest = Manifest(
        classes=data.classes,
        spec=recipe.spec,
        normalization=position.normalization,
        train_scale=recipe.train_scale,
        mirror=recipe.mirror,
        rescaling=Rescaling(),
        tools={"vgg_deploy": __version__, "torch": str(torch.__version__), "Pillow": PIL.__version__},
        training={
            "recipe": recipe.as_json(),
            "images": {"train": len(data.train), "val": len(data.val)},
            "epoch": asdict(epoch),
        },
    )
    if epoch == position.best:
        save(run.best, learner.weights, manifest)
    save(run.last, learner.weights, manifest)
    run.record(position.history)
    if time.monotonic() - session.drawn >= CURVES_INTERVAL_S:
        draw(run.folder, position.history)
        session.drawn = time.monotonic()


def _diverged(session: _Session, position: Position, learning_rate: float, what: str) -> TrainingError:
    run, best, recipe = session.run, position.best, session.recipe
    kept = "no checkpoint was written yet"
    if best is not None and run is not None:
        kept = f"the last good checkpoint is {run.last}, the best {run.best} (epoch {best.number}, top-1 {best.val.top1:.2%})"
    return TrainingError(
        f"{what}, at learning rate {learning_rate:g}: training diverged; {kept}. "
        f"Try a lower --lr, such as {recipe.learning_rate / 10:g}, or another --init than {recipe.chosen_initialisation}"
    )
