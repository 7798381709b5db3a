"""What a build was made from and what came out: rebuild.json, as a frozen value with a strict reader."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from coattest_build.errors import UsageError
from coattest_build.measure import ImageMeasurements, SectionDigest

FORMAT = "coattest-build/v1"
REGISTERS = ("PCR0", "PCR1", "PCR2")
ROUTES = ("native", "container")
SECTION_TYPES = ("kernel", "cmdline", "metadata", "ramdisk", "signature")
MAX_SECTIONS = 32
MAX_PROFILES = 16
MAX_INPUTS = 10_000
T = TypeVar("T")


class BadReport(UsageError):
    """A report or claim does not have its format."""

    default_reason = "bad-report"


class Reader:
    """One JSON object that must be read completely; every mismatch is a BadReport naming the field."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise BadReport("not an object", where=where)
        self.value, self.where, self._read = value, where, set[str]()

    def take(self, key: str, kind: type[T]) -> T:
        """The value of a key, which must be exactly of this type. Raises BadReport, as all the others."""
        self._read.add(key)
        value = self.value.get(key)
        if type(value) is not kind:
            raise BadReport(f"{key} is missing or not a {kind.__name__}", where=self.where)
        return value

    def match(self, key: str, pattern: str) -> str:
        """A text that matches a pattern completely."""
        text = self.take(key, str)
        if not re.fullmatch(pattern, text):
            raise BadReport(f"{key} is malformed: {text[:80]!r}", where=self.where)
        return text

    def hexadecimal(self, key: str, size: int) -> str:
        """Lower-case hex of ``size`` bytes."""
        return self.match(key, rf"[0-9a-f]{{{2 * size}}}")

    def text(self, key: str) -> str:
        """A short printable text."""
        return self.match(key, r"[ -~]{1,400}")

    def size(self, key: str) -> int:
        """A non-negative number of bytes."""
        number = self.take(key, int)
        if not 0 <= number < 2**53:
            raise BadReport(f"{key} is out of bounds", where=self.where)
        return number

    def object(self, key: str) -> Reader:
        """A nested object."""
        return Reader(self.take(key, dict), f"{self.where}.{key}")

    def done(self) -> None:
        """Refuse keys that nobody read."""
        unknown = sorted(set(self.value) - self._read)
        if unknown:
            raise BadReport(f"unknown key {unknown[0]!r}", where=self.where)


def _list(reader: Reader, key: str, limit: int, parse: Callable[[Reader], T]) -> tuple[T, ...]:
    items = reader.take(key, list)
    if len(items) > limit:
        raise BadReport(f"more than {limit} {key}", where=reader.where)
    parsed = []
    for index, item in enumerate(items):
        inner = Reader(item, f"{reader.where}.{key}[{index}]")
        parsed.append(parse(inner))
        inner.done()
    return tuple(parsed)


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """One image: its file name, size in bytes, digests (hex), registers and sections."""

    name: str
    size: int
    sha256: str
    sha384: str
    pcrs: tuple[tuple[str, str], ...]
    sections: tuple[SectionDigest, ...]

    @classmethod
    def from_measurements(cls, name: str, measured: ImageMeasurements) -> ProfileResult:
        """The result for a measured image file."""
        pcrs = tuple(zip(REGISTERS, (measured.pcr0, measured.pcr1, measured.pcr2), strict=True))
        return cls(name, measured.size, measured.sha256, measured.sha384, pcrs, measured.sections)

    def to_json(self) -> dict[str, Any]:
        """Its part of a report or claim."""
        return {
            "image": {
                "name": self.name,
                "size": self.size,
                "sha256": self.sha256,
                "sha384": self.sha384,
            },
            "pcrs": dict(self.pcrs),
            "sections": [{"type": s.type, "size": s.size, "sha384": s.sha384} for s in self.sections],
        }

    @classmethod
    def read(cls, reader: Reader) -> ProfileResult:
        """The result in a JSON object. Raises BadReport."""
        image, pcrs = reader.object("image"), reader.object("pcrs")
        result = cls(
            name=image.match("name", r"image(\.[a-z][a-z0-9-]*)?\.eif"),
            size=image.size("size"),
            sha256=image.hexadecimal("sha256", 32),
            sha384=image.hexadecimal("sha384", 48),
            pcrs=tuple((name, pcrs.hexadecimal(name, 48)) for name in REGISTERS),
            sections=_list(reader, "sections", MAX_SECTIONS, _read_section),
        )
        if not result.sections:
            raise BadReport("no sections", where=reader.where)
        for part in (image, pcrs, reader):
            part.done()
        return result


def _read_section(reader: Reader) -> SectionDigest:
    return SectionDigest(
        type=reader.match("type", "|".join(SECTION_TYPES)),
        size=reader.size("size"),
        sha384=reader.hexadecimal("sha384", 48),
    )


def profiles_to_json(profiles: tuple[tuple[str, ProfileResult], ...]) -> dict[str, Any]:
    """The ``profiles`` object of reports and claims."""
    return {name: result.to_json() for name, result in profiles}


def read_profiles(reader: Reader) -> tuple[tuple[str, ProfileResult], ...]:
    """The ``profiles`` object of a report or claim. Raises BadReport."""
    profiles = reader.object("profiles")
    if not 0 < len(profiles.value) <= MAX_PROFILES:
        raise BadReport("no profiles, or too many", where=profiles.where)
    names = sorted(profiles.value)
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", name):
            raise BadReport(f"not a profile's name: {name!r}", where=profiles.where)
    return tuple((name, ProfileResult.read(profiles.object(name))) for name in names)


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """The source: commit (hex, None outside a repository), whether it was dirty, tree and lock digests."""

    commit: str | None
    dirty: bool
    tree_sha256: str
    lock_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Its part of a report."""
        return {
            "commit": self.commit,
            "dirty": self.dirty,
            "tree_sha256": self.tree_sha256,
            "lock_sha256": self.lock_sha256,
        }


@dataclass(frozen=True, slots=True)
class Input:
    """One locked input; ``path`` is pool-relative for a deb and the file name for a wheel."""

    name: str
    version: str
    sha256: str
    path: str
    kind: str

    def to_json(self) -> dict[str, Any]:
        """Its part of a report."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "path": self.path,
            "kind": self.kind,
        }

    @classmethod
    def read(cls, reader: Reader) -> Input:
        """The input in a JSON object. Raises BadReport."""
        return cls(
            name=reader.text("name"),
            version=reader.text("version"),
            sha256=reader.hexadecimal("sha256", 32),
            path=reader.match("path", r"[A-Za-z0-9.+~%_/!-]{1,400}"),
            kind=reader.match("kind", "deb|wheel"),
        )


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Everything that rebuild.json says. ``isolation`` holds texts, flags and lists of texts."""

    release: str
    architecture: str
    route: str
    source: SourceIdentity
    profiles: tuple[tuple[str, ProfileResult], ...]
    kernel_compiled_here: bool
    kernel_sha256: str
    isolation: Mapping[str, Any]
    tool_version: str
    tool_sha256: str
    inputs: tuple[Input, ...]

    def profile(self, name: str) -> ProfileResult:
        """The result of one profile. Raises UsageError when it was not built."""
        for known, result in self.profiles:
            if known == name:
                return result
        raise UsageError(f"no profile {name!r} in the report")

    def to_json(self) -> dict[str, Any]:
        """The document that is written to rebuild.json."""
        return {
            "format": FORMAT,
            "release": self.release,
            "architecture": self.architecture,
            "route": self.route,
            "source": self.source.to_json(),
            "profiles": profiles_to_json(self.profiles),
            "kernel": {"compiled_here": self.kernel_compiled_here, "sha256": self.kernel_sha256},
            "isolation": dict(self.isolation),
            "tool": {"version": self.tool_version, "sha256": self.tool_sha256},
            "inputs": [item.to_json() for item in self.inputs],
        }

    @classmethod
    def from_json(cls, document: object) -> BuildReport:
        """The report in a JSON document. Raises BadReport for anything missing, unknown or malformed."""
        top = Reader(document, "rebuild.json")
        top.match("format", re.escape(FORMAT))
        source, kernel, tool = top.object("source"), top.object("kernel"), top.object("tool")
        commit = None if source.value.get("commit") is None else source.hexadecimal("commit", 20)
        if commit is None:
            source.take("commit", type(None))
        report = cls(
            release=top.text("release"),
            architecture=top.match("architecture", "x86_64|aarch64"),
            route=top.match("route", "|".join(ROUTES)),
            source=SourceIdentity(
                commit,
                source.take("dirty", bool),
                source.hexadecimal("tree_sha256", 32),
                source.hexadecimal("lock_sha256", 32),
            ),
            profiles=read_profiles(top),
            kernel_compiled_here=kernel.take("compiled_here", bool),
            kernel_sha256=kernel.hexadecimal("sha256", 32),
            isolation=_read_isolation(top.object("isolation")),
            tool_version=tool.text("version"),
            tool_sha256=tool.hexadecimal("sha256", 32),
            inputs=_list(top, "inputs", MAX_INPUTS, Input.read),
        )
        for reader in (top, source, kernel, tool):
            reader.done()
        return report


def _read_isolation(reader: Reader) -> dict[str, Any]:
    """Texts, flags and lists of texts, as a sandbox of another version may have recorded other keys."""
    for key, value in reader.value.items():
        texts = value if isinstance(value, list) else [value]
        plain = all(isinstance(text, str) and len(text) <= 100 for text in texts) and len(texts) <= 32
        if len(key) > 100 or not (isinstance(value, bool) or plain):
            raise BadReport(f"{key[:100]}: neither a text, a flag nor a list of texts", where=reader.where)
    return dict(reader.value)
