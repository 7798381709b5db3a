"""``verify release bundle``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from coattest.errors import FoundFalse, UsageError
from coattest.files import Folder, read_whole, write_atomic
from coattest.jsontext import emit_json
from coattest.shell import err, json_option, utc_now
from coattest_verify.cli.options import FILE, decision_options
from coattest_verify.quorum.bundle import MAX_BUNDLE, make_bundle
from coattest_verify.quorum.decision import decide


@click.command("bundle")
@click.option("--out", "target", type=FILE, required=True, help="The bundle.")
@click.option("--lock", type=FILE, help="build/image.lock, to include it.")
@decision_options
@json_option
def bundle_command(
    *,
    target: Path,
    lock: Path | None,
    attestations: Path,
    root: bytes | None,
    profile: str,
    as_json: bool,
) -> None:
    """Write one file from which anybody can decide again with verify quorum --bundle, offline."""
    now = utc_now()
    decision = decide(attestations, root=root, profile=profile, now=now).require()
    with Folder(attestations) as folder:
        data = make_bundle(folder, now=now, lock=_lock(lock, decision.lock_sha256))
    if len(data) > MAX_BUNDLE:
        raise FoundFalse(f"the bundle would be larger than {MAX_BUNDLE} bytes", code="too-large")
    write_atomic(target, data)
    if as_json:
        emit_json({"file": str(target), "size": len(data), "decision": decision.digest.hex()})
        return
    err().print(f"{target}: {len(data)} bytes, decision {decision.digest.hex()}", markup=False)


def _lock(path: Path | None, expected: str) -> bytes | None:
    if path is None:
        return None
    content = read_whole(path)
    if hashlib.sha256(content).hexdigest() != expected:
        raise UsageError(
            "is not the lock that was decided on", where=str(path), hint=f"that one's SHA-256 is {expected}"
        )
    return content
