"""The claimed images, where this machine has them: found before a rebuild, compared with it afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from coattest.errors import Rejected
from coattest.files import Folder
from coattest_build.explain.diff import Comparison, compare
from coattest_build.inputs.cache import sha256_file
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult

MAX_SAVED = 8 << 30
"""Bytes of images that are copied and hashed: a file of holes takes no space where it came from."""


def save_claimed_images(claim: Claimed, folders: Sequence[Path], scratch: Path) -> dict[str, Path]:
    """Profile to image, for each claimed image that one of ``folders`` has with the claimed SHA-256.

    The images are copied into ``scratch``, as far as they are small enough together: the rebuild may write to
    the same folder. Those that are there already are not looked for again.
    """
    saved: dict[str, Path] = {}
    left = MAX_SAVED
    for profile, claimed in sorted(claim.profiles.items()):
        image = scratch / profile
        for folder in folders:
            if image.exists() or claimed.size > left:
                continue
            left -= claimed.size
            if _copy(folder, claimed, image):
                saved[profile] = image
    return saved


def _copy(folder: Path, claimed: ProfileResult, target: Path) -> bool:
    """Copy the claimed image from ``folder``, which anybody may have filled; False when it has none."""
    if not folder.exists():
        return False
    with Folder(folder) as files:
        try:
            with files.opened(claimed.name) as source:
                if os.fstat(source.fileno()).st_size != claimed.size:
                    return False
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
        except Rejected:
            return False
    if sha256_file(target) == claimed.sha256:
        return True
    target.unlink()
    return False


def explain_differences(
    saved: Mapping[str, Path], rebuilt: Mapping[str, ProfileResult], out: Path
) -> dict[str, Comparison]:
    """Profile to what differs from the claimed image to the rebuilt one in ``out``, where both are there."""
    compared = {
        profile: compare(saved[profile], out / result.name)
        for profile, result in sorted(rebuilt.items())
        if profile in saved
    }
    return {profile: found for profile, found in compared.items() if not found.identical}
