"""A checkout beside the claim: is it the source that the claim is about?"""

from __future__ import annotations

import tempfile
from pathlib import Path

from coattest_build import source as sources
from coattest_build.source import Snapshot
from coattest_verify.quorum.statements.claim import Claimed


def look(source: Path) -> Snapshot:
    """What a checkout is; the copy that its ``folder`` names is gone already. Raises UsageError."""
    with tempfile.TemporaryDirectory() as scratch:
        return sources.take(source, Path(scratch) / "source")


def other_source(snapshot: Snapshot, claim: Claimed) -> tuple[str, ...]:
    """In what a source is not the claim's, a line each; empty when it is."""
    digests = (
        ("source tree", snapshot.tree_sha256, claim.tree_sha256),
        ("lock", snapshot.lock_sha256, claim.lock_sha256),
    )
    return tuple(
        f"the {name} is {mine}, the claim's is {theirs}" for name, mine, theirs in digests if mine != theirs
    )
