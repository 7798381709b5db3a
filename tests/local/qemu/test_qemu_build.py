"""Building QEMU: errors name what is missing here or on the mirror; a half-finished build is never used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest.progress import Quiet
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.fetch import InputGone
from support.local.qemu_compiler import patch, pins, qemu_build
from support.loopback import Handler, Loopback


class Empty(Handler):
    """A mirror that answers every request with 404."""

    def do_GET(self) -> None:
        """404."""
        self.send_error(404)


@pytest.fixture
def mirror() -> Iterator[str]:
    """The base address of an empty mirror on loopback."""
    with Loopback.of(Empty) as server:
        yield server.url


def test_without_tools_every_package_is_named_and_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user is told what root has to install, and the command for it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert {"gcc", "ninja-build", "libcbor-dev", "libfdt-dev"} <= set(qemu_build.missing_dependencies())
    with pytest.raises(EnvironmentFailure) as caught:
        qemu_build.ensure_dependencies(Quiet())
    assert (caught.value.code, caught.value.exit_code) == ("no-build-dependencies", 3)
    assert "libgnutls28-dev" in str(caught.value)
    assert "as root: apt-get install" in str(caught.value)


def test_a_mirror_without_the_pinned_version_leads_to_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    """The error names the option that takes the mirror's own version; nothing is left but the cache."""
    monkeypatch.setattr(qemu_build, "ensure_dependencies", lambda reporter: None)
    with pytest.raises(InputGone, match="--current"):
        qemu_build.build_qemu(Cache(tmp_path), Quiet(), mirror=mirror)
    assert not (tmp_path / "qemu").exists()
    assert list(tmp_path.glob(f"{qemu_build.WORK_PREFIX}*")) == []


def test_a_finished_build_is_used_again_only_for_the_same_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    """Another pin, another option or another edit of the source means another build."""
    monkeypatch.setattr(qemu_build, "ensure_dependencies", lambda reporter: None)
    program = tmp_path / "qemu" / "bin" / "qemu-system-x86_64"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'nitro-enclave        AWS Nitro Enclave'\n")
    program.chmod(0o755)
    (tmp_path / "qemu" / "inputs").write_text(qemu_build._identity(pins.PINNED))
    built = qemu_build.build_qemu(Cache(tmp_path), Quiet(), mirror=mirror)
    assert not built.compiled
    assert built.qemu == program
    for module, name, value in (
        (qemu_build, "CONFIGURE", (*qemu_build.CONFIGURE, "--enable-docs")),
        (patch, "EDITS", patch.EDITS[:1]),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            with pytest.raises(InputGone):
                qemu_build.build_qemu(Cache(tmp_path), Quiet(), mirror=mirror)


def test_what_a_killed_build_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    """A work folder without a living build goes away with the next build that compiles."""
    monkeypatch.setattr(qemu_build, "ensure_dependencies", lambda reporter: None)
    monkeypatch.setattr(qemu_build.fetch, "fetch_packages", lambda *_: {"qemu": tmp_path / "none"})
    monkeypatch.setattr(qemu_build.wheels, "fetch_wheels", lambda *_: {})
    stale = tmp_path / f"{qemu_build.WORK_PREFIX}stale"
    (stale / "source").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        qemu_build.build_qemu(Cache(tmp_path), Quiet(), mirror=mirror)
    assert list(tmp_path.glob(f"{qemu_build.WORK_PREFIX}*")) == []
