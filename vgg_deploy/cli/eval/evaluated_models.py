"""The models that `vgg-deploy eval` tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.opening import CheckpointOptions, model_fingerprint, open_any, options_for_each
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.classes import first_other_class
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import Engine, EngineInfo


class EvaluatedModels(ContextManaged):
    """Models under test, opened one at a time so that memory holds one. A single model stays open.

    Attributes:
        names: what the report calls them.
        infos: what each engine states about itself, in the same order.

    Raises:
        click.UsageError: a file is given twice.
        UsageError: an option that no model takes; models with different classes, whose posteriors cannot be fused.
        VGGDeployError: a model cannot be opened.
    """

    def __init__(self, paths: Sequence[Path], options: EngineOptions, facts: WeightFacts) -> None:
        self.names = distinct_names(paths)
        self._paths, self._checkpoint = tuple(paths), CheckpointOptions(facts=facts)
        self._options = options_for_each(paths, options, facts)
        with ExitStack() as stack:
            self._single = stack.enter_context(self._open(0, "")) if len(self._paths) == 1 else None
            if self._single is None:
                self.infos = [self._info(index) for index in range(len(self._paths))]
            else:
                self.infos = [self._single.info]
            check_same_classes(self.names, self.infos)
            self._stack = stack.pop_all()

    def _open(self, index: int, prefix: str) -> Engine:
        return open_any(
            self._paths[index], self._options[index], self._checkpoint, say=lambda text: notice(f"{prefix}{text}")
        )

    def _info(self, index: int) -> EngineInfo:
        with self._open(index, f"{self.names[index]}: ") as engine:
            return engine.info

    @contextmanager
    def engine(self, index: int) -> Iterator[Engine]:
        """The engine of one model, for as long as the block lasts."""
        if self._single is not None:
            yield self._single
            return
        path, options = self._paths[index], self._options[index]
        # Its notices are already printed.
        with open_any(path, options, self._checkpoint, say=lambda _text: None) as engine:
            yield engine

    def fingerprint(self, index: int) -> str:
        """Identifies the weights of one model in a cache of posteriors."""
        return model_fingerprint(self._paths[index])

    def close(self) -> None:
        self._stack.close()


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The files' names, or whole paths if two files have the same name.

    Raises:
        click.UsageError: a file is given twice.
    """
    repeated = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if repeated:
        raise click.UsageError(
            f"--engine {repeated[0]} is given twice, and fusing a model with itself changes nothing; give it once"
        )
    same_name = Counter(path.name for path in paths)
    return [path.name if same_name[path.name] == 1 else str(path) for path in paths]


def check_same_classes(names: Sequence[str], infos: Sequence[EngineInfo]) -> None:
    """Raises UsageError if the networks have different classes, or the same in another order: they cannot be fused."""
    first = infos[0].manifest.classes
    for name, info in zip(names[1:], infos[1:], strict=True):
        other = info.manifest.classes
        if len(first) != len(other):
            raise UsageError(
                f"{names[0]} has {len(first)} classes and {name} has {len(other)}, so they cannot be fused; "
                "test them one at a time"
            )
        index = first_other_class(first, other)
        if index is not None:
            raise UsageError(
                f"class {index} is {first[index].id} in {names[0]} and {other[index].id} in {name}. Networks with "
                "different classes, or another order of classes, cannot be fused; test them one at a time"
            )
