"""The report of verify: a line for each proof of each file, the figures behind them, and JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from vgg_deploy.cli.tables import print_table
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.version import __version__

REPORT_VERSION = 1  # of the JSON report
_WIDTH, _INDENT = 80, 6 * " "  # columns of a line, and what precedes a failure


class Printer:
    """Prints proofs as they are made.

    Args:
        details: whether to print the figures behind each proof.
        quiet: whether to print nothing, because stdout is for the JSON report.
    """

    def __init__(self, *, details: bool, quiet: bool) -> None:
        self._details, self._quiet = details, quiet

    def all(self, file: str, proofs: Iterable[Proof]) -> list[Proof]:
        """Prints the proofs of one file, and returns them."""
        printed: list[Proof] = []
        for proof in proofs:
            if not self._quiet:
                if not printed:
                    _echo(file)
                _print(proof, details=self._details)
            printed.append(proof)
        return printed


def _print(proof: Proof, *, details: bool) -> None:
    """Prints a proof: one line within 80 columns, its failures, and with `details` its tables."""
    _echo(f"  {proof.number} {proof.name:<8}  {_verdict(proof):<9}  {proof.summary}".rstrip())
    for text in proof.failures:
        for line in textwrap.wrap(text, _WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False):
            _echo(_INDENT + line)
    if not details:
        return
    for table in proof.tables:
        click.echo()
        _echo(f"{table.title}:")
        print_table(table.columns, table.rows, left=table.text_columns)
    if proof.tables:
        click.echo()


def _verdict(proof: Proof) -> str:
    if proof.failures:
        return "FAILED"
    return "ok" if proof.shown else "not shown"


def _echo(text: str) -> None:
    click.echo(text.encode(errors="backslashreplace"))  # UTF-8, whatever the terminal's encoding


def as_json(proofs: Sequence[Proof], runtimes: Mapping[str, str]) -> str:
    """The report as JSON; docs/verify.md describes it.

    Args:
        proofs: of all files.
        runtimes: the runtime of each file that was run, by its name.
    """
    artifacts: dict[str, list[Proof]] = {}
    for proof in proofs:
        artifacts.setdefault(proof.artifact, []).append(proof)
    report = {
        "report_version": REPORT_VERSION,
        "vgg_deploy": __version__,
        "passed": not any(proof.failures for proof in proofs),
        "artifacts": [
            {
                "file": name,
                "runtime": runtimes.get(name),
                "passed": not any(proof.failures for proof in group),
                "proofs": [_proof_as_json(proof) for proof in group],
            }
            for name, group in artifacts.items()
        ],
    }
    return json.dumps(_without_nan(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _proof_as_json(proof: Proof) -> dict[str, Any]:
    return {
        "number": proof.number,
        "name": proof.name,
        "against": proof.against,
        "verdict": _verdict(proof).lower(),
        "summary": proof.summary,
        "failures": list(proof.failures),
        "seconds": round(proof.seconds, 3),
        "figures": proof.figures,
    }


def _without_nan(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by null. `failures` says which it was."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
