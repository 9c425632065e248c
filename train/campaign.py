"""Trainings that build on each other: a network, the A that it starts from, and the paper's stages of S (section 3.1).

Each is begun, gone on with where it was stopped, or found finished; so the same command goes on at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from train.compute.execution import Execution
from train.compute.processes import Processes
from train.compute.progress import say
from train.data.folder import DataFolder
from train.loop import train
from train.recipe import FROM_A, LEARNING_RATE_FACTOR, Recipe
from train.recipe_file import recipe_text
from train.runs import run as runs
from train.runs.metrics import Epoch, Metrics
from vgg_deploy.errors import UsageError
from vgg_deploy.files import whole_file
from vgg_deploy.network.manifest import TrainScale

SURVEYS, RECIPE = "surveys", "recipe.toml"

# Section 3.1, for crops of 224: S of each stage, in proportion for other crops. Each goes on from the weights of the one
# before, at a tenth of the learning rate: "smaller initial learning rate of 10^-3" for S = 384. For [256, 512], which the paper
# fine-tunes from S = 384, it names no rate; we take the same.
STAGES = (TrainScale(256, 256), TrainScale(384, 384), TrainScale(256, 512))
STAGES_CROP = 224


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training: the checkpoint of its best epoch, and that epoch's figures."""

    checkpoint: Path
    best: Epoch


@dataclass(frozen=True, slots=True)
class _Found:
    """What is there of a training.

    Attributes:
        finished: its result, where it is finished.
        folder: of an unfinished run; None: there is none.
        initialisation: of that run, or of the one to begin; None: an A is to be trained first.
    """

    finished: TrainingResult | None = None
    folder: Path | None = None
    initialisation: str | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """Trainings on one data folder.

    Attributes:
        data: the images.
        facts: what each run.json says besides, as plain JSON.
        root: the folder of runs.
        suffix: of the runs' names, such as "-digits".
    """

    data: DataFolder
    execution: Execution
    processes: Processes
    console: Console
    facts: Mapping[str, Any]
    root: Path = runs.ROOT
    suffix: str = ""
    tensorboard: bool = False

    def stages(self, recipe: Recipe) -> TrainingResult:
        """The paper's schedule: S = 256, then 384 from its weights, then S drawn from [256, 512] from those."""
        trained: TrainingResult | None = None
        for number, scale in enumerate(STAGES, 1):
            crop = recipe.spec.crop
            low, high = (side * crop // STAGES_CROP for side in (scale.minimum, scale.maximum))
            stage = replace(recipe, train_scale=TrainScale(low, high))
            if trained is not None:
                slower = recipe.learning_rate * LEARNING_RATE_FACTOR
                stage = replace(stage, initialisation=str(trained.checkpoint), learning_rate=slower)
            say(self.console, f"stage {number} of {len(STAGES)}: S = {stage.train_scale}")
            name = f"{recipe.spec.common_name}-s{low}" + ("" if low == high else f"-{high}")
            trained = self.trained(stage, name=name, again=False)
        assert trained is not None
        return trained

    def trained(self, recipe: Recipe, *, out: Path | None = None, name: str = "", again: bool = True) -> TrainingResult:
        """Trains by a recipe, or goes on with an unfinished run of the same recipe and data.

        Args:
            out: the folder of the run; None: a new one under `root`.
            name: of that one, without its date.
            again: whether to train anew where a run of the same recipe and data is finished.

        Raises:
            UsageError: `out` holds a finished run, or one of another recipe or data.
        """
        found = self.processes.agreed(lambda: self._in(out, recipe) if out else self._under_root(recipe, again))
        if found.finished is not None:
            best = found.finished.best
            say(self.console, f"{found.finished.checkpoint.parent} is finished: top-1 {best.val.top1:.2%}")
            return found.finished
        initialisation = found.initialisation
        if initialisation is None:
            say(self.console, f"configuration {recipe.spec.configuration} starts from a trained A (section 3.1)")
            shallow = replace(recipe, spec=replace(recipe.spec, configuration="A"), initialisation=None)
            say(self.console, f"there is no finished A of these classes and sizes under {self.root}/: it comes first")
            initialisation = FROM_A + str(self.trained(shallow, again=False).checkpoint)
        resolved = replace(recipe, initialisation=initialisation)
        stem = (name or recipe.spec.common_name) + self.suffix
        folder = self.processes.agreed(lambda: found.folder or out or runs.new_folder(self.root, stem))
        facts = {**self.facts, "fingerprint": self.data.fingerprint, "classes": [each.id for each in self.data.classes]}
        facts |= {"recipe": resolved.as_json(), "asked": recipe.as_json()}
        run = runs.TrainingRun(folder, facts, resumed=found.folder is not None) if self.processes.first else None
        with run or nullcontext():
            if run is not None:
                self.processes.on_failure(run.failed)
                with whole_file(folder / RECIPE) as temporary:
                    temporary.write_text(recipe_text(resolved), "utf-8")
                say(self.console, f"{folder}: {self._summary(resolved)}")
                self._say_where_it_stands(run, found)
            try:
                best = train(
                    resolved,
                    self.data,
                    run,
                    self.execution,
                    self.console,
                    processes=self.processes,
                    surveys=self.root / SURVEYS,
                    tensorboard=self.tensorboard,
                )
            except KeyboardInterrupt:
                say(self.console, f"the same command goes on with {folder}")
                raise
        return TrainingResult(folder / runs.BEST, best)

    def _summary(self, recipe: Recipe) -> str:
        spec, data = recipe.spec, self.data
        together = f", {self.processes.size} processes" if self.processes.size > 1 else ""
        return (
            f"configuration {spec.configuration}, {spec.parameters:,} parameters from {recipe.chosen_initialisation}, "
            f"{len(data.classes)} classes, {len(data.train):,} + {len(data.val):,} images, S = {recipe.train_scale}, "
            f"crop {spec.crop}, batch {recipe.batch}, on {self.execution}{together}"
        )

    def _say_where_it_stands(self, run: runs.TrainingRun, found: _Found) -> None:
        if found.folder is None:
            return
        where = "it had not come to its first checkpoint"
        if run.state is not None:
            position = run.state.position
            whole = len(position.history)
            where = (
                f"after batch {position.batches} of epoch {whole + 1}" if position.batches else f"after epoch {whole}"
            )
        say(self.console, f"resumes the unfinished run in {run.folder}: {where}")

    def _in(self, out: Path, recipe: Recipe) -> _Found:
        """The run in a folder that the user named."""
        record = runs.record_of(out / runs.RECORD)
        if record is None or record.get("status") == runs.FINISHED or "asked" not in record:
            return self._begin(recipe)  # TrainingRun refuses a folder that is taken
        asked = _flat(recipe.as_json()) | {"data": self.data.fingerprint}
        theirs = _flat(record["asked"]) | {"data": record.get("fingerprint")}
        differences = [
            f"{name} {theirs.get(name)} there, {asked.get(name)} here"
            for name in sorted(asked.keys() | theirs.keys())
            if theirs.get(name) != asked.get(name)
        ]
        if differences:
            raise UsageError(
                f"{out} holds an unfinished run of another recipe or data ({'; '.join(differences)}); "
                "give what it was begun with, or name another folder"
            )
        return _Found(None, out, record["recipe"]["initialisation"])

    def _under_root(self, recipe: Recipe, again: bool) -> _Found:
        plain = recipe.as_json()

        def same(record: Mapping[str, Any]) -> bool:
            return bool(_json(record["asked"]) == _json(plain) and record["fingerprint"] == self.data.fingerprint)

        finished = None if again else runs.newest_run(self.root, same, finished=True)
        if finished is not None:
            return _Found(_result(finished))
        unfinished = runs.newest_run(self.root, same, finished=False)
        if unfinished is not None:
            record = runs.record_of(unfinished / runs.RECORD)
            assert record is not None
            return _Found(None, unfinished, record["recipe"]["initialisation"])
        return self._begin(recipe)

    def _begin(self, recipe: Recipe) -> _Found:
        """A new run; of B to E, from a finished A of the same classes, width and crop, if there is one."""
        if recipe.chosen_initialisation is not None:
            return _Found(None, None, recipe.chosen_initialisation)
        shallow = replace(recipe.spec, configuration="A")
        sizes = {
            name: getattr(shallow, name) for name in ("configuration", "width_divisor", "crop", "fc_width", "classes")
        }
        classes = [each.id for each in self.data.classes]

        def fits(record: Mapping[str, Any]) -> bool:
            return bool(record["recipe"]["spec"] == sizes and record["classes"] == classes)

        finished = runs.newest_run(self.root, fits, finished=True)
        if finished is None:
            return _Found()
        say(self.console, f"starts from the trained A in {finished} (section 3.1)")
        return _Found(None, None, FROM_A + str(finished / runs.BEST))


def _result(folder: Path) -> TrainingResult:
    record = runs.record_of(folder / runs.RECORD)
    assert record is not None
    best = max(record["history"], key=lambda epoch: epoch["val"]["top1"])
    figures = {split: Metrics(**best[split]) for split in ("train", "val")}
    return TrainingResult(folder / runs.BEST, Epoch(**{**best, **figures}))


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's fields, those of its network among them."""
    plain = dict(_json(recipe))
    return {**plain.pop("spec"), **plain}


def _json(value: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, (list, tuple)) else value
