"""What the proofs found, by precision, runtime and judge; what escaped; and the headroom of healthy files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.mutants.damage import ANSWERS, JUDGES, LAYERS, SIMULATED
from tests.mutants.headroom import worst
from tests.mutants.kinds import HARMLESS
from tests.mutants.trial import Judged
from vgg_deploy.evaluation.proof import Proof


@dataclass
class Report:
    """Collects judgements.

    Attributes:
        judged: all of them.
        healthy: the proofs of the healthy files, by form and runtime.
    """

    judged: list[Judged] = field(default_factory=list)
    healthy: dict[tuple[str, str], list[Proof]] = field(default_factory=dict)

    def add(self, judged: Judged) -> None:
        self.judged.append(judged)

    def progress(self, form: str) -> str:
        """One line about a form."""
        mine = [each for each in self.judged if each.form == form]
        mutants = {each.judgement.mutant for each in mine}
        escaped = sum(bool(each.judgement.escaped) for each in mine)
        return f"{form}: {len(mutants)} mutants, {escaped} escaped a judge that had to find them"

    @property
    def escaped(self) -> list[Judged]:
        return [each for each in self.judged if each.judgement.escaped]

    @property
    def false_alarms(self) -> list[Judged]:
        """Damages that change no answer, found by a judge that computes."""
        return [
            each
            for each in self.judged
            if each.judgement.mutant in HARMLESS
            and any(each.judgement.caught(judge) for judge in (LAYERS, SIMULATED, ANSWERS))
        ]

    def rows(self) -> Iterator[tuple[str, str, str, int, int, int, int]]:
        """Precision, runtime, judge; mutants found and judged; those that had to be found, and those that escaped."""
        found: Counter[tuple[str, str, str]] = Counter()
        made, wanted, missed = found.copy(), found.copy(), found.copy()
        for each in self.judged:
            for judge in each.judgement.found:
                key = each.precision, each.runtime, judge
                made[key] += 1
                found[key] += each.judgement.caught(judge) is True
                wanted[key] += judge in each.judgement.expected and not each.judgement.unchanged
                missed[key] += judge in each.judgement.escaped
        for key in made:
            yield (*key, found[key], made[key], wanted[key], missed[key])

    def _below_proof_2(self) -> dict[str, list[str]]:
        """Damages that proof 2 was shown and did not find in some runtime, by precision."""
        names: dict[str, set[str]] = {}
        for each in self.judged:
            if each.judgement.caught(LAYERS) is False and each.judgement.mutant not in HARMLESS:
                names.setdefault(each.precision, set()).add(each.judgement.mutant)
        return {precision: sorted(found) for precision, found in names.items()}

    def text(self) -> str:
        """The report."""
        order = sorted(self.rows(), key=lambda row: (row[0], row[1], JUDGES.index(row[2])))
        lines = [f"{'precision':<22}{'runtime':<13}{'judge':<11}{'found':>7}{'made':>7}{'must':>7}{'escaped':>9}"]
        lines += [f"{row[0]:<22}{row[1]:<13}{row[2]:<11}" + "{:>7}{:>7}{:>7}{:>9}".format(*row[3:]) for row in order]
        lines += [
            "",
            f"mutants: {len({(each.form, each.judgement.mutant) for each in self.judged})} files of "
            f"{len({each.judgement.mutant for each in self.judged})} kinds",
        ]
        lines += ["", "escaped:"] + [
            f"  {each.form}, {each.runtime}: {each.judgement.mutant}: not by {', '.join(each.judgement.escaped)}"
            for each in self.escaped
        ]
        lines += ["", "false alarms:"] + [
            f"  {each.form}, {each.runtime}: {each.judgement.mutant}" for each in self.false_alarms
        ]
        lines += ["", "not found by proof 2, because they are smaller than its limits or what rounding may do:"]
        lines += [f"  {precision}: {', '.join(names)}" for precision, names in sorted(self._below_proof_2().items())]
        unchanged = {(each.form, each.judgement.mutant) for each in self.judged if each.judgement.unchanged}
        lines += ["", "change no bit of the answers, and were not found by a judge that finds such damages elsewhere:"]
        lines += [f"  {form}: {name}" for form, name in sorted(unchanged)]
        lines += ["", "worst figure of healthy files as a share of its limit:"]
        for (form, runtime), proofs in self.healthy.items():
            for proof in proofs:
                lines.append(f"  {form}, {runtime}, {proof.name}: {_described(proof)}")
        return "\n".join(lines)

    def as_json(self) -> list[dict[str, Any]]:
        """Every judgement as plain JSON values."""
        return [
            {**asdict(each), "judgement": {**asdict(each.judgement), "expected": sorted(each.judgement.expected)}}
            for each in self.judged
        ]


def _described(proof: Proof) -> str:
    state = "ok" if proof.passed else f"FAILED: {proof.failures[:1]}"
    share = worst(proof)
    return state if share is None else f"{share[1]:.2f} ({share[0]}), {state}"
