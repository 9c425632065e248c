"""The report of `vgg-deploy bench`: tables, JSON and a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.bench.machine import machine, versions
from vgg_deploy.cli.tables import print_table
from vgg_deploy.files import whole_file

if TYPE_CHECKING:
    from vgg_deploy.bench.result import ContestResult
    from vgg_deploy.cli.bench.measure import Layers, Report

_PEAK_COLUMN = "of peak"
_COLUMNS = (
    *("contestant", "first run ms", "p50 ms", "p90 ms", "p99 ms", "images/s", "GFLOP/s", _PEAK_COLUMN),
    *("speedup", "agreement", "max |dp|", ""),
)


def print_report(report: Report) -> None:
    host = machine()
    cores = f"{host['usable_cores']} of {host['cores']} cores"
    click.echo(f"{host['cpu']}, {cores}; {report.pictures}; compared with {report.reference}")
    click.echo()
    rows = []
    for name, info in report.infos.items():
        cost = report.footprints[name]
        memory = "-" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e6:,.0f} MB"
        rows.append(
            (name, info.runtime, info.precision, f"{cost.load_s:.2f} s", f"{1000 * cost.first_run_s:,.0f} ms", memory)
        )
    print_table(("contestant", "runtime", "precision", "load", "first run", "peak memory"), rows, left=(0, 1, 2))
    for workload, results in _by_workload(report).items():
        click.echo()
        images = max(result.latency.images for result in results)
        click.echo(f"{workload}, {len(results[0].turns)} repetitions; images per sample: {images}")
        _print_results(results)
        for peak in dict.fromkeys(result.peak for result in results if result.peak is not None):
            click.echo(f"peak: {peak}")
    for layers in report.layers:
        _print_layers(layers)
    for result in report.results:
        for flip in result.parity.flips:
            click.echo(
                f"flipped in {result.contestant}, {result.workload}: image {flip.view}: {flip.reference.label} -> "
                f"{flip.candidate.label}, by a margin of {flip.margin:.2g}"
            )
    for result in report.results:
        if result.failures:
            click.echo(f"FAILED {result.contestant}, {result.workload}: {'; '.join(result.failures)}")


def _print_results(results: Sequence[ContestResult]) -> None:
    """Prints the table of a workload. Without a measured peak (bench --peak) it has no column for it."""
    columns, rows = list(_COLUMNS), [list(_cells(result)) for result in results]
    if all(result.peak is None for result in results):
        hidden = columns.index(_PEAK_COLUMN)
        for row in (columns, *rows):
            del row[hidden]
    print_table(columns, rows, left=(0, len(columns) - 1))


def _by_workload(report: Report) -> dict[str, list[ContestResult]]:
    results: dict[str, list[ContestResult]] = {}
    for result in report.results:
        results.setdefault(result.workload, []).append(result)
    return results


def _cells(result: ContestResult) -> tuple[str, ...]:
    latency, ratio, parity = result.latency, result.ratio, result.parity
    rate, share = result.gflops_per_s, result.share_of_peak
    return (
        result.contestant,
        f"{1000 * result.first_run_s:,.1f}",
        f"{latency.p50_ms:,.1f}",
        f"{latency.p90_ms:,.1f}",
        f"{latency.p99_ms:,.1f}",
        f"{latency.images_per_s:,.2f}",
        "-" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
        "-" if share is None else f"{share:.0%}",
        f"{ratio.median:.2f} ({ratio.lowest:.2f} to {ratio.highest:.2f})",
        "-" if math.isnan(parity.agreement) else f"{parity.agreement:.1%}",
        f"{parity.max_dp:.1e}",
        "FAILED" if result.failures else "ok",
    )


def _print_layers(layers: Layers) -> None:
    click.echo()
    click.echo(f"{layers.contestant}, {layers.shape}, by layer")
    rows = [
        (
            time.layer,
            f"{time.ms:,.2f}",
            f"{time.share:.1%}",
            "-" if time.gflops_per_s is None else f"{time.gflops_per_s:,.0f}",
        )
        for time in layers.times
    ]
    rows.append(("sum", f"{sum(time.ms for time in layers.times):,.2f}", "", ""))
    print_table(("layer", "ms", "share", "GFLOP/s"), rows)


def as_json(report: Report) -> dict[str, Any]:
    """The whole report. Names carry the units; shares are in 0..1; null means unknown, not measured or not a number."""
    return {
        "machine": machine(),
        "versions": versions(),
        "pictures": report.pictures,
        "reference": report.reference,
        "passed": not any(result.failures for result in report.results),
        "contestants": [
            {
                "name": name,
                "runtime": info.runtime,
                "device": info.device,
                "precision": info.precision,
                "requests": info.concurrency,
                "load_s": report.footprints[name].load_s,
                "first_run_s": report.footprints[name].first_run_s,
                "peak_bytes": report.footprints[name].peak_bytes,
            }
            for name, info in report.infos.items()
        ],
        "results": [_result_as_json(result) for result in report.results],
        "layers": [
            {
                "contestant": layers.contestant,
                "shape": str(layers.shape),
                "layers": [
                    {
                        "layer": time.layer,
                        "ms": time.ms,
                        "share": time.share,
                        "gflop": time.gflop,
                        "gflops_per_s": time.gflops_per_s,
                    }
                    for time in layers.times
                ],
            }
            for layers in report.layers
        ],
    }


def _result_as_json(result: ContestResult) -> dict[str, Any]:
    latency, peak, parity = result.latency, result.peak, result.parity
    return {
        "contestant": result.contestant,
        "work": result.workload,
        "requests": result.info.concurrency,
        "images_per_sample": latency.images,
        "first_run_ms": 1000 * result.first_run_s,
        "p50_ms": latency.p50_ms,
        "p90_ms": latency.p90_ms,
        "p99_ms": latency.p99_ms,
        "lowest_ms": latency.lowest_ms,
        "highest_ms": latency.highest_ms,
        "images_per_s": latency.images_per_s,
        "samples_ms": [round(1000 * seconds, 4) for seconds in latency.seconds],
        "turns_ms_per_image": [round(1000 * seconds, 4) for seconds in result.turns],
        "ratio_to_first": {
            "median": result.ratio.median,
            "lowest": result.ratio.lowest,
            "highest": result.ratio.highest,
            "standard_error": _number(result.ratio.error),
        },
        "gflop_per_sample": result.gflop,
        "gflops_per_s": result.gflops_per_s,
        "share_of_peak": result.share_of_peak,
        "peak": None
        if peak is None
        else {
            "precision": peak.precision,
            "runtime": peak.runtime,
            "product": str(peak.product),
            "gflops_per_s": peak.gflops_per_s,
            "highest_gflops_per_s": peak.highest_gflops_per_s,
            "samples_ms": [round(1000 * seconds, 4) for seconds in peak.seconds],
        },
        "parity": {
            "pictures": parity.view_count,
            "agreement": _number(parity.agreement),
            "max_dp": _number(parity.max_dp),
            "mean_dp": _number(parity.mean_dp),
            "divergence": _number(parity.divergence),
            "flips": [
                {
                    "image": int(flip.view),
                    "reference": flip.reference.label,
                    "candidate": flip.candidate.label,
                    "margin": flip.margin,
                }
                for flip in parity.flips
            ],
        },
        "failures": list(result.failures),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def plot_report(report: Report, path: Path) -> None:
    """Images/s of each contestant, a panel for each workload. Whiskers: the slowest and the fastest repetition."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    workloads = _by_workload(report)
    height = sum(1.2 + 0.35 * len(results) for results in workloads.values())
    figure, panels = pyplot.subplots(
        len(workloads),
        figsize=(9, height),
        layout="constrained",
        squeeze=False,
        height_ratios=[len(r) for r in workloads.values()],
    )
    for axes, (workload, results) in zip(panels[:, 0], workloads.items(), strict=True):
        names = [result.contestant for result in results]
        rates = [result.latency.images_per_s for result in results]
        ends = [[1 / max(result.turns), 1 / min(result.turns)] for result in results]
        whiskers = [
            [max(0.0, rate - low) for rate, (low, _high) in zip(rates, ends, strict=True)],
            [max(0.0, high - rate) for rate, (_low, high) in zip(rates, ends, strict=True)],
        ]
        bars = axes.barh(range(len(names)), rates, xerr=whiskers, capsize=3, color="#4878a8")
        axes.bar_label(bars, [f"{result.ratio.median:.2f}x" for result in results], padding=4, fontsize=8)
        axes.set(yticks=range(len(names)), yticklabels=names, xlabel="images/s", title=workload)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(axis="x", alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."))
    pyplot.close(figure)
