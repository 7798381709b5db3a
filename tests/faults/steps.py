"""Counts the steps of an opening over all its processes, and says when one of them is to end.

The harness has the count. A process that is told of it by ``COATTEST_STEPS`` asks at each step and goes on
when it has the answer, so that what happens at a step has happened before anything else does.

``python -m faults.steps FOLDER VERB ..`` is ``auction VERB ..`` that asks before each change of a file in
FOLDER.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coattest_local.host.unix_server import UnixServer
from faults.schedule import Kill

VARIABLE = "COATTEST_STEPS"
"""Environment variable with the harness's socket."""

SECONDS = 60.0
CONNECTIONS = 32
CHANGES = {"os.rename", "os.remove", "os.chmod", "os.link", "os.truncate"}
"""Audit events of a change to a file, beside ``open`` for writing (Python library reference, "Audit events
table").
"""


def ask(kind: str, detail: str = "") -> dict[str, Any]:
    """Tell the harness of a step; what it says is to be different here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(SECONDS)
        stream.connect(os.environ[VARIABLE])
        stream.sendall(json.dumps([kind, detail]).encode() + b"\n")
        with stream.makefile("rb") as answer:
            said: dict[str, Any] = json.loads(answer.readline())
    return said


class Steps:
    """The count of a run. ``end`` is called with a victim when its step has come."""

    def __init__(self, path: Path, end: Callable[[str], None]) -> None:
        self._end = end
        self._lock = threading.Lock()
        self.begin(())
        self.close = UnixServer(path, self._answer, seconds=SECONDS, connections=CONNECTIONS).close

    def mend(self) -> None:
        """From now on KMS refuses nothing, and clocks are right."""
        with self._lock:
            self._throttled, self._skew = Counter(), 0.0

    def clear(self) -> None:
        """From now on nothing happens at any step."""
        self.mend()
        with self._lock:
            self._kills.clear()

    def begin(
        self,
        kills: Sequence[Kill],
        *,
        throttled: Mapping[str, int] | None = None,
        skew: float = 0.0,
        skew_of_kms: bool = False,
    ) -> None:
        """What is to happen: kills in this order; Decrypts that are refused per key ARN; seconds by which the
        clock of S3, STS and KMS, or of KMS alone, is ahead.
        """
        with self._lock:
            self.counts: Counter[str] = Counter()
            self.total: Counter[str] = Counter()
            self.fired: list[Kill] = []
            self._kills = list(kills)
            self._throttled = Counter(throttled or {})
            self._skew, self._skew_of_kms = skew, skew_of_kms

    def step(self, kind: str, detail: str = "") -> dict[str, Any]:
        """One more step of a kind; ``detail`` of a request is the key that it decrypts with."""
        with self._lock:
            self.counts[kind] += 1
            self.total[kind] += 1
            if self._kills and (self._kills[0].kind, self._kills[0].at) == (kind, self.counts[kind]):
                self.fired.append(self._kills.pop(0))
                self.counts.clear()
                self._end(self.fired[-1].victim)
            throttled = kind == "request" and self._throttled[detail] > 0
            if throttled:
                self._throttled[detail] -= 1
                self.total["throttled"] += 1
            return {"throttled": throttled, "skew": self._skew if detail or not self._skew_of_kms else 0.0}

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as asked:
            answer = self.step(*json.loads(asked.readline()))
        connection.sendall(json.dumps(answer).encode() + b"\n")


def ask_before_changes(folder: Path) -> None:
    """From here on, ask before each change of a file in ``folder``."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            changes, path = event in CHANGES, arguments[0] if arguments else None
        if (
            changes
            and isinstance(path, str | bytes | os.PathLike)
            and Path(os.fsdecode(path)).parent == folder
        ):
            ask("file")

    sys.addaudithook(hook)


def main() -> None:
    """``auction`` with its arguments after the folder."""
    from coattest_parent.cli.auction import main as auction

    ask_before_changes(Path(sys.argv.pop(1)))
    auction()


if __name__ == "__main__":
    main()
