"""The paper's tables: they agree with its text, and a test of ours has the row that it repeats."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from vgg_deploy.evaluation.paper import ROWS, PaperRow, differences_from_paper, paper_row
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec
from vgg_deploy.views.protocols import PROTOCOLS, Protocol, choose_protocol, multiscale_defaults, single_scale_default

S_256, S_384, JITTER = TrainScale(256, 256), TrainScale(384, 384), TrainScale(256, 512)
CLASSES = numbered_classes(1000)
SINGLE = [row for row in ROWS if len(row.networks) == 1]


def manifest(configuration: str, scale: TrainScale, **spec: int | bool) -> Manifest:
    network = NetworkSpec(configuration, **spec)  # type: ignore[arg-type]
    return Manifest(CLASSES[: network.classes], network, PAPER_NORMALIZATION, scale)


def by_default(name: str, network: Manifest) -> Protocol:
    return choose_protocol(network, name, free_size=True).protocol


def rows(table: int, configurations: Iterable[str] = CONFIGURATIONS) -> list[PaperRow]:
    return [row for row in ROWS if row.table == table and row.networks[0].configuration in configurations]


def figures(
    table: int, configuration: str, scale: TrainScale = JITTER, protocol: str | None = None
) -> tuple[float, float]:
    (row,) = (
        row
        for row in rows(table, configuration)
        if row.networks[0].train_scale == scale and row.protocol == (protocol or row.protocol)
    )
    return row.top1, row.top5


# ---- the tables ----


def test_the_best_figures_that_the_text_quotes_are_the_tables() -> None:
    # Section 4.1 to 4.4: one scale, several, dense with crops, two networks.
    assert figures(3, "D") == (25.6, 8.1)
    assert figures(3, "E") == (25.5, 8.0)
    assert figures(4, "D") == figures(4, "E") == (24.8, 7.5)
    assert figures(5, "E", protocol="multiscale+150-crop") == (24.4, 7.1)
    best = {table: min((row.top5, row.top1) for row in ROWS if row.table == table) for table in (3, 4, 5, 6)}
    assert best == {3: (8.0, 25.5), 4: (7.5, 24.8), 5: (7.1, 24.4), 6: (6.8, 23.7)}
    (submission,) = (row for row in ROWS if len(row.networks) == 7)
    assert (submission.top1, submission.top5) == (24.7, 7.5)


def test_the_tables_have_the_papers_numbers_of_rows() -> None:
    assert {table: len([row for row in ROWS if row.table == table]) for table in (3, 4, 5, 6)} == {
        3: 12,
        4: 10,
        5: 4,
        6: 4,
    }


def test_figures_are_percents_and_top_5_is_below_top_1() -> None:
    for row in ROWS:
        assert 20 < row.top1 < 30
        assert 6 < row.top5 < 11
        assert round(row.top1, 1) == row.top1
        assert row.protocol in PROTOCOLS


def test_test_scales_follow_the_training_scales_as_sections_4_1_and_4_2_say() -> None:
    for row in ROWS:
        for network in row.networks:
            scale = network.train_scale
            expected = (single_scale_default(scale),) if row.protocol == "dense" else multiscale_defaults(scale)
            assert network.scales == expected, row


def test_the_papers_conclusions_hold_in_its_tables() -> None:
    # Section 4.1: LRN does not help, and scale jittering is better than a fixed S. Section 4.2: this holds at several
    # test scales too, which are better than one. Section 4.3: crops are better than dense, and both together are best.
    assert figures(3, ["A-LRN"], S_256) >= figures(3, ["A"], S_256)  # type: ignore[arg-type]
    for table in (3, 4):
        for configuration in ("C", "D", "E"):
            assert figures(table, configuration) < min(figures(table, configuration, scale) for scale in (S_256, S_384))
    for row in rows(4):
        single = figures(3, row.networks[0].configuration, row.networks[0].train_scale)
        assert (row.top1, row.top5) < single
    for configuration in ("D", "E"):
        both, crops = (figures(5, configuration, protocol=name) for name in ("multiscale+150-crop", "150-crop"))
        assert both < crops < figures(4, configuration)
    fused = {row.protocol: row.top1 for row in ROWS if row.table == 6 and len(row.networks) == 2}
    assert fused["multiscale+150-crop"] < fused["150-crop"] < fused["multiscale"]


def test_no_test_has_two_rows() -> None:
    assert len({(row.networks, row.protocol) for row in ROWS}) == len(ROWS)


# ---- which row is ours ----


@pytest.mark.parametrize("row", SINGLE, ids=lambda row: f"{row.table}-{row.networks[0].configuration}-{row.top1}")
def test_a_network_tested_by_the_defaults_has_its_row(row: PaperRow) -> None:
    (network,) = row.networks
    ours = manifest(network.configuration, network.train_scale)
    assert paper_row([ours], [by_default(row.protocol, ours)]) is row


@pytest.mark.parametrize("row", [row for row in ROWS if row.table == 6], ids=lambda row: str(row.top1))
def test_fused_networks_have_their_row_in_any_order(row: PaperRow) -> None:
    ours = [manifest(network.configuration, network.train_scale) for network in row.networks]
    for some in (ours, ours[::-1]):
        assert paper_row(some, [by_default(row.protocol, network) for network in some]) is row


@pytest.mark.parametrize("spec", [{"width_divisor": 2}, {"classes": 999}, {"fine": True}], ids=str)
def test_a_different_network_has_no_row(spec: dict[str, int]) -> None:
    ours = manifest("D", JITTER, **spec)
    assert paper_row([ours], [Protocol("dense", (384,), None, True)]) is None
    ((name, value),) = spec.items()
    (difference,) = differences_from_paper(ours)
    assert difference == f"{name} is {value}, not {getattr(NetworkSpec('D'), name)}"


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol("dense", (256,), None, True),
        Protocol("dense", (384,), None, False),
        Protocol("multiscale", (384,), None, True),
        Protocol("multiscale", (256, 512), None, True),
        Protocol("144-crop", (256, 288, 320, 352), 224, True),
    ],
    ids=str,
)
def test_a_different_test_has_no_row(protocol: Protocol) -> None:
    assert paper_row([manifest("D", JITTER)], [protocol]) is None


def test_a_network_that_the_paper_does_not_test_has_no_row() -> None:
    for ours in (manifest("A", JITTER), manifest("D", TrainScale(224, 224)), manifest("A-LRN", S_384)):
        assert paper_row([ours], [by_default("dense", ours)]) is None
        assert differences_from_paper(ours)
    assert differences_from_paper(manifest("A", JITTER)) == ("S is [256, 512], not 256",)
    foreign = manifest("D", JITTER).with_(spec=None, normalization=None)
    assert differences_from_paper(foreign) == ("its configuration is unknown, because it has no manifest",)
    assert paper_row([foreign], [Protocol("dense", (384,), None, True)]) is None


def test_the_papers_own_networks_do_not_differ_from_it() -> None:
    for row in ROWS:
        for network in row.networks:
            assert differences_from_paper(manifest(network.configuration, network.train_scale)) == ()


def test_networks_that_the_paper_does_not_fuse_have_no_row() -> None:
    d, e, b = manifest("D", JITTER), manifest("E", JITTER), manifest("B", S_256)
    for some in ([d, d], [e, b], [d, e, e], [d, e, b]):
        assert paper_row(some, [by_default("multiscale", network) for network in some]) is None
    assert paper_row([d, e], [by_default("multiscale", d), by_default("150-crop", e)]) is None
