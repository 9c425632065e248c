"""vgg-deploy verify."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT, kind_of
from vgg_deploy.cli.opening import manifest_of, refuse_facts
from vgg_deploy.cli.outputs import STDOUT, write_text
from vgg_deploy.cli.parameters import engine_options, images_option
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.verify.proving import Proving
from vgg_deploy.cli.verify.reference import Opener, opened
from vgg_deploy.cli.verify.report import as_json, print_proof, print_title
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.errors import MissingDependencyError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.evaluation.proof import Proof
    from vgg_deploy.network.manifest import Manifest


@click.command("verify")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@click.option(
    "--reference",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CKPT|MODEL.onnx",
    help="File whose predictions count as correct. An ONNX file needs no torch.",
)
@images_option(required=True)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    metavar="N",
    help="Compare on at most N images, a seeded sample.",
)
@click.option("--details", is_flag=True, help="Print the figures behind each proof.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON.")
@engine_options(requests=None, plans=False)
@weight_options
def command(
    models: tuple[Path, ...],
    reference: Path,
    images: tuple[str, ...],
    limit: int,
    details: bool,
    json_path: str | None,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Prove that ONNX files and plans predict the same as their reference.

    The exit code is 1 if a proof fails.
    """
    from export.proof.answers import Answers
    from export.proof.views import read_views

    if not reference.is_file():
        raise UsageError(f"--reference {reference}: no such file; give a checkpoint or an ONNX file")
    if kind_of(reference) != CHECKPOINT:
        refuse_facts(reference, facts)
    manifests = {path: _manifest(path, options.labels) for path in models}
    _require_runtime_for_rounding(manifests)
    views = read_views(_sample(images, limit), _view_manifest(manifests, reference, options.labels))
    for text in views.unreadable:
        notice(f"skipped {text}")
    opener = Opener(options)
    proofs: list[Proof] = []
    with opened(reference, manifests, opener, facts) as against:
        answers = Answers(against.engine, reference.name, views, opener.rounding)
        proving = Proving(opener=opener, reference=against, answers=answers)
        groups = [(reference.name, proving.forms())] if against.fc is not None else []
        groups += [(f"{path.name}, against {reference.name}", proving.of(path)) for path in manifests]
        for title, made in groups:
            proofs.extend(_printed(title, made, details=details, quiet=json_path == STDOUT))
    if json_path is not None:
        write_text(json_path, as_json(proofs, proving.runtimes))
    if any(proof.failures for proof in proofs):
        raise SystemExit(1)


def _printed(title: str, proofs: Iterator[Proof], *, details: bool, quiet: bool) -> Iterator[Proof]:
    """Prints proofs as they are made."""
    if not quiet:
        print_title(title)
    for proof in proofs:
        if not quiet:
            print_proof(proof, details=details)
        yield proof


def _manifest(path: Path, labels: str | None) -> Manifest:
    """The manifest of an ONNX file or a plan."""
    manifest = manifest_of(path, labels)
    if manifest is None:
        raise UsageError(f"{path} has no manifest beside it, so what it computes is unknown; build it again")
    return manifest


def _view_manifest(manifests: Mapping[Path, Manifest], reference: Path, labels: str | None) -> Manifest:
    """The manifest that decides how views are made: the first that vgg_deploy wrote, since foreign files do not state
    it.
    """
    from vgg_deploy.artifacts.onnx_file import read_manifest

    described = list(manifests.values())
    if kind_of(reference) != CHECKPOINT:
        described.append(read_manifest(reference, labels))
    return next((manifest for manifest in described if manifest.spec), described[0])


def _require_runtime_for_rounding(manifests: Mapping[Path, Manifest]) -> None:
    from engines import RUNTIMES
    from export.proof.answers import rounded_too

    if not RUNTIMES["onnxruntime"].installed and any(rounded_too(*item) for item in manifests.items()):
        raise MissingDependencyError("onnxruntime", "cpu", "verifying the rounding of an FP16 file")


def _sample(images: tuple[str, ...], limit: int) -> list[Path]:
    from vgg_deploy.views.images import find_images

    paths = list(find_images(images))
    if limit >= len(paths):
        return paths
    notice(f"comparing on {limit} of {len(paths)} images, a seeded sample (--limit)")
    return sorted(random.Random(0).sample(paths, limit))
