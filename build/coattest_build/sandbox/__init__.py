"""Runs commands in a root of its own: no network, no path of the host, no capability, own processes."""

from __future__ import annotations

from coattest_build.sandbox.isolate import (
    Bind,
    Isolation,
    SandboxUnavailable,
    read_left,
    run,
    spawn,
)

__all__ = ["Bind", "Isolation", "SandboxUnavailable", "read_left", "run", "spawn"]
