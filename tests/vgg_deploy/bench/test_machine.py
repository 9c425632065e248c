"""What figures were measured on."""

from __future__ import annotations

import platform

import vgg_deploy
from vgg_deploy.bench.machine import machine, versions


def test_the_machine_is_told_without_its_name() -> None:
    told = machine()
    assert told["cpu"]
    assert 1 <= int(told["usable_cores"]) <= int(told["cores"])
    assert platform.node() not in map(str, told.values())


def test_versions_are_those_of_what_is_installed() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["vgg-deploy"] == vgg_deploy.__version__
    assert "no-such-package" not in found
