"""The contestants of `vgg-deploy bench` before they are opened: models, and peers that they are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, PLAN, kind_of
from vgg_deploy.cli.opening import open_any, options_for_each
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import describes_itself, known_facts, read_weights, require_torch
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine
    from vgg_deploy.network.manifest import Manifest

TORCH, TORCH_COMPILE = "torch", "torch-compile"


@dataclass(frozen=True, slots=True)
class UnopenedContestant:
    """One contestant, not opened yet.

    Attributes:
        name: in the report.
        path: its file.
        options: how to open it.
        facts: about the weights of a checkpoint.
        compiled: whether torch.compile runs it.
        template: the first model's manifest. A checkpoint takes from it the grid, and what its own file does not state.
            None: a contestant that needs no template.
    """

    name: str
    path: Path
    options: EngineOptions
    facts: WeightFacts = field(default_factory=WeightFacts)
    compiled: bool = False
    template: Manifest | None = None

    def open(self, requests: int | None, say: Callable[[str], None] = notice, *, any_size: bool = False) -> Engine:
        """Its engine.

        Args:
            requests: for ONNX files, as in `engines.open_engine`.
            say: gets the engine's notices.
            any_size: images will have many sizes, so torch.compile compiles once for all sizes.
        """
        if self.template is not None and kind_of(self.path) == CHECKPOINT:
            return self._open_in_torch(self.template, any_size)
        options = self.options if kind_of(self.path) != ONNX else replace(self.options, requests=requests)
        return open_any(self.path, options, self.facts, lambda text: say(f"{self.name}: {text}"))

    def serves_as(self, reference: UnopenedContestant) -> bool:
        """Whether its engine can also serve as the reference."""
        return (self.path, self.template, self.compiled) == (
            reference.path,
            reference.template,
            False,
        ) and self.options.allow_bf16 == reference.options.allow_bf16

    def _open_in_torch(self, template: Manifest, any_size: bool) -> Engine:
        import torch

        from train.network.compiled import CompiledReference
        from train.network.reference import Reference
        from vgg_deploy.cores import usable_cores

        torch.set_num_threads(self.options.threads or usable_cores())  # as many as other engines use
        facts = self.facts if describes_itself(self.path) else known_facts(self.facts, template)
        checkpoint = read_weights(self.path, facts)
        device = self.options.device or "cpu"
        fine = template.spec is not None and template.spec.fine
        return (
            CompiledReference(checkpoint, device=device, fine=fine, any_size=any_size)
            if self.compiled
            else Reference(checkpoint, device=device, fine=fine)
        )


def peer_names(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """'torch,openvino' -> the names of the peers, each once."""
    if not value:
        return ()
    from engines import RUNTIMES

    known = (TORCH, TORCH_COMPILE, *RUNTIMES)
    names = tuple(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r}; expected one or more of {', '.join(known)}, separated by commas")
    return names


def contestants_of(
    models: Sequence[Path],
    peers: Sequence[str],
    reference: Path | None,
    options: EngineOptions,
    facts: WeightFacts,
) -> tuple[list[UnopenedContestant], UnopenedContestant | None]:
    """The models in the given order, then the peers; and the reference, if there is one.

    Raises:
        click.UsageError: a PyTorch peer without a checkpoint as --reference, or a runtime without an ONNX file as first
        model.
        UsageError: options that do not suit the files, or a missing file.
    """
    each = options_for_each([*models, *(() if reference is None else (reference,))], options, facts)
    contestants = [
        UnopenedContestant(name, path, own_options, facts)
        for name, path, own_options in zip(_names(models), models, each, strict=False)
    ]
    unopened_reference = None
    if reference is not None:
        if not reference.is_file():
            raise UsageError(f"--reference {reference}: no such file; give a checkpoint or a model")
        template = _manifest(models[0], options.labels) if kind_of(reference) == CHECKPOINT else None
        unopened_reference = UnopenedContestant(
            reference.name, reference, replace(each[-1], allow_bf16=False), facts, template=template
        )
    for peer in peers:
        if peer in (TORCH, TORCH_COMPILE):
            if unopened_reference is None:
                raise click.UsageError(f"--against {peer} requires the network's weights: give --reference CKPT")
            if unopened_reference.template is None:
                raise click.UsageError(
                    f"--against {peer} requires the network's weights, but --reference {unopened_reference.path} is "
                    f"{kind_of(unopened_reference.path)}: give a checkpoint"
                )
            require_torch(f"--against {peer}")
            contestants.append(
                replace(unopened_reference, name=f"{peer}: {unopened_reference.name}", compiled=peer == TORCH_COMPILE)
            )
            continue
        if kind_of(models[0]) != ONNX:
            raise click.UsageError(
                f"--against {peer} runs the first MODEL, and {models[0]} is {kind_of(models[0])}: "
                "give an ONNX file first"
            )
        own_options = replace(each[0], runtime=peer, allow_bf16=False)
        contestants.append(UnopenedContestant(f"{peer}: {models[0].name}", models[0], own_options))
    return contestants, unopened_reference


def _manifest(path: Path, labels: str | None) -> Manifest:
    from vgg_deploy.artifacts.onnx_file import read_manifest
    from vgg_deploy.artifacts.plan import read_plan

    if kind_of(path) == PLAN and (plan := read_plan(path)) is not None:
        return plan.manifest
    if kind_of(path) == ONNX:
        return read_manifest(path, labels)
    from vgg_deploy.network.classes import numbered_classes
    from vgg_deploy.network.manifest import Manifest, TrainScale

    return Manifest(numbered_classes(1), None, None, TrainScale(1, 1))  # a checkpoint states everything itself


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the files, or their paths if two files share a name.

    A file that is given again, to show the noise, is numbered.
    """
    different = {path.name: {other.resolve() for other in paths if other.name == path.name} for path in paths}
    names = [path.name if len(different[path.name]) == 1 else str(path) for path in paths]
    seen: Counter[str] = Counter()
    for index, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[index] = f"{name} #{seen[name]}"
    return names
