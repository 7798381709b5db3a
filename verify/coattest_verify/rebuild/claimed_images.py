"""The claimed images, where this machine has them: found before a rebuild, compared with it afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from coattest_build.explain.diff import Comparison, compare
from coattest_build.inputs.cache import sha256_file
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult


def save_claimed_images(claim: Claimed, folders: Sequence[Path], scratch: Path) -> dict[str, Path]:
    """Profile to image, for each claimed image that one of ``folders`` has with the claimed SHA-256.

    The images are linked or copied into ``scratch``: the rebuild may write to the same folder.
    """
    saved: dict[str, Path] = {}
    for profile, claimed in sorted(claim.profiles.items()):
        for folder in folders:
            path = folder / claimed.name
            if profile not in saved and _is_claimed(path, claimed):
                saved[profile] = scratch / claimed.name
                try:
                    os.link(path, saved[profile])
                except OSError:
                    shutil.copyfile(path, saved[profile])
    return saved


def holds_claimed_image(claim: Claimed, folder: Path) -> bool:
    """Whether a folder has at least one of the claimed images."""
    return any(_is_claimed(folder / claimed.name, claimed) for claimed in claim.profiles.values())


def _is_claimed(path: Path, claimed: ProfileResult) -> bool:
    return path.is_file() and path.stat().st_size == claimed.size and sha256_file(path) == claimed.sha256


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
