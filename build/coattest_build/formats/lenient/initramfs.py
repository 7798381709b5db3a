"""What Linux makes of an image's ramdisks, entry by entry: a model of ``init/initramfs.c`` of Linux 6.12.

Fields are hexadecimal as far as they are, names end at their first zero, hard links are found by inode and
device and the last body wins, a trailer only forgets the hard links, and what fails, fails silently. What a
kernel drops, what a later ramdisk replaces, and what only some kernels take are findings; what only
coattest's own rules (ADR 11) forbid are notes.
"""

from __future__ import annotations

import hashlib
import re
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from coattest.findings import Finding
from coattest_build.formats.eif import ImageError, Layout, SectionType
from coattest_build.formats.lenient import tree as vfs
from coattest_build.formats.lenient.decompress import (
    MAX_UNPACKED,
    READ,
    StreamEndedError,
    method_of,
)
from coattest_build.formats.lenient.streams import Concatenation, Streams
from coattest_build.formats.lenient.tree import Body, Node, RootTree

PATH_MAX = 4096
HEADER = 110
TRAILER = b"TRAILER!!!"
MAX_ENTRIES = 500_000
"""Entries of all archives; each takes about half a kilobyte of memory while the image is read, and 40 us."""
MAX_NAMES = 128 << 20
"""Bytes of all names and of symbolic links' targets."""
MAX_REPORTED = 200
"""Findings of one image that are listed one by one; more are counted."""

_FIELDS = struct.Struct(">13I")
_PREFIX = re.compile(rb"(?:0[xX](?=[0-9a-fA-F]))?([0-9a-fA-F]*)")


@dataclass(frozen=True, slots=True)
class Unpacking:
    """The tree, with what is to be said about how it came to be.

    ``ramdisk_of`` has the ramdisk of each entry, by the number that nodes have. ``stopped`` says why the
    kernel stops before the end, None when it does not.
    """

    tree: RootTree
    streams: Streams
    ramdisk_of: list[int]
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    stopped: str | None


def unpack_ramdisks(file: BinaryIO, layout: Layout, *, digests: bool = False) -> Unpacking:
    """Unpack all ramdisks of an image in order, in memory and without their content.

    ``digests`` computes the SHA-256 of files in compressed archives on the way. Raises ImageError beyond the
    limits and for a file that shrinks, EnvironmentFailure for zstd where it cannot be read.
    """
    return _Unpacker(file, layout, digests).run()


@dataclass(slots=True)
class _Header:
    """The fields of an entry, as the kernel parses them."""

    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    size: int
    major: int
    minor: int
    device: tuple[int, int]
    name_size: int
    check: int
    checked: bool

    @property
    def padded_name(self) -> int:
        """``N_ALIGN``: header and name end at a multiple of four."""
        return ((self.name_size + 1) & ~3) + 2


class _Stop(Exception):
    """The kernel stops unpacking, with the message it prints."""


class _Sum:
    """The checksum of 070702: the bytes added up."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""
        self.value = self.value + sum(data) & 0xFFFFFFFF


class _Feed:
    """A stream that is read forward: the concatenation, or what a compressed archive becomes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.position = 0

    def take(self, size: int, *consumers: hashlib._Hash | _Sum, keep: bool = True) -> bytes:
        """The next ``size`` bytes, fewer at the end; nothing of them where ``keep`` is false."""
        pieces: list[bytes] = []
        while size:
            if not self._rest:
                self._rest = next(self._blocks, b"")
                if not self._rest:
                    break
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            self.position += len(piece)
            for consumer in consumers:
                consumer.update(piece)
            if keep:
                pieces.append(piece)
        return b"".join(pieces)

    def skip_zeros(self) -> bool:
        """Skip zeros; whether there is more."""
        while True:
            rest = self._rest.lstrip(b"\0")
            self.position += len(self._rest) - len(rest)
            self._rest = rest
            if rest:
                return True
            self._rest = next(self._blocks, b"")
            if not self._rest:
                return False

    def peek(self) -> bytes:
        """The next byte, which skip_zeros found."""
        return self._rest[:1]


class _Unpacker:
    def __init__(self, file: BinaryIO, layout: Layout, digests: bool) -> None:
        self._raw = Concatenation(file, layout.of_type(SectionType.RAMDISK))
        self._streams = Streams(self._raw)
        self._tree = RootTree()
        self._digests = digests
        self._times: list[tuple[bytes, int]] = []
        self._links: dict[tuple[int, int, int, int], bytes] = {}
        self._ramdisk_of: list[int] = []
        self._ramdisk = 0
        self._names = 0
        self._unpacked = 0
        self._findings: list[Finding] = []
        self._dropped = 0
        self._counts: Counter[tuple[int, str]] = Counter()
        self._first: dict[tuple[int, str], str] = {}
        self._fresh = True

    def run(self) -> Unpacking:
        stopped = None
        try:
            self._run()
        except _Stop as stop:
            stopped = str(stop)
            self._found("ramdisk-stopped", None, f"the kernel stops here: {stopped}")
        # ``dir_utime``: directories get their times at the end, from the last entry to the first.
        for name, mtime in reversed(self._times):
            directory = self._tree.stat(name)
            if directory is not None:
                directory.mtime = mtime
        if self._dropped > MAX_REPORTED:
            self._findings.append(
                Finding("ramdisk-dropped", "ramdisks", f"and {self._dropped - MAX_REPORTED} more like these")
            )
        notes = tuple(
            Finding(code, f"ramdisk {disk}", f"{self._first[disk, code]}{_more(count)}")
            for (disk, code), count in sorted(self._counts.items())
        )
        return Unpacking(self._tree, self._streams, self._ramdisk_of, tuple(self._findings), notes, stopped)

    def _run(self) -> None:
        """``unpack_to_rootfs``."""
        raw, position = self._raw, 0
        while position < raw.size:
            first = raw.read(position, 1)
            self._ramdisk = raw.ramdisk_at(position)
            if first == b"0" and position % 4 == 0:
                position = self._entry_at(position)
                while self._fresh and position < raw.size:  # no name was read yet: Start, not Reset
                    position = self._entry_at(position)
            elif first == b"\0":
                position = raw.next_set(position)
            else:
                position = self._compressed(position)

    # ------------------------------------------------------------------ plain archives

    def _entry_at(self, position: int) -> int:
        """One entry of a plain archive and what follows it; returns where the kernel goes on."""
        raw = self._raw
        head = raw.read(position, HEADER)
        if len(head) < HEADER:
            self._note("cpio-truncated", f"{len(head)} bytes of a header at its end, ignored")
            return raw.size
        header = self._header(head)
        after = position + HEADER
        end = (after + header.padded_name + header.size + 3) & ~3
        name_and_target = header.padded_name + (header.size if stat.S_ISLNK(header.mode) else 0)
        if not self._read_name(header):
            self._over_long(header)
        elif raw.read(after, len(TRAILER)) == TRAILER and after + name_and_target > raw.size:
            pass
        elif after + name_and_target > raw.size:
            self._found("ramdisk-dropped", b"?", "the ramdisks end inside its name")
        else:
            text = raw.read(after, name_and_target)
            body = after + header.padded_name
            stored = max(0, min(header.size, raw.size - body))
            self._entry(header, text, Body(0, body, stored, header.size - stored))
        if end > raw.size:
            self._note("cpio-truncated", "its last entry ends beyond it; the kernel takes what is there")
            return raw.size
        if not self._fresh:
            end = raw.next_set(end) if raw.read(end, 1) == b"\0" else end
            if end < raw.size and end % 4:
                raise _Stop("broken padding")
        return end

    def _header(self, head: bytes) -> _Header:
        """``do_header``: the magic, then thirteen fields as far as they are hexadecimal."""
        magic = head[:6]
        if magic not in (b"070701", b"070702"):
            if magic == b"070707":
                raise _Stop("incorrect cpio method used: use -H newc option")
            raise _Stop("no cpio magic")
        digits = head[6:]
        try:
            values = _FIELDS.unpack(bytes.fromhex(digits.decode("ascii")))
        except (ValueError, struct.error):
            values = tuple(self._lenient(digits[at : at + 8]) for at in range(0, 104, 8))
            self._found("ramdisk-some-kernels", b"?", "a header field that is not hexadecimal")
        inode, mode, uid, gid, links, mtime, size, major, minor, dev1, dev2, name_size, check = values
        return _Header(
            *(inode, mode & 0xFFFF, uid, gid, links, mtime, size, major, minor, (dev1, dev2), name_size),
            *(check, magic == b"070702"),
        )

    @staticmethod
    def _lenient(field: bytes) -> int:
        """``simple_strtoul`` in base 16: an optional 0x, then digits up to the first other character."""
        match = _PREFIX.match(field)
        return int(match[1] or b"0", 16) if match else 0

    @staticmethod
    def _read_name(header: _Header) -> bool:
        return 0 < header.name_size <= PATH_MAX and not (stat.S_ISLNK(header.mode) and header.size > PATH_MAX)

    def _over_long(self, header: _Header) -> None:
        """``do_header`` skips a name without bytes or with too many, and a symlink's target of too many."""
        what = f"a name of {header.name_size} bytes"
        if 0 < header.name_size <= PATH_MAX:
            what = f"a symlink's target of {header.size} bytes"
        self._count()
        self._drop(b"?", f"{what}; at most {PATH_MAX} are read")

    # ------------------------------------------------------------------ compressed archives

    def _compressed(self, position: int) -> int:
        """A compressed archive; returns where it ends in the concatenation."""
        method = method_of(self._raw.read(position, 6))
        if method is None:
            raise _Stop("invalid magic at start of compressed archive")
        if method not in READ:
            raise _Stop(f"compressed with {method}, which is not read here ({', '.join(READ)} are)")
        self._note("ramdisk-compressed", f"{method}: only a kernel with CONFIG_RD_{method.upper()} reads it")
        self._streams.packed.append((method, position))
        stream = len(self._streams.packed)
        member = self._streams.unpacked(stream, MAX_UNPACKED - self._unpacked)
        feed = _Feed(iter(member))
        try:
            self._archive(feed, stream)
        except StreamEndedError as error:
            raise _Stop(f"decompressor failed ({error})") from None
        self._unpacked += member.size
        return position + member.consumed

    def _archive(self, feed: _Feed, stream: int) -> None:
        """``flush_buffer``: entries with zeros between them; after the first no alignment is forgiven."""
        while True:
            if not self._fresh:
                if not feed.skip_zeros():
                    return
                if feed.position % 4:
                    raise _Stop("broken padding")
                if feed.peek() != b"0":
                    raise _Stop("junk within compressed archive")
            head = feed.take(HEADER)
            if len(head) < HEADER:
                raise _Stop("junk at the end of compressed archive")
            header = self._header(head)
            self._packed_entry(feed, header, stream)

    def _packed_entry(self, feed: _Feed, header: _Header, stream: int) -> None:
        size = header.size
        if not self._read_name(header):
            self._over_long(header)
            feed.take(header.padded_name, keep=False)
        else:
            target = size if stat.S_ISLNK(header.mode) else 0
            text = feed.take(header.padded_name + target)
            if len(text) < header.padded_name + target:
                raise _Stop("junk at the end of compressed archive")
            size -= target
            # The body is hashed before the entry is made: its digest is a part of where it is.
            digest, total = hashlib.sha256(), _Sum()
            regular = stat.S_ISREG(header.mode)
            wanted: list[hashlib._Hash | _Sum] = [digest] if self._digests and regular else []
            wanted += [total] if header.checked else []
            start = feed.position
            feed.take(size, *wanted, keep=False)
            stored = feed.position - start
            known = digest.hexdigest() if self._digests and regular and stored == size else None
            self._entry(header, text, Body(stream, start, stored, size - stored, known), total)
            size -= stored
        feed.take(size, keep=False)
        missing = -(feed.position) % 4
        if len(feed.take(missing)) < missing:
            raise _Stop("junk at the end of compressed archive")

    # ------------------------------------------------------------------ entries

    def _count(self) -> int:
        if len(self._ramdisk_of) == MAX_ENTRIES:
            raise ImageError(f"more than {MAX_ENTRIES} entries in its ramdisks", code="cpio-limit")
        self._ramdisk_of.append(self._ramdisk)
        return len(self._ramdisk_of) - 1

    def _entry(self, header: _Header, text: bytes, body: Body, total: _Sum | None = None) -> None:
        """``do_name`` and ``do_symlink``: one entry whose name was read."""
        entry = self._count()
        mode = header.mode
        padded = text[: header.name_size]
        name = padded.partition(b"\0")[0]
        self._names += len(text)  # a link's target is behind its name
        if self._names > MAX_NAMES:
            raise ImageError(f"more than {MAX_NAMES} bytes of names in its ramdisks", code="cpio-limit")
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or not header.size):
            # The kernel skips it, and is in the state that it was in.
            kind = vfs.KINDS.get(stat.S_IFMT(mode), "no type")
            self._drop(name, f"{kind} with {header.size} bytes of content")
            return
        self._fresh = False
        if padded[-1:] != b"\0":
            self._found(
                "ramdisk-some-kernels", name, "its name does not end with a zero; older kernels go on"
            )
            raise _Stop("malformed archive")
        self._rules(header, name, padded, body)
        if stat.S_ISLNK(mode):
            self._symlink(header, name, text[header.padded_name :].partition(b"\0")[0], entry)
        elif name == TRAILER:
            self._links.clear()
        else:
            self._make(header, name, body, entry)
        if header.checked and stat.S_ISREG(mode) and name != TRAILER and not body.zeros:
            self._checksum(header, name, body, total)

    def _symlink(self, header: _Header, name: bytes, target: bytes, entry: int) -> None:
        self._removed(self._tree.clean(name, 0), name, header.mode)
        self._try(name, lambda: self._tree.symlink(name, target, entry))
        node = self._tree.own(name, header.uid, header.gid, None, follow=False)
        if node is not None and node.entry == entry:
            node.mtime = header.mtime

    def _make(self, header: _Header, name: bytes, body: Body, entry: int) -> None:
        mode, kind = header.mode, stat.S_IFMT(header.mode)
        removed = self._tree.clean(name, mode)
        self._removed(removed, name, mode)
        if stat.S_ISREG(mode):
            self._file(header, name, body, entry)
        elif stat.S_ISDIR(mode):
            self._times.append((name, header.mtime))
            node = self._try(name, lambda: self._tree.mkdir(name, entry), existing=True)
            self._attributes(header, name, entry, made=node is not None)
        elif kind in vfs.KINDS:
            linked = self._maybe_link(header, name)
            if linked is None:
                there = self._tree.stat(name)
                # The kernel's own /dev/console, most often: the call fails, and nothing is different.
                same = there is not None and (there.kind, there.device) == (vfs.KINDS[kind], header.device)
                if not same:
                    self._try(name, lambda: self._tree.mknod(name, mode, header.device, entry))
                self._attributes(header, name, entry, made=not same)
        elif removed is None:
            self._drop(name, f"mode {mode:o} has no type")

    def _attributes(self, header: _Header, name: bytes, entry: int, *, made: bool) -> None:
        """``init_chown`` and ``init_chmod`` by name, whatever is there, through a link too."""
        before = self._tree.stat(name)
        was = None if before is None or made else (before.mode, before.uid, before.gid, before.entry)
        node = self._tree.own(name, header.uid, header.gid, header.mode)
        if node is None:
            return
        if not stat.S_ISDIR(header.mode):
            node.mtime = header.mtime
        if was is None or before is not node:
            return
        now = (node.mode, node.uid, node.gid)
        if was[3] >= 0 and self._ramdisk_of[was[3]] != self._ramdisk and was[:3] != now:
            self._overwrite(name, was[3], f"mode {was[0] & 0o7777:04o}, owner {was[1]}:{was[2]} before")
        node.entry = entry

    def _file(self, header: _Header, name: bytes, body: Body, entry: int) -> None:
        linked = self._maybe_link(header, name)
        if linked is False:
            return
        try:
            node, existed = self._tree.open_file(name, entry)
        except vfs.CallError as error:
            self._drop(name, str(error))
            return
        if linked is None and existed:
            if node.entry >= 0 and self._ramdisk_of[node.entry] != self._ramdisk:
                self._overwrite(name, node.entry, "a file before")
            else:
                self._note("cpio-duplicate", f"{_shown(name)} appears twice; the last one counts")
            node.body = vfs.EMPTY
        if body.length:
            node.body = body
            self._unpacked += body.zeros
            if self._unpacked > MAX_UNPACKED:  # zeros take no memory, and much time to look at
                raise ImageError(
                    f"its files become more than {MAX_UNPACKED} bytes that are not there", code="cpio-limit"
                )
        node.own(header.uid, header.gid)
        node.mode = header.mode
        if not body.zeros:  # a copy that never ends sets no time
            node.mtime = header.mtime
        node.entry = entry

    def _maybe_link(self, header: _Header, name: bytes) -> bool | None:
        """``maybe_link``: None for no link, True when one was made, False when that failed."""
        if header.links < 2:
            return None
        key = (header.major, header.minor, header.inode, stat.S_IFMT(header.mode))
        old = self._links.get(key)
        if old is None:
            self._links[key] = name
            return None
        self._note("cpio-hard-link", f"{_shown(name)} is a hard link to {_shown(old)}")
        self._removed(self._tree.clean(name, 0), name, header.mode, quiet=name == old)
        try:
            self._tree.link(old, name)
        except vfs.CallError as error:
            self._drop(name, f"as a hard link to {_shown(old)}: {error}")
            return False
        return True

    def _checksum(self, header: _Header, name: bytes, body: Body, total: _Sum | None) -> None:
        self._found(
            "ramdisk-some-kernels", name, "it has a checksum (070702), which kernels before 5.19 refuse"
        )
        if total is None:
            total = _Sum()
            for block in self._streams.blocks(replace(body, zeros=0)):
                total.update(block)
        if total.value != header.check:
            raise _Stop("bad data checksum")

    # ------------------------------------------------------------------ what is said

    def _rules(self, header: _Header, name: bytes, padded: bytes, body: Body) -> None:
        """Notes on what coattest's own rules (ADR 11) forbid."""
        if name == TRAILER:
            if header.mode or header.size:
                self._note("cpio-trailer", "a trailer with a mode or content")
            return
        if name.endswith(b"/") or name.startswith((b"./", b"/")) or b"//" in name or name == b".":
            self._note("cpio-name", f"{_shown(name)} is not a plain relative name")
        elif b".." in name.split(b"/"):
            self._note("cpio-traversal", f"{_shown(name)} has ..")
        if len(name) + 1 != len(padded):
            self._note("cpio-padding", f"{_shown(name)}: its name goes on after a zero")
        if name != name.decode(errors="ignore").encode():
            self._note("cpio-name", f"{_shown(name)} is not UTF-8")
        if header.mode & 0o6000 and not stat.S_ISLNK(header.mode):
            self._note("cpio-mode", f"{_shown(name)} is setuid or setgid (mode {header.mode:o})")
        if not (stat.S_ISREG(header.mode) or stat.S_ISDIR(header.mode) or stat.S_ISLNK(header.mode)):
            self._note("cpio-type", f"{_shown(name)} has mode {header.mode:o}")
        if body.zeros and not stat.S_ISLNK(header.mode):
            self._found("ramdisk-dropped", name, f"{body.zeros} bytes of its content are missing: zeros")

    def _note(self, code: str, detail: str) -> None:
        key = (self._ramdisk, code)
        self._counts[key] += 1
        self._first.setdefault(key, detail)

    def _found(self, code: str, name: bytes | None, detail: str) -> None:
        if len(self._findings) <= MAX_REPORTED:
            where = f"ramdisk {self._ramdisk}" + ("" if name is None else f": {_shown(name)}")
            self._findings.append(Finding(code, where, detail))

    def _drop(self, name: bytes, why: str) -> None:
        self._dropped += 1
        if self._dropped <= MAX_REPORTED:
            self._found("ramdisk-dropped", name, f"the kernel drops it silently: {why}")

    def _overwrite(self, name: bytes, entry: int, what: str) -> None:
        detail = f"it replaces what ramdisk {self._ramdisk_of[entry]} has there ({what})"
        self._found("ramdisk-overwrite", name, detail)

    def _removed(self, node: Node | None, name: bytes, mode: int, *, quiet: bool = False) -> None:
        """``clean_path`` removed something of another type, or a symlink that is made anew."""
        if node is None or quiet:
            return
        if node.entry >= 0 and self._ramdisk_of[node.entry] != self._ramdisk:
            self._overwrite(name, node.entry, f"a {node.kind} before")
        elif stat.S_IFMT(mode) not in vfs.KINDS:
            self._drop(name, f"mode {mode:o} has no type; the {node.kind} that was there is gone")
        else:
            self._note("cpio-duplicate", f"{_shown(name)} appears twice; the last one counts")

    def _try(self, name: bytes, make: Callable[[], Node | None], *, existing: bool = False) -> Node | None:
        """Do one of the kernel's calls; what it refuses is dropped."""
        try:
            return make()
        except vfs.CallError as error:
            if not (existing and str(error) == "it already exists"):
                self._drop(name, str(error))
            return None


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _shown(name: bytes) -> str:
    return name[:200].decode(errors="backslashreplace") + ("..." if len(name) > 200 else "")
