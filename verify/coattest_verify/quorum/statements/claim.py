"""The result of a build: the digests of one profile's image, and the claim, which has them for every profile.

Digests have one spelling (lower-case hex of fixed length), so equal results are equal values.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coattest.errors import Rejected, UsageError
from coattest.findings import Finding
from coattest.network import MAX_CONNECT, MAX_LISTEN, NO_NETWORK, Network, parse_network
from coattest.strictjson import Fields, canonical, parse
from coattest_build.formats.registers import EMPTY_PCR2
from coattest_build.image import KERNEL_PROFILES, MINIMAL

CLAIM_FILE = "claim.json"
CLAIM_FORMAT = "coattest-claim/v1"

MAX_CLAIM = 256 * 1024
"""Bytes of claim.json; two profiles have about 4 kB."""

MAX_PROFILES = 16
MAX_SECTIONS = 32
"""Sections of an EIF (MAX_NUM_SECTIONS in aws-nitro-enclaves-image-format)."""

MAX_IMAGE = 2**40

SHA256 = re.compile(r"[0-9a-f]{64}")
SHA384 = re.compile(r"[0-9a-f]{96}")
COMMIT = re.compile(r"[0-9a-f]{40}")
ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
PROFILE = re.compile(r"[a-z][a-z0-9-]{0,31}")
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,63}")
IMAGE_NAME = re.compile(r"image(?:\.[a-z][a-z0-9-]{0,31})?\.eif")
SECTION_TYPES = ("kernel", "cmdline", "ramdisk", "signature", "metadata")


@dataclass(frozen=True, slots=True)
class ClaimedSection:
    """One section of an image: type, bytes, SHA-384 of its data."""

    type: str
    size: int
    sha384: str


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """Everything that must be equal for two builds of a profile to be the same."""

    name: str
    size: int
    sha256: str
    sha384: str
    pcrs: tuple[str, str, str]
    sections: tuple[ClaimedSection, ...]

    def differences(self, claimed: ProfileResult, profile: str) -> tuple[Finding, ...]:
        """How this differs from the claim's ``profile``: PCRs first, then sections, then the file."""

        def differs(what: str, found: object, expected: object) -> Finding:
            detail = f"{what} {found} instead of {expected}"
            return Finding("mismatch", profile, detail, expected=str(expected), found=str(found))

        found = [
            differs(f"PCR{index}", mine, theirs)
            for index, (mine, theirs) in enumerate(zip(self.pcrs, claimed.pcrs, strict=True))
            if mine != theirs
        ]
        if len(self.sections) != len(claimed.sections):
            found.append(differs("number of sections", len(self.sections), len(claimed.sections)))
        found += [
            Finding(
                "mismatch",
                profile,
                f"section {index} {mine.type} of {mine.size} bytes, {mine.sha384} instead of "
                f"{theirs.type} of {theirs.size} bytes, {theirs.sha384}",
                expected=theirs.sha384,
                found=mine.sha384,
            )
            for index, (mine, theirs) in enumerate(zip(self.sections, claimed.sections, strict=False))
            if mine != theirs
        ]
        for field in ("name", "size", "sha256", "sha384"):
            mine, theirs = getattr(self, field), getattr(claimed, field)
            if mine != theirs:
                found.append(differs(f"image {field}", mine, theirs))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The shape of rebuild.json and claim.json."""
        return {
            "image": {"name": self.name, "size": self.size, "sha256": self.sha256, "sha384": self.sha384},
            "pcrs": {f"PCR{index}": value for index, value in enumerate(self.pcrs)},
            "sections": [asdict(section) for section in self.sections],
        }

    @classmethod
    def read(cls, fields: Fields) -> ProfileResult:
        """From that shape. Raises Rejected."""
        image, pcrs = fields.fields("image"), fields.fields("pcrs")
        result = cls(
            name=image.text("name", IMAGE_NAME),
            size=image.integer("size", 1, MAX_IMAGE),
            sha256=image.text("sha256", SHA256),
            sha384=image.text("sha384", SHA384),
            pcrs=read_pcrs([pcrs.text(f"PCR{index}", SHA384) for index in range(3)], pcrs.path),
            sections=read_sections(fields),
        )
        fields.done()
        return result


def read_pcrs(values: list[str], path: str) -> tuple[str, str, str]:
    """PCR0 to PCR2, refused when they would pin nothing."""
    zero = next((index for index, value in enumerate(values) if value == "0" * 96), None)
    if zero is not None:
        raise Rejected(f"{path}.PCR{zero}: all zeros is what debug mode shows", code="zero-pcr")
    if values[2] == EMPTY_PCR2:
        raise Rejected(f"{path}.PCR2: the value of an empty application ramdisk", code="empty-pcr2")
    return values[0], values[1], values[2]


def read_sections(fields: Fields) -> tuple[ClaimedSection, ...]:
    """The ``sections`` array. Raises Rejected."""
    return tuple(
        ClaimedSection(
            entry.choice("type", SECTION_TYPES),
            entry.integer("size", 0, MAX_IMAGE),
            entry.text("sha384", SHA384),
        )
        for entry in fields.each("sections", low=1, high=MAX_SECTIONS)
    )


def read_profiles(fields: Fields) -> dict[str, ProfileResult]:
    """Results by profile. Raises Rejected."""
    found = {}
    for profile, value in fields.mapping("profiles", high=MAX_PROFILES).items():
        if not PROFILE.fullmatch(profile):
            raise Rejected(f"{fields.at('profiles')}: {ascii(profile)[:60]} is not the name of a profile")
        found[profile] = ProfileResult.read(Fields(value, f"{fields.at('profiles')}.{profile}"))
    return found


def read_network(fields: Fields) -> Network:
    """What the image may reach and where it is reached; a claim of no network names none. Raises Rejected."""
    network = fields.fields("network")
    listen, connect = network.items("listen", high=MAX_LISTEN), network.items("connect", high=MAX_CONNECT)
    network.done()
    if not all(isinstance(text, str) for text in (*listen, *connect)):
        raise Rejected(f"{fields.at('network')}: not texts")
    try:
        found = parse_network(listen, connect)
    except UsageError as error:
        raise Rejected(f"{fields.at('network')}: {error.what}") from None
    if not found:
        raise Rejected(f"{fields.at('network')}: neither listen nor connect has anything")
    return found


@dataclass(frozen=True, slots=True)
class Claimed:
    """What the publisher says a release builds to; untrusted until members agree with it."""

    release: str
    architecture: str
    tree_sha256: str
    lock_sha256: str
    profiles: Mapping[str, ProfileResult]
    kernel_profile: str
    container: str | None
    """SHA-256 of a container image's configuration; None where the payload is none."""
    network: Network
    sha256: str
    """SHA-256 of the claim in canonical JSON: what a dissenting statement answers."""

    @classmethod
    def decode(cls, data: bytes) -> Claimed:
        """Parse claim.json. Raises Rejected."""
        value = parse(data, max_size=MAX_CLAIM)
        fields = Fields(value, "")
        fields.exactly("format", CLAIM_FORMAT)
        source = fields.fields("source")
        # ``minimal`` is not named: one result has one spelling.
        kernels = [name for name in KERNEL_PROFILES if name != MINIMAL]
        claim = cls(
            release=fields.text("release", RELEASE),
            architecture=fields.text("architecture", ARCHITECTURE),
            tree_sha256=source.text("tree_sha256", SHA256),
            lock_sha256=source.text("lock_sha256", SHA256),
            profiles=read_profiles(fields),
            container=fields.fields("container").text("config", SHA256) if fields.has("container") else None,
            kernel_profile=(
                fields.fields("kernel").choice("profile", kernels) if fields.has("kernel") else MINIMAL
            ),
            network=read_network(fields) if fields.has("network") else NO_NETWORK,
            sha256=hashlib.sha256(canonical(value)).hexdigest(),
        )
        fields.done()
        return claim
