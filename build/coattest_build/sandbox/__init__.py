"""Runs commands isolated from the host: a root, processes and users of their own, no network, no capability.

``run_isolated(root, ["/bin/sh", "-c", script], env={})`` returns the exit code. ``isolate`` starts the
process, ``entry`` is the program that makes the namespaces and mounts.
"""

from __future__ import annotations

from coattest_build.sandbox.isolate import Bind, Isolation, read_result, run_isolated, spawn

__all__ = ["Bind", "Isolation", "read_result", "run_isolated", "spawn"]
