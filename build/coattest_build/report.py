"""The report of a build (build.json), and the part of it that a publisher claims (claim.json).

Members read both with readers of their own (``coattest_verify.quorum.statements``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coattest.network import NO_NETWORK, Network
from coattest_build.formats.measure import ImageMeasurements, SectionDigest
from coattest_build.image import MINIMAL

FORMAT = "coattest-build/v1"
CLAIM_FORMAT = "coattest-claim/v1"
CONTAINER_INPUT = "container"
"""The kind of an input that is a part of a container image: taken as given, not built from source."""
REGISTERS = ("PCR0", "PCR1", "PCR2")


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image: its file name, size in bytes, digests (hex), registers and sections."""

    name: str
    size: int
    sha256: str
    sha384: str
    pcrs: tuple[tuple[str, str], ...]
    sections: tuple[SectionDigest, ...]

    @classmethod
    def from_measurements(cls, name: str, measured: ImageMeasurements) -> ImageResult:
        """The result for a measured image file."""
        pcrs = tuple(zip(REGISTERS, (measured.pcr0, measured.pcr1, measured.pcr2), strict=True))
        return cls(name, measured.size, measured.sha256, measured.sha384, pcrs, measured.sections)

    def to_json(self) -> dict[str, Any]:
        """Its object in a report or claim."""
        return {
            "image": {name: getattr(self, name) for name in ("name", "size", "sha256", "sha384")},
            "pcrs": dict(self.pcrs),
            "sections": [asdict(section) for section in self.sections],
        }


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """The source: its commit (hex, None outside a repository), uncommitted changes, tree and lock digests."""

    commit: str | None
    dirty: bool
    tree_sha256: str
    lock_sha256: str


@dataclass(frozen=True, slots=True)
class BuildInput:
    """One locked input; ``path`` is pool-relative for a deb and the file name for a wheel.

    ``kind`` is ``deb``, ``wheel`` or CONTAINER_INPUT.
    """

    name: str
    version: str
    sha256: str
    path: str
    kind: str


def container_config(inputs: Iterable[tuple[str, str, str]]) -> str | None:
    """The SHA-256 (hex) of the container image's configuration among kinds, names and digests of inputs."""
    return next(
        (sha256 for kind, name, sha256 in inputs if (kind, name) == (CONTAINER_INPUT, "config")), None
    )


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Everything that build.json says. ``isolation`` holds texts, flags and lists of texts.

    ``route`` is ``native`` or ``container``.
    """

    release: str
    architecture: str
    route: str
    source: SourceIdentity
    profiles: tuple[tuple[str, ImageResult], ...]
    kernel_compiled_here: bool
    kernel_sha256: str
    isolation: Mapping[str, Any]
    tool_version: str
    tool_sha256: str
    inputs: tuple[BuildInput, ...]
    kernel_profile: str = MINIMAL
    network: Network = NO_NETWORK

    def to_json(self) -> dict[str, Any]:
        """The document that is written to build.json, and by ``verify rebuild`` to rebuild.json."""
        return {
            "format": FORMAT,
            "release": self.release,
            "architecture": self.architecture,
            "route": self.route,
            "source": asdict(self.source),
            "profiles": self._profiles(),
            "kernel": {
                "profile": self.kernel_profile,
                "compiled_here": self.kernel_compiled_here,
                "sha256": self.kernel_sha256,
            },
            "network": self.network.to_json() if self.network else None,
            "isolation": dict(self.isolation),
            "tool": {"version": self.tool_version, "sha256": self.tool_sha256},
            "inputs": [asdict(item) for item in self.inputs],
        }

    def claim(self) -> bytes:
        """The bytes of claim.json: what every build of this release must give.

        A claim that names no profile of the kernel is about a ``minimal`` one, and one that names no
        container image about an image that was put together from the other inputs. One without a network is
        about a program that has none but vsock.
        """
        named: dict[str, Any] = {}
        if self.kernel_profile != MINIMAL:
            named["kernel"] = {"profile": self.kernel_profile}
        if self.network:
            named["network"] = self.network.to_json()
        if config := container_config((item.kind, item.name, item.sha256) for item in self.inputs):
            named["container"] = {"config": config}
        claimed = {
            **named,
            "format": CLAIM_FORMAT,
            "release": self.release,
            "architecture": self.architecture,
            "source": {"tree_sha256": self.source.tree_sha256, "lock_sha256": self.source.lock_sha256},
            "profiles": self._profiles(),
        }
        return (json.dumps(claimed, indent=2, sort_keys=True) + "\n").encode()

    def _profiles(self) -> dict[str, Any]:
        return {name: result.to_json() for name, result in self.profiles}
