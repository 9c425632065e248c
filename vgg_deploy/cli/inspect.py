"""vgg-deploy inspect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.tables import notice, print_table
from vgg_deploy.network.precision import summary

if TYPE_CHECKING:
    from vgg_deploy.artifacts.description import Description
    from vgg_deploy.artifacts.plan import PlanManifest
    from vgg_deploy.network.manifest import Manifest

_SHOWN_LABELS = 6  # the manifest lists all of them


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.onnx|FILE.plan")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the file's facts and its whole manifest.")
def command(file: Path, as_json: bool) -> None:
    """Show what an ONNX file or a plan contains. Needs neither a GPU nor TensorRT.

    Shows precision by layer, shapes, sizes, classes, normalization, S, provenance, the verdict of verify --record, and
    the manifest. Exits with 1 if the file contradicts its manifest: a tensor, the graph or the manifest was changed
    after the export, or the graph does not compute what the manifest states.
    """
    from vgg_deploy.artifacts.description import describe

    description = describe(file)
    if as_json:
        _echo(json.dumps(description.as_json(), ensure_ascii=False, indent=2))
    else:
        _print(description)
    for text in description.contradictions:
        notice(f"Error: {text}")
    if description.contradictions:
        raise SystemExit(1)


def _print(description: Description) -> None:
    facts = list(_facts(description))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        _echo(f"{name:<{width}}  {value}")
    if description.layers:
        click.echo()
        _print_layers(description)
    manifest = description.as_json()["manifest"]
    if manifest is not None:
        click.echo("\nmanifest:")
        for name, value in manifest.items():
            _echo(f"  {name}: {json.dumps(_without_digests(name, value), ensure_ascii=False)}")


def _without_digests(name: str, value: Any) -> Any:
    """A value of a manifest, without the digest of each tensor; --json prints them."""
    if name == "digests" and value is not None:
        return {**value, "tensors": f"of {len(value['tensors'])} tensors (--json)"}
    if name == "manifest":  # that of its model, in the sidecar of a plan
        return {key: _without_digests(key, item) for key, item in value.items()}
    return value


def _echo(text: str) -> None:
    """Prints UTF-8 whatever the encoding of the terminal, because labels may be in any language."""
    click.echo(text.encode(errors="backslashreplace"))


def _facts(description: Description) -> Iterator[tuple[str, str]]:
    manifest, plan = description.manifest, description.plan
    weights = _megabytes(description.weight_bytes)
    yield "file", f"{description.path}, {_megabytes(description.size)}, {weights} of weights"
    yield "SHA-256", description.sha256
    yield "made by", description.made_by
    if description.digests is not None:
        yield ("digests" if plan is None else "seal"), description.digests
    if description.verdict is not None:
        yield "verdict", description.verdict
    proof = f", {plan.layers_from}" if plan is not None else ""
    yield "precision", (summary(description.layers) or "no convolutions") + proof
    for name, value in description.inputs.items():
        yield "input", f"{name}: {value}"
    for name, value in description.outputs.items():
        yield "output", f"{name}: {value}"
    if plan is not None:
        yield from _plan_facts(plan)
    if manifest is None:
        yield "manifest", "no vgg_deploy manifest: classes, normalization and S are unknown"
    else:
        yield from _manifest_facts(manifest)


def _plan_facts(plan: PlanManifest) -> Iterator[tuple[str, str]]:
    targets = ", ".join(plan.compute_capabilities) or "8.0 and later, except 9.0"
    widened = {"ampere+": ", and any from 8.0", "same": ", and other GPUs of the same"}
    yield "runs on", f"compute capability {targets}{widened.get(plan.hardware_compatibility, '')}"
    for profile in plan.profiles:
        kernels = " x ".join(map(str, profile.optimum))
        yield "profile", f"{profile}, tuned for {kernels} x 3"
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
    labels = ", ".join(name.label for name in manifest.classes[:_SHOWN_LABELS])
    yield "classes", f"{len(manifest.classes)}: {labels}{', ...' if len(manifest.classes) > _SHOWN_LABELS else ''}"
    if normalization is not None:
        mean, std = (",".join(f"{value:g}" for value in triple) for triple in (normalization.mean, normalization.std))
        yield "normalization", f"(pixel - {mean}) / {std}, RGB in units of 0..255"
    if manifest.channels_reversed:
        yield "channels", "RGB; the checkpoint took BGR, so conv1_1's input channels were reversed"
    mirror = "also mirrored" if manifest.mirror else "not mirrored"
    yield "trained at", f"S={manifest.train_scale}, {rescaling.filter}, sides rounded by {rescaling.rounding}, {mirror}"
    if manifest.source is not None:
        yield "exported from", f"{manifest.source.name} (SHA-256 {manifest.source.sha256})"
    if manifest.tools:
        yield "exported with", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size:,} bytes"


def _print_layers(description: Description) -> None:
    precision = None if description.manifest is None else description.manifest.precision
    ranges = precision.quantization.ranges if precision is not None and precision.quantization is not None else {}
    peaks = precision.largest_activations or {} if precision is not None else {}
    rows = []
    for layer, kind in description.layers.items():
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
