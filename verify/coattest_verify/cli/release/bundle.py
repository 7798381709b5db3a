"""``verify release bundle``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from coattest.errors import FoundFalse, UsageError
from coattest.files import Folder, read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.options import (
    FILE,
    decisions_from,
    profile_option,
    quorum_options,
    several_releases_option,
)
from coattest_verify.quorum.bundle import MAX_BUNDLE, make_bundle


@click.command("bundle")
@click.option("--out", "target", type=NEW_FILE, required=True, help="The bundle.")
@click.option("--lock", type=FILE, help="build/image.lock, to include it.")
@quorum_options
@several_releases_option(required=False)
@profile_option
@json_option
def bundle_command(
    *,
    target: Path,
    lock: Path | None,
    attestations: Path,
    root: bytes | None,
    profile: str,
    releases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write one file from which anybody can decide again with --bundle, offline.

    It holds what bears on the releases that --release names: their files, the members files and the log.
    """
    now = utc_now()
    options = {"attestations": attestations, "root": root, "profile": profile, "releases": releases}
    decided = decisions_from(options, now=now)
    if lock is not None and decided[1:]:
        raise UsageError("--lock is for one release")
    with Folder(attestations) as folder:
        data = make_bundle(
            folder,
            now=now,
            lock=_lock(lock, decided[0].lock_sha256),
            releases=[decision.release for decision in decided],
        )
    if len(data) > MAX_BUNDLE:
        raise FoundFalse(f"the bundle would be larger than {MAX_BUNDLE} bytes", code="too-large")
    write_atomic(target, data)
    if as_json:
        digests = {decision.release: decision.digest.hex() for decision in decided}
        emit_json({"file": str(target), "size": len(data), "decisions": digests})
        return
    for decision in decided:
        text = f"release {decision.release}, decision {decision.digest.hex()}"
        err().print(f"{target}: {len(data)} bytes, {text}")


def _lock(path: Path | None, expected: str) -> bytes | None:
    if path is None:
        return None
    content = read_whole(path)
    if hashlib.sha256(content).hexdigest() != expected:
        raise UsageError(
            "is not the lock that was decided on", where=str(path), hint=f"that one's SHA-256 is {expected}"
        )
    return content
