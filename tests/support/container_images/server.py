"""What runs in the Debian image: HTTP on 127.0.0.1:80, and a bridge to it from vsock; tells what it finds.

Standard library only, for the image's own Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import http.server
import json
import mmap
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

PORT = 5005
IPC_PRIVATE = 0


def tell(what: object) -> object:
    """The value of a check; of one that fails, the error's text."""
    try:
        return what()  # type: ignore[operator]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def pseudo_terminal() -> str:
    """A line that went through one."""
    ours, theirs = os.openpty()
    os.write(ours, b"line\n")
    return os.read(theirs, 100).decode()


def by_system_call(name: str, *arguments: object) -> bool:
    """Whether the C library's function does not say -1."""
    return bool(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != -1)


def run_script() -> str:
    """What a program in /tmp prints, which only a file system without noexec runs."""
    path = Path("/tmp/script")
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o700)
    return subprocess.run([path], capture_output=True, text=True, check=True).stdout


def write_standard_output() -> int:
    """Bytes written to /dev/stdout, opened by its name as nginx does."""
    with Path("/dev/stdout").open("w", encoding="ascii") as file:
        return file.write("written by name\n")


def leave_orphans() -> int:
    """How many zombies are left of ten processes whose parent ended before them."""
    for _ in range(10):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.2)
            os._exit(0)
    for _ in range(10):
        os.wait()
    time.sleep(3)
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path("/proc").glob("[0-9]*/stat")]
    return states.count("Z")


def register(index: int) -> str:
    """A PCR of the NSM: DescribePCR in CBOR, whose answer has 48 bytes."""
    request = b"\xa1\x6bDescribePCR\xa1\x65index" + bytes([index])
    answer = mmap.mmap(-1, 0x3000)
    asked = ctypes.create_string_buffer(request, len(request))
    place = ctypes.addressof(ctypes.c_char.from_buffer(answer))
    raw = bytearray(struct.pack("=QQQQ", ctypes.addressof(asked), len(request), place, len(answer)))
    with Path("/dev/nsm").open("r+b", buffering=0) as device:
        fcntl.ioctl(device, 0xC0200A00, raw)
    found = answer[: struct.unpack("=QQQQ", raw)[3]]
    return found[found.index(b"\x58\x30") + 2 :][:48].hex()


def status(name: str) -> str:
    """A line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":\t")[1] for line in lines if line.startswith(f"{name}:"))


def facts() -> dict[str, object]:
    """All of it."""
    checks = {
        "ids": lambda: [os.getuid(), os.getgid(), sorted(os.getgroups())],
        "folder": Path.cwd,
        "words": lambda: sys.argv,
        "environment": lambda: dict(os.environ),
        "terminal": pseudo_terminal,
        "script": run_script,
        "shared memory": lambda: by_system_call("shmget", IPC_PRIVATE, 4096, 0o600),
        "semaphores": lambda: by_system_call("semget", IPC_PRIVATE, 1, 0o600),
        "queues": lambda: by_system_call("msgget", IPC_PRIVATE, 0o600),
        "inotify": lambda: by_system_call("inotify_init"),
        "memory file": lambda: os.memfd_create("x") > 0,
        "asynchronous": lambda: ctypes.CDLL(None).syscall(206, 8, ctypes.byref(ctypes.c_long())),
        "stdout": write_standard_output,
        "files": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "capabilities": lambda: [status("CapEff"), status("CapBnd")],
        "interfaces": lambda: [name for _, name in socket.if_nameindex()],
        "localhost": lambda: socket.gethostbyname("localhost"),
        "host": socket.gethostname,
        "name server": lambda: socket.gethostbyname("example.org"),
        "time": time.time,
        "root": lambda: [line.split()[2:4] for line in mounts() if line.split()[1] == "/"],
        "left of orphans": leave_orphans,
        "own home": lambda: Path("~").expanduser(),
        "shm": lambda: Path("/dev/shm/x").write_text("x"),
        "temporary": lambda: Path("/tmp/kept").read_text(),
        "sysctl": lambda: Path("/proc/sys/kernel/hostname").write_text("x"),
        "registers": lambda: [register(index) for index in range(3)],
    }
    return {name: tell(check) for name, check in checks.items()}


def mounts() -> list[str]:
    """The lines of the mount table."""
    return Path("/proc/self/mounts").read_text().splitlines()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET / tells the facts; GET /exit/N ends the program."""

    def do_GET(self) -> None:
        """Answer."""
        if self.path.startswith("/exit/"):
            os._exit(int(self.path.rpartition("/")[2]))
        body = json.dumps(facts(), default=str).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def copy(source: socket.socket, target: socket.socket) -> None:
    """Until either end is closed; 16 KiB at a time (docs/kernel.md)."""
    with contextlib.suppress(OSError):
        while block := source.recv(16384):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)


def bridge() -> None:
    """Every connection to the vsock port becomes one to the server."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, PORT))
    listener.listen()
    while True:
        outside, _ = listener.accept()
        inside = socket.create_connection(("127.0.0.1", 80))
        for ends in ((outside, inside), (inside, outside)):
            threading.Thread(target=copy, args=ends, daemon=True).start()


if __name__ == "__main__":
    print("hello from the image", file=sys.stderr, flush=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bridge()
