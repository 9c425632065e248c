"""What the judges found of one mutant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.mutants.damage import SOURCE, STATIC
from vgg_deploy.errors import VGGDeployError

CRASHED = "CRASHED"


def found_by(judge: Callable[[], tuple[str, ...]]) -> str | None:
    """The first failure. A file that is refused with a message is found, too; a crash is not."""
    try:
        failures = judge()
    except VGGDeployError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - a crash is a fault of the proof, and is reported as one
        return f"{CRASHED} {type(error).__name__}: {error}"
    return failures[0] if failures else None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a mutant.

    Attributes:
        mutant: its name.
        found: by judge, what it found; None: nothing. A judge that does not apply is absent.
        expected: the judges that must find it.
        unchanged: whether its answers keep their bits; None: not computed.
    """

    mutant: str
    found: Mapping[str, str | None]
    expected: frozenset[str]
    unchanged: bool | None = None

    def caught(self, judge: str) -> bool | None:
        """Whether a judge found it; None if the judge does not apply. SOURCE includes STATIC."""
        if judge not in self.found:
            return None
        texts = [self.found[judge], self.found[STATIC] if judge == SOURCE else None]
        return any(text is not None and not text.startswith(CRASHED) for text in texts)

    def with_unchanged(self, unchanged: bool) -> Judgement:
        return replace(self, unchanged=unchanged)

    @property
    def escaped(self) -> tuple[str, ...]:
        """The judges that had to find it and did not, although it changes answers."""
        if self.unchanged:
            return ()
        return tuple(judge for judge in sorted(self.expected) if self.caught(judge) is False)
