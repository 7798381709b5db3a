"""Checkouts to rebuild: the image's sources of this one, as a repository of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

from dulwich import porcelain

from coattest_build import source

REPOSITORY = Path(__file__).parents[3]
AUTHOR = b"Test <test@example.invalid>"


def make_checkout(folder: Path) -> Path:
    """A commit of everything that the image is made of, and of what is claimed for it, in ``folder``."""
    ignored = shutil.ignore_patterns("__pycache__")
    for root in (*source.ROOTS, "build/image.lock", "attestations"):
        target = folder / root
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / root).is_dir():
            shutil.copytree(REPOSITORY / root, target, ignore=ignored)
        else:
            shutil.copyfile(REPOSITORY / root, target)
    porcelain.init(str(folder))
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Everything below, committed."""
    paths = [str(path) for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    porcelain.add(str(folder), paths)
    porcelain.commit(str(folder), message=b"all", author=AUTHOR, committer=AUTHOR)
