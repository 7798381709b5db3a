"""Reads a commit from the ``.git`` of a checkout that anybody may have made: no git program, no settings.

Only HEAD, refs and the objects of the commit and its trees are read, through descriptors that follow no
links, with limits on every object and on all together. Every object is hashed: a commit is what its name
says. Formats: gitformat-pack(5), gitrepository-layout(5).

Alternates, grafts and replaced objects are not followed. A linked worktree's repository is read where it
names this worktree in turn, as ``git worktree add`` makes it do; any other ``.git`` file leads nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from coattest.errors import Rejected
from coattest.files import Folder, real_path
from coattest_build.packs import KINDS, Inflater, Pack, patched, unreadable_repository

MAX_OBJECT = 16 * 1024 * 1024
"""Bytes of a commit, a tree, or a base that one is a delta of."""
MAX_UNPACKED = 256 * 1024 * 1024
"""Bytes that all objects of one reading unpack to."""
MAX_ENTRIES = 50_000
"""Files and folders in the trees that are read."""
MAX_DEPTH = 64
"""Folders inside each other."""
MAX_DELTAS = 4095
"""git's own limit of ``--depth``."""
MAX_PACKS = 400
"""Two descriptors each stay open; git repacks at 50."""
MAX_STEPS = 200_000
"""Objects and deltas that one reading unpacks, and packs in which it looks for one: half a minute of them.

A tree that is named 40,000 times takes no space, but each naming takes time.
"""
MAX_COMMITS = 10_000
"""Commits between one and an ancestor of it."""
MAX_PACKED_REFS = 16 * 1024 * 1024
MAX_SYMBOLIC = 5
"""Refs that name refs, one after the other; git's limit too."""

_ID = re.compile(rb"[0-9a-f]{40}")
_REF = re.compile(rb"ref: *(refs/[^\x00-\x20\x7f~^:?*\[\\]+)")
_PARENT = re.compile(rb"^parent ([0-9a-f]{40})$", re.MULTILINE)
_MODE = re.compile(rb"[0-7]{5,6}")
_SHORT = 4096
"""Bytes of HEAD, of a ref, and of a ``.git`` file."""


class Repository:
    """The repository of a checkout; ``open_repository`` makes one. A context manager."""

    def __init__(self, git: Folder, common: Folder) -> None:
        self._git, self._common = git, common
        self._left, self._steps = MAX_UNPACKED, MAX_STEPS
        self._stack = contextlib.ExitStack()
        self._packs: list[Pack] | None = None

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._git.close()
        self._common.close()

    def head(self) -> str | None:
        """The id of the commit that is checked out (hex); None when nothing is committed yet."""
        return self._named(self._git.read_status("HEAD", _SHORT)[0].strip())

    def _named(self, text: bytes) -> str | None:
        """The id that a ref's content leads to; None where a ref on the way is not there."""
        for _ in range(MAX_SYMBOLIC):
            if _ID.fullmatch(text):
                return text.decode()
            named = _REF.fullmatch(text)
            if named is None:
                raise unreadable_repository("HEAD is neither a SHA-1 nor the name of a ref")
            found = self._ref(named[1])
            if found is None:
                return None
            text = found
        raise unreadable_repository("too many symbolic refs in a row")

    def commit(self, name: str) -> str | None:
        """The id of a commit by its id, by HEAD, or by a branch's or tag's name; None where there is none.

        A name that is both a branch's and a tag's, of two commits, is refused.
        """
        if name == "HEAD":
            return self.head()
        if _ID.fullmatch(os.fsencode(name)):
            return self._peeled(name)
        if _REF.fullmatch(b"ref: refs/" + os.fsencode(name)) is None or {"", ".", ".."} & {*name.split("/")}:
            return None
        places = (name.removeprefix("refs/"), *(f"{kind}/{name}" for kind in ("tags", "heads", "remotes")))
        found = {
            self._peeled(identifier)
            for place in places
            if (text := self._ref(os.fsencode(f"refs/{place}"))) and (identifier := self._named(text))
        }
        if len(found) > 1:
            raise unreadable_repository(
                f"{ascii(name)[:80]} is the name of several commits: give the commit's id"
            )
        return next(iter(found), None)

    def _peeled(self, identifier: str) -> str:
        """The commit that an id names, tags followed."""
        for _ in range(MAX_SYMBOLIC):
            kind, data = self._object(identifier)
            match = re.match(rb"object ([0-9a-f]{40})\n", data)
            if kind != b"tag" or match is None:
                return identifier
            identifier = match[1].decode()
        raise unreadable_repository("too many tags in a row")

    def parents(self, commit: str) -> list[str]:
        """The ids of a commit's parents, in its order."""
        return [parent.decode() for parent in _PARENT.findall(self._commit(commit)[1])]

    def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``ancestor`` is ``commit``, or one of its ancestors by any parent."""
        pending, known = [commit], {commit}
        while pending:
            at = pending.pop(0)
            if at == ancestor:
                return True
            for parent in self.parents(at):
                if parent not in known:
                    known.add(parent)
                    pending.append(parent)
            if len(known) > MAX_COMMITS:
                raise unreadable_repository(
                    f"more than {MAX_COMMITS} commits, and none of them is {ancestor}"
                )
        return False

    def _commit(self, identifier: str) -> tuple[str, bytes]:
        """A commit's tree, and its header lines."""
        kind, data = self._object(identifier)
        match = re.match(rb"tree ([0-9a-f]{40})\n", data)
        if kind != b"commit" or match is None:
            raise unreadable_repository(f"{identifier} is not a commit")
        return match[1].decode(), data.partition(b"\n\n")[0] + b"\n"

    def blob(self, identifier: str) -> bytes:
        """A file's bytes."""
        kind, data = self._object(identifier)
        if kind != b"blob":
            raise unreadable_repository("a file's entry is not a blob")
        return data

    def _ref(self, name: bytes) -> bytes | None:
        with _may_be_absent():
            return self._common.read_status(os.fsdecode(name), _SHORT)[0].strip()
        ending = b" " + name
        with _may_be_absent():
            packed = self._common.read("packed-refs", MAX_PACKED_REFS)
            return next((line[:40] for line in packed.splitlines() if line[40:] == ending), None)
        return None

    def files(self, commit: str, wanted: Callable[[str, bool], bool]) -> dict[str, tuple[str, bool | None]]:
        """Path to (blob id in hex, executable) of every file of a commit for which ``wanted`` is true.

        ``wanted`` gets a path and whether it is a folder; folders for which it is false are not entered.
        """
        found = self.entries(commit, lambda path: wanted(path, True))
        return {
            path: (entry, None if stat.S_ISLNK(mode) else bool(mode & 0o100))
            for path, (mode, entry) in found.items()
            if not stat.S_ISDIR(mode) and wanted(path, False)
        }

    def entries(self, commit: str, entered: Callable[[str], bool]) -> dict[str, tuple[int, str]]:
        """Path to (mode, id in hex) of everything in a commit: files, links, submodules, and folders.

        Of a folder for which ``entered`` is true there is what is in it, and not the folder itself.
        """
        found: dict[str, tuple[int, str]] = {}
        pending, count = [("", self._commit(commit)[0])], 0
        while pending:
            prefix, identifier = pending.pop()
            if prefix.count("/") > MAX_DEPTH:
                raise unreadable_repository(f"folders nested deeper than {MAX_DEPTH}")
            names: set[str] = set()
            for mode, name, entry in self._tree(identifier):
                count += 1
                if count > MAX_ENTRIES:
                    raise unreadable_repository(f"more than {MAX_ENTRIES} files")
                if name in names:
                    raise unreadable_repository("a tree has a name twice")
                names.add(name)
                path = prefix + name
                if stat.S_ISDIR(mode) and entered(path):
                    pending.append((f"{path}/", entry))
                else:
                    found[path] = (mode, entry)
        return found

    def _tree(self, identifier: str) -> Iterator[tuple[int, str, str]]:
        kind, data = self._object(identifier)
        if kind != b"tree":
            raise unreadable_repository("a directory's entry is not a tree")
        at = 0
        while at < len(data):
            end = data.find(b"\0", at)
            mode, space, name = data[at:end].partition(b" ")
            if end < 0 or len(data) < end + 21 or not space or not _MODE.fullmatch(mode):
                raise unreadable_repository("a tree does not parse")
            if name in {b"", b".", b".."} or b"/" in name:
                raise unreadable_repository("a tree does not parse")
            yield int(mode, 8), os.fsdecode(name), data[end + 1 : end + 21].hex()
            at = end + 21

    def _object(self, identifier: str) -> tuple[bytes, bytes]:
        """The kind and the bytes of an object, which have the digest ``identifier``."""
        kind, data = self._found(identifier)
        digest = hashlib.sha1(b"%b %d\0" % (kind, len(data)), usedforsecurity=False)
        digest.update(data)
        if digest.hexdigest() != identifier:
            raise unreadable_repository(f"the object {identifier} has a different digest")
        return kind, data

    def _found(self, identifier: str) -> tuple[bytes, bytes]:
        """The kind and the bytes under a name, deltas applied; the digest is not checked here."""
        found = self._loose(identifier)
        if found is not None:
            return found
        pack, offset = self._place(identifier)
        deltas: list[bytes] = []
        while found is None:
            kind, size, at, base = pack.entry(offset)
            self._step()
            data = self._whole(Inflater(pack.reader(at), self._spend), size)
            if kind in KINDS:
                found = KINDS[kind], data
                break
            deltas.append(data)
            if len(deltas) > MAX_DELTAS:
                raise unreadable_repository(f"more than {MAX_DELTAS} deltas")
            if isinstance(base, int):
                offset = base
                continue
            found = self._loose(base.hex())
            if found is None:
                pack, offset = self._place(base.hex())
        name, data = found
        for delta in reversed(deltas):
            data = patched(data, delta, self._spend)
        return name, data

    def _place(self, identifier: str) -> tuple[Pack, int]:
        if self._packs is None:
            self._packs = list(self._open_packs())
        for pack in self._packs:
            self._step()
            offset = pack.find(bytes.fromhex(identifier))
            if offset is not None:
                return pack, offset
        raise unreadable_repository(
            f"there is no object {identifier}; alternates and partial clones are not followed"
        )

    def _loose(self, identifier: str) -> tuple[bytes, bytes] | None:
        self._step()
        with _may_be_absent(), self._common.opened(f"objects/{identifier[:2]}/{identifier[2:]}") as file:
            return self._unpacked(file)
        return None

    def _unpacked(self, file: BinaryIO) -> tuple[bytes, bytes]:
        inflater = Inflater(lambda: file.read(1 << 16), self._spend)
        header = b""
        while b"\0" not in header:
            more = inflater.take(32 - len(header))
            if not more:
                raise unreadable_repository("a loose object has no header")
            header += more
        words, _, begun = header.partition(b"\0")
        match = re.fullmatch(rb"(commit|tree|blob|tag) (0|[1-9][0-9]{0,9})", words)
        if match is None:
            raise unreadable_repository("a loose object has no header")
        return match[1], begun + self._whole(inflater, int(match[2]) - len(begun))

    def _whole(self, inflater: Inflater, size: int) -> bytes:
        """The ``size`` bytes that are left of an object, which ends there."""
        self._spend(max(size, 0))
        data = inflater.take(size) if size > 0 else b""
        if len(data) != size or inflater.take(1):
            raise unreadable_repository("an object does not have the size that it states")
        return data

    def _spend(self, size: int) -> None:
        self._left -= size
        if size > MAX_OBJECT or self._left < 0:
            raise unreadable_repository(f"objects larger than {MAX_OBJECT} bytes, or {MAX_UNPACKED} together")

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise unreadable_repository(f"takes more than {MAX_STEPS} steps to read")

    def _open_packs(self) -> Iterator[Pack]:
        found: set[str] = set()
        with _may_be_absent():
            found.update(name for name, _ in self._common.walk("objects/pack"))
        # A clone over plain HTTP keeps the index of a pack that it did not need; git looks past it, too.
        names = [
            name.removesuffix(".idx")
            for name in sorted(found)
            if name.endswith(".idx") and f"{name.removesuffix('.idx')}.pack" in found
        ]
        if len(names) > MAX_PACKS:
            raise unreadable_repository(f"more than {MAX_PACKS} packs")
        for name in names:
            yield Pack(
                self._stack.enter_context(self._common.opened(f"{name}.idx")).fileno(),
                self._stack.enter_context(self._common.opened(f"{name}.pack")).fileno(),
            )


@contextlib.contextmanager
def _may_be_absent() -> Iterator[None]:
    """Go on behind the block where what it reads is not there."""
    try:
        yield
    except Rejected as error:
        if error.code != "absent":
            raise


def open_bare(folder: Folder) -> Repository | None:
    """The repository that ``folder`` itself is, without a checkout; None where it is none."""
    if folder.status("HEAD") is None or folder.status("objects") is None:
        return None
    return Repository(Folder(folder.path), Folder(folder.path))


def open_repository(checkout: Folder) -> Repository | None:
    """The repository of a checkout, or None without one. Raises Rejected and EnvironmentFailure."""
    found = checkout.status(".git")
    if found is None:
        return None
    if stat.S_ISDIR(found.st_mode):
        return Repository(checkout.folder(".git"), checkout.folder(".git"))
    text = checkout.read(".git", _SHORT)
    if not text.startswith(b"gitdir: ") or b"\0" in text:
        raise unreadable_repository("is not a repository")
    here = real_path(checkout.path)
    linked = real_path(here / os.fsdecode(text[8:].strip()))
    elsewhere = unreadable_repository(
        "leads to a repository elsewhere, which does not name this worktree: make a clone"
    )
    if linked.parent.name != "worktrees" or not linked.is_dir():
        raise elsewhere
    with contextlib.ExitStack() as stack:
        git = Folder(linked)
        stack.callback(git.close)
        try:
            back = os.fsdecode(git.read("gitdir", _SHORT).strip())
        except Rejected:
            raise elsewhere from None
        if os.path.normpath(linked / back) != str(here / ".git"):
            raise elsewhere
        common = Folder(linked.parent.parent)
        stack.pop_all()
    return Repository(git, common)
