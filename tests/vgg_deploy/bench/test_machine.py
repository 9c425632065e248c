"""The machine that figures were measured on."""

from __future__ import annotations

import platform

import vgg_deploy
from vgg_deploy.bench.machine import machine, versions


def test_the_machine_is_described_without_its_name() -> None:
    host = machine()
    assert host["cpu"]
    assert 1 <= int(host["usable_cores"]) <= int(host["cores"])
    assert platform.node() not in map(str, host.values())


def test_versions_are_those_of_installed_packages() -> None:
    installed = versions()
    assert installed["python"] == platform.python_version()
    assert installed["vgg-deploy"] == vgg_deploy.__version__
    assert "no-such-package" not in installed
