"""Whatever a library does to say something, a service's log gets an event, and no secret."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest_parent.link.channels import Unix, connect_to
from coattest_parent.link.libraries import WORD_MAX, heard, masked
from coattest_parent.link.telemetry import TEXT_MAX, Telemetry

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

SPEAKERS = {
    "asyncio, a connection that nobody can take": (
        "loop.call_exception_handler({'message': 'socket.accept() out of system resource', 'x': SECRET})",
        ("asyncio", "error", "socket.accept() out of system resource"),
    ),
    "asyncio, a task that is lost": (
        "async def fail(): raise OSError(SECRET)\n"
        "task = loop.create_task(fail())\n"
        "loop.run_until_complete(asyncio.sleep(0.01))\n"
        "del task; gc.collect()",
        ("asyncio", "error", "Task exception was never retrieved: OSError in __main__, line N"),
    ),
    "botocore": (
        "logging.getLogger('botocore.credentials').warning('Refreshing %s failed', SECRET, exc_info=True)",
        ("botocore.credentials", "warning", "Refreshing %s failed"),
    ),
    "urllib3, formatted by itself": (
        "logging.getLogger('urllib3.connectionpool').error(f'retry {SECRET} of 70000000000001')",
        ("urllib3.connectionpool", "error", "retry * of *"),
    ),
    "a logger with a handler of its own": (
        "own.warning('own handler ' + SECRET)",
        ("stderr", "warning", "own handler *"),
    ),
    "logging, a message that is no text": (
        "logging.getLogger('odd').critical(ValueError(SECRET))",
        ("odd", "critical", "ValueError"),
    ),
    "logging, arguments that do not fit": (
        "own.error('%d', SECRET)",
        ("stderr", "warning", "--- Logging error ---"),
    ),
    "warnings": (
        "warnings.warn(f'old {SECRET}', DeprecationWarning)",
        ("warnings", "warning", "DeprecationWarning: old *"),
    ),
    "a thread": (
        "def f(): raise RuntimeError(SECRET)\nt = threading.Thread(target=f); t.start(); t.join()",
        ("threading", "error", "RuntimeError in __main__, line N"),
    ),
    "a destructor": (
        "class D:\n def __del__(self): raise KeyError(SECRET)\nD()",
        ("unraisable", "error", "KeyError in __main__, line N"),
    ),
    "http.server": (
        "h = object.__new__(http.server.BaseHTTPRequestHandler)\n"
        "h.client_address = ('10.0.0.1', 5)\n"
        "h.log_message('%s', SECRET)",
        ("stderr", "warning", "* - - * * *"),
    ),
    "print": ("print('said', SECRET)", ("stdout", "warning", "said *")),
    "print without an end": (
        "print('half', SECRET, end='', file=sys.stderr)\nsys.stderr.flush()",
        ("stderr", "warning", "half *"),
    ),
    "a stream that was there before": (
        "print('before', SECRET, file=sys.__stderr__)",
        ("stderr", "warning", "before *"),
    ),
    "traceback": (
        "try: raise OSError(SECRET)\nexcept OSError: traceback.print_exc()",
        ("stderr", "warning", "OSError: *"),
    ),
    "the end of the program": (
        "raise LookupError(SECRET)",
        ("main", "error", "LookupError in __main__, line N"),
    ),
}
"""What a library does, and an event that it becomes."""

PROGRAM = """
import asyncio, contextlib, gc, http.server, logging, sys, threading, traceback, warnings
from coattest_parent.link.libraries import hear
from coattest_parent.link.telemetry import Telemetry

warnings.simplefilter("always")
SECRET = sys.argv[1]
own = logging.getLogger("own"); own.propagate = False; own.addHandler(logging.StreamHandler())
loop = asyncio.new_event_loop()
hear(Telemetry(2), contextlib.ExitStack(), streams=True)
"""


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_what_a_library_says_is_an_event(speaker: str) -> None:
    """Every line is a library-message with closed fields; none holds the secret, and one is the expected."""
    action, expected = SPEAKERS[speaker]
    done = subprocess.run(
        [sys.executable, "-c", f"{PROGRAM}\n{textwrap.dedent(action)}\n", SECRET],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert SECRET[:8] not in done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert told
    for event in told:
        assert {*event} == {"time", "event", "source", "level", "text"}
        assert event["event"] == "library-message"
        assert len(event["text"]) <= TEXT_MAX
    said = [(event["source"], event["level"], _without_line(event["text"])) for event in told]
    assert expected in said


def _without_line(text: str) -> str:
    head, found, _ = text.rpartition(", line ")
    return f"{head}, line N" if found else text


@given(
    st.text(max_size=50),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=WORD_MAX + 1, max_size=80),
    st.integers(0, 2**63),
    st.text(max_size=3000),
)
def test_no_long_word_and_no_number_passes_the_mask(before: str, key: str, amount: int, after: str) -> None:
    """Keys and amounts are gone, wherever they stand; what is left is one short line."""
    text = masked(f"{before} {key} {amount} {after}")
    assert key not in text
    assert not any(letter.isdecimal() for letter in text)
    assert len(text) <= TEXT_MAX
    assert "\n" not in text


def test_afterwards_everything_is_as_it_was() -> None:
    """The block takes away nothing for good, and inside it hears a warning and a record."""
    reader, writer = os.pipe()
    before = (sys.stdout, sys.stderr, sys.excepthook, sys.unraisablehook, warnings.showwarning)
    handlers = list(logging.getLogger().handlers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(heard(Telemetry(writer), streams=True))
        print("inside")
    assert before == (sys.stdout, sys.stderr, sys.excepthook, sys.unraisablehook, warnings.showwarning)
    assert logging.getLogger().handlers == handlers
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert [json.loads(line)["text"] for line in lines] == ["inside"]


def started(program: str, path: Path) -> subprocess.Popen[str]:
    """The program in a process of its own, with pipes; ``path`` is its argument."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(path)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_without_descriptors_a_server_says_so_once_and_goes_on_later(tmp_path: Path) -> None:
    """A connection that cannot be accepted waits; when there are descriptors again, it is served."""
    program = """
import os, resource, sys, time
from pathlib import Path
from coattest_parent.link import loop
from coattest_parent.link.channels import Unix
from coattest_parent.link.proxy import ConnectProxy
from coattest_parent.link.telemetry import Telemetry
loop.ACCEPT_PAUSE = 0.05
with ConnectProxy(Unix(Path(sys.argv[1])), {}, Telemetry(2)):
    held = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print("full", flush=True)
    sys.stdin.readline()
    os.close(held)
    print("free", flush=True)
    sys.stdin.readline()
"""
    path = tmp_path / "p.sock"
    with started(program, path) as server:
        assert server.stdin
        assert server.stdout
        assert server.stderr
        assert server.stdout.readline() == "full\n"
        with connect_to(Unix(path), 60) as stream:
            assert json.loads(server.stderr.readline())["event"] == "proxy-started"
            told = json.loads(server.stderr.readline())
            assert (told["event"], told["code"]) == ("accept-failed", "emfile")
            server.stdin.write("\n")
            server.stdin.flush()
            stream.sendall(b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n")
            assert stream.recv(100).startswith(b"HTTP/1.1 403 ")
        server.stdin.write("\n")
        server.stdin.flush()
        said = server.stderr.read()
    assert {json.loads(line)["event"] for line in said.splitlines()} <= {"accept-failed", "proxy-stopped"}


def test_connections_that_come_all_at_once_cost_a_bounded_number_of_descriptors(tmp_path: Path) -> None:
    """A server of at most 8 connections, stopped while 100 more came: it takes few of them at a time."""
    program = """
import resource, signal, sys
from pathlib import Path
from coattest_parent.link.channels import Unix
from coattest_parent.link.loop import LoopServer
from coattest_parent.link.telemetry import Telemetry
async def serve(reader, writer):
    await reader.read(1)
    writer.write(b"x")
with LoopServer(Unix(Path(sys.argv[1])), serve, name="s", head_max=10, most=8, telemetry=Telemetry(2)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    print("ready", flush=True)
    sys.stdin.readline()
"""
    path = tmp_path / "s.sock"
    held: list[socket.socket] = []
    with started(program, path) as server:
        assert server.stdin
        assert server.stdout
        assert server.stderr
        assert server.stdout.readline() == "ready\n"
        os.kill(server.pid, 19)  # SIGSTOP: so that all of them wait when it goes on
        held = [connect_to(Unix(path), 60) for _ in range(100)]
        os.kill(server.pid, 18)
        held[-1].sendall(b"?")
        assert held[-1].recv(1) == b"x"
        server.stdin.write("\n")
        server.stdin.flush()
        said = server.stderr.read()
    for stream in held:
        stream.close()
    assert said == ""
