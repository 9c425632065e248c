"""Which proofs a file passed, kept in its manifest by `verify --record`."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.files import Source


@dataclass(frozen=True, slots=True)
class Verdict:
    """Proofs that a file passed.

    Attributes:
        date: the day, as YYYY-MM-DD, in UTC.
        against: the reference.
        proofs: numbers of the proofs that passed; see `vgg_deploy.evaluation.proof`.
        runtime: the runtime that computed the file, such as "openvino 2026.4".
    """

    date: str
    against: Source
    proofs: tuple[int, ...]
    runtime: str

    def __str__(self) -> str:
        """verified on 2026-11-25 against best.safetensors: 1 2 3 (openvino 2026.4)."""
        proofs = " ".join(map(str, self.proofs)) or "no proof passed"
        return f"verified on {self.date} against {self.against.name}: {proofs} ({self.runtime})"
