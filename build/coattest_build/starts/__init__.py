"""Where another enclave starts: working source trees as files of the installed package.

A folder for each kind, and what all kinds share. Names that end in ``.start`` lose it when they are written,
so that no tool takes them for modules of this package; a file that both folders have begins with the shared
part. Kernel, init and their pins are coattest's own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from coattest.errors import UsageError
from coattest.files import make_folder
from coattest_build.image import IMAGE_FILE, LOCK_FILE
from coattest_build.inputs.lock import parse_lock
from coattest_build.inputs.names import IMAGE_TEXT

KINDS = ("python", "node", "static")
OWN_PARTS = ("kernel/x86_64.config", "init/init.c", "image.lock")
"""Relative to ``build/`` of a source tree. A wheel has copies of them in ``own/`` (pyproject.toml)."""
BY_YOU = {"python": [], "node": [], "static": ["enclave/program"]}
"""What image.toml of a kind names and a tree does not have yet."""
IGNORED = "/out/\n/run/\n__pycache__/\n"
"""The .gitignore of a tree."""
_HERE = Path(__file__).parent


def write_start(kind: str, folder: Path) -> tuple[str, ...]:
    """Write the tree of one of KINDS into a folder that is new or empty; returns the relative paths.

    Raises UsageError (``not-empty``).
    """
    make_folder(folder)
    if next(folder.iterdir(), None) is not None:
        raise UsageError("there is something in this folder", where=str(folder), code="not-empty")
    texts = {".gitignore": IGNORED}
    for origin in (_HERE / "shared", _HERE / kind):
        for file in sorted(path for path in origin.rglob("*") if path.is_file()):
            path = file.relative_to(origin).as_posix().removesuffix(".start")
            texts[path] = texts.get(path, "") + file.read_text()
    name = folder.resolve().name
    texts[IMAGE_FILE] = texts[IMAGE_FILE].replace("@NAME@", name if IMAGE_TEXT.fullmatch(name) else "enclave")
    texts |= {f"build/{part}": own_part(part).read_text() for part in OWN_PARTS}
    texts[LOCK_FILE] = _compilers_pins(texts[LOCK_FILE])
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return tuple(sorted(texts))


def _compilers_pins(text: str) -> str:
    """A lock with the pins of kernel and toolchain alone."""
    lock = parse_lock(text)
    uses = ((pin, tuple(use for use in pin.use if use != "runtime")) for pin in lock.packages)
    packages = tuple(replace(pin, use=use) for pin, use in uses if use)
    return replace(lock, packages=packages, wheels=()).render()


def own_part(part: str) -> Path:
    """A file of coattest's own ``build/``: one of OWN_PARTS, or image.toml."""
    shipped = _HERE / "own" / part
    return shipped if shipped.exists() else _HERE.parents[1] / part  # an editable install has the checkout's
