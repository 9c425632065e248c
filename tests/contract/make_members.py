"""Lists the members of TensorRT's Python bindings. Tests check our code against the lists if TensorRT is missing.

    pip download --no-deps --dest wheels tensorrt-cu13-bindings==10.16.1.11
    python tests/contract/make_members.py wheels/*.whl        # of this Python's version
    python tests/contract/make_members.py tensorrt_rtx        # a package that is installed

TensorRT comes from NVIDIA's own index. Its bindings are on PyPI and have every class and member. They are imported with
empty libraries in place of the missing ones.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent

# Prints what a module has: its classes with their members, and its other names.
WITNESS = """
import importlib, inspect, json, sys
trt = importlib.import_module(sys.argv[1])
public = lambda owner: sorted(name for name in dir(owner) if not name.startswith("_"))
classes, others = {}, []
def look(owner, prefix):
    for name in public(owner):
        value = getattr(owner, name)
        if inspect.isclass(value) and value.__module__.startswith("tensorrt"):
            classes[prefix + name] = public(value)
            if not prefix:
                look(value, name + ".")
        elif not prefix and not inspect.ismodule(value):
            others.append(name)
look(trt, "")
print(json.dumps({"version": trt.__version__, "names": others, "classes": classes}))
"""


def members(module: str, **environment: str) -> dict[str, object]:
    """What a module has that a fresh interpreter imports."""
    command = [sys.executable, "-c", WITNESS, module]
    finished = subprocess.run(
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True, timeout=120
    )
    loaded: dict[str, object] = json.loads(finished.stdout)
    return loaded


def members_of_wheel(wheel: Path) -> dict[str, object]:
    """What the bindings in a wheel have."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (package,) = Path(folder).glob("*_bindings")
        (library,) = package.glob("tensorrt*.so")
        write_stand_ins(library, Path(folder))
        return members(package.name, LD_LIBRARY_PATH=folder, PYTHONPATH=folder)


def write_stand_ins(library: Path, folder: Path) -> None:
    """Writes empty libraries in place of NVIDIA's that `library` needs. The first has every function it looks up."""
    needed = re.findall(r"\[(lib\w*(?:nv|tensorrt)\w*\.so[.\w]*)\]", _output("readelf", "-d", str(library)))
    undefined = re.findall(r" U (\w+)$", _output("nm", "-D", "--undefined-only", str(library)), re.MULTILINE)
    here = ctypes.CDLL(None)
    missing = [name for name in undefined if not hasattr(here, name)]
    for index, name in enumerate(needed):
        source = folder / "stand_in.c"
        functions = missing if index == 0 else []
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        _output("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source))


def write(package: str, contract: dict[str, object]) -> Path:
    """A class a line, so that what changes from version to version can be read."""
    path = HERE / f"{package}-{contract['version']}.json"
    classes = contract["classes"]
    assert isinstance(classes, dict)
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(' '.join(names))}" for name, names in classes.items())
    others = json.dumps(" ".join(contract["names"]))  # type: ignore[arg-type]
    path.write_text(f'{{"version":{json.dumps(contract["version"])},\n"names":{others},\n"classes":{{\n{lines}\n}}}}\n')
    return path


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if argument.endswith(".whl"):
            print(write("tensorrt", members_of_wheel(Path(argument))))
        else:
            print(write(argument.replace("_", "-"), members(argument)))
