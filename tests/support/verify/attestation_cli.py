"""``verify attestation``, run as a program."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from support.forked import own


def verify(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``verify attestation`` with arguments, and what it finds on stdin."""
    return subprocess.run(
        [*own("verify"), "attestation", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def verify_json(*arguments: str | Path) -> tuple[int, Any]:
    """The exit code and the JSON document."""
    done = verify(*arguments, "--json")
    return done.returncode, json.loads(done.stdout)
