"""The contestants of `vgg-deploy bench` before they are opened: models, and peers that they are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, ONNX, kind_of
from vgg_deploy.cli.opening import CheckpointOptions, manifest_of, open_any, options_for_each
from vgg_deploy.cli.parameters import gathered
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import require_torch
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine

TORCH, TORCH_COMPILE = "torch", "torch-compile"


@dataclass(frozen=True, slots=True)
class UnopenedContestant:
    """A contestant that has not been opened.

    Attributes:
        name: in the report.
        path: its file.
        options: how to open it.
        checkpoint: how PyTorch runs it, if it is a checkpoint.
    """

    name: str
    path: Path
    options: EngineOptions
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)

    def open(self, requests: int | None, say: Callable[[str], None] = notice, *, any_size: bool = False) -> Engine:
        """Opens its engine.

        Args:
            requests: for ONNX files, as in `engines.open_engine`.
            say: gets the engine's notices.
            any_size: images have many sizes, so torch.compile compiles once for all sizes.
        """
        options = self.options if kind_of(self.path) != ONNX else replace(self.options, requests=requests)
        checkpoint = replace(self.checkpoint, any_size=any_size)
        return open_any(self.path, options, checkpoint, lambda text: say(f"{self.name}: {text}"))

    def serves_as(self, reference: UnopenedContestant) -> bool:
        """Whether its engine can also serve as the reference."""
        return (self.path, self.checkpoint, self.options.allow_bf16) == (
            reference.path,
            reference.checkpoint,
            reference.options.allow_bf16,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the models are compared with.

    Attributes:
        peers: names of other ways to run the network.
        reference: the file that gives the expected answers. None: the first model does.
    """

    peers: tuple[str, ...]
    reference: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it reads."""
        return () if self.reference is None else (self.reference,)


# The command receives `comparison`, a `Comparison`.
comparison_options = gathered(
    "comparison",
    Comparison,
    click.option(
        "--against",
        "peers",
        callback=peer_names,
        metavar="PEER,...",
        help="Also compare with these: torch and torch-compile run the --reference; a runtime of ONNX files, such as "
        "onnxruntime or openvino, runs the first MODEL.",
    ),
    click.option(
        "--reference",
        type=click.Path(path_type=Path),
        metavar="CKPT",
        help="Model whose predictions count as correct, and that torch runs.  [default: the first MODEL]",
    ),
)


def contestants_of(
    models: Sequence[Path],
    comparison: Comparison,
    options: EngineOptions,
    facts: WeightFacts,
) -> tuple[list[UnopenedContestant], UnopenedContestant | None]:
    """The models in the given order, then the peers; and the reference, if there is one.

    Raises:
        click.UsageError: a PyTorch peer without a checkpoint as --reference, or a runtime without an ONNX file as first
        model.
        UsageError: options that do not suit the files, or a missing file.
    """
    reference = comparison.reference
    each = options_for_each([*models, *comparison.files], options, facts)
    checkpoint = CheckpointOptions(facts=facts)
    contestants = [
        UnopenedContestant(name, path, own_options, checkpoint)
        for name, path, own_options in zip(_names(models), models, each, strict=False)
    ]
    unopened_reference = None
    if reference is not None:
        if not reference.is_file():
            raise UsageError(f"--reference {reference}: no such file; give a checkpoint or a model")
        if kind_of(reference) == CHECKPOINT:
            template = None if kind_of(models[0]) == CHECKPOINT else manifest_of(models[0], options.labels)
            fine = template is not None and template.spec is not None and template.spec.fine
            checkpoint = replace(checkpoint, template=template, fine=fine)
        unopened_reference = UnopenedContestant(
            reference.name, reference, replace(each[-1], allow_bf16=False), checkpoint
        )
    for peer in comparison.peers:
        if peer in (TORCH, TORCH_COMPILE):
            if unopened_reference is None:
                raise click.UsageError(f"--against {peer} requires the network's weights: give --reference CKPT")
            if kind_of(unopened_reference.path) != CHECKPOINT:
                raise click.UsageError(
                    f"--against {peer} requires the network's weights, but --reference {unopened_reference.path} is "
                    f"{kind_of(unopened_reference.path)}: give a checkpoint"
                )
            require_torch(f"--against {peer}")
            compiled = replace(unopened_reference.checkpoint, compiled=peer == TORCH_COMPILE)
            contestants.append(
                replace(unopened_reference, name=f"{peer}: {unopened_reference.name}", checkpoint=compiled)
            )
            continue
        if kind_of(models[0]) != ONNX:
            raise click.UsageError(
                f"--against {peer} runs the first MODEL, but {models[0]} is {kind_of(models[0])}: "
                "give an ONNX file first"
            )
        own_options = replace(each[0], runtime=peer, allow_bf16=False)
        contestants.append(
            UnopenedContestant(f"{peer}: {models[0].name}", models[0], own_options, CheckpointOptions(facts=facts))
        )
    return contestants, unopened_reference


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
