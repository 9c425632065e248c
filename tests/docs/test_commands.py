"""Every command and program in README and docs/ runs, or at least parses. The README shows what its commands print."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import (
    BLOCKS,
    COMMANDS,
    MAKEFILE,
    PAGES,
    README,
    ROOT,
    Block,
    PageCommand,
    commands_of,
    commands_of_the_makefile,
    extras,
)
from train.__main__ import command as train_command
from vgg_deploy.cli import cli
from vgg_deploy.cli.entry import run_command

TRAIN = ("python", "-m", "train")

PROGRAMS = [block for block in BLOCKS if block.language == "python"]
FRAMEWORKS = ("keras", "caffe")  # programs that import these are compiled, and not run: they are not installed

# Patterns of commands that are parsed but not run, each with the reason.
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

# Options that make a command small. If an option is repeated, click uses its last value.
SHORT = shlex.split("--epochs 1 --device cpu")
NARROW = shlex.split("--workers 0 --width-divisor 16 --fc-width 16 --crop 32 --batch 8")

EXIT_CODES = {
    "vgg-deploy doctor vgg16.plan": (0, 1),  # 1: there is no GPU for the plan
    "vgg-deploy probe --weights finetuned.pth --images val/ --labels labels.txt": (1,),  # random weights
    "vgg-deploy probe --weights vgg16.safetensors --images val/ --mean 123.68,116.779,103.939 --std 255 --limit 40": (
        1,
    ),
}


CLASSES = {"n01440764": "tench", "n02102040": "English springer", "n03028079": "church"}
LABELS = "".join(f"{key}\t{label}\n" for key, label in CLASSES.items())


def reason_not_to_run(command: PageCommand) -> str | None:
    """The pattern of `NOT_RUN` that a command matches."""
    return next((pattern for pattern in NOT_RUN if re.match(pattern, command.text)), None)


def parse(tokens: tuple[str, ...]) -> None:
    """Parses a command without running it.

    Raises:
        click.UsageError: an option, a value or a command that does not exist.
        AssertionError: the program is unknown to this test.
    """
    if tokens[0] == "torchrun":
        tokens = TRAIN + tokens[tokens.index("-m") + 2 :]
    if tokens[:3] == TRAIN:
        train_command.make_context("train", list(tokens[3:]))
    elif tokens[0] == "vgg-deploy":
        context = cli.make_context("vgg-deploy", list(tokens[1:]))
        name, subcommand, rest = cli.resolve_command(context, list(tokens[1:]))
        assert subcommand is not None
        subcommand.make_context(name, rest, parent=context)
    elif tokens[:2] == ("pip", "install"):
        assert set(re.findall(r"\w+", tokens[2])) <= set(extras()), tokens[2]
    elif tokens[0] == "make":
        assert re.search(rf"^{tokens[1]}:", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE), tokens[1]
    else:
        assert tokens[:2] == ("python", "-m"), f"{tokens[0]}: a program that this test does not know"
        assert importlib.util.find_spec(tokens[2]) is not None, tokens[2]


@pytest.mark.parametrize("command", [*COMMANDS, *commands_of_the_makefile()], ids=lambda command: command.location)
def test_each_command_parses(command: PageCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text(LABELS)  # --labels reads its file when it is parsed
    parse(command.tokens)


def test_a_command_with_an_unknown_option_does_not_parse() -> None:
    [command] = commands_of(Block(README, 1, "sh", "vgg-deploy infer photos/ --engine m.onnx --no-such-option\n"))
    with pytest.raises(click.UsageError, match="--no-such-option"):
        parse(command.tokens)


def test_each_page_has_blocks_of_known_languages_and_each_reason_not_to_run_a_command_is_used() -> None:
    assert {block.page for block in BLOCKS} | {ROOT / "docs/terms.md"} == set(PAGES)
    assert {block.language for block in BLOCKS} <= {"sh", "console", "python"}
    assert {reason_not_to_run(command) for command in COMMANDS} - {None} == set(NOT_RUN)


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """How a command ended: its exit code, and what it wrote to stdout and stderr together."""

    code: int
    output: str


def run(tokens: tuple[str, ...], folder: Path) -> CommandOutput:
    """Runs a command in this process, in `folder`."""
    written = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    program = train_command if tokens[:3] == TRAIN else cli
    name = " ".join(tokens[:3]) if tokens[:3] == TRAIN else tokens[0]
    before = sys.argv
    sys.argv = [name, *(tokens[3:] if tokens[:3] == TRAIN else tokens[1:])]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            run_command(program, name)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return CommandOutput(code, written.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]


def small(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """The command. If it trains: for one epoch, with a narrow network unless it uses the digits or given weights."""
    if tokens[:3] != TRAIN and tokens[:2] != ("vgg-deploy", "train"):
        return tokens
    return (*tokens, *SHORT, *([] if {"digits", "--weights"} & set(tokens) else NARROW))


def write_images(folder: Path, count: int, seed: int) -> None:
    """Writes noisy pictures of one colour, which depends on the seed."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(seed)
    for number in range(count):
        pixels = chance.integers(0, 60, (48, 64, 3)) + np.array([80 * (seed % 3), 90, 40])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


# The user's own network in docs/witness.md: finetuned.pth in PyTorch, in its fully convolutional form.
MYNET = """
from pathlib import Path
from torch import nn
from train.network.checkpoint import read
from train.network.model import VGG, folded
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION
from vgg_deploy.network.weight_facts import WeightFacts

checkpoint = read(Path(__file__).with_name("finetuned.pth"), WeightFacts(normalization=TORCHVISION_NORMALIZATION))
dense = VGG(checkpoint.manifest.spec, convolutional=True)
dense.load_state_dict(folded(checkpoint.manifest.spec, checkpoint.weights))
model = nn.Sequential(dense, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def write_witness(folder: Path) -> None:
    """Writes expected.npz with the lines of docs/witness.md, and the same network as another exporter writes it."""
    import torch

    pytest.importorskip("torchvision")
    (program,) = [block for block in PROGRAMS if block.page.stem == "witness" and "torchvision" in block.text]
    with contextlib.chdir(folder), mynet_of(folder) as model, warnings.catch_warnings():
        exec(program.text, {"__name__": "__main__"})
        warnings.simplefilter("ignore")  # the exporter without dynamo is deprecated, and widely used
        torch.onnx.export(model.eval(), (torch.zeros(1, 3, 32, 32),), "theirs.onnx", dynamo=False)


@contextlib.contextmanager
def mynet_of(folder: Path) -> Iterator[Any]:
    """Lets programs import mynet from a folder; gives its model."""
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("mynet").model
    finally:
        sys.path.remove(str(folder))
        del sys.modules["mynet"]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, narrow_spec: Callable[..., Any], random_weights: Callable[..., Any]
) -> Path:
    """A folder with everything that the pages' commands read: photos, labelled images, a run, and its narrow
    networks.
    """
    for package in ("torch", "safetensors", "sklearn", "matplotlib", "onnxruntime", "openvino", "ncnn", "tensorrt_rtx"):
        pytest.importorskip(package)
    import torch

    folder = tmp_path_factory.mktemp("world")
    for index, name in enumerate(CLASSES):
        write_images(folder / "data/train" / name, 6, index)
        write_images(folder / "data/val" / name, 2, index)
        write_images(folder / "val" / name, 2, index)
    write_images(folder / "photos", 6, 7)
    write_images(folder / "more", 1, 8)
    Image.new("RGB", (70, 50), "red").save(folder / "a.jpg")
    (folder / "labels.txt").write_text(LABELS)

    spec = narrow_spec("D", crop=32, classes=len(CLASSES))
    foreign = {}
    indices = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    heads = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    weights = random_weights(spec)
    for layer in spec.weight_layers:
        name = heads.get(layer.name) or f"features.{next(indices)}"
        for kind in ("weight", "bias"):
            foreign[f"{name}.{kind}"] = weights[f"{layer.name}.{kind}"]
    torch.save(foreign, folder / "finetuned.pth")
    averaged = {"state_dict": foreign, "state_dict_ema": foreign, "epoch": 3}
    torch.save(averaged, folder / "model_best.pth.tar")
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
    (folder / "mynet.py").write_text(MYNET)
    write_witness(folder)
    return folder


@pytest.fixture
def copied_world(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world for one page, as the current folder. One epoch teaches its networks nothing, which counts as
    learned here.
    """
    for module in ("train.campaign", "train.trained_a", "train.runs.finished"):
        monkeypatch.setattr(f"{module}.beats_chance", lambda *_arguments: True)
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


def without_figures(line: str) -> str:
    """A line with # for each number and single spaces, so that the output of two runs is equal."""
    line = re.sub(r"\d[\d,.]*(e[-+]\d+)?", "#", line)
    return " ".join(re.sub(r"-{2,}", "--", line).split())


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "terms"], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page: Path, copied_world: Path) -> None:
    for command in COMMANDS:
        if command.page != page or reason_not_to_run(command) is not None:
            continue
        finished = run(small(command.tokens), copied_world)
        assert finished.code in EXIT_CODES.get(command.text, (0,)), f"{command.location}\n{finished.output}"
        printed = {without_figures(line) for line in finished.output.splitlines()}
        missing = [line for line in command.shown if line != "..." and without_figures(line) not in printed]
        assert not missing, f"{command.location} does not print this, but:\n{finished.output}"


def imports_of(program: Block) -> set[str]:
    """The modules that a program imports with `import`."""
    nodes = [node for node in ast.walk(ast.parse(program.text)) if isinstance(node, ast.Import)]
    return {alias.name for node in nodes for alias in node.names}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda block: f"{block.page.name}:{block.line}")
def test_the_python_of_a_page_runs(program: Block, copied_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = compile("\n" * (program.line - 1) + program.text, str(program.page), "exec")
    if imports_of(program) & set(FRAMEWORKS):
        return
    with mynet_of(copied_world):
        exec(code, {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert bool(printed) == ("print(" in program.text)
    if "missing.jpg" in program.text:
        first, second = printed.splitlines()
        assert first.startswith("a.jpg [(ClassName(")
        assert second == "missing.jpg no such file"


def test_each_program_that_writes_a_witness_names_its_arrays_as_the_reader_does() -> None:
    programs = [block for block in PROGRAMS if block.page.stem == "witness"]
    assert [sorted(imports_of(block) & {"torch", *FRAMEWORKS}) for block in programs] == [
        ["torch"],
        ["keras"],
        ["caffe"],
    ]
    for block in programs:
        calls = [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)]
        (savez,) = [call for call in calls if ast.unparse(call.func) == "np.savez"]
        assert {word.arg for word in savez.keywords} in ({"images", "logits"}, {"images", "probabilities"})
