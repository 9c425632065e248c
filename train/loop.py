"""The training loop: SGD with momentum over random crops, a validation and a checkpoint each epoch (section 3.1)."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import PIL
import torch
from torch import Tensor

from train.compute.execution import Execution
from train.compute.progress import print_line, progress
from train.data.crops import RESCALING, CentreCrops, TrainCrops
from train.data.folder import DataFolder
from train.data.loader import BatchLoader
from train.data.survey import surveyed
from train.initialisation import initial_weights
from train.learner import Learner, torch_errors
from train.network.checkpoint import save
from train.network.model import VGG
from train.recipe import Recipe
from train.runs.curves import draw_curves
from train.runs.metrics import Epoch, Metrics, MetricSums
from train.runs.metrics_log import MetricsLog
from train.runs.run import TrainingRun
from train.runs.state import Position, State
from vgg_deploy.errors import TrainingError
from vgg_deploy.network.manifest import Manifest, Normalization
from vgg_deploy.version import __version__

GPU_STEPS_PER_CHECK = 20  # reading the loss makes a GPU wait; on the CPU every step is checked
CURVES_INTERVAL_S = 60.0  # between drawings during training


def train(
    recipe: Recipe, data: DataFolder, run: TrainingRun | None, execution: Execution, *, surveys: Path | None = None
) -> Epoch:
    """Trains a network and returns the best epoch. `run.best` holds its weights, and `run.last` those of the last
    epoch.

    A run that has a state continues from there. On the CPU of one machine, with a fixed number of threads, the result
    depends on the recipe and the data only. It does not depend on interruptions or on the number of workers. Processes
    and micro-batches change it by rounding.

    Args:
        run: gets checkpoints and metrics. None in all processes but the first.
        surveys: the folder that keeps the colours of training sets. None: they are not kept.

    Raises:
        UsageError: the initial weights are missing or do not fit.
        ImageError: an image is broken; the message names its file.
        TrainingError: the loss became NaN or infinite, memory ran out, or a data worker died.
        OutputError: a checkpoint or run.json cannot be written.
    """
    state = None if run is None else run.state
    at_start = None if state is None else state.position
    position = execution.processes.agreed(lambda: at_start)
    with torch_errors(recipe, execution):
        if position is None:
            position, weights = _start(recipe, data, execution, surveys)
        else:  # the first process alone has the state
            weights = VGG(recipe.spec).state_dict() if state is None else state.part("weights/")
        learner = Learner(recipe, weights, position.normalization, execution)
        learner.restore({} if state is None else state.part("momentum/"))
    state = None  # as large as the network and its momentum
    del weights
    if run is not None:
        run.state = None
    crops = TrainCrops(data.train, recipe, position.colours)
    loader = BatchLoader(crops, recipe.batch, execution, shuffle_seed=recipe.seed)
    centres = BatchLoader(CentreCrops(data.val, recipe), recipe.batch, execution)
    log = None
    if run is not None:
        steps = position.steps(len(loader))
        log = MetricsLog(run.folder, steps, position.history, tensorboard=run.tensorboard)
    with log or nullcontext(), torch_errors(recipe, execution):
        position = _Loop(recipe, data, run, execution, learner, loader, centres, log).until_the_end(position)
    if run is not None:
        reason = draw_curves(run.folder, position.history)
        if reason is not None:
            print_line(execution.console, f"curves.png was not drawn: {reason}")
    assert position.best is not None
    return position.best


def _start(
    recipe: Recipe, data: DataFolder, execution: Execution, surveys: Path | None
) -> tuple[Position, dict[str, Tensor]]:
    """The position of a new training, and its weights."""
    processes, console = execution.processes, execution.console
    start = initial_weights(recipe, data.classes) if processes.first else None
    colours = surveyed(recipe, data, execution, surveys)
    normalization = recipe.normalization or processes.agreed(lambda: None if start is None else start.normalization)
    if normalization is None:
        assert colours is not None
        red, green, blue = colours.mean
        print_line(console, f"mean RGB of {len(data.train):,} training images: {red:.3f}, {green:.3f}, {blue:.3f}")
        normalization = Normalization(colours.mean)
    if start is not None and start.source is not None:
        for text in (*start.choice_notices, str(start)):
            print_line(console, text)
    position = Position(normalization, colours if recipe.rgb_shift else None)
    return position, VGG(recipe.spec).state_dict() if start is None else start.weights


@dataclass(slots=True)
class _Loop:
    """A training in progress."""

    recipe: Recipe
    data: DataFolder
    run: TrainingRun | None  # None: another process writes
    execution: Execution
    learner: Learner
    loader: BatchLoader
    centres: BatchLoader
    log: MetricsLog | None
    saved: float = 0.0  # when the state was saved, by time.monotonic
    drawn: float = 0.0

    def until_the_end(self, position: Position) -> Position:
        """Trains until the learning rate has been divided often enough, or all epochs are done."""
        self.saved = self.drawn = time.monotonic()
        if position.history and not position.batches:
            self.publish(position)  # the run may have been killed between saving the state and the checkpoints
        while True:
            learning_rate = self.recipe.next_learning_rate([epoch.val.top1 for epoch in position.history])
            if learning_rate is None:
                return position
            position = self.epoch(position, learning_rate)
            print_line(self.execution.console, str(position.history[-1]))
            if self.log is not None:
                self.log.epoch(position.history[-1])
            self.save(position)
            self.publish(position)

    def epoch(self, position: Position, learning_rate: float) -> Position:
        """Trains for an epoch, or the rest of one, and validates."""
        images, number = len(self.data.train), len(position.history) + 1
        total, started = position.total, time.perf_counter() - position.total.seconds
        steps_per_check = GPU_STEPS_PER_CHECK if self.execution.on_gpu else 1
        unchecked: list[tuple[int, Tensor]] = []  # images and sums of each step
        title = f"epoch {number} of {self.recipe.epochs}"
        with progress(self.execution.console, title, images, total.images) as advance:
            for done, batch in enumerate(self.loader.epoch(number, position.batches), position.batches + 1):
                unchecked.append((batch.total, self.learner.step(batch, number, learning_rate)))
                if len(unchecked) < steps_per_check and done < len(self.loader):
                    continue
                before = total.images
                position = replace(position, batches=done, total=self.checked(position, learning_rate, unchecked))
                total = position.total
                unchecked.clear()
                seconds = time.perf_counter() - started
                advance(total.images - before, f"loss {total.loss / total.images:.4f}")
                if done < len(self.loader) and self.minutes_since_save >= self.execution.save_minutes:
                    self.save(replace(position, total=replace(total, seconds=seconds)))
        trained = time.perf_counter()
        val = self.validate()
        steps = number * len(self.loader)
        if not math.isfinite(val.loss):
            raise self.diverged(position, learning_rate, f"the validation loss became {val.loss} after step {steps}")
        seconds = time.perf_counter() - started
        epoch = Epoch(number, steps, learning_rate, total.metrics(), val, seconds, images / (trained - started))
        return replace(position, history=(*position.history, epoch), batches=0, total=MetricSums())

    def checked(self, position: Position, learning_rate: float, steps: list[tuple[int, Tensor]]) -> MetricSums:
        """The sums of an epoch after more steps, over all processes.

        Args:
            position: the position before these steps.
            steps: the images of each step in all processes, and this process's sums, float64 [3].

        Raises:
            TrainingError: a loss is NaN or infinite.
        """
        sums = self.execution.processes.summed(torch.stack([own for _, own in steps])).tolist()  # [steps, 3]
        total, first = position.total, position.steps(len(self.loader)) + 1
        for step, ((images, _), (loss, top1, top5)) in enumerate(zip(steps, sums, strict=True), first):
            if not math.isfinite(loss):
                raise self.diverged(position, learning_rate, f"the loss became {loss / images} at step {step}")
            total = total.plus(images, loss, top1, top5)
            if self.log is not None:
                self.log.step(len(position.history) + 1, step, learning_rate, loss / images)
        return total

    def validate(self) -> Metrics:
        count = len(self.data.val)
        sums = torch.zeros(3, dtype=torch.float64, device=self.execution.device)
        with progress(self.execution.console, "validation", count) as advance:
            for batch in self.centres.epoch(0):
                sums += self.learner.validate(batch)
                advance(batch.total)
        return MetricSums().plus(count, *self.execution.processes.summed(sums).tolist()).metrics()

    @property
    def minutes_since_save(self) -> float:
        return (time.monotonic() - self.saved) / 60

    def save(self, position: Position) -> None:
        if self.run is not None:
            self.run.save(State(position, self.learner.tensors()))
            self.saved = time.monotonic()

    def publish(self, position: Position) -> None:
        """Writes the checkpoints, the record and the curves at the end of an epoch."""
        run, epoch, data = self.run, position.history[-1], self.data
        if run is None:
            return
        manifest = Manifest(
            classes=data.classes,
            spec=self.recipe.spec,
            normalization=position.normalization,
            train_scale=self.recipe.train_scale,
            mirror=self.recipe.mirror,
            rescaling=RESCALING,
            tools={"vgg_deploy": __version__, "torch": str(torch.__version__), "Pillow": PIL.__version__},
            training={
                "recipe": self.recipe.as_json(),
                "images": {"train": len(data.train), "val": len(data.val)},
                "epoch": asdict(epoch),
            },
        )
        if epoch == position.best:
            save(run.best, self.learner.weights, manifest)
        save(run.last, self.learner.weights, manifest)
        run.record(position.history)
        if time.monotonic() - self.drawn >= CURVES_INTERVAL_S:
            draw_curves(run.folder, position.history)
            self.drawn = time.monotonic()

    def diverged(self, position: Position, learning_rate: float, event: str) -> TrainingError:
        run, best, recipe = self.run, position.best, self.recipe
        checkpoints = "no checkpoint was written yet"
        if best is not None and run is not None:
            checkpoints = (
                f"the last good checkpoint is {run.last}, the best {run.best} "
                f"(epoch {best.number}, top-1 {best.val.top1:.2%})"
            )
        return TrainingError(
            f"training diverged: {event}, at learning rate {learning_rate:g}; {checkpoints}. "
            f"Try a lower --lr, such as {recipe.learning_rate / 10:g}, or another --init than "
            f"{recipe.chosen_initialisation}"
        )
