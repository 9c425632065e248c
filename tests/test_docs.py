"""What README and docs/ say is true: commands and programs run, options, links and figures exist."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

import vgg_deploy
from train.__main__ import command as train_command
from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES
from vgg_deploy.cli import cli
from vgg_deploy.cli.entry import run_command
from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.install import install_command

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
MAKEFILE = ROOT / "Makefile"

TRAIN = ("python", "-m", "train")

# Commands that are parsed and not run, by a pattern of their beginning, each with its reason.
NOT_RUN = {
    r"torchrun ": "starts four processes; tests/train/test_processes.py starts two",
    r"vgg-deploy infer \S+ --engine \S+\.plan": "needs an NVIDIA GPU that TensorRT-RTX runs on",
    r".* --weights imagenet": "downloads half a gigabyte",
    r"vgg-deploy bench ": "measures the machine for half a minute; tests/vgg_deploy/cli/test_bench.py runs it",
    r"python -m train --arch A --data digits$": "README's commands train on the digits already",
    r"make ": "installs or measures; continuous integration runs make lint and make test",
    r"pip ": "changes the environment; continuous integration installs the wheel",
    r"python -m benchmarks\.": "tests/benchmarks/test_quick.py runs each table",
}

# What is added to a command to make it small: the last value of an option counts.
SHORT = shlex.split("--epochs 1 --workers 0 --device cpu")
NARROW = shlex.split("--width-divisor 16 --fc-width 16 --crop 32 --batch 8")

EXIT_CODES = {"vgg-deploy doctor vgg16.plan": (0, 1)}  # 1: there is no GPU for the plan


CLASSES = {"n01440764": "tench", "n02102040": "English springer", "n03028079": "church"}
LABELS = "".join(f"{key}\t{label}\n" for key, label in CLASSES.items())


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a page, split as a shell splits it, and the lines of output that the page shows below it."""

    page: Path
    line: int
    words: tuple[str, ...]
    shown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return shlex.join(self.words)

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text}"

    @property
    def not_run(self) -> str | None:
        """The pattern of `NOT_RUN` that it matches."""
        return next((pattern for pattern in NOT_RUN if re.match(pattern, self.text)), None)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    text: str


def blocks_of(page: Path, text: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of an `sh` block, one a line, or of a `console` block, where they begin with `$ `."""
    lines = block.text.splitlines()
    if block.language == "sh":
        for number, line in enumerate(lines):
            if words := shlex.split(line, comments=True):
                yield Command(block.page, block.line + number, tuple(words))
    if block.language == "console":
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            words = tuple(shlex.split(lines[start].removeprefix("$ ")))
            yield Command(block.page, block.line + start, words, tuple(lines[start + 1 : end]))


BLOCKS = [block for page in PAGES for block in blocks_of(page, page.read_text(encoding="utf-8"))]
COMMANDS = [command for block in BLOCKS for command in commands_of(block)]


def commands_of_the_makefile() -> Iterator[Command]:
    for number, line in enumerate(MAKEFILE.read_text(encoding="utf-8").splitlines(), 1):
        if match := re.match(r"\t\$\(BIN\)/(vgg-deploy [^>]*)", line):
            yield Command(MAKEFILE, number, tuple(shlex.split(match[1])))


def parse(words: tuple[str, ...]) -> None:
    """Parses a command as it would be before it runs.

    Raises:
        click.UsageError: an option, a value or a command that does not exist.
        AssertionError: a program that this file does not know.
    """
    if words[0] == "torchrun":
        words = TRAIN + words[words.index("-m") + 2 :]
    if words[:3] == TRAIN:
        train_command.make_context("train", list(words[3:]))
    elif words[0] == "vgg-deploy":
        context = cli.make_context("vgg-deploy", list(words[1:]))
        name, subcommand, rest = cli.resolve_command(context, list(words[1:]))
        assert subcommand is not None
        subcommand.make_context(name, rest, parent=context)
    elif words[:2] == ("pip", "install"):
        assert set(re.findall(r"\w+", words[2])) <= set(extras()), words[2]
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE), words[1]
    else:
        assert words[:2] == ("python", "-m"), f"{words[0]}: a program that this test does not know"
        assert importlib.util.find_spec(words[2]) is not None, words[2]


def extras() -> dict[str, list[str]]:
    """The extras of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table: dict[str, list[str]] = project["optional-dependencies"]
    return table


@pytest.mark.parametrize("command", [*COMMANDS, *commands_of_the_makefile()], ids=lambda command: command.place)
def test_each_command_parses(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text(LABELS)  # --labels reads its file when it is parsed
    parse(command.words)


def test_a_command_with_an_unknown_option_does_not_parse() -> None:
    [command] = commands_of(Block(README, 1, "sh", "vgg-deploy infer photos/ --engine m.onnx --no-such-option\n"))
    with pytest.raises(click.UsageError, match="--no-such-option"):
        parse(command.words)


def test_each_page_has_blocks_of_known_languages_and_each_reason_not_to_run_a_command_is_used() -> None:
    assert {block.page for block in BLOCKS} | {ROOT / "docs/terms.md"} == set(PAGES)
    assert {block.language for block in BLOCKS} <= {"sh", "console", "python"}
    assert {command.not_run for command in COMMANDS} - {None} == set(NOT_RUN)


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit code, and what it wrote to stdout and stderr together."""

    code: int
    output: str


def run(words: tuple[str, ...], folder: Path) -> Finished:
    """Runs a command in this process, in `folder`."""
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    program = train_command if words[:3] == TRAIN else cli
    name = " ".join(words[:3]) if words[:3] == TRAIN else words[0]
    before = sys.argv
    sys.argv = [name, *(words[3:] if words[:3] == TRAIN else words[1:])]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            run_command(program, name)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return Finished(code, written.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]


def small(words: tuple[str, ...]) -> tuple[str, ...]:
    """The command; if it trains, for one epoch, and a narrow network unless the digits or weights name one."""
    if words[:3] != TRAIN and words[:2] != ("vgg-deploy", "train"):
        return words
    return (*words, *SHORT, *([] if {"digits", "--weights"} & set(words) else NARROW))


def write_images(folder: Path, count: int, seed: int) -> None:
    """Noisy pictures of one colour each, whose colour depends on the seed."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    for number in range(count):
        pixels = chance.integers(0, 60, (48, 64, 3)) + np.array([80 * (seed % 3), 90, 40])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages' commands read: photos, labelled images, a run, and narrow networks of it."""
    for package in ("torch", "safetensors", "sklearn", "matplotlib", "onnxruntime", "openvino", "ncnn", "tensorrt_rtx"):
        pytest.importorskip(package)
    import torch

    from tests.conftest import make_spec, make_weights

    folder = tmp_path_factory.mktemp("world")
    for index, name in enumerate(CLASSES):
        write_images(folder / "data/train" / name, 6, index)
        write_images(folder / "data/val" / name, 2, index)
        write_images(folder / "val" / name, 2, index)
    write_images(folder / "photos", 6, 7)
    write_images(folder / "more", 1, 8)
    Image.new("RGB", (70, 50), "red").save(folder / "a.jpg")
    (folder / "labels.txt").write_text(LABELS)

    spec = make_spec("D", crop=32, classes=len(CLASSES))
    foreign = {}
    indices = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    heads = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    weights = make_weights(spec)
    for layer in spec.weight_layers:
        name = heads.get(layer.name) or f"features.{next(indices)}"
        for kind in ("weight", "bias"):
            foreign[f"{name}.{kind}"] = weights[f"{layer.name}.{kind}"]
    torch.save(foreign, folder / "finetuned.pth")
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in foreign.items()}, folder / "vgg16.safetensors")
    ours = "vgg-deploy export --weights runs/vgg16/best.safetensors --dynamic"
    foreigners = "vgg-deploy export --weights finetuned.pth --labels labels.txt --dynamic"
    for line in (
        f"python -m train --arch A --data data --out runs/vgg16 {shlex.join(SHORT + NARROW)}",
        f"{foreigners} --normalization torchvision -o model.onnx",
        f"{ours} -o fp32.onnx",
        f"{ours} -o vgg16.onnx",
        f"{ours} --fp16 --calibration photos -o fp16.onnx",
        f"{ours} --score-map -o maps.onnx",
        f"{ours} --int8 --calibration photos -o int8.onnx",
        f"{foreigners} --normalization paper -o vgg19.onnx",
        "vgg-deploy build int8.onnx -o vgg16.plan",
    ):
        finished = run(tuple(shlex.split(line)), folder)
        assert finished.code == 0, f"{line}\n{finished.output}"
    return folder


@pytest.fixture
def copied_world(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world for one page, as the current folder."""
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


def without_figures(line: str) -> str:
    """A line of output with # for each number and one space for several, so that two runs of a command agree."""
    line = re.sub(r"\d[\d,.]*(e[-+]\d+)?", "#", line)
    return " ".join(re.sub(r"-{2,}", "--", line).split())


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "terms"], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page: Path, copied_world: Path) -> None:
    for command in COMMANDS:
        if command.page != page or command.not_run is not None:
            continue
        finished = run(small(command.words), copied_world)
        assert finished.code in EXIT_CODES.get(command.text, (0,)), f"{command.place}\n{finished.output}"
        printed = {without_figures(line) for line in finished.output.splitlines()}
        for line in command.shown:
            assert line == "..." or without_figures(line) in printed, f"{command.place}\n{line}\n{finished.output}"


PROGRAMS = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda block: f"{block.page.name}:{block.line}")
@pytest.mark.usefixtures("copied_world")
def test_the_python_of_a_page_runs(program: Block, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("\n" * (program.line - 1) + program.text, str(program.page), "exec")
    exec(code, {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert bool(printed) == ("print(" in program.text)
    if "missing.jpg" in program.text:
        first, second = printed.splitlines()
        assert first.startswith("a.jpg [(ClassName(")
        assert second == "missing.jpg no such file"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


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
    """The anchors of a page's headings, as code hosts make them."""
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
        [line] = [line for line in measured.splitlines() if line.startswith(f"| {program} |")]
        for figure in figures:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", line), (program, figure)


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
    """A module of the package takes a name's place as soon as it is imported."""
    modules = {path.stem for path in (ROOT / "vgg_deploy").iterdir()}
    assert modules.isdisjoint(vgg_deploy.__all__)
