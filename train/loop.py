"""The training loop: SGD with momentum over random crops, a validation and a checkpoint each epoch (section 3.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import PIL
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

import vgg_deploy
from train.checkpoint import save
from train.data import Batches, CentreCrops, DataFolder, TrainCrops, survey
from train.model import VGG
from train.recipe import Recipe
from train.reference import normalize
from train.runs import Run
from vgg_deploy.errors import TrainingError
from vgg_deploy.manifest import Manifest, Normalization, Rescaling, Triple

LOG_INTERVAL_S = 60.0  # between lines of progress where there is no terminal to draw a bar on


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one pass over a set: mean cross-entropy in nats, and the fraction of images, 0..1, whose class is the first, or
    among the first five, of the network's answer."""

    loss: float
    top1: float
    top5: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of history.

    Attributes:
        number: from 1.
        steps: since the beginning.
        train: on the random crops, with dropout, while the weights moved.
        val: on the central crops, after the epoch.
        seconds: of training and validation.
        images_per_s: while training.
    """

    number: int
    steps: int
    learning_rate: float
    train: Figures
    val: Figures
    seconds: float
    images_per_s: float

    def __str__(self) -> str:
        return (
            f"epoch {self.number:2}  lr {self.learning_rate:g}  train loss {self.train.loss:.4f} top-1 "
            f"{self.train.top1:7.2%}  val loss {self.val.loss:.4f} top-1 {self.val.top1:7.2%} top-5 {self.val.top5:7.2%}  "
            f"{self.images_per_s:,.0f} images/s"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where training computes; it decides how fast, not what.

    Attributes:
        device: a torch device, cpu or cuda.
        workers: processes that decode images; 0: the training process itself.
    """

    device: str = "cpu"
    workers: int = 0

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"


def train(recipe: Recipe, data: DataFolder, run: Run, place: Place, console: Console) -> Epoch:
    """Trains a network and gives the best epoch, whose weights `run.best` holds; `run.last` holds the last epoch's.

    On one machine the result depends on the recipe and the data only, not on the number of workers. Seeds torch's global
    generator, which dropout draws from.

    Args:
        run: gets checkpoints and history.
        console: gets progress and a line an epoch.

    Raises:
        ImageError: an image is broken; names its file.
        TrainingError: the loss became NaN or infinite, memory ran out, or a data worker died.
        OutputError: a checkpoint or run.json cannot be written.
    """
    rescaling = Rescaling()
    mean = _surveyed(recipe, data, rescaling, place, console)
    normalization = Normalization(mean)
    manifest = Manifest(
        classes=data.classes,
        spec=recipe.spec,
        normalization=normalization,
        train_scale=recipe.train_scale,
        mirror=recipe.mirror,
        rescaling=rescaling,
        tools={"vgg_deploy": vgg_deploy.__version__, "torch": str(torch.__version__), "Pillow": PIL.__version__},
    )
    crops = Batches(
        TrainCrops(data.train, recipe, rescaling),
        recipe.batch,
        workers=place.workers,
        shuffle_seed=recipe.seed,
        pinned=place.on_gpu,
    )
    centres = Batches(
        CentreCrops(data.val, recipe, rescaling), recipe.batch, workers=place.workers, pinned=place.on_gpu
    )

    with _memory_errors(recipe.batch):
        network = VGG(recipe.spec, dropout=recipe.dropout)
        network.initialise(recipe.chosen_initialisation, torch.Generator().manual_seed(recipe.seed))
        network.to(place.device)
        optimizer = torch.optim.SGD(
            network.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        history: list[Epoch] = []
        best: Epoch | None = None
        while (learning_rate := recipe.next_learning_rate([epoch.val.top1 for epoch in history])) is not None:
            number = len(history) + 1
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            torch.manual_seed(recipe.seed + number)  # dropout's: an epoch's chance depends on its number alone
            network.train()
            total = _Total()
            with _progress(console, f"epoch {number} of {recipe.epochs}", len(data.train)) as advance:
                for images, targets in crops.epoch(number):
                    images, targets = images.to(place.device), targets.to(place.device)
                    scores = network(normalize(images, normalization))
                    loss = functional.cross_entropy(scores, targets)
                    total.add(loss, scores, targets)
                    if not math.isfinite(total.loss):
                        step = (number - 1) * len(crops) + total.batches
                        raise _diverged(
                            f"the loss became {loss.item()} at step {step}", learning_rate, recipe, run, best
                        )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    advance(len(images), f"loss {total.loss / total.images:.4f}")
            trained = time.perf_counter()

            val = _validate(network, centres, normalization, place, console, len(data.val))
            steps = number * len(crops)
            if not math.isfinite(val.loss):
                what = f"the validation loss became {val.loss} after step {steps}"
                raise _diverged(what, learning_rate, recipe, run, best)
            epoch = Epoch(
                number,
                steps,
                learning_rate,
                total.figures(),
                val,
                time.perf_counter() - began,
                len(data.train) / (trained - began),
            )
            history.append(epoch)
            described = manifest.with_(training=_training(recipe, data, epoch))
            if best is None or val.top1 > best.val.top1:
                best = epoch
                save(run.best, network.state_dict(), described)
            save(run.last, network.state_dict(), described)
            run.add(asdict(epoch))
            console.print(str(epoch), highlight=False, soft_wrap=True)
    assert best is not None
    return best


def _surveyed(recipe: Recipe, data: DataFolder, rescaling: Rescaling, place: Place, console: Console) -> Triple:
    """The mean RGB; on the way, every image is decoded once (but those of training, if the recipe knows the mean)."""
    mean = recipe.mean
    with _progress(console, "reading val images", len(data.val)) as advance:
        survey(data.val, recipe, rescaling, workers=place.workers, advance=advance)
    if mean is None:
        with _progress(console, "mean RGB of train images", len(data.train)) as advance:
            mean = survey(data.train, recipe, rescaling, workers=place.workers, advance=advance)
        red, green, blue = mean
        console.print(
            f"mean RGB {red:.3f}, {green:.3f}, {blue:.3f} of {len(data.train):,} training images", highlight=False
        )
    return mean


def _training(recipe: Recipe, data: DataFolder, epoch: Epoch) -> dict[str, Any]:
    """What the manifest of a checkpoint says of its training."""
    return {
        "recipe": recipe.as_json(),
        "images": {"train": len(data.train), "val": len(data.val)},
        "epoch": asdict(epoch),
    }


@torch.inference_mode()
def _validate(
    network: VGG, centres: Batches, normalization: Normalization, place: Place, console: Console, count: int
) -> Figures:
    network.eval()
    total = _Total()
    with _progress(console, "validation", count) as advance:
        for images, targets in centres.epoch(0):
            images, targets = images.to(place.device), targets.to(place.device)
            scores = network(normalize(images, normalization))
            total.add(functional.cross_entropy(scores, targets), scores, targets)
            advance(len(images))
    return total.figures()


class _Total:
    """Sums up batches into Figures."""

    def __init__(self) -> None:
        self.batches = self.images = self.first = self.first_five = 0
        self.loss = 0.0

    def add(self, loss: Tensor, scores: Tensor, targets: Tensor) -> None:
        hits = scores.detach().topk(min(5, scores.shape[1])).indices == targets[:, None]
        self.batches += 1
        self.images += len(targets)
        self.loss += loss.item() * len(targets)
        self.first += int(hits[:, 0].sum())
        self.first_five += int(hits.sum())

    def figures(self) -> Figures:
        return Figures(self.loss / self.images, self.first / self.images, self.first_five / self.images)


def _diverged(what: str, learning_rate: float, recipe: Recipe, run: Run, best: Epoch | None) -> TrainingError:
    kept = "no checkpoint was written yet"
    if best is not None:
        kept = f"the last good checkpoint is {run.last}, the best {run.best} (epoch {best.number}, top-1 {best.val.top1:.2%})"
    return TrainingError(
        f"{what}, at learning rate {learning_rate:g}: training diverged; {kept}. "
        f"Try a lower --lr, such as {recipe.learning_rate / 10:g}, or another --init than {recipe.chosen_initialisation}"
    )


@contextmanager
def _memory_errors(batch: int) -> Iterator[None]:
    """Translates torch's out-of-memory errors: a type of its own for CUDA, a RuntimeError's text on the CPU."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise TrainingError(f"out of memory at a batch of {batch}; give a smaller --batch") from error


@contextmanager
def _progress(console: Console, what: str, images: int) -> Iterator[Callable[..., None]]:
    """Gives advance(count, text=""): a bar with images/s on a terminal, elsewhere a line a minute."""
    done, began = 0, time.perf_counter()
    next_line = began + LOG_INTERVAL_S
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=images, text="")

        def advance(count: int, text: str = "") -> None:
            nonlocal done, next_line
            done += count
            now = time.perf_counter()
            text = f"{text}  {done / (now - began):,.0f} images/s".lstrip()
            bar.update(task, advance=count, text=text)
            if not console.is_terminal and now >= next_line:
                next_line = now + LOG_INTERVAL_S
                console.print(f"{what}: {done:,} of {images:,} images  {text}", highlight=False, soft_wrap=True)

        yield advance
