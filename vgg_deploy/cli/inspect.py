"""vgg-deploy inspect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.tables import notice, print_table

if TYPE_CHECKING:
    from vgg_deploy.artifacts.description import Description
    from vgg_deploy.artifacts.plan import PlanManifest
    from vgg_deploy.network.manifest import Manifest

_FEW = 6  # class labels that are shown; the manifest has all


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.onnx|FILE.plan")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the file's facts and its whole manifest.")
def command(file: Path, as_json: bool) -> None:
    """Show what an ONNX file or a plan is; needs neither a GPU nor TensorRT.

    Precision by layer, shapes, sizes, classes, normalization, S, provenance, and the whole manifest. Exits 1 where the file is
    not what its manifest says.
    """
    from vgg_deploy.artifacts.description import describe

    artifact = describe(file)
    if as_json:
        _echo(json.dumps(artifact.as_json(), ensure_ascii=False, indent=2))
    else:
        _print(artifact)
    for text in artifact.contradictions:
        notice(f"Error: {text}")
    if artifact.contradictions:
        raise SystemExit(1)


def _print(artifact: Description) -> None:
    facts = list(_facts(artifact))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        _echo(f"{name:<{width}}  {value}")
    if artifact.layers:
        click.echo()
        _print_layers(artifact)
    whole = artifact.as_json()["manifest"]
    if whole is not None:
        click.echo("\nmanifest:")
        for name, value in whole.items():
            _echo(f"  {name}: {json.dumps(value, ensure_ascii=False)}")


def _echo(text: str) -> None:
    """UTF-8, whatever the terminal's encoding: labels are of any language."""
    click.echo(text.encode(errors="backslashreplace"))


def _facts(artifact: Description) -> Iterator[tuple[str, str]]:
    from vgg_deploy.network.precision import summary

    manifest, plan = artifact.manifest, artifact.plan
    yield "file", f"{artifact.path}, {_megabytes(artifact.size)}, {_megabytes(artifact.weight_bytes)} of weights"
    yield "SHA-256", artifact.sha256
    yield "made by", artifact.made_by
    proof = f", {plan.layers_from}" if plan is not None else ""
    yield "precision", (summary(artifact.layers) or "no convolutions") + proof
    for name, what in artifact.inputs.items():
        yield "input", f"{name}: {what}"
    for name, what in artifact.outputs.items():
        yield "output", f"{name}: {what}"
    if plan is not None:
        yield from _plan_facts(plan)
    if manifest is None:
        yield "manifest", "none of vgg_deploy: classes, normalization and S are unknown"
    else:
        yield from _manifest_facts(manifest)


def _plan_facts(plan: PlanManifest) -> Iterator[tuple[str, str]]:
    targets = ", ".join(plan.compute_capabilities) or "8.0 and later, without 9.0"
    widened = {"ampere+": ", and on 8.0 and later", "same": ", and on others of it"}
    yield "runs on", f"compute capability {targets}{widened.get(plan.hardware_compatibility, '')}"
    for profile in plan.profiles:
        kernels = " x ".join(map(str, profile.optimum))
        yield "profile", f"{profile}, fastest at {kernels} x 3"
    yield "built from", f"{plan.onnx.name} (SHA-256 {plan.onnx.sha256}) in {plan.build_seconds:.1f} s"
    yield "build again", plan.command


def _manifest_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    spec, normalization, rescaling = manifest.spec, manifest.normalization, manifest.rescaling
    if spec is not None:
        network = (
            f"configuration {spec.configuration} ({spec.common_name}), {spec.parameters:,} parameters, crop {spec.crop}"
        )
        yield "network", network + (", class scores on the finer grid" if spec.fine else "")
    yield "images", f"uint8 {manifest.shapes}"
    labels = ", ".join(name.label for name in manifest.classes[:_FEW])
    yield "classes", f"{len(manifest.classes)}: {labels}{', ...' if len(manifest.classes) > _FEW else ''}"
    if normalization is not None:
        mean, std = (",".join(f"{value:g}" for value in triple) for triple in (normalization.mean, normalization.std))
        yield "normalization", f"(pixel - {mean}) / {std}, RGB in units of 0..255"
    mirror = "seen mirrored too" if manifest.mirror else "not mirrored"
    yield "trained at", f"S={manifest.train_scale}, {rescaling.filter}, sides rounded by {rescaling.rounding}, {mirror}"
    if manifest.source is not None:
        yield "exported from", f"{manifest.source.name} (SHA-256 {manifest.source.sha256})"
    if manifest.tools:
        yield "exported with", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size:,} bytes"


def _print_layers(artifact: Description) -> None:
    precision = None if artifact.manifest is None else artifact.manifest.precision
    ranges = precision.quantization.ranges if precision is not None and precision.quantization is not None else {}
    peaks = precision.largest_activations or {} if precision is not None else {}
    rows = []
    for layer, kind in artifact.layers.items():
        low, high = ranges.get(layer, (None, None))
        rows.append(
            (
                layer,
                kind,
                "" if low is None else f"{low:.4g} .. {high:.4g}",
                f"{peaks[layer]:,.0f}" if layer in peaks else "",
            )
        )
    columns = ("layer", "type", "INT8 input range", "largest activation")
    shown = [0, 1, *(index for index in (2, 3) if any(row[index] for row in rows))]
    print_table([columns[index] for index in shown], [[row[index] for index in shown] for row in rows], left=(0, 1, 2))
