"""Runs commands isolated from the host: a root, processes and users of their own, no network, no capability.

``run_isolated(root, ["/bin/sh", "-c", script], env={})`` returns the exit code; ``run_limited`` limits time,
memory, processes, disk and output, too. ``isolate`` starts the process, ``entry`` is the program that makes
the namespaces and mounts.
"""

from __future__ import annotations

from coattest_build.sandbox.isolate import (
    ISOLATION,
    Bind,
    Lack,
    Limits,
    run_isolated,
    run_limited,
    spawn,
)
from coattest_build.sandbox.leftovers import read_result, remove_tree

__all__ = [
    "ISOLATION",
    "Bind",
    "Lack",
    "Limits",
    "read_result",
    "remove_tree",
    "run_isolated",
    "run_limited",
    "spawn",
]
