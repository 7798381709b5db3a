"""A root file system with a shell and a few programs of this machine, for code that is hostile on purpose."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = (
    "cat",
    "chmod",
    "dd",
    "head",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mv",
    "rm",
    "rmdir",
    "sleep",
    "touch",
)


def make_shell_root(root: Path, more: Sequence[str] = ()) -> Path:
    """Fill the new folder ``root`` and return it; programs are in /usr/bin, the shell is /bin/sh."""
    for name in ("bin", "usr/bin", "tmp", "dev", "proc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    places = {"sh": root / "bin/sh", **{name: root / "usr/bin" / name for name in (*PROGRAMS, *more)}}
    for name, place in places.items():
        found = shutil.which(name)
        assert found, name
        shutil.copyfile(found, place)
        place.chmod(0o755)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+\.so\S*)", listed):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(library, target)
                target.chmod(0o755)
    return root
