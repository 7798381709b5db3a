"""Debian's package indexes: parsing, the order of versions, and the closure of dependencies. No I/O.

Sources: deb-control(5), deb-version(7), Debian Policy 7 (relationships) and 5.6.12 (versions).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from coattest.errors import FoundFalse, UsageError
from coattest_build.inputs.names import NUMBER, PACKAGE

RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::(?P<arch>[a-z0-9-]+))?"
    r"(?:\s*\(\s*(?P<op><<|<=|=|>=|>>)\s*(?P<version>[A-Za-z0-9.+~:-]{1,256})\s*\))?(?:\s*\[[^]]*\])?"
)
MAX_RELATION = 1024
"""Characters of one relation; the longest of bookworm, a name and a version, has about 100."""
MAX_COMPARED = 1_000_000
"""Packages that the search for dependencies compares in all; that of 150 packages compares about 2,000."""
MAX_FIELD = 1024 * 1024
"""Characters of a field; librust-winapi-dev provides 300 KB of names."""


class IndexMalformed(FoundFalse):
    """An index does not follow the format."""

    default_code = "bad-index"


@dataclass(frozen=True, slots=True)
class Relation:
    """A dependency on one name; ``operator`` and ``version`` are empty when any version will do."""

    name: str
    operator: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """What a lock needs of a stanza of a Packages index; ``size`` in bytes, ``path`` pool-relative."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    path: str
    depends: tuple[tuple[Relation, ...], ...] = ()
    provides: tuple[Relation, ...] = ()


def _order(character: str) -> int:
    if character == "~":
        return -1
    if character.isalpha():
        return ord(character)
    return ord(character) + 256


Part = list[tuple[list[int], int]]


def _part(text: str) -> Part:
    """A part of a version as what is compared: non-digits and the number behind them, in turns.

    The end of the non-digits counts as 0: "~" sorts before it, everything else behind.
    """
    # The same letter before every part: an empty one and "0" have one turn each then, and are equal.
    turns = re.findall(r"([^0-9]*)([0-9]*)", f"v{text}")
    return [([*map(_order, characters), 0], int(digits or 0)) for characters, digits in turns]


def version_key(version: str) -> tuple[Part, Part, Part]:
    """What sorts versions by age (deb-version(7)): epoch, upstream version, revision."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return _part(epoch), _part(upstream), _part(revision)


def compare_versions(left: str, right: str) -> int:
    """-1, 0 or 1 as ``left`` is older than, equal to or newer than ``right`` (deb-version(7))."""
    ours, theirs = version_key(left), version_key(right)
    return (ours > theirs) - (ours < theirs)


def satisfies(version: str, operator: str, wanted: str) -> bool:
    """Whether ``version`` satisfies ``operator wanted``; any version satisfies an empty operator."""
    if not operator:
        return True
    order = compare_versions(version, wanted)
    return {"<<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">>": order > 0}[operator]


def parse_relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """A dependency field as a conjunction of alternatives. Raises IndexMalformed."""
    groups = []
    for group in filter(None, (part.strip() for part in text.split(","))):
        alternatives = []
        for alternative in group.split("|"):
            relation = alternative.strip()
            match = RELATION.fullmatch(relation) if len(relation) <= MAX_RELATION else None
            if match is None:
                raise IndexMalformed(f"not a package relation: {relation[:80]!r}")
            alternatives.append(Relation(match["name"], match["op"] or "", match["version"] or ""))
        groups.append(tuple(alternatives))
    return tuple(groups)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a control file, keys as written, continuation lines joined with newlines.

    Raises IndexMalformed while the text is read.
    """
    fields: dict[str, list[str]] = {}
    key = ""
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield _joined(fields)
            fields, key = {}, ""
        elif line[0] in " \t":
            if not key:
                raise IndexMalformed("a continuation line without a field")
            fields[key].append(line)
        elif not line.startswith("#"):
            key, colon, value = line.partition(":")
            if not colon or key in fields or len(value) > MAX_FIELD:
                raise IndexMalformed(f"not a field, or one given twice: {line[:80]!r}")
            fields[key] = [value.strip()]
    if fields:
        yield _joined(fields)


def _joined(fields: Mapping[str, Sequence[str]]) -> dict[str, str]:
    # Once for all lines: to add a line to a text copies the text, a field of a million lines a million times.
    return {key: "\n".join(lines) for key, lines in fields.items()}


def parse_packages(text: str) -> Iterator[Package]:
    """The packages of a Packages index. Raises IndexMalformed on a stanza that a lock could not carry."""
    for fields in stanzas(text):
        if not NUMBER.fullmatch(fields.get("Size", "")):
            raise IndexMalformed(f"not a size: {fields.get('Size', '')[:40]!r}")
        try:
            package = Package(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                size=int(fields["Size"]),
                sha256=fields["SHA256"],
                path=fields["Filename"],
                depends=parse_relations(
                    ",".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
                ),
                provides=tuple(group[0] for group in parse_relations(fields.get("Provides", ""))),
            )
        except KeyError as error:
            raise IndexMalformed(f"a field of a stanza is missing: {error}") from error
        check_pin(package)
        yield package


def check_pin(package: Package) -> None:
    """Raise IndexMalformed unless everything that a lock takes from the package follows its grammar."""
    for name, grammar in PACKAGE.items():
        value = getattr(package, name)
        if not grammar.fullmatch(value):
            raise IndexMalformed(f"not allowed in an index: {value[:120]!r}", where=package.name[:60])


class Archive:
    """The packages of several suites; the first suite that satisfies a need wins, then the newest version."""

    def __init__(self, suites: Sequence[Iterable[Package]]) -> None:
        self._named: dict[str, list[tuple[int, Package]]] = {}
        self._provided: dict[str, list[tuple[int, Package, str]]] = {}
        self._left = MAX_COMPARED
        for rank, packages in enumerate(suites):
            for package in packages:
                self._named.setdefault(package.name, []).append((rank, package))
                for provided in package.provides:
                    self._provided.setdefault(provided.name, []).append((rank, package, provided.version))

    def find(self, relation: Relation, chosen: Mapping[str, Package]) -> Package | None:
        """The package for a relation: one already chosen, else one of that name, else a provider.

        Raises IndexMalformed when all searches together compare more than MAX_COMPARED packages.
        """
        self._left -= 1 + len(self._named.get(relation.name, ())) + len(self._provided.get(relation.name, ()))
        if self._left < 0:
            raise IndexMalformed(f"takes more than {MAX_COMPARED} comparisons of packages")
        real = [
            (rank, package)
            for rank, package in self._named.get(relation.name, ())
            if satisfies(package.version, relation.operator, relation.version)
        ]
        providers = [
            (rank, package)
            for rank, package, version in self._provided.get(relation.name, ())
            if not relation.operator or (version and satisfies(version, relation.operator, relation.version))
        ]
        for _, package in (*real, *providers):
            if chosen.get(package.name) == package:
                return package
        free = [item for item in real if item[1].name not in chosen]  # two versions cannot both be unpacked
        if free:
            first = min(rank for rank, _ in free)
            return max((p for rank, p in free if rank == first), key=lambda p: version_key(p.version))
        offers = [(rank, p.name, p) for rank, p in providers if p.name not in chosen]
        return min(offers, key=lambda offer: offer[:2])[2] if offers else None

    def closure(self, names: Iterable[str], *, dependencies: bool = True) -> tuple[Package, ...]:
        """The named packages and, recursively, what they depend on, sorted by name.

        Of alternatives the first that can be satisfied is taken; Recommends are not. Raises UsageError
        (``unsatisfiable``), and IndexMalformed as ``find``.
        """
        chosen: dict[str, Package] = {}
        queue: deque[tuple[str, tuple[Relation, ...]]] = deque(("image.toml", (Relation(n),)) for n in names)
        # The named ones come first, so that an alternative among them satisfies a dependency.
        while queue:
            wanted_by, alternatives = queue.popleft()
            present = any(
                (package := self.find(relation, chosen)) and chosen.get(package.name) == package
                for relation in alternatives
            )
            if present:
                continue
            for relation in alternatives:
                package = self.find(relation, chosen)
                if package:
                    chosen[package.name] = package
                    if dependencies:
                        queue.extend((package.name, group) for group in package.depends)
                    break
            else:
                wish = " | ".join(f"{r.name} {r.operator}{r.version}".strip() for r in alternatives)
                raise UsageError(f"nothing satisfies {wish}", where=wanted_by, code="unsatisfiable")
        return tuple(chosen[name] for name in sorted(chosen))
