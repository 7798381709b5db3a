"""Ends processes that seal at every call that changes or syncs a file; prints one JSON line per schedule.

python -m support.auction.journal_killer DIRECTORY

One schedule: a first process seals A and ends at its n-th call (a write when half of it is done), a second
seals A or B to its end, a third B, a fourth A. Either they just end, or after the first or second the power
fails: of what was not synced nothing is left, neither a file's content, nor a new name, nor a directory.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from coattest_verify.auction import messages
from coattest_verify.auction.checks import Looked
from coattest_verify.auction.journal import AlreadySealed, SealJournal
from coattest_verify.auction.sealing import SealPlan, sign_seal
from support.auction.auctions import KEYS, manifest, own

WATCHED = ("open", "write", "fsync", "close", "rename", "mkdir", "unlink")
REAL: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in WATCHED}
SCHEDULES = (
    ("never", b"b"),
    ("after the first", b"b"),
    ("after the second", b"a"),
    ("after the second", b"b"),
)
BOOK = manifest()
KEY: ec.EllipticCurvePrivateKey = KEYS["buyer-1"]


class Disk:
    """What of the files is not durable: contents, new names, directories, each with how to lose it."""

    def __init__(self, state: list[list[str]]) -> None:
        self.pending = state
        self.names: dict[int, str] = {}

    def opened(self, handle: int, path: str, flags: int) -> None:
        self.names[handle] = path
        if flags & os.O_TRUNC:
            self.pending.append(["content", path, ""])

    def synced(self, handle: int) -> None:
        path = self.names.get(handle, "")
        self.pending = [
            [kind, of, old]
            for kind, of, old in self.pending
            if (of != path if kind == "content" else str(Path(of).parent) != path)
        ]

    def renamed(self, old: str, new: str) -> None:
        self.pending = [[kind, new if of == old else of, before] for kind, of, before in self.pending]
        self.pending.append(["name", new, old])

    def lose(self) -> None:
        """The power fails."""
        for kind, path, old in reversed(self.pending):
            with suppress(OSError):
                if kind == "content":
                    Path(path).write_bytes(b"")
                elif kind == "name":
                    Path(path).rename(old)
                else:
                    shutil.rmtree(path)
        self.pending = []


def watch(disk: Disk, last: int, end: Callable[[], None]) -> None:
    """From here on count the calls, and ``end`` at the last one."""
    calls = itertools.count(1)

    def due() -> bool:
        return next(calls) == last

    def opening(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if due():
            end()
        handle: int = REAL["open"](path, flags, *rest, **more)
        disk.opened(handle, os.fspath(path), flags)
        return handle

    def writing(handle: int, data: Any) -> int:
        if due():
            REAL["write"](handle, bytes(data)[: len(data) // 2])
            end()
        # Short writes are legal, and happen.
        return int(REAL["write"](handle, bytes(data)[: max(1, len(data) * 2 // 3)]))

    def syncing(handle: int) -> None:
        if due():
            end()
        REAL["fsync"](handle)
        disk.synced(handle)

    def renaming(old: Any, new: Any) -> None:
        if due():
            end()
        REAL["rename"](old, new)
        disk.renamed(os.fspath(old), os.fspath(new))

    def making(path: Any, *rest: Any, **more: Any) -> None:
        if due():
            end()
        REAL["mkdir"](path, *rest, **more)
        disk.pending.append(["directory", os.fspath(path), ""])

    def plain(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if due():
                end()
            return REAL[name](*arguments, **more)

        return call

    patched = {"open": opening, "write": writing, "fsync": syncing, "rename": renaming, "mkdir": making}
    for name in WATCHED:
        setattr(os, name, patched.get(name) or plain(name))


def seal(directory: Path, filler: bytes) -> bytes:
    """Seal with that content; the signed message."""
    bids = tuple((buyer.name, filler * 48) for buyer in BOOK.buyers)
    payload = messages.Seal(BOOK.digest, bytes(32), b"i" * 48, bids).encode()
    return sign_seal(
        SealPlan(BOOK, own(BOOK, "buyer-1"), payload, Looked((), ())), KEY, SealJournal(directory)
    )


def process(directory: Path, filler: bytes, state: list[list[str]], last: int) -> dict[str, Any]:
    """Seal in a process of its own: what it gave away, how it ended, and what is not durable."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        disk = Disk(state)

        def say(ended: str) -> None:
            REAL["write"](writer, json.dumps({"ended": ended, "pending": disk.pending}).encode())
            os._exit(0)

        watch(disk, last, lambda: say("killed"))
        try:
            seal(directory, filler)
            say("signed")
        except AlreadySealed:
            say("refused")
        except BaseException as error:
            say(repr(error))
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer: dict[str, Any] = json.loads(answers.read())
    os.waitpid(child, 0)
    return answer


def lost(state: list[list[str]]) -> list[list[str]]:
    """The power fails: nothing is pending afterwards."""
    Disk(state).lose()
    return []


def main(scratch: Path) -> None:
    """Every schedule: who ends where, and where the power fails."""
    for power, second in SCHEDULES:
        for last in itertools.count(1):
            directory = scratch / f"{power}-{second.decode()}-{last}" / "state" / "seals"
            directory.parent.parent.mkdir(parents=True)
            one = process(directory, b"a", [], last)
            state = lost(one["pending"]) if power == "after the first" else one["pending"]
            two = process(directory, second, state, 0)
            if power == "after the second":
                lost(two["pending"])
            three = process(directory, b"b", [], 0)
            four = process(directory, b"a", [], 0)
            ends = [one["ended"], two["ended"], three["ended"], four["ended"]]
            print(json.dumps({"power": power, "second": second.decode(), "last": last, "ends": ends}))
            if one["ended"] != "killed":
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
