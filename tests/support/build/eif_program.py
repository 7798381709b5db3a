"""``eif``, run as a program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support.forked import own


def eif(*arguments: object, folder: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``eif`` with arguments, in a folder, with variables beside those of the test."""
    return subprocess.run(
        [*own("eif"), *map(str, arguments)],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
