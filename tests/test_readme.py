"""What the documents promise exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from train.__main__ import command as train_command
from vgg_deploy.cli import cli

ROOT = Path(__file__).parent.parent


def _commands(text: str) -> list[list[str]]:
    """Every vgg-deploy and python -m train line of a text, split as a shell does."""
    found = []
    for line in re.findall(r"^\s*(?:\$\(BIN\)/)?((?:vgg-deploy|python -m train) [^\n#>]*)", text, re.MULTILINE):
        found.append(shlex.split(line))
    return found


README = _commands((ROOT / "README.md").read_text(encoding="utf-8"))
MAKEFILE = _commands((ROOT / "Makefile").read_text(encoding="utf-8"))


@pytest.mark.parametrize("words", README + MAKEFILE, ids=" ".join)
def test_each_command_of_the_readme_and_the_makefile_has_known_options(words: list[str]) -> None:
    if words[:3] == ["python", "-m", "train"]:
        train_command.make_context("train", words[3:])
        return
    context = cli.make_context("vgg-deploy", words[1:])
    name, subcommand, rest = cli.resolve_command(context, words[1:])
    assert name is not None
    assert subcommand is not None
    subcommand.make_context(name, rest, parent=context)


def test_the_documents_have_commands_to_check() -> None:
    assert len(README) >= 10
    assert len(MAKEFILE) == 5


def test_a_command_with_an_unknown_option_would_be_noticed() -> None:
    import click

    [words] = _commands("    vgg-deploy infer photos/ --engine m.onnx --no-such-option")
    with pytest.raises(click.UsageError):
        test_each_command_of_the_readme_and_the_makefile_has_known_options(words)


def test_the_readme_names_each_extra_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for extra in extras:
        assert f"| `{extra}` |" in text


def test_every_file_that_the_readme_links_to_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_the_public_names_are_what_they_say_in_whatever_order_they_are_imported() -> None:
    """A module of the package of the same name would take a name's place as soon as it is imported."""
    import vgg_deploy

    modules = {path.stem for path in (ROOT / "vgg_deploy").iterdir()}
    assert modules.isdisjoint(vgg_deploy.__all__)


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    Image.new("RGB", (70, 50), "red").save(tmp_path / "a.jpg")
    shutil.copy(ROOT / "tests/data/tiny.onnx", tmp_path / "model.onnx")
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("a.jpg [(ClassName(")
    assert second == "b.jpg no such file"
