"""Every member of TensorRT that our code names exists in the versions that we support; tests/contract lists them.

Types of variables follow from TensorRT's own calls. For parameters, attributes and loops, fixed names give the type:
`network`, `config`, `layer`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "tests" / "contract"
SOURCES = sorted(path for path in (ROOT / "engines" / "trt").glob("*.py") if "cuda" not in path.name)
RTX = "tensorrt-rtx-1.7.1.116"
MODULE = "the module"

# Names that hold TensorRT's objects everywhere, and names that do so only as parameters.
HELD = {
    "trt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "layer": "ILayer",
    "tensor": "ITensor",
}
PARAMETERS = {**HELD, "context": "IExecutionContext", "profile": "IOptimizationProfile", "cache": "IRuntimeCache"}

# Our attributes that hold such objects, by file, and our methods that return them.
ATTRIBUTES = {"lane.py": {"_context": "IExecutionContext"}, "runtime_cache.py": {"_cache": "IRuntimeCache"}}
METHODS = {"new_context": "IExecutionContext"}

# The types that TensorRT's calls return.
GIVEN = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("ILayer", "get_input"): "ITensor",
    ("ILayer", "get_output"): "ITensor",
    ("OnnxParser", "get_error"): "ParserError",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("IRuntimeConfig", "create_runtime_cache"): "IRuntimeCache",
}

# Classes that only TensorRT-RTX has, and such members of shared classes. Our code uses them behind `is_rtx`.
RTX_CLASSES = {
    "ComputeCapability",
    "EngineValidity",
    "EngineInvalidityDiagnostics",
    "CudaGraphStrategy",
    "IRuntimeCache",
}
RTX_MEMBERS = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("Runtime", "engine_header_size"),
    ("Runtime", "get_engine_validity"),
    ("IRuntimeConfig", "cuda_graph_strategy"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
}


@dataclass(frozen=True, slots=True)
class Bindings:
    """The classes and members of one version of one package."""

    package: str
    classes: dict[str, frozenset[str]]

    @staticmethod
    def read(path: Path) -> Bindings:
        data = json.loads(path.read_text(encoding="utf-8"))
        classes = {name: frozenset(members.split()) for name, members in data["classes"].items()}
        return Bindings(path.stem, {**classes, MODULE: frozenset(data["names"].split()) | classes.keys()})

    def has(self, owner: str, member: str) -> bool:
        return member in self.classes.get(owner, ())


@dataclass
class _Scope:
    """A function or a module, with the known types of its variables."""

    outer: _Scope | None
    attributes: dict[str, str]
    variables: dict[str, str | None] = field(default_factory=dict)


def named_members(source: str, file: str = "") -> Iterator[tuple[str, str, int]]:
    """Class, member and line of each member of TensorRT in Python source."""
    yield from _in_scope(ast.parse(source), _Scope(None, {**HELD, **ATTRIBUTES.get(file, {})}))


def members_of(path: Path) -> set[tuple[str, str]]:
    """Class and member of each member of TensorRT in a file of ours."""
    return {(owner, member) for owner, member, _ in named_members(path.read_text(encoding="utf-8"), path.name)}


def _in_scope(node: ast.AST, scope: _Scope) -> Iterator[tuple[str, str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield from _in_scope(child, _function(child, scope))
            continue
        if isinstance(child, ast.ClassDef):
            for base in child.bases:
                owner = _held(base, scope)
                methods = [item for item in child.body if isinstance(item, ast.FunctionDef)] if owner else []
                yield from ((owner or "", item.name, item.lineno) for item in methods if not item.name.startswith("__"))
        if isinstance(child, ast.Assign) and len(child.targets) == 1 and isinstance(child.targets[0], ast.Name):
            name = child.targets[0].id
            scope.variables[name] = _held(child.value, scope) or HELD.get(name)
        if isinstance(child, ast.Attribute) and not child.attr.startswith("__"):
            owner = _held(child.value, scope)
            if owner is not None:
                yield owner, child.attr, child.lineno
        yield from _in_scope(child, scope)


def _function(node: ast.FunctionDef | ast.Lambda, outer: _Scope) -> _Scope:
    """Parameters of type Any hold what their name says. Parameters of other types hold objects of ours."""
    scope = _Scope(outer, outer.attributes)
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        is_any = argument.annotation is None or ast.unparse(argument.annotation) == "Any"
        scope.variables[argument.arg] = PARAMETERS.get(argument.arg) if is_any else None
    return scope


def _held(node: ast.expr, scope: _Scope) -> str | None:
    """The class of TensorRT (or the module) whose members an expression has."""
    if isinstance(node, ast.Name):
        around: _Scope | None = scope
        while around is not None:
            if node.id in around.variables:
                return around.variables[node.id]
            around = around.outer
        return HELD.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _held(node.value, scope)
        if owner == MODULE:
            return node.attr
        known = scope.attributes
        return None if owner is not None else known.get(node.attr) or known.get(node.attr.lstrip("_"))
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            owner = _held(node.func.value, scope)
            if owner is None:
                return METHODS.get(node.func.attr)
            return node.func.attr if owner == MODULE else GIVEN.get((owner, node.func.attr))
        return None
    return None


def _rtx_only(owner: str, member: str) -> bool:
    return owner in RTX_CLASSES or (owner == MODULE and member in RTX_CLASSES) or (owner, member) in RTX_MEMBERS


def missing(source: str, all_bindings: list[Bindings], file: str = "") -> list[str]:
    """Members that source names and a version lacks. TensorRT may lack those that are listed as TensorRT-RTX's."""
    problems = []
    for owner, member, line in named_members(source, file):
        lacking = [bindings.package for bindings in all_bindings if not bindings.has(owner, member)]
        if _rtx_only(owner, member):
            lacking = [package for package in lacking if package.startswith("tensorrt-rtx")]
        problems += [f"line {line}: {owner}.{member} is not in {package}" for package in lacking]
    return problems


@pytest.fixture(scope="module")
def all_bindings() -> list[Bindings]:
    return [Bindings.read(path) for path in sorted(CONTRACT.glob("*.json"))]


def test_the_lists_cover_both_packages_and_two_major_versions(all_bindings: list[Bindings]) -> None:
    packages = [bindings.package for bindings in all_bindings]
    assert packages == ["tensorrt-10.16.1.11", "tensorrt-11.4.0.106", RTX]
    assert all(len(bindings.classes) > 150 for bindings in all_bindings)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_member_that_our_code_names_exists(path: Path, all_bindings: list[Bindings]) -> None:
    assert missing(path.read_text(encoding="utf-8"), all_bindings, path.name) == []


def test_the_check_sees_the_members_that_a_build_uses() -> None:
    seen = {named for path in SOURCES for named in members_of(path)}
    assert seen >= {
        (MODULE, "Builder"),
        ("Builder", "create_network"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "node_operator"),
        ("ILayer", "get_input"),
        ("ITensor", "dtype"),
        ("IOptimizationProfile", "set_shape"),
        ("IBuilderConfig", "progress_monitor"),
        ("ITimingCache", "serialize"),
        ("IProgressMonitor", "step_complete"),
        ("EngineInspector", "get_engine_information"),
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeCache", "deserialize"),
        ("ILogger", "log"),
    }


@pytest.mark.parametrize(
    ("source", "absent"),
    [
        ("def f(trt):\n    trt.Builder().create_netwrok(0)", "Builder.create_netwrok"),
        (
            "def f(trt, builder):\n    config = builder.create_builder_config()\n    config.max_workspace_size = 1",
            "IBuilderConfig.max_workspace_size",
        ),
        ("def f(backend):\n    return backend.trt.BuilderFlag.INT8", "BuilderFlag.INT8"),
        ("def f(network: Any):\n    for layer in network:\n        layer.precision = 1", "ILayer.precision"),
        ("class M(trt.IProgressMonitor):\n    def step_done(self): ...", "IProgressMonitor.step_done"),
        ("def f(trt):\n    kinds = trt.LayerType\n    return kinds.CONVOLUTOIN", "LayerType.CONVOLUTOIN"),
    ],
)
def test_a_member_that_does_not_exist_is_noticed(source: str, absent: str, all_bindings: list[Bindings]) -> None:
    problems = missing(source, all_bindings)
    assert problems
    assert all(absent in problem for problem in problems)


def test_our_own_objects_with_such_names_are_ignored(all_bindings: list[Bindings]) -> None:
    source = "def f(profile: Profile, profiles):\n    profile.ours\n    for profile in profiles:\n        profile.ours"
    assert missing(source, all_bindings) == []


def test_members_listed_as_rtx_only_exist_only_there_and_are_used(all_bindings: list[Bindings]) -> None:
    seen = {named for path in SOURCES for named in members_of(path)}
    used = {owner for owner, _ in seen}
    for owner, member in RTX_MEMBERS:
        assert (owner, member) in seen, f"{owner}.{member} is not used any more: take it off the list"
        assert [bindings.package for bindings in all_bindings if bindings.has(owner, member)] == [RTX]
    for owner in RTX_CLASSES:
        assert owner in used | {member for _, member in seen}, f"{owner} is not used any more: take it off the list"
        assert [bindings.package for bindings in all_bindings if owner in bindings.classes] == [RTX]


def test_the_list_matches_the_installed_tensorrt_rtx(all_bindings: list[Bindings]) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    script = runpy.run_path(str(CONTRACT / "make_members.py"))
    installed = script["members"]("tensorrt_rtx")
    listed = {f"tensorrt-rtx-{installed['version']}": installed["classes"]}
    (bindings,) = (item for item in all_bindings if item.package.startswith("tensorrt-rtx"))
    if bindings.package not in listed:
        pytest.skip(f"tensorrt-rtx {installed['version']} is installed, the list is of {bindings.package}")
    assert {name: frozenset(names) for name, names in installed["classes"].items()} == {
        name: names for name, names in bindings.classes.items() if name != MODULE
    }
