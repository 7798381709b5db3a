"""Files that nothing may open or change, watched by the kernel (inotify(7)): an open alone is an event."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
# sys/inotify.h
IN_ACCESS, IN_MODIFY, IN_ATTRIB, IN_OPEN = 0x1, 0x2, 0x4, 0x20
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF = 0x400, 0x800
IN_ONLYDIR, IN_DONT_FOLLOW = 0x1000000, 0x2000000
OF_FILE = IN_ACCESS | IN_MODIFY | IN_ATTRIB | IN_OPEN | IN_DELETE_SELF | IN_MOVE_SELF
OF_FOLDER = IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
IN_TREE = IN_MODIFY | OF_FOLDER | IN_ONLYDIR | IN_DONT_FOLLOW
EVENT = struct.Struct("iIII")

State = dict[str, tuple[int, int, int, int]]
"""What is in a tree: mode, inode, size and time of change of every path."""


class Canaries:
    """Watches every file and folder below ``folders``; ``temporary`` may be used, but not filled."""

    def __init__(self, folders: list[Path], temporary: Path) -> None:
        self._handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names: dict[int, Path] = {}
        self.temporary = temporary
        for folder in folders:
            for path in (folder, *sorted(folder.rglob("*"))):
                self._watch(path)
        for path in sorted(temporary.rglob("*")):
            self._watch(path)
        self._in_temporary = self._listed()

    def _watch(self, path: Path) -> None:
        number = libc.inotify_add_watch(
            self._handle, os.fsencode(path), OF_FOLDER if path.is_dir() else OF_FILE
        )
        assert number >= 0, (path, os.strerror(ctypes.get_errno()))
        self._names[number] = path

    def _listed(self) -> list[str]:
        return sorted(str(path) for path in self.temporary.rglob("*"))

    def touched(self) -> list[str]:
        """What has happened to them since the last call; empty when nothing has."""
        found = []
        try:
            data = os.read(self._handle, 1 << 16)
        except BlockingIOError:
            data = b""
        at = 0
        while at < len(data):
            number, mask, _, length = EVENT.unpack_from(data, at)
            name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0").decode(errors="replace")
            found.append(f"{self._names[number]}/{name}".rstrip("/") + f" ({mask:#x})")
            at += EVENT.size + length
        if (now := self._listed()) != self._in_temporary:
            found.append(f"left in TMPDIR: {sorted({*now} ^ {*self._in_temporary})[:3]}")
            self._in_temporary = now
        return found


class Tree:
    """A checkout, and what is in it. It is walked again only when a folder of it had an event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handle = -1
        self.look()

    def look(self) -> State:
        """Walk the tree and remember it, without opening any file; returns what is there."""
        self.close()
        self._handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._sure = self._handle >= 0
        self.state: State = {}
        pending = [os.fsencode(self.folder)]
        while pending:
            at = pending.pop()
            if at.count(b"/") > 90:
                continue
            if libc.inotify_add_watch(self._handle, at, IN_TREE) < 0 and ctypes.get_errno() != errno.EACCES:
                self._sure = False  # too many folders for this kernel: look each time
            try:
                entries = list(os.scandir(at))
            except OSError:
                continue
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                self.state[os.fsdecode(entry.path)] = (
                    status.st_mode,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                )
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
        return self.state

    def quiet(self) -> bool:
        """Whether nothing has happened in it since the last look, for sure."""
        try:
            return self._sure and not os.read(self._handle, 1 << 16)
        except BlockingIOError:
            return True

    def close(self) -> None:
        """Watch no longer."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
