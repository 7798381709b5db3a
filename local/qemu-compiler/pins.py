"""What build.py downloads, and how it finds newer versions when a mirror no longer has these.

Paths are relative to a Debian mirror's root; no host is named. Nothing here is measured or decides trust:
QEMU is a second opinion on this machine, so a version that is not pinned is a matter of availability only.
"""

from __future__ import annotations

import functools
import lzma
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coattest.errors import EnvironmentFailure
from coattest_build.inputs.debian import stanzas
from coattest_build.inputs.fetch import fetch_index
from coattest_build.inputs.lock import LockedPackage, LockedWheel

SOURCE_SUITE = "trixie"
VSOCK_SUITE = "forky"
COMPONENT = "main"

QEMU_VERSION = "10.0.13+ds-0+deb13u1"

_package = functools.partial(LockedPackage, use=("qemu",))

# Debian's source without its patches: they concern other machines, the installation and licences of blobs.
SOURCE = _package(
    name="qemu",
    version=QEMU_VERSION,
    architecture="source",
    size=40010016,
    sha256="6a0888e806c2ffc0c5f0733e974f9aea55491950d3c47c98669c8b236dde59ae",
    path="pool/main/q/qemu/qemu_10.0.13+ds.orig.tar.xz",
)
FIRMWARE = _package(
    name="qemu-system-data",
    version=QEMU_VERSION,
    architecture="all",
    size=2144176,
    sha256="a0e03c526cc09d4c2ab20aa19a8c12e916cdc49a170acb16a6563c28f70eafd3",
    path="pool/main/q/qemu/qemu-system-data_10.0.13+ds-0+deb13u1_all.deb",
)
VSOCK = _package(
    name="vhost-device-vsock",
    version="0.3.0-2",
    architecture="amd64",
    size=945484,
    sha256="fd36382419cc174f00d9b1691486b581e13e8c1168dc339b86b2a65180a29ce7",
    path="pool/main/r/rust-vhost-device-vsock/vhost-device-vsock_0.3.0-2_amd64.deb",
)
# The versions that QEMU 10.0's pythondeps.toml names; bookworm's own meson is too old for it.
WHEELS = (
    LockedWheel(
        "meson",
        "1.5.0",
        "meson-1.5.0-py3-none-any.whl",
        959846,
        "52b34f4903b882df52ad0d533146d4b992c018ea77399f825579737672ae7b20",
    ),
    LockedWheel(
        "pycotap",
        "1.3.1",
        "pycotap-1.3.1-py3-none-any.whl",
        5119,
        "1c3a25b3ff89e48f4e00f1f71dbbc1642b4f65c65d416524d07e73492fff25ea",
    ),
)


@dataclass(frozen=True, slots=True)
class QemuInputs:
    """What a build takes."""

    source: LockedPackage
    firmware: LockedPackage
    vsock: LockedPackage
    wheels: tuple[LockedWheel, ...]

    @property
    def packages(self) -> tuple[LockedPackage, ...]:
        """Everything that comes from a Debian mirror."""
        return (self.source, self.firmware, self.vsock)


PINNED = QemuInputs(SOURCE, FIRMWARE, VSOCK, WHEELS)


def current(base: str, fetch: Callable[[str], bytes] = fetch_index) -> QemuInputs:
    """What the mirror at ``base`` has today in place of the pins, with the hashes of its indexes.

    The indexes' signatures are not checked. The wheels stay: their versions belong to QEMU's major version.
    """
    trixie = _index(base, SOURCE_SUITE, "binary-amd64/Packages.xz", fetch)
    forky = _index(base, VSOCK_SUITE, "binary-amd64/Packages.xz", fetch)
    sources = _index(base, SOURCE_SUITE, "source/Sources.xz", fetch)
    firmware, vsock = _binary(trixie, FIRMWARE.name), _binary(forky, VSOCK.name)
    return QemuInputs(_source(sources), firmware, vsock, WHEELS)


def _index(base: str, suite: str, name: str, fetch: Callable[[str], bytes]) -> Sequence[Mapping[str, str]]:
    data = fetch(f"{base}/dists/{suite}/{COMPONENT}/{name}")
    text = lzma.decompress(data).decode("utf-8", "replace")
    wanted = {package.name for package in PINNED.packages}
    return [stanza for stanza in stanzas(text) if stanza.get("Package") in wanted]


def _binary(index: Sequence[Mapping[str, str]], name: str) -> LockedPackage:
    for stanza in index:
        if stanza["Package"] == name:
            return _package(
                name=name,
                version=stanza["Version"],
                architecture=stanza["Architecture"],
                size=int(stanza["Size"]),
                sha256=stanza["SHA256"],
                path=stanza["Filename"],
            )
    raise EnvironmentFailure(f"the mirror's index has no {name}", code="not-in-index")


def _source(index: Sequence[Mapping[str, str]]) -> LockedPackage:
    for stanza in index:
        lines = [line.split() for line in stanza.get("Checksums-Sha256", "").splitlines() if line.strip()]
        for sha256, size, name in (line for line in lines if len(line) == 3):
            if stanza["Package"] == SOURCE.name and name.endswith(".orig.tar.xz"):
                return _package(
                    name=SOURCE.name,
                    version=stanza["Version"],
                    architecture="source",
                    size=int(size),
                    sha256=sha256,
                    path=f"{stanza['Directory']}/{name}",
                )
    raise EnvironmentFailure(f"the mirror's index has no source of {SOURCE.name}", code="not-in-index")
