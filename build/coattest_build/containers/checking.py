"""Whether an image file, or published registers, are what nitro-cli makes of a container image.

Of the deployed file only the times of folders that the image does not decide are taken, one for each layer
and one for the container; their modes and owners must be those of one of Docker's stores. Everything else is
computed from the container image, and from nitro-cli's blobs where they are given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from coattest.findings import Finding
from coattest_build.containers.application import (
    ContainerTree,
    application_ramdisk,
    command_and_environment,
    ramdisk_at,
    undecided_finding,
)
from coattest_build.containers.blobs import NitroBlobs
from coattest_build.containers.daemon import STORES, Exported
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.layers import HIDDEN_LINK
from coattest_build.containers.nitrocli import MAX_RAMDISK, clock_of
from coattest_build.containers.sources import FilePart, Spool
from coattest_build.explain.trees import compare_trees
from coattest_build.formats.eif import EifSection, Layout, SectionType, section_blocks
from coattest_build.formats.lenient.initramfs import unpack_ramdisks
from coattest_build.formats.registers import extend

MAX_REPORTED = 200
"""Differences that are listed."""
_HEX = re.compile(rb"[0-9a-f]{8}")
_MTIME = 46
"""Where the time is in a header of newc: after the magic number and five fields."""

Files = tuple[bytes, bytes]
"""The ``cmd`` and ``env`` files."""


@dataclass(frozen=True, slots=True)
class ContainerCheck:
    """What is different (``findings``), what stays open (``undecided``), and what was found the same.

    ``times`` are the seconds that were taken from the deployed file, by clock; ``store`` the store of Docker
    whose modes and owners it has, None where none was needed.
    """

    findings: tuple[Finding, ...]
    undecided: tuple[Finding, ...]
    same: tuple[str, ...]
    times: Mapping[int, int]
    store: str | None

    def to_json(self) -> dict[str, Any]:
        """The document of ``eif container check --json``."""
        return {
            "verdict": "differs" if self.findings else "undecided" if self.undecided else "same",
            "findings": [finding.to_json() for finding in self.findings],
            "undecided": [finding.to_json() for finding in self.undecided],
            "same": list(self.same),
            "times": {str(clock): seconds for clock, seconds in self.times.items()},
            "store": self.store,
        }


def possible_files(tree: ContainerTree) -> tuple[Files, ...]:
    """The ``cmd`` and ``env`` files that nitro-cli may make: two where an empty Cmd leaves it to Docker.

    Raises ContainerError where it makes none, and for a file system, which has no command.
    """
    config = tree.image.config
    if config is None:
        raise ContainerError("a file system has no command: check an image", code="container-unsupported")
    found: dict[Files, None] = {}
    for docker in (20, 29) if config.cmd == () else (None,):
        if docker == 29 and config.entrypoint is None:
            continue  # nitro-cli refuses it then
        found[command_and_environment(tree.image, docker=docker, command=(), environment=())] = None
    return tuple(found)


# -------------------------------------------------------------------------------- against an image file


class _Deployed:
    """The application ramdisk of the file, compared block by block; a time is read where ours has none."""

    def __init__(self, file: BinaryIO, section: EifSection) -> None:
        self._part = FilePart(file, section.offset, section.size)
        self.position = 0
        self.times: dict[int, int] = {}

    def time(self, entry: Exported) -> int:
        """The time of the entry whose header comes next: the first of its clock that was read."""
        raw = self._part.read(self.position + _MTIME, 8)
        return self.times.setdefault(clock_of(entry), int(raw, 16) if _HEX.fullmatch(raw) else 0)

    def equals(self, blocks: Iterator[bytes]) -> bool:
        """Whether the blocks are the ramdisk."""
        for block in blocks:
            if self._part.read(self.position, len(block)) != block:
                return False
            self.position += len(block)
        return self.position == self._part.size


def check_enclave_file(
    tree: ContainerTree, file: BinaryIO, layout: Layout, blobs: NitroBlobs | None
) -> ContainerCheck:
    """Compare the sections of an image file with what nitro-cli makes. Raises ContainerError, ImageError."""
    ramdisks = layout.of_type(SectionType.RAMDISK)
    kernels, cmdlines = layout.of_type(SectionType.KERNEL), layout.of_type(SectionType.CMDLINE)
    shape = (len(kernels), len(cmdlines), len(ramdisks))
    if shape != (1, 1, 2):
        detail = "not one kernel, one command line and two ramdisks, as nitro-cli writes"
        finding = Finding("section-missing", "image", detail, "1, 1, 2", ", ".join(map(str, shape)))
        return ContainerCheck((finding,), (), (), {}, None)
    findings = list(_architecture(tree, layout))
    undecided: list[Finding] = []
    same: list[str] = []
    if blobs is None:
        undecided.append(_blobs_missing("kernel, command line and boot ramdisk (PCR0 and PCR1)"))
    else:
        for name, section, expected in (
            ("kernel", kernels[0], blobs.kernel),
            ("command line", cmdlines[0], blobs.cmdline),
            ("boot ramdisk", ramdisks[0], blobs.boot),
        ):
            if section.size == len(expected) and b"".join(section_blocks(file, section)) == expected:
                same.append(name)
            else:
                findings.append(Finding("section-content", name, "is not what the blobs make"))
    for files in possible_files(tree):
        for store in _stores(tree):
            deployed = _Deployed(file, ramdisks[1])
            if deployed.equals(ramdisk_at(tree, files, deployed.time, store)):
                same.append("application ramdisk")
                times = dict(sorted(deployed.times.items()))
                taken = store if tree.undecided else None
                return ContainerCheck(tuple(findings), tuple(undecided), tuple(same), times, taken)
    different, still_open = _differences(tree, file, layout, ramdisks[1])
    return ContainerCheck((*findings, *different), (*undecided, *still_open), tuple(same), {}, None)


def _stores(tree: ContainerTree) -> tuple[str, ...]:
    return STORES if tree.undecided else STORES[:1]


def _architecture(tree: ContainerTree, layout: Layout) -> Iterator[Finding]:
    config = tree.image.config
    if config is not None:
        wanted = {"amd64": "x86_64", "arm64": "aarch64"}.get(config.platform.architecture, "")
        if wanted != layout.architecture:
            yield Finding("header", "image", "flags: the architecture", wanted, layout.architecture)


def _blobs_missing(what: str) -> Finding:
    return Finding(
        "blobs-missing", "image", f"{what}: not compared without nitro-cli's blobs; name them with --blobs"
    )


def _differences(
    tree: ContainerTree, file: BinaryIO, layout: Layout, application: EifSection
) -> tuple[list[Finding], list[Finding]]:
    """What differs path by path from the container image, and what of that the image does not decide."""
    theirs = unpack_ramdisks(file, replace(layout, sections=(application,)))
    times = {item.layer: 0 for item in tree.undecided}
    for item in reversed(tree.undecided):
        node = theirs.tree.stat(b"rootfs/" + item.path)
        times[item.layer] = times[item.layer] if node is None else node.mtime
    paths = {f"rootfs/{item.path.decode(errors='backslashreplace')}" for item in tree.undecided}
    outcomes = []
    for files in possible_files(tree):
        for store in _stores(tree):
            with Spool(MAX_RAMDISK) as spool:
                blocks = application_ramdisk(tree, *files, times=times, store=store)
                part, _ = spool.add(blocks, "ramdisk")
                section = EifSection(SectionType.RAMDISK, 0, part.size)
                made = replace(layout, sections=(section,), file_size=part.size)
                found = compare_trees(unpack_ramdisks(spool.file, made), theirs)
                outcomes.append(_sorted((finding for finding, _ in found), paths))
    different, still_open = min(outcomes, key=lambda each: (len(each[0]), len(each[1])))
    if different and any(item.cause == HIDDEN_LINK for item in tree.undecided):
        return [], [*still_open, *map(undecided_finding, tree.undecided)]
    if not different and not still_open:
        detail = "the same files, but not the same bytes"
        different = [Finding("archive-bytes", "application ramdisk", detail)]
    return different, still_open


def _sorted(found: Iterator[Finding], paths: Set[str]) -> tuple[list[Finding], list[Finding]]:
    """Differences, and times that no one extraction gave; at most MAX_REPORTED of each."""
    different: list[Finding] = []
    still_open: list[Finding] = []
    for finding in found:
        path = finding.where.partition(": ")[2]
        named = replace(finding, where=f"application ramdisk: {path}" if path else "application ramdisk")
        if finding.code == "entry-mtime" and path in paths:
            detail = "its layer's folders have more than one time"
            named, kept = replace(named, code="undecidable", detail=detail), still_open
        else:
            kept = different
        if len(kept) < MAX_REPORTED:
            kept.append(named)
    return different, still_open


# -------------------------------------------------------------------------------- against registers


def check_registers(
    tree: ContainerTree, expected: Mapping[str, str], blobs: NitroBlobs | None
) -> ContainerCheck:
    """Compare PCR0, PCR1 and PCR2, as far as they are expected. Raises ContainerError."""
    if tree.undecided:
        return ContainerCheck((), tuple(map(undecided_finding, tree.undecided)), (), {}, None)
    verdicts = [_registers(tree, files, expected, blobs) for files in possible_files(tree)]
    return min(verdicts, key=lambda verdict: len(verdict.findings))


def _registers(
    tree: ContainerTree, files: Files, expected: Mapping[str, str], blobs: NitroBlobs | None
) -> ContainerCheck:
    before = (blobs.kernel, blobs.cmdline, blobs.boot) if blobs is not None else ()
    whole, application = hashlib.sha384(b"".join(before)), hashlib.sha384()
    first = whole.copy()
    for block in application_ramdisk(tree, *files, times={}):
        whole.update(block)
        application.update(block)
    found = {"PCR2": extend(application.digest())}
    if blobs is not None:
        found |= {"PCR0": extend(whole.digest()), "PCR1": extend(first.digest())}
    wrong = [
        Finding("measurement", name, "the container image gives another value", value, found[name])
        for name, value in sorted(expected.items())
        if name in found and found[name] != value
    ]
    missing: Sequence[str] = [name for name in sorted(expected) if name not in found]
    return ContainerCheck(
        tuple(wrong),
        (_blobs_missing(" and ".join(missing)),) if missing else (),
        tuple(name for name in sorted(expected) if found.get(name) == expected[name]),
        {},
        None,
    )
