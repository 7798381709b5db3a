"""The example of docs/own-enclave as a source tree, and a mirror that still has what coattest's lock pins."""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
import shutil
from email.utils import formatdate
from pathlib import Path

from coattest_build import image
from coattest_build.inputs import lock as locks
from coattest_build.inputs import wheels

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "own-enclave"
BESIDE_PAYLOAD = ("alive", "buffers", "canonical", "errors", "key_arn", "wire")
"""The modules of the enclave's protocol that its payload package needs."""


def make_source(folder: Path) -> Path:
    """The tree that docs/your-own-enclave.md makes, with the pins that coattest's own lock has for it."""
    shutil.copytree(EXAMPLE, folder)
    for part in ("kernel", "init"):
        shutil.copytree(ROOT / "build" / part, folder / "build" / part)
    copy_payload(folder / "enclave")
    write_lock(folder)
    return folder


def copy_payload(folder: Path) -> None:
    """Put the package of any payload into ``folder``, as the page does."""
    source, package = ROOT / "enclave/coattest_enclave", folder / "coattest_enclave"
    shutil.copytree(source / "payload", package / "payload", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "protocol").mkdir()
    for name in BESIDE_PAYLOAD:
        shutil.copy(source / f"protocol/{name}.py", package / "protocol")


def write_lock(folder: Path) -> None:
    """A lock for a source tree whose toolchain is coattest's: its pins, without those of no use."""
    spec, (locked, _) = image.load_spec(folder), locks.load_lock(ROOT)
    packages: list[locks.LockedPackage] = []
    for package in locked.packages:
        uses = tuple(use for use in package.use if use != "runtime" or package.name in spec.runtime)
        if uses:
            packages.append(dataclasses.replace(package, use=uses))
    pinned = wheels.read_requirements(folder, spec.wheels) if spec.wheels else ""
    taken = tuple(wheel for wheel in locked.wheels if wheel.sha256 in pinned)
    text = dataclasses.replace(locked, packages=tuple(packages), wheels=taken).render()
    (folder / image.LOCK_FILE).write_text(text)


def make_mirror(folder: Path) -> str:
    """The address of an archive whose indexes name exactly what coattest's lock pins; it has no packages.

    An archive forgets old versions. With this one `eif lock` gives the pins that the cache has, today and
    later. Dependencies are not in a lock: the first toolchain package that image.toml names has them all.
    """
    spec, (locked, _) = image.load_spec(ROOT), locks.load_lock(ROOT)
    toolchain = [package.name for package in locked.used_for("toolchain")]
    first = min(spec.toolchain)
    stanzas = []
    for package in locked.packages:
        depends = f"Depends: {', '.join(toolchain)}\n" if package.name == first else ""
        stanzas.append(
            f"Package: {package.name}\nVersion: {package.version}\nArchitecture: {package.architecture}\n"
            f"{depends}Size: {package.size}\nSHA256: {package.sha256}\nFilename: {package.path}\n"
        )
    for suite in spec.suites:
        index = lzma.compress("\n".join(stanzas).encode())
        path = folder / "dists" / suite / "main/binary-amd64/Packages.xz"
        path.parent.mkdir(parents=True)
        path.write_bytes(index)
        digest = hashlib.sha256(index).hexdigest()
        date = formatdate(locked.source_date_epoch, usegmt=True).replace("GMT", "UTC")
        (folder / "dists" / suite / "InRelease").write_text(
            f"Suite: {suite}\nDate: {date}\nSHA256:\n {digest} {len(index)} main/binary-amd64/Packages.xz\n"
        )
    return folder.as_uri()
