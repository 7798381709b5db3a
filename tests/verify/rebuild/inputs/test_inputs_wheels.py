"""Wheels against a package index in a local folder, through the real pip."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from coattest_build.inputs.lock import LockedWheel
from coattest_verify.rebuild.inputs import wheels
from coattest_verify.rebuild.inputs.check import UNANSWERED
from support.build.wheelhouse import make_wheel_file


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LockedWheel:
    """A wheel in a folder that pip is configured with, and its pin."""
    path = make_wheel_file(tmp_path / "index", "tinypkg", "1.0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    data = path.read_bytes()
    return LockedWheel("tinypkg", "1.0", path.name, len(data), hashlib.sha256(data).hexdigest())


def codes(pin: LockedWheel) -> list[str]:
    return [problem.code for problem in wheels.check_wheel(pin)]


def test_wheel_that_the_index_has(wheel):
    """A wheel that the index serves with the pinned content has no problem."""
    assert wheels.check_wheel(wheel) == ()


def test_wheel_with_other_content(wheel):
    """Other content under the pinned name is a contradiction that names both digests."""
    (problem,) = wheels.check_wheel(dataclasses.replace(wheel, sha256="ab" * 32))
    assert problem.code == "wrong-hash"
    assert problem.code not in UNANSWERED
    assert "ab" * 32 in problem.detail
    assert wheel.sha256 in problem.detail


def test_wheel_of_a_version_that_the_index_lacks(wheel):
    """A version that the index does not have is a contradiction, with the versions that it has."""
    (problem,) = wheels.check_wheel(dataclasses.replace(wheel, version="2.0"))
    assert (problem.code, problem.code not in UNANSWERED) == ("wrong-version", True)
    assert "1.0" in problem.detail


def test_wheel_of_another_size(wheel):
    """The pinned size is compared too."""
    assert codes(dataclasses.replace(wheel, size=wheel.size + 1)) == ["wrong-file"]


def test_index_that_has_no_such_package(wheel):
    """pip cannot tell a package that is not there from an index that is down: neither is a contradiction."""
    (problem,) = wheels.check_wheel(dataclasses.replace(wheel, name="absentpkg"))
    assert (problem.code, problem.code not in UNANSWERED) == ("index-unreachable", False)
