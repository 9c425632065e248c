"""Which packages a module may load. Fresh interpreters check each rule, and tests show that each rule can fail."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from PIL import Image

from vgg_deploy.cli import cli

ROOT = Path(__file__).parent.parent
PACKAGES = ("vgg_deploy", "train", "export", "engines")
RUNTIMES = (
    "onnxruntime",
    "openvino",
    "ncnn",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_lean",
    "tensorrt_dispatch",
    "pycuda",
)

# Imports the named modules in turn. For each it reports the forbidden modules that it was the first to load,
# and the missing package of others that stopped its import, if any.
WITNESS = """
import importlib, json, sys
ours, forbidden, names = json.loads(sys.argv[1])
report, seen = {}, set()
for name in names:
    absent = None
    try:
        importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] in ours:
            raise
        absent = error.name
    loaded = {module for module in forbidden if module in sys.modules} - seen
    seen |= loaded
    report[name] = [sorted(loaded), absent]
print(json.dumps(report))
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """Modules of `package` load none of `forbidden` when they are imported."""

    package: str
    forbidden: tuple[str, ...]


RULES = (
    # `cuda` (cuda-python) is forbidden only here: torch loads it too if it is installed.
    Rule("vgg_deploy", ("torch", "torchvision", "cuda", *RUNTIMES, "train", "export", "engines")),
    Rule("engines", ("torch", "torchvision", "train", "export")),
    Rule("train", ("export", "engines", *RUNTIMES)),
    Rule("export", ("engines", *RUNTIMES)),
)
BY_PACKAGE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.package)


def modules_of(package: str, path: Path) -> list[str]:
    """The package and all modules in it, found without importing them."""
    files = sorted((path / package).rglob("*.py"))
    names = [".".join(file.relative_to(path).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if name != "vgg_deploy.__main__"]  # importing it runs the command line


def broken_by(rule: Rule, root: Path) -> dict[str, list[str]]:
    """Modules under `root` that break the rule, and what they load, seen by a fresh interpreter."""
    question = json.dumps([PACKAGES, rule.forbidden, modules_of(rule.package, root)])
    paths = os.pathsep.join(str(path) for path in dict.fromkeys((root, ROOT)))
    finished = subprocess.run(
        [sys.executable, "-c", WITNESS, question],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    report: dict[str, tuple[list[str], str | None]] = json.loads(finished.stdout)
    for name, (_, absent) in report.items():
        if absent is not None:
            print(f"{name} was checked up to its import of {absent}, which is not installed")
    return {name: loaded for name, (loaded, _) in report.items() if loaded}


@BY_PACKAGE
def test_no_module_loads_what_its_package_must_not(rule: Rule) -> None:
    if rule.package != "vgg_deploy" and rule.package != "engines":
        pytest.importorskip("torch")
    assert modules_of(rule.package, ROOT)
    assert broken_by(rule, ROOT) == {}


@BY_PACKAGE
def test_each_rule_catches_a_module_that_breaks_it_and_not_an_import_in_a_function(rule: Rule, tmp_path: Path) -> None:
    package = tmp_path / rule.package
    (package / "deep").mkdir(parents=True)
    for folder in (package, package / "deep"):
        (folder / "__init__.py").touch()
    expected = {}
    for name in rule.forbidden:
        if not (tmp_path / name).exists():  # a stand-in: the rule is about names, and the real one may be absent
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
        (package / "deep" / f"breaks_{name}.py").write_text(f"from {name} import __name__\n")
        (package / f"keeps_{name}.py").write_text(f"def later():\n    import {name}\n")
        expected[f"{rule.package}.deep.breaks_{name}"] = [name]
    assert broken_by(rule, tmp_path) == expected


def test_a_module_of_ours_that_cannot_be_imported_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "__init__.py").write_text("import train.no_such_module\n")
    with pytest.raises(AssertionError, match="no_such_module"):
        broken_by(Rule("engines", ("torch",)), tmp_path)


HELP = """
import sys
sys.argv = ["vgg-deploy", *sys.argv[1:]]
from vgg_deploy.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = [name for name in ("numpy", "torch", "onnx", "PIL", *{runtimes!r}) if name in sys.modules]
assert not loaded, loaded
""".replace("{runtimes!r}", repr(RUNTIMES))


@pytest.mark.parametrize("command", [None, *cli.list_commands(click.Context(cli))])
def test_help_loads_neither_numpy_nor_any_runtime(command: str | None) -> None:
    arguments = ["--help"] if command is None else [command, "--help"]
    finished = subprocess.run(
        [sys.executable, "-c", HELP, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "Usage: vgg-deploy" in finished.stdout


INFER = """
import sys
sys.argv = ["vgg-deploy", "infer", *sys.argv[1:]]
from vgg_deploy.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = [name for name in ("torch", "onnx", "google.protobuf", "rich") if name in sys.modules]
assert not loaded, loaded
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "ncnn"])
def test_infer_loads_neither_torch_nor_onnx_nor_what_draws_a_progress_bar(runtime: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    picture = tmp_path / "grey.png"
    Image.new("RGB", (96, 80), "grey").save(picture)
    model = ROOT / "tests" / "data" / "tiny.onnx"
    finished = subprocess.run(
        [sys.executable, "-c", INFER, str(picture), "--engine", str(model), "--runtime", runtime, "--csv", "-"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) == 2


def test_the_public_names_are_loaded_on_first_use() -> None:
    import vgg_deploy

    assert set(vgg_deploy.__all__) <= {*vgg_deploy._HOMES, "__version__"}
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vgg_deploy.no_such_name
