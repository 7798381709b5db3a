"""What a program that coattest starts is given: a place to be found in, variables, modules to import.

All of it is built from nothing. The caller's PATH may have a folder of a hostile checkout in it, its
environment may set PIP_INDEX_URL, GIT_DIR, LD_PRELOAD or PYTHONPATH, the current folder may have a pip.py.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.files import real_path
from coattest.programs.apart import checkouts_around

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of every program that is started, but for coattest's own."""

SYSTEM_FOLDERS = tuple(SYSTEM_PATH.split(os.pathsep))
"""Its folders: only root writes there."""

OWN_VARIABLES = (
    "COATTEST_",
    "HOME",
    "LANG",
    "NO_COLOR",
    "PATH",
    "FORCE_COLOR",
    "TERM",
    "TZ",
    "XDG_",
)
"""Variables that coattest's own programs read; a name that ends in _ stands for all that begin with it."""

NOWHERE = "/nonexistent"
"""HOME of a program that is to read nothing of the user's (as for Debian's system users)."""

_BOOT = Path(__file__).with_name("module.py")


def program_environment(
    inherited: Iterable[str] = (), more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The whole environment of a program.

    PATH, a neutral HOME and locale, the folder for temporary files, the variables of this process that
    ``inherited`` names (see OWN_VARIABLES), and ``more``, which wins. Of PATH only what `find_program` looks
    through is inherited.
    """
    names = tuple(inherited)
    prefixes = tuple(name for name in names if name.endswith("_"))
    chosen = {
        name: value
        for name, value in os.environ.items()
        if name in names or (prefixes and name.startswith(prefixes))
    }
    if "PATH" in chosen:
        chosen["PATH"] = os.pathsep.join(_search_path())
    plain = {
        "PATH": SYSTEM_PATH,
        "HOME": NOWHERE,
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(Path(tempfile.gettempdir()).absolute()),
    }
    return {**plain, **chosen, **(more or {})}


def find_program(name: str) -> str:
    """The absolute path of a program: from the user's PATH, else from SYSTEM_PATH.

    Of the user's PATH only absolute entries count, and none in the current folder or in a checkout. Raises
    EnvironmentFailure (``no-program``).
    """
    for entry in _search_path() if "/" not in name else ():
        path = Path(entry) / name
        if path.is_file() and os.access(path, os.X_OK) and (entry in SYSTEM_FOLDERS or not _is_foreign(path)):
            return str(path)
    raise EnvironmentFailure(
        f"there is no program {name} on this machine", hint="install it, or check PATH", code="no-program"
    )


def _search_path() -> list[str]:
    """The user's PATH without what depends on the current folder and without checkouts, then the system's."""
    user = [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    own = [entry for entry in user if entry in SYSTEM_FOLDERS or not _is_foreign(Path(entry))]
    return list(dict.fromkeys([*own, *SYSTEM_FOLDERS]))


def _is_foreign(path: Path) -> bool:
    """Whether a path leads into the current folder (unless that is ``/``) or into a checkout."""
    here, real = real_path(Path.cwd()), real_path(path)
    inside = here != here.parent and real.is_relative_to(here)
    return inside or any(checkouts_around(real)) or any(checkouts_around(path))


def import_path() -> tuple[str, ...]:
    """What this process imports from, without entries that depend on the current folder."""
    here = real_path(Path.cwd())
    return tuple(
        dict.fromkeys(
            entry for entry in sys.path if Path(entry).is_absolute() and real_path(Path(entry)) != here
        )
    )


def python_program(entry: str, *arguments: str, alone: bool = False) -> list[str]:
    """The command that runs ``entry`` with this interpreter: a module, or ``module:function``.

    ``-I -S``: no variable, no current folder, no user's packages, and no ``.pth`` file or sitecustomize. The
    modules come from ``import_path``; of another distribution's packages nothing but that folder is taken.
    ``alone``: it may start no program, which keeps what it reads from running, not what it imports.
    Raises EnvironmentFailure (``no-program``) when the module is not there.
    """
    path = import_path()
    top = entry.partition(":")[0].partition(".")[0]
    spec = PathFinder.find_spec(top, path)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFailure(
            f"this Python has no {top}", where=sys.executable, hint="install it there", code="no-program"
        )
    how = json.dumps({"path": path, "alone": alone})
    return [sys.executable, "-I", "-S", str(_BOOT), how, entry, *arguments]
