"""Which proofs a file passed, kept in its manifest by `verify --record`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vgg_deploy.files import Source


@dataclass(frozen=True, slots=True)
class Verdict:
    """Proofs that a file passed.

    Attributes:
        date: the day of the oldest of these proofs, as YYYY-MM-DD, in UTC.
        against: the reference or, without one, the expected answers.
        proofs: numbers of the proofs that passed; see `vgg_deploy.evaluation.proof`.
        runtime: the runtime that computed the file, such as "openvino 2026.4".
        witness: the expected answers of proof 4, if there was a reference too.
        content: SHA-256 of what was verified; see `vgg_deploy.artifacts.verdict_record.content_digest`. None: a record
            of an older version, or one that is not written yet.
    """

    date: str
    against: Source
    proofs: tuple[int, ...]
    runtime: str
    witness: Source | None = None
    content: str | None = None

    def with_older(self, older: Verdict) -> Verdict:
        """This verdict with the proofs of an older one, if both are about the same.

        They are if content, reference and runtime are the same. If both have proof 4, the answers of this one are
        named. The date is that of the older one if a proof of it is kept.
        """
        same = self.content is not None and self._subject() == older._subject()
        kept = set(older.proofs) - set(self.proofs) if same else set()
        if not kept:
            return self
        return replace(
            self,
            date=min(self.date, older.date),
            proofs=tuple(sorted({*self.proofs, *kept})),
            witness=self.witness or older.witness,
        )

    def _subject(self) -> tuple[str | None, str, str]:
        return self.content, self.against.sha256, self.runtime

    def __str__(self) -> str:
        """verified on 2026-11-25 against best.safetensors and expected.npz: 1 2 3 4 (openvino 2026.4)."""
        proofs = " ".join(map(str, self.proofs)) or "no proof passed"
        witness = "" if self.witness is None else f" and {self.witness.name}"
        return f"verified on {self.date} against {self.against.name}{witness}: {proofs} ({self.runtime})"
