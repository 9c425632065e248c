"""Files of torch.save, read without running code: tensors, plain values, argparse.Namespace and numpy scalars."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vgg_deploy.errors import CheckpointError

# Types of numpy scalars that are read: numbers, booleans and text, such as f8. Others, as of objects, are refused.
_SCALAR_TYPE = re.compile(r"[biufcUS]\d{1,4}")


class _ScalarType:
    """Stands for numpy.dtype. Only for scalars: numpy itself builds nothing from the file."""

    def __init__(self, code: str, *_flags: object) -> None:
        if not isinstance(code, str) or _SCALAR_TYPE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"  # the state is version, byte order, ...


def _scalar_from(module: str) -> Callable[..., object]:
    """Stands for numpy's function that makes a scalar, whose module differs between numpy 1 and 2."""

    def scalar(kind: object, data: object) -> object:
        if not isinstance(kind, _ScalarType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError(f"GLOBAL {module}.scalar")
        return np.frombuffer(data, np.dtype(kind.order + kind.code))[0].item()

    scalar.__module__, scalar.__qualname__ = module, "scalar"
    return scalar


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, by which pickle writes bytes. torch 2.4 lacks it; later ones have their own."""
    if encoding != "latin1":
        raise pickle.UnpicklingError("GLOBAL _codecs.encode")
    return text.encode("latin1")


# torch finds what it allows by module and name: as __name__ in torch 2.4, as __qualname__ later.
_encode.__module__, _encode.__qualname__, _encode.__name__ = "_codecs", "encode", "encode"
_ScalarType.__module__, _ScalarType.__qualname__, _ScalarType.__name__ = "numpy", "dtype", "dtype"
_ALLOWED: list[Any] = [
    argparse.Namespace,
    _ScalarType,
    _encode,
    _scalar_from("numpy.core.multiarray"),
    _scalar_from("numpy._core.multiarray"),
]


@contextmanager
def _allowed() -> Iterator[None]:
    """torch's restricted unpickler takes `_ALLOWED` too. torch 2.4 has no such context of its own."""
    before = list(torch.serialization.get_safe_globals())  # torch 2.4 gives its own list
    torch.serialization.add_safe_globals(_ALLOWED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def unpickled(path: Path, *, zipped: bool) -> Any:
    """What torch.save wrote. Tensors are on the CPU; numpy scalars are Python numbers.

    Args:
        zipped: whether it is a zip archive, as torch writes since 1.6.

    Raises:
        CheckpointError: the file is damaged, cut off, holds code, or is not from torch.save.
    """
    try:
        if zipped and _is_torchscript(path):
            raise CheckpointError(
                f"{path} is a TorchScript archive, which holds code, so it is refused. "
                "Load it yourself (torch.jit.load) and save only its state_dict()"
            )
        with warnings.catch_warnings(), _allowed():
            warnings.simplefilter("ignore")  # torch warns about a pickle's protocol before it refuses the pickle
            if zipped and path.suffix != ".safetensors":  # newer torch trusts this ending more than the content
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors ({_blocked(error)}). Loading it could run code, so it is refused. "
            "If you trust it, load it yourself and save only its state_dict()"
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(f"{path} cannot be read: damaged, cut off, or not a PyTorch checkpoint") from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _blocked(error: Exception) -> str:
    """The class or function that torch's restricted unpickler refused."""
    _, marker, rest = str(error).partition("GLOBAL ")
    return rest.split()[0] if marker and rest.split() else "an object of unknown kind"
