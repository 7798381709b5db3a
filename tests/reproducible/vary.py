"""Builds under one variation: run as a program with one JSON object, never imported.

What must be set from inside the process is set here; then the interpreter is started anew, so that the whole
build runs under it. The caller sets what is in the environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
GIB = 1024**3

BUILD = """
import json, os, socket, sys, time
from pathlib import Path
order = json.loads(sys.argv[1])
from coattest_build import builder
source, out = Path(order["source"]), Path(order["out"])
report = builder.build(source, out, jobs=order["jobs"], fresh_kernel=order["fresh"])
witness = {
    "compiled": report.kernel_compiled_here,
    "cpus": len(os.sched_getaffinity(0)),
    "hash": hash("coattest"),
    "host": socket.gethostname(),
    "mounts": Path("/proc/self/mounts").read_text(),
    "python": ".".join(map(str, sys.version_info[:2])),
    "shuffled": os.listdir.__name__ != "listdir",
    "time": time.time(),
    "uid": os.getuid(),
    "zlib": sys.modules["zlib"].__name__,
    "zone": time.strftime("%z"),
}
(out / "witness.json").write_text(json.dumps(witness))
"""


def check(what: str, result: int) -> None:
    """Stop when a C function returned -1: a variation that was not made must not pass for one."""
    if result:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def main() -> None:
    """Apply the order's settings and start the build."""
    order = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if order["host"] or order["mount"]:
        check("unshare", libc.unshare(CLONE_NEWNS | CLONE_NEWUTS))
        check("private mounts", libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    if order["host"]:
        check("sethostname", libc.sethostname(order["host"].encode(), len(order["host"])))
    if order["mount"]:
        source, target, kind, data = (text.encode() for text in order["mount"])
        check(f"mount {kind.decode()}", libc.mount(source, target, kind, 0, data))
    if order["cpus"]:
        os.sched_setaffinity(0, order["cpus"])
    if order["memory"]:
        resource.setrlimit(resource.RLIMIT_AS, (order["memory"] * GIB, order["memory"] * GIB))
    if order["stack"]:
        resource.setrlimit(resource.RLIMIT_STACK, (order["stack"] * 1024, order["stack"] * 1024))
    if order["uid"]:
        os.setgroups([])
        os.setgid(order["uid"])
        os.setuid(order["uid"])
    os.umask(order["umask"])
    os.chdir(Path(order["out"]).parent)
    # Only from here on: libfaketime's semaphore belongs to whoever starts it, which may not be this user.
    environment = {**os.environ, **order["environment"]}
    os.execve(order["python"], [order["python"], "-c", BUILD, json.dumps(order)], environment)


if __name__ == "__main__":
    main()
