"""Stops at counted moments: a trace function sends SIGTERM before the n-th step of a program.

As a program, ``stop_sweep.py VERB DIRECTORY [FIRST STEP]`` runs a service of ``auction`` once for every line
of the parent's that it passes, each time in a forked child with the stop before that line. It prints a line
of JSON per child: the moment, the exit code, what the child wrote, and what it left behind.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import boto3
import botocore.session

from coattest_parent.cli.auction import serve


@dataclass(slots=True)
class Moment:
    """A step that is still so many steps away; reached at 0."""

    left: int


@contextlib.contextmanager
def signal_at(
    number: int, unit: str, wanted: Callable[[FrameType], bool] = lambda _: True
) -> Iterator[Moment]:
    """Within the block, SIGTERM comes before the given step (``opcode`` or ``line``) of the wanted frames."""
    moment = Moment(number)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not wanted(frame):
            return None
        frame.f_trace_opcodes = unit == "opcode"
        if event == unit:
            moment.left -= 1
            if moment.left == 0:
                signal.raise_signal(signal.SIGTERM)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield moment
    finally:
        sys.settrace(before)


def _of_the_service(frame: FrameType) -> bool:
    # Looking through every logger that there is takes hundreds of lines.
    code = frame.f_code
    return "coattest_parent" in code.co_filename and code.co_name not in ("_take_streams", "<listcomp>")


def _run(verb: str, directory: Path, number: int) -> None:
    """In the child: the command as the program runs it. Exits with its code, plus 100 before the moment."""
    words = ["--status", f"unix:{directory / 'status'}"]
    if verb == "serve":
        words += ["--spool", str(directory), "--enclave", f"unix:{directory / 'none'}", "--once"]
    else:
        words += ["--listen", f"unix:{directory / 'listen'}", "--region", "eu-central-1"]
    # Before the command's first line nobody handles signals: that is not what is looked at here.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    command = serve.serve_command if verb == "serve" else serve.proxy_command
    code = 0
    with signal_at(number, "line", _of_the_service) as moment:
        try:
            command(words, standalone_mode=False)
        except SystemExit as error:
            code = int(error.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code + (100 if moment.left > 0 else 0))


def main(verb: str, place: str, first: str = "1", step: str = "1") -> None:
    """Every moment there is, or every ``step``-th from ``first`` on.

    A proxy waits until it is told: at the latest by a second stop.
    """
    directory = Path(place)
    # Of others' modules all that a run imports: once, not in each child. Of ours nothing, whose lines count.
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    boto3.Session("a", "b", region_name="eu-central-1").client("s3")
    for number in range(int(first), 100_000, int(step)):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            try:
                _run(verb, directory, number)
            finally:
                os._exit(99)
        os.close(writer)
        said = b""
        with os.fdopen(reader, "rb", buffering=0) as lines:
            while block := lines.read(65536):
                said += block
                if verb == "proxy" and b"service-started" in said:
                    os.kill(child, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        left = sorted(path.name for path in directory.iterdir())
        print(json.dumps({"moment": number, "code": code, "said": said.decode(), "left": left}), flush=True)
        if code in (99, 100):  # 99: the command itself failed, and would at every later moment
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
