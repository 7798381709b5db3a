"""The claimed images, where this machine has them: found before a rebuild, compared with it afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from coattest_build.explain.diff import Comparison, compare
from coattest_build.inputs.cache import sha256_file
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult


def keep(claim: Claimed, folders: Sequence[Path], scratch: Path) -> dict[str, Path]:
    """Profile to image, for each claimed image that one of ``folders`` has with the claimed SHA-256.

    The images are linked (else copied) into ``scratch``: the rebuild may write to the same folder.
    """
    kept: dict[str, Path] = {}
    for profile, claimed in sorted(claim.profiles.items()):
        for folder in folders:
            path = folder / claimed.name
            if profile in kept or not path.is_file() or path.stat().st_size != claimed.size:
                continue
            if sha256_file(path) == claimed.sha256:
                kept[profile] = scratch / claimed.name
                try:
                    os.link(path, kept[profile])
                except OSError:
                    shutil.copyfile(path, kept[profile])
    return kept


def explain(
    kept: Mapping[str, Path], rebuilt: Mapping[str, ProfileResult], out: Path
) -> dict[str, Comparison]:
    """Profile to what differs from the claimed image to the rebuilt one in ``out``, where both are there."""
    compared = {
        profile: compare(kept[profile], out / result.name)
        for profile, result in sorted(rebuilt.items())
        if profile in kept
    }
    return {profile: found for profile, found in compared.items() if not found.identical}
