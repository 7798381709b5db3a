"""A checkout beside the claim: is it the source that the claim is about?"""

from __future__ import annotations

import tempfile
from pathlib import Path

from coattest.findings import Finding
from coattest_build import source as sources
from coattest_build.source import Snapshot
from coattest_verify.quorum.statements.claim import Claimed


def inspect_source(source: Path) -> Snapshot:
    """The snapshot of a checkout, whose copy is removed again. Raises UsageError (``bad-source``)."""
    with tempfile.TemporaryDirectory() as scratch:
        return sources.take(source, Path(scratch) / "source")


def source_differences(snapshot: Snapshot, claim: Claimed) -> tuple[Finding, ...]:
    """How a source differs from the claim's; empty when it does not."""
    digests = (
        ("source tree", snapshot.tree_sha256, claim.tree_sha256),
        ("lock", snapshot.lock_sha256, claim.lock_sha256),
    )
    return tuple(
        Finding(
            "wrong-source", "", f"the {name} is {mine}, the claim's is {theirs}", expected=theirs, found=mine
        )
        for name, mine, theirs in digests
        if mine != theirs
    )
