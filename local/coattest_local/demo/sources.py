"""Every party's own copy of the source: a clone of HEAD, made without git and without its hooks."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from coattest.errors import EnvironmentFailure, UsageError

if TYPE_CHECKING:
    from dulwich.repo import Repo

CLONE_ATTEMPTS = 3
"""Clones of a checkout to which somebody commits at the same time."""

ROOMS = ("build", "enclave")


def copy_source(source: Path, destination: Path) -> str | None:
    """Copy the source tree to ``destination`` and return the commit, or None where there is no repository.

    From a repository only what HEAD has is copied, so changes that are not committed stay out. Raises
    UsageError when ``source`` is not a checkout of coattest, EnvironmentFailure when it cannot be copied.
    """
    if not (source / "build" / "image.toml").is_file():
        raise UsageError(
            "no build/image.toml here", where=str(source), hint="run it in the checkout, or give --source"
        )
    if (source / ".git").exists():
        from dulwich.repo import Repo  # noqa: PLC0415

        with Repo(str(source)) as repository:
            return _clone(repository, destination)
    ignored = shutil.ignore_patterns("__pycache__")
    try:
        for room in ROOMS:
            shutil.copytree(source / room, destination / room, ignore=ignored)
    except shutil.Error as error:  # every file that failed, with its reason as text
        _, at, why = error.args[0][0]
        raise EnvironmentFailure(
            f"cannot be copied: {why}", where=str(at), hint="free some space, or set TMPDIR", code="os-error"
        ) from None
    return None


def _clone(repository: Repo, destination: Path) -> str:
    """Clone HEAD; once more when somebody committed meanwhile, so that an object was not there yet."""
    for attempt in range(CLONE_ATTEMPTS):
        try:
            repository.clone(str(destination), mkdir=True, checkout=True).close()
            return repository.head().decode()
        except KeyError:
            shutil.rmtree(destination, ignore_errors=True)
            time.sleep(attempt)
    raise EnvironmentFailure(
        "the repository changed while it was cloned",
        where=str(repository.path),
        hint="try again when nobody commits to it",
        code="checkout-changed",
    )


def claim_to_be(source: Path, image: bytes) -> str:
    """Change the enclave's source so that it takes itself for the image with this PCR0; returns the file that
    was changed.
    """
    name = "enclave/coattest_enclave/payload/nsm.py"
    path = source / name
    lie = f"\n\ndef own_image(document, profile):\n    return bytes.fromhex({image.hex()!r})\n"
    path.write_text(path.read_text() + lie)
    return name
