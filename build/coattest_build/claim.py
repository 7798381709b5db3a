"""The claim: what the service says the image is, for everybody to reproduce. claim.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest_build.errors import UsageError
from coattest_build.jsontext import unique_names
from coattest_build.report import (
    BadReport,
    BuildReport,
    ProfileResult,
    Reader,
    profiles_to_json,
    read_profiles,
)

FORMAT = "coattest-claim/v1"
MAX_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Claim:
    """Release, architecture, source digests (hex) and every profile's image, registers and sections."""

    release: str
    architecture: str
    tree_sha256: str
    lock_sha256: str
    profiles: tuple[tuple[str, ProfileResult], ...]

    @classmethod
    def from_report(cls, report: BuildReport) -> Claim:
        """The claim that a build supports."""
        return cls(
            report.release,
            report.architecture,
            report.source.tree_sha256,
            report.source.lock_sha256,
            report.profiles,
        )

    @classmethod
    def parse(cls, data: bytes, where: str = "claim.json") -> Claim:
        """The claim in the bytes of a file. Raises BadReport."""
        try:
            document = json.loads(data.decode(), object_pairs_hook=unique_names)
        except (ValueError, RecursionError) as error:
            raise BadReport(f"not JSON: {error}", where=where) from error
        return cls.from_json(document, where)

    @classmethod
    def from_json(cls, document: object, where: str = "claim.json") -> Claim:
        """The claim in a JSON document. Raises BadReport for anything missing, unknown or malformed."""
        top = Reader(document, where)
        top.match("format", re.escape(FORMAT))
        source = top.object("source")
        claim = cls(
            release=top.text("release"),
            architecture=top.match("architecture", "x86_64|aarch64"),
            tree_sha256=source.hexadecimal("tree_sha256", 32),
            lock_sha256=source.hexadecimal("lock_sha256", 32),
            profiles=read_profiles(top),
        )
        top.done()
        source.done()
        return claim

    @classmethod
    def load(cls, path: Path) -> Claim:
        """The claim in a file. Raises UsageError when there is none, BadReport when it is malformed."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise UsageError(
                "no claim here", where=str(path), hint="`eif build --claim` writes one"
            ) from None
        if len(data) > MAX_FILE:
            raise BadReport("larger than 1 MiB", where=str(path))
        return cls.parse(data, str(path))

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return {
            "format": FORMAT,
            "release": self.release,
            "architecture": self.architecture,
            "source": {"tree_sha256": self.tree_sha256, "lock_sha256": self.lock_sha256},
            "profiles": profiles_to_json(self.profiles),
        }

    def render(self) -> bytes:
        """The bytes of the file: sorted keys, two spaces, a final newline."""
        return (json.dumps(self.to_json(), indent=2, sort_keys=True) + "\n").encode()

    def differences(self, report: BuildReport) -> tuple[str, ...]:
        """What the build gave differently, one sentence each, telling ones first; empty when all agrees."""
        found = []
        pairs = (
            ("release", self.release, report.release),
            ("architecture", self.architecture, report.architecture),
            ("source tree", self.tree_sha256, report.source.tree_sha256),
            ("lock", self.lock_sha256, report.source.lock_sha256),
        )
        for what, claimed, built in pairs:
            if claimed != built:
                found.append(f"{what}: claimed {claimed}, built from {built}")
        claimed_profiles, built_profiles = dict(self.profiles), dict(report.profiles)
        for name in sorted({*claimed_profiles, *built_profiles}):
            if name not in built_profiles:
                found.append(f"profile {name}: claimed and not built")
            elif name not in claimed_profiles:
                found.append(f"profile {name}: built and not claimed")
            else:
                found += _profile_differences(name, claimed_profiles[name], built_profiles[name])
        return tuple(found)


def _profile_differences(name: str, claimed: ProfileResult, built: ProfileResult) -> list[str]:
    """The sections that differ, then the registers, then the file as a whole."""
    found = []
    if len(claimed.sections) != len(built.sections):
        counts = f"{len(claimed.sections)} claimed, {len(built.sections)} built"
        found.append(f"profile {name}: number of sections: {counts}")
    for index, (a, b) in enumerate(zip(claimed.sections, built.sections, strict=False)):
        if a != b:
            sizes = f"{a.size} and {b.size} bytes" if a.size != b.size else f"{a.size} bytes"
            kinds = a.type if a.type == b.type else f"{a.type}, built {b.type}"
            found.append(
                f"profile {name}: section {index} ({kinds}) differs ({sizes}): "
                f"claimed SHA-384 {a.sha384[:16]}.., built {b.sha384[:16]}.."
            )
    for (register, a_value), (_, b_value) in zip(claimed.pcrs, built.pcrs, strict=True):
        if a_value != b_value:
            found.append(f"profile {name}: {register}: claimed {a_value}, built {b_value}")
    for what in ("name", "size", "sha256", "sha384"):
        a_whole, b_whole = getattr(claimed, what), getattr(built, what)
        if a_whole != b_whole:
            found.append(f"profile {name}: image {what}: claimed {a_whole}, built {b_whole}")
    return found
