"""Trainings that build on each other: a network, the A that it starts from, and the paper's stages of S (section 3.1).

Each training is started, resumed, or found finished. So the same command continues after any interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.compute.execution import Execution
from train.compute.progress import print_line
from train.data.folder import DataFolder
from train.loop import train
from train.recipe import FROM_A, LEARNING_RATE_FACTOR, Recipe
from train.recipe_file import recipe_text
from train.runs.chance import beats_chance
from train.runs.finished import finished_runs
from train.runs.metrics import Epoch, Metrics
from train.runs.run import BEST, FINISHED, RECORD, ROOT, TrainingRun, new_folder, newest_unfinished, record_of
from train.trained_a import trained_a
from vgg_deploy.errors import TrainingError, UsageError
from vgg_deploy.files import whole_file
from vgg_deploy.network.manifest import TrainScale

SURVEYS, RECIPE = "surveys", "recipe.toml"

# Section 3.1, for crops of 224: S of each stage, in proportion for other crops. Each stage starts from the weights of
# the one before, at a tenth of the learning rate: "smaller initial learning rate of 10^-3" for S = 384. The paper gives
# no rate for [256, 512], which it fine-tunes from S = 384; we take the same.
STAGES = (TrainScale(256, 256), TrainScale(384, 384), TrainScale(256, 512))
STAGES_CROP = 224


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The checkpoint of the best epoch of a finished training, and the metrics of this epoch."""

    checkpoint: Path
    best: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is left to do for a training.

    Attributes:
        result: the result of a finished training, for which nothing is left to do.
        resumed: the folder of an unfinished run. None: a new run.
        initialisation: the initial weights of the run. None: an A has to be trained first.
    """

    result: TrainingResult | None = None
    resumed: Path | None = None
    initialisation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Trainings on one data folder.

    Attributes:
        data: the images.
        execution: where it computes.
        facts: further entries of each run.json, as plain JSON.
        root: the folder of runs.
        suffix: the end of the runs' names, such as "-digits".
        tensorboard: also write TensorBoard files.
    """

    data: DataFolder
    execution: Execution
    facts: Mapping[str, Any]
    root: Path = ROOT
    suffix: str = ""
    tensorboard: bool = False

    def train_stages(self, recipe: Recipe) -> TrainingResult:
        """The paper's schedule: S = 256, then S = 384 from its weights, then S drawn from [256, 512] from those."""
        result: TrainingResult | None = None
        for number, scale in enumerate(STAGES, 1):
            crop = recipe.spec.crop
            low, high = (side * crop // STAGES_CROP for side in (scale.minimum, scale.maximum))
            stage = replace(recipe, train_scale=TrainScale(low, high))
            if result is not None:
                self._require_learned(result, f"stage {number}")
                slower = recipe.learning_rate * LEARNING_RATE_FACTOR
                stage = replace(stage, initialisation=str(result.checkpoint), learning_rate=slower)
            self._print(f"stage {number} of {len(STAGES)}: S = {stage.train_scale}")
            name = f"{recipe.spec.common_name}-s{low}" + ("" if low == high else f"-{high}")
            result = self.train(stage, name=name, again=False)
        assert result is not None
        return result

    def train(self, recipe: Recipe, *, out: Path | None = None, name: str = "", again: bool = True) -> TrainingResult:
        """Trains by a recipe, or resumes an unfinished run of the same recipe and data.

        Args:
            out: the folder of the run. None: a new one under `root`.
            name: the name of the new folder, without its date.
            again: train again if a run of the same recipe and data is finished.

        Raises:
            UsageError: `out` holds a finished run, or one of another recipe or data.
            TrainingError: the A that was trained first learned nothing.
        """
        processes = self.execution.processes
        plan = processes.agreed(lambda: self._plan_in(out, recipe) if out else self._plan_under_root(recipe, again))
        if plan.result is not None:
            result = plan.result
            self._print(f"{result.checkpoint.parent} is already finished: top-1 {result.best.val.top1:.2%}")
            return result
        initialisation = plan.initialisation
        if initialisation is None:
            self._print(f"configuration {recipe.spec.configuration} starts from a trained A (section 3.1)")
            self._print(f"{self.root}/ has no finished A to take for these images and sizes, so an A is trained first")
            shallow = replace(recipe, spec=replace(recipe.spec, configuration="A"), initialisation=None)
            a = self.train(shallow, again=False)
            self._require_learned(a, f"configuration {recipe.spec.configuration}")
            initialisation = FROM_A + str(a.checkpoint)
        resolved = replace(recipe, initialisation=initialisation)
        stem = (name or recipe.spec.common_name) + self.suffix
        folder = processes.agreed(lambda: plan.resumed or out or new_folder(self.root, stem))
        run = self._run(folder, recipe, resolved, plan) if processes.first else None
        with run or nullcontext():
            if run is not None:
                processes.on_failure(run.failed)
                with whole_file(folder / RECIPE) as temporary:
                    temporary.write_text(recipe_text(resolved), "utf-8")
                self._print(f"{folder}: {self._summary(resolved)}")
                if plan.resumed is not None:
                    self._print(f"resumes the unfinished run in {folder}: {_where_it_stopped(run)}")
            try:
                best = train(resolved, self.data, run, self.execution, surveys=self.root / SURVEYS)
            except KeyboardInterrupt:
                self._print(f"interrupted; give the same command again to continue the run in {folder}")
                raise
        return TrainingResult(folder / BEST, best)

    def _run(self, folder: Path, recipe: Recipe, resolved: Recipe, plan: _Plan) -> TrainingRun:
        facts = {**self.facts, "fingerprint": self.data.fingerprint, "classes": [each.id for each in self.data.classes]}
        facts["validation"] = {"images": len(self.data.val), "largest_share": self.data.val.largest_share}
        facts |= {"recipe": resolved.as_json(), "asked": recipe.as_json()}
        return TrainingRun(folder, facts, resumed=plan.resumed is not None, tensorboard=self.tensorboard)

    def _print(self, text: str) -> None:
        print_line(self.execution.console, text)

    def _summary(self, recipe: Recipe) -> str:
        spec, data, processes = recipe.spec, self.data, self.execution.processes
        together = f", {processes.size} processes" if processes.size > 1 else ""
        return (
            f"configuration {spec.configuration}, {spec.parameters:,} parameters from {recipe.chosen_initialisation}, "
            f"{len(data.classes)} classes, {len(data.train):,} + {len(data.val):,} images, S = {recipe.train_scale}, "
            f"crop {spec.crop}, batch {recipe.batch}, on {self.execution}{together}"
        )

    def _plan_in(self, out: Path, recipe: Recipe) -> _Plan:
        """For the run in a folder that the user named."""
        record = record_of(out / RECORD)
        if record is None or record.get("status") == FINISHED or "asked" not in record:
            return self._plan_from_scratch(recipe)  # TrainingRun refuses a folder that holds a run
        ours = _flat(recipe.as_json()) | {"data": self.data.fingerprint}
        theirs = _flat(record["asked"]) | {"data": record.get("fingerprint")}
        differences = [
            f"{name} is {theirs.get(name)} there and {ours.get(name)} here"
            for name in sorted(ours.keys() | theirs.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if differences:
            raise UsageError(
                f"{out} holds an unfinished run of another recipe or data ({'; '.join(differences)}); "
                "give the same options as before, or another folder"
            )
        return _Plan(resumed=out, initialisation=record["recipe"]["initialisation"])

    def _plan_under_root(self, recipe: Recipe, again: bool) -> _Plan:
        asked = _json(recipe.as_json())

        def same(record: Mapping[str, Any]) -> bool:
            return bool(_json(record["asked"]) == asked and record["fingerprint"] == self.data.fingerprint)

        if not again:
            for run in finished_runs(self.root):
                if "asked" in run.record and "fingerprint" in run.record and same(run.record):
                    return _Plan(result=_result(run.folder))
        unfinished = newest_unfinished(self.root, same)
        if unfinished is not None:
            record = record_of(unfinished / RECORD)
            assert record is not None
            return _Plan(resumed=unfinished, initialisation=record["recipe"]["initialisation"])
        return self._plan_from_scratch(recipe)

    def _plan_from_scratch(self, recipe: Recipe) -> _Plan:
        """A new run. B to E start from the best A that was trained on these images, if there is one."""
        if recipe.chosen_initialisation is not None:
            return _Plan(initialisation=recipe.chosen_initialisation)
        choice = trained_a(self.root, recipe.spec, self.data)
        for text in choice.notices:
            self._print(text)
        return _Plan(initialisation=None if choice.run is None else FROM_A + str(choice.run.checkpoint))

    def _require_learned(self, result: TrainingResult, heir: str) -> None:
        """Raises TrainingError if the network that `heir` would start from learned nothing."""
        val, top1 = self.data.val, result.best.val.top1
        if not beats_chance(top1, len(val), val.largest_share):
            raise TrainingError(
                f"{result.checkpoint} learned nothing, so {heir} does not start from it: top-1 {top1:.2%}, and "
                f"{val.largest_share:.2%} of the {len(val):,} validation images are one class. Try another --lr, more "
                "--epochs, or another initialisation: --init glorot, or --init a:CKPT"
            )


def _where_it_stopped(run: TrainingRun) -> str:
    if run.state is None:
        return "it stopped before its first checkpoint"
    position = run.state.position
    epochs = len(position.history)
    return f"after batch {position.batches} of epoch {epochs + 1}" if position.batches else f"after epoch {epochs}"


def _result(folder: Path) -> TrainingResult:
    record = record_of(folder / RECORD)
    assert record is not None
    best = max(record["history"], key=lambda epoch: epoch["val"]["top1"])
    metrics = {split: Metrics(**best[split]) for split in ("train", "val")}
    return TrainingResult(folder / BEST, Epoch(**{**best, **metrics}))


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's fields, with those of its network on the same level."""
    plain = dict(_json(recipe))
    return {**plain.pop("spec"), **plain}


def _json(value: Any) -> Any:
    """The value as JSON returns it, with lists for tuples."""
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, (list, tuple)) else value
