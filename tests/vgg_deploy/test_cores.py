"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vgg_deploy.cores import usable_cores


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("150000 100000", 2),  # one and a half cores: the second is idle half of the time, but still helps
        ("1000 100000", 1),
        ("6400000 100000", 16),
        ("rubbish", 16),
        ("0 0", 16),
    ],
)
def test_a_containers_quota_is_kept_to(limit: str, expected: int, sixteen: None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("300000", 3)])
def test_the_quota_of_older_control_groups_is_kept_to(quota: str, expected: int, sixteen: None, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == expected


def test_without_control_groups_the_affinity_counts(sixteen: None, tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none") == 16


def test_a_system_without_affinities_counts_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert usable_cores(tmp_path) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1
