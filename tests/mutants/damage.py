"""What a damage is, and the table of all damages: `DAMAGES`, filled by the modules of `kinds`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.mutants.edit import Edit

# The judges; see `judges`. Every damage must be found by INSPECT, and by STATIC or SOURCE, unless its entry says less.
INSPECT = "inspect"  # the edited file with its digests
STATIC = "static"  # the same file without digests: contradictions with its manifest
SOURCE = "source"  # the same against the checkpoint
LAYERS = "layers"  # as a fault of a runtime, layer by layer
SIMULATED = "simulated"  # as a fault of a runtime, posteriors against the simulated file
ANSWERS = "answers"  # posteriors against the FP32 reference
JUDGES = (INSPECT, STATIC, SOURCE, LAYERS, SIMULATED, ANSWERS)

FILE = frozenset({INSPECT, SOURCE})


@dataclass(frozen=True, slots=True)
class Damage:
    """A way to damage a file.

    Attributes:
        name: what is wrong with the file.
        change: damages an `Edit` in place; raises `NotApplicable` if the file has no such part.
        caught: the judges that must find it in every file to which it applies, unless the answers keep their bits.
            SOURCE stands for STATIC or SOURCE.
        group: the module of `kinds` that enters it.
    """

    name: str
    change: Callable[[Edit], None]
    caught: frozenset[str]
    group: str


DAMAGES: dict[str, Damage] = {}


def damage(
    name: str, *judges: str, also: frozenset[str] = FILE
) -> Callable[[Callable[[Edit], None]], Callable[[Edit], None]]:
    """Enters a function into the table. The `judges` must find the damage, besides those of `also`."""

    def enter(change: Callable[[Edit], None]) -> Callable[[Edit], None]:
        _enter(Damage(name, change, also | set(judges), change.__module__.rpartition(".")[2]))
        return change

    return enter


def add(name: str, change: Callable[[Edit], None], *judges: str, also: frozenset[str] = FILE) -> None:
    """`damage` as a plain function."""
    function = change.func if isinstance(change, partial) else change
    _enter(Damage(name, change, also | set(judges), function.__module__.rpartition(".")[2]))


def _enter(damage: Damage) -> None:
    assert damage.name not in DAMAGES, f"two damages are named {damage.name!r}"
    DAMAGES[damage.name] = damage
