"""README and docs/ are true: options, links, figures, names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest

import vgg_deploy
from export.proof.answers.limits import LIMITS
from export.proof.layers.limits import BFLOAT16, CONVOLUTIONS, INTEGER_CONVOLUTIONS, OTHERS
from export.proof.pipeline.comparison import EXACT, FILES
from tests.docs.pages import PAGES, README, ROOT, extras, prose
from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES
from vgg_deploy.cli import cli
from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.install import install_command


def options_of_commands() -> set[tuple[str, ...]]:
    """The spellings of each option of each command."""
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    options = [parameter for each in commands if each is not None for parameter in each.params]
    return {(*option.opts, *option.secondary_opts) for option in options if isinstance(option, click.Option)}


def test_the_pages_name_each_option_of_each_command() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))
    assert [names for names in options_of_commands() if not named & set(names)] == []


def test_each_option_that_the_prose_names_exists() -> None:
    of_others = {"--nnodes", "--debug", "--help"}  # torchrun's; taken out before click parses; click's
    known = {name for names in options_of_commands() for name in names}
    for page in PAGES:
        for span in re.findall(r"`([^`]+)`", prose(page)):
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
                assert option in known | of_others, f"{page.name}: {option}"


def anchors(page: Path) -> set[str]:
    """The anchors that code hosts give a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_each_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_readme_is_short_in_lines_and_in_sentences() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    text = re.sub(r"^(\|.*|#.*|!.*)$", "\n", prose(README), flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for sentence in re.split(r"(?<=[.:;!?])\s+|\n\s*\n|\n- ", text):
        assert len(sentence.split()) <= 25, sentence


def test_the_readme_installs_as_the_messages_say_and_names_each_extra() -> None:
    text = README.read_text(encoding="utf-8")
    for some in (("cpu",), ("cpu", "train")):
        command, _, _ = install_command(*some).partition(" in a clone")
        assert command in text
    assert "pip install 'vgg-deploy[cpu] @ git+ADDRESS'" in text
    for extra in extras():
        assert f"| `{extra}` |" in text


def test_the_readme_names_each_command() -> None:
    rows = re.findall(r"^\| (`.*?) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(cli.commands) <= {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


def test_the_figures_of_the_readmes_speed_table_are_those_of_the_benchmark() -> None:
    measured = (ROOT / "benchmarks/results/multiscale.md").read_text(encoding="utf-8")
    _, table = README.read_text(encoding="utf-8").split("## Speed")
    rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| .*\d.* \|$", table, re.MULTILINE)]
    assert len(rows) >= 5
    for program, *figures in rows:
        lines = [line for line in measured.splitlines() if line.startswith(f"| {program} |")]
        patterns = [rf"(?<![\d.]){re.escape(figure)}(?![\d.])" for figure in figures]
        assert any(all(re.search(pattern, line) for pattern in patterns) for line in lines), program


def test_the_thresholds_of_the_page_are_those_of_the_code() -> None:
    text = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    for precision, limit in THRESHOLDS.items():
        cells = (
            precision,
            f"{limit.max_dp:g}",
            f"{limit.mean_dp:g}",
            f"{limit.divergence:g}",
            f"{100 * limit.agreement:g} %",
        )
        assert f"| {' | '.join(cells)} |" in text


def test_the_limits_of_the_page_on_witnesses_are_those_of_the_code() -> None:
    text = (ROOT / "docs/witness.md").read_text(encoding="utf-8")
    for name, limits in (("exact images", EXACT), ("paths", FILES)):
        parity = limits.parity
        figures = (parity.max_dp, parity.mean_dp, parity.divergence)
        cells = (
            name,
            *(f"{figure:g}" for figure in figures),
            f"{100 * parity.agreement:g} %",
            f"{limits.score_error:g}",
        )
        assert f"| {' | '.join(cells)} |" in text


def test_the_limits_of_layers_on_the_page_are_those_of_the_code() -> None:
    text = (ROOT / "docs/verify.md").read_text(encoding="utf-8")
    plain = max((OTHERS[kind] for kind in OTHERS if kind != "LRN"), key=lambda limit: limit.healthy)
    for limit in (*CONVOLUTIONS.values(), INTEGER_CONVOLUTIONS, BFLOAT16, OTHERS["LRN"], plain):
        assert f" | {limit.limit:g} | {limit.healthy:g} |" in text
    score, price = LIMITS["float32"], LIMITS["int8"]
    assert f"The limit is {score.absolute:g}, and for INT8" in text
    assert f"{price.absolute:g} + {price.log_odds:g} p (1 - p)" in text


def test_the_page_on_python_names_each_public_name_and_each_engine_option() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    for name in set(vgg_deploy.__all__) - {"__version__"}:
        assert name in text
    for field in dataclasses.fields(EngineOptions):
        assert f"| `{field.name}` |" in text


def test_the_page_on_weights_names_each_ending_of_a_checkpoint() -> None:
    text = (ROOT / "docs/weights.md").read_text(encoding="utf-8")
    for suffix in CHECKPOINT_SUFFIXES:
        assert f"`{suffix}`" in text


def test_no_module_has_the_name_of_a_public_name() -> None:
    """An imported submodule would shadow the public name."""
    modules = {path.stem for path in (ROOT / "vgg_deploy").iterdir()}
    assert modules.isdisjoint(vgg_deploy.__all__)
