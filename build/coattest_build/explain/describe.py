"""Everything that an image of any builder says about itself, checked; and the files an enclave sees."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from coattest.errors import PATHS, require_aware, require_kind
from coattest.files import open_plain
from coattest.findings import Finding
from coattest.jsontext import Rows, unique_names
from coattest.strictjson import MAX_DEPTH, too_deep
from coattest_build.containers.own.plan import RunPlan, plan_of
from coattest_build.formats import eif, signature
from coattest_build.formats.eif import ImageError, Layout, SectionType
from coattest_build.formats.lenient.initramfs import Unpacking, unpack_ramdisks
from coattest_build.formats.lenient.layout import FoundLayout, read_found_layout
from coattest_build.formats.lenient.tree import Node
from coattest_build.formats.measure import ImageMeasurements, measure_found
from coattest_build.formats.registers import EMPTY_PCR2


@dataclass(frozen=True, slots=True)
class SignatureReport:
    """The signing certificate, and everything that is wrong with the signature (nothing when it holds).

    Where the section cannot be read there is a finding, and neither certificate nor PCR8.
    """

    certificate: x509.Certificate | None
    findings: tuple[Finding, ...]
    pcr8: str | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.findings

    def facts(self) -> dict[str, Any]:
        """What a person or a program is told of the certificate, if there is one."""
        if self.certificate is None:
            return {}
        return {
            "subject": self.certificate.subject.rfc4514_string(),
            "issuer": self.certificate.issuer.rfc4514_string(),
            "not_before": self.certificate.not_valid_before_utc.isoformat(),
            "not_after": self.certificate.not_valid_after_utc.isoformat(),
            "sha256": self.certificate.fingerprint(hashes.SHA256()).hex(),
        }

    def to_json(self) -> dict[str, Any]:
        """A JSON object: ``ok``, the findings, and the certificate."""
        return {
            "ok": not self.findings,
            "findings": [finding.to_json() for finding in self.findings],
            "certificate": self.facts() or None,
        }


@dataclass(frozen=True, slots=True)
class TreeRow:
    """A path of the tree that the enclave sees, and where it comes from.

    ``ramdisk`` is the one whose entry won; ``hidden`` names the mount of init that covers the path.
    """

    path: str
    node: Node
    ramdisk: int
    sha256: str | None
    hidden: str | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; times in Unix seconds, the mode as four octal digits."""
        node = self.node
        row: dict[str, Any] = {
            "path": self.path,
            "type": node.kind,
            "mode": f"{stat.S_IMODE(node.mode):04o}",
            "uid": node.uid,
            "gid": node.gid,
            "mtime": node.mtime,
            "ramdisk": self.ramdisk,
            "entry": node.entry,
            "hidden": self.hidden,
        }
        if node.kind == "file":
            row |= {"size": node.body.length, "sha256": self.sha256}
        if node.kind == "symlink":
            row["target"] = node.target.decode(errors="backslashreplace")
        if node.kind in ("char", "block"):
            row["device"] = f"{node.device[0]}:{node.device[1]}"
        return row


@dataclass(frozen=True, slots=True)
class Description:
    """What ``eif describe`` shows. ``tree`` is None when files were not asked for.

    ``metadata`` is a JSON value, None when there is none or ``metadata_error`` says why it does not parse.
    ``unpacked`` is what Linux makes of the ramdisks.
    """

    found: FoundLayout
    measurements: ImageMeasurements
    cmdline: str
    metadata: Any
    metadata_error: Finding | None
    signature: SignatureReport | None
    unpacked: Unpacking
    tree: tuple[TreeRow, ...] | None
    plan: RunPlan | None
    """What the init of the kernel profile ``container`` starts."""

    @property
    def layout(self) -> Layout:
        """Header and sections."""
        return self.found.layout

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that was checked and found false, but in the ramdisks."""
        signed = self.signature.findings if self.signature is not None else ()
        damaged = crc_findings(self.layout, self.measurements.crc32)
        return (
            *self.found.findings,
            *signed,
            *damaged,
            *([self.metadata_error] if self.metadata_error else ()),
        )

    @property
    def breaches(self) -> tuple[Finding, ...]:
        """The rules for our own images (ADR 10 and 11) that it breaks: no fault of an image of others."""
        return (*self.found.notes, *self.unpacked.notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know although nothing is wrong, a line each."""
        notes = []
        if self.measurements.pcr2 == EMPTY_PCR2:
            count = len(self.layout.of_type(SectionType.RAMDISK))
            why = ("no ramdisk", "one ramdisk only", "no bytes in a second ramdisk")[min(count, 2)]
            notes.append(f"{why}: PCR2 is the same for every such image, so pinning it pins nothing")
        if self.signature is None:
            return (*notes, "not signed: PCR8 will be zero")
        return (*notes, *self.signature.notes)

    def to_json(self) -> dict[str, Any]:
        """The document that ``eif describe --json`` prints."""
        measured = self.measurements
        sections = [
            {"type": digest.type, "offset": section.offset, "size": digest.size, "sha384": digest.sha384}
            for section, digest in zip(self.layout.sections, measured.sections, strict=True)
        ]
        document: dict[str, Any] = {
            "version": self.found.version,
            "architecture": self.layout.architecture,
            "flags": self.layout.flags,
            "default_memory": self.layout.default_memory,
            "default_cpus": self.layout.default_cpus,
            "crc32": f"{self.layout.crc32:08x}",
            "image": {"size": measured.size, "sha256": measured.sha256, "sha384": measured.sha384},
            "sections": sections,
            "cmdline": self.cmdline,
            "start": start_file(self.unpacked),
            "runs": self.plan.to_json() if self.plan else None,
            "metadata": self.metadata,
            "signature": self.signature.to_json() if self.signature is not None else None,
            "findings": [finding.to_json() for finding in self.findings],
            "ramdisk_findings": [finding.to_json() for finding in self.unpacked.findings],
            "breaches": [finding.to_json() for finding in self.breaches],
            "notes": list(self.notes),
            **measured.nitro_json(),
        }
        if self.tree is not None:
            document["tree"] = Rows(self.tree, TreeRow.to_json)
        return document


def describe_image(path: Path, *, now: datetime, files: bool) -> Description:
    """Describe the image at ``path``, of any builder; ``files`` lists what is in its ramdisks too.

    ``now`` is aware and decides whether a signing certificate is in date. Raises eif.ImageError when the file
    is not an image or beyond a limit, EnvironmentFailure for zstd where it cannot be read. Whatever else is
    wrong is a part of the description.
    """
    require_kind(path, PATHS, "path")
    require_aware(now)
    with open_plain(path) as file:
        found = read_found_layout(file)
        layout = found.layout
        measured = measure_found(file, layout)
        signed = found_signature(file, layout, bytes.fromhex(measured.pcr0), now)
        metadata, metadata_error = _metadata(_start(file, layout, SectionType.METADATA))
        unpacked = unpack_ramdisks(file, layout, digests=files)
        return Description(
            found,
            replace(measured, pcr8=signed.pcr8 if signed is not None else None),
            (_start(file, layout, SectionType.CMDLINE) or b"").decode(errors="backslashreplace"),
            metadata,
            metadata_error,
            signed,
            unpacked,
            tuple(tree_rows(unpacked)) if files else None,
            plan_of(unpacked),
        )


def crc_findings(layout: Layout, crc: int) -> tuple[Finding, ...]:
    """The finding that the header's CRC-32 is not the one of the bytes; nothing when it is."""
    if layout.crc32 == crc:
        return ()
    what = "the CRC-32 is not the header's"
    return (Finding("eif-crc", "image", what, f"{layout.crc32:08x}", f"{crc:08x}"),)


def _start(file: BinaryIO, layout: Layout, kind: SectionType) -> bytes | None:
    """The content of the sections of a type, at most as much as coattest would write; None without one."""
    sections = layout.of_type(kind)
    if not sections:
        return None
    limit = {SectionType.CMDLINE: MAX_SHOWN_CMDLINE}.get(kind, eif.MAX_METADATA)
    pieces = []
    for section in sections[:2]:
        file.seek(section.offset)
        pieces.append(file.read(min(section.size, limit + 1)))
    return b"".join(pieces)[: limit + 1]


MAX_SHOWN_CMDLINE = 1 << 16
"""Bytes of a command line that are shown."""


def tree_rows(unpacked: Unpacking) -> Iterator[TreeRow]:
    """Every path of the tree that an image's ramdisks put there, sorted by path."""
    rootfs = unpacked.tree.stat(b"rootfs")
    mounts = CONTAINER_MOUNTS if start_file(unpacked) == "run" else INIT_MOUNTS
    over = mounts if rootfs is not None and rootfs.children else ()
    known: dict[int, str] = {}
    for path, node in unpacked.tree.walk():
        if node.entry < 0:
            continue
        sha256 = None
        if node.kind == "file":
            sha256 = known.get(id(node)) or unpacked.streams.sha256(node.body)
            known[id(node)] = sha256
        shown = path.decode(errors="backslashreplace") or "/"
        hidden = next((mount.decode() for mount in over if path.startswith(mount + b"/")), None)
        yield TreeRow(shown, node, unpacked.ramdisk_of[node.entry], sha256, hidden)


INIT_MOUNTS = (b"rootfs/dev", b"rootfs/proc", b"rootfs/run", b"rootfs/sys", b"rootfs/tmp")
"""Where init mounts over the root file system: coattest's (build/init) and AWS's (sdk-bootstrap, init.c)."""


CONTAINER_MOUNTS = (b"rootfs/dev", b"rootfs/proc", b"rootfs/sys")
"""Where the init of the kernel profile ``container`` does."""


def start_file(unpacked: Unpacking) -> str | None:
    """The file that says what init starts: ``run`` for the kernel profile ``container``, else ``cmd``."""
    for name in ("run", "cmd"):
        found = unpacked.tree.stat(name.encode())
        if found is not None and found.kind == "file":
            return name
    return None


def _metadata(raw: bytes | None) -> tuple[Any, Finding | None]:
    if raw is None:
        return None, None
    beyond = f"more than {eif.MAX_METADATA} bytes" if len(raw) > eif.MAX_METADATA else None
    if beyond is None and too_deep(raw):  # it could be read, but not printed
        beyond = f"nested deeper than {MAX_DEPTH}"
    if beyond is not None:
        return None, Finding("metadata-malformed", "metadata", f"not JSON that can be shown: {beyond}")
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique_names, parse_constant=_no_constant
        ), None
    except (ValueError, RecursionError) as error:
        return None, Finding("metadata-malformed", "metadata", f"not JSON: {error}", rule="RFC 8259")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def found_signature(file: BinaryIO, layout: Layout, pcr0: bytes, now: datetime) -> SignatureReport | None:
    """Read and check an image's signature, None without one; nothing else of the image depends on it."""
    try:
        signed = read_signature(file, layout)
    except ImageError as error:
        return SignatureReport(None, (Finding(error.code, "signature", error.what),))
    if signed is None:
        return None
    parsed, notes = signed
    findings = signature.check_signature(parsed, pcr0, now)
    told = tuple(f"signature: {note}" for note in notes)
    return SignatureReport(parsed.certificate, findings, parsed.pcr8, told)


def read_signature(file: BinaryIO, layout: Layout) -> tuple[signature.ImageSignature, tuple[str, ...]] | None:
    """An image's signature and its notes, not checked; None without one. Raises ImageError."""
    sections = layout.of_type(SectionType.SIGNATURE)
    if not sections:
        return None
    if sections[0].size > MAX_FOUND_SIGNATURE:
        what = f"it has {sections[0].size} bytes; at most {MAX_FOUND_SIGNATURE} are read"
        raise ImageError(what, code="eif-signature")
    file.seek(sections[0].offset)
    return signature.parse_found_signature(file.read(sections[0].size))


MAX_FOUND_SIGNATURE = 4 * signature.MAX_FOUND_CERTIFICATE
"""Bytes of a signature section that are read; most bytes of the PEM take two."""
