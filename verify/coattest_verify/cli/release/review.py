"""``verify release review``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from coattest.console import Cell
from coattest.errors import FoundFalse, Rejected, UsageError
from coattest.extras import need_extra
from coattest.files import read_whole
from coattest.jsontext import emit_json
from coattest.parser import refuse_ignored
from coattest.shell import confirm_signing, err, expect_option, json_option, judged_folder, out, utc_now
from coattest_build.image import ContainerRun, load_spec
from coattest_build.inputs import lock as locks
from coattest_build.inputs import locker
from coattest_build.ownwork import OwnWork
from coattest_verify.cli.options import (
    FILE,
    FOLDER,
    SigningKey,
    fresh_option,
    optional_signing_options,
    quorum_options,
    read_once,
)
from coattest_verify.cli.release.voting import VoteRequest
from coattest_verify.cli.words import TAKEN_AS_GIVEN, claim_rows
from coattest_verify.quorum.bundle import LOCK_FILE, load_bundle
from coattest_verify.quorum.decision import decide_from
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import put_vote, release_files
from coattest_verify.quorum.statements.claim import CLAIM_FILE
from coattest_verify.quorum.statements.votes import REVIEW
from coattest_verify.rebuild.answer import read_ask, refuse_unpublished
from coattest_verify.rebuild.claimed_source import inspect_source, source_differences
from coattest_verify.rebuild.inputs.document import confirmations


@click.command("review")
@judged_folder(click.option("--source", type=FOLDER, default=Path(), help="The checkout that was reviewed."))
@click.option(
    "--since",
    type=FILE,
    help="The last decided release, to compare with: its lock, or its proof bundle (.json, with the lock).",
)
@click.option("--inputs", type=FILE, help="What verify inputs --out wrote: shows which pins it confirmed.")
@optional_signing_options
@click.option("--note", default="reviewed", show_default=True, help="One line for the others.")
@expect_option
@quorum_options
@fresh_option
@click.option("--release", metavar="NAME", help="With --key: the release whose source this is.")
@json_option
def review_command(
    *,
    source: Path,
    since: Path | None,
    inputs: Path | None,
    signing: SigningKey | None,
    note: str,
    expect: str | None,
    attestations: Path,
    root: bytes | None,
    fresh: timedelta | None,
    release: str | None,
    as_json: bool,
) -> None:
    """Show what moved in the lock since the last release; with --key, sign that you reviewed the source.

    The source must be the claim's: the signature names the digests of its tree, of its lock, and of the lock
    that it was compared with. --expect is the SHA-256 of the claim.
    """
    if signing is None:
        refuse_ignored(("note", "release"), "without --key")
    elif release is None:
        raise UsageError("--key needs --release NAME", hint="the release whose source you reviewed")
    else:
        need_extra("build")
    spec = load_spec(source)
    lock, digest = locks.load_lock(source)
    kernel, network = spec.kernel.profile, (spec.container or ContainerRun()).network
    earlier = _earlier(since, root, fresh) if since else None
    moves = locker.moves_between(
        locks.parse_lock(earlier.decode(errors="replace")) if earlier else None, lock
    )
    found = confirmations(inputs, digest, OwnWork()) if inputs else {}
    rows = [
        {
            "name": move.name,
            "change": _change(move),
            "before": move.before,
            "after": move.after,
            "confirmed": found.get(move.name),
        }
        for move in moves
    ]
    if not as_json:
        _show(rows)
        out().print(f"kernel profile: {kernel}")
        out().print(f"network: {network}")
        if lock.container:
            out().print(f"payload: a container image, {TAKEN_AS_GIVEN}: sha256:{lock.container.config}")
    path = None
    if signing is not None and release is not None:
        compared = hashlib.sha256(earlier).hexdigest() if earlier else None
        request = VoteRequest(signing, note, expect, attestations, Roots().pinned(root), as_json)
        path = _sign(request, source, release, compared, digest)
    if as_json:
        emit_json(
            {
                "moved": rows,
                "kernel_profile": kernel,
                "network": network.to_json() if network else None,
                "container": lock.container.identity() if lock.container else None,
                "compared_with": str(since) if since else None,
                "file": str(path) if path else None,
            }
        )
    elif path is not None:
        err().print(f"{path}: signed")


def _change(move: locker.Move) -> str:
    if move.before is None:
        return "added"
    if move.after is None:
        return "removed"
    return "moved" if move.before != move.after else "other bytes"


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    words: Mapping[bool | None, Cell] = {
        True: ("confirmed", "green"),
        False: ("not confirmed", "red"),
        None: "",
    }
    out().show_rows(
        ("input", "change", "before", "now", "index"),
        [
            (row["name"], row["change"], row["before"] or "", row["after"] or "", words[row["confirmed"]])
            for row in rows
        ],
    )


def _earlier(since: Path, root: bytes | None, fresh: timedelta | None) -> bytes:
    """The lock to compare with. From a bundle only when the bundle decides for it under the pinned root.

    With ``fresh`` it has to decide today, by a log that was cosigned lately: nobody passes off an old bundle.
    """
    if since.suffix != ".json":
        if fresh is not None:
            raise UsageError("--fresh needs a proof bundle", where=str(since))
        return read_whole(since, locks.MAX_FILE)
    bundle = load_bundle(since)
    pinned = Roots().pinned(root)
    try:
        lock = bundle.files.read(LOCK_FILE)
        profile = min(release_files(bundle.files, None).claim().profiles)
    except Rejected as error:
        raise UsageError(
            error.what,
            where=f"{since}: {LOCK_FILE} or {CLAIM_FILE}",
            hint="verify release bundle --lock puts it in",
        ) from None
    # Compare with what was decided then, whatever happened since.
    now = bundle.made if fresh is None else utc_now()
    decided = decide_from(
        bundle.files, root=pinned, seen=None, profile=profile, now=now, fresh=fresh
    ).require()
    if hashlib.sha256(lock).hexdigest() != decided.lock_sha256:
        raise FoundFalse(
            "the lock in it is not the one that was decided on", where=str(since), code="wrong-lock"
        )
    return lock


def _sign(request: VoteRequest, source: Path, release: str, since: str | None, shown_lock: str) -> Path:
    with read_once(request.attestations) as evidence:
        ask = read_ask(evidence, request.attestations, release)
        signer = request.signing.signer(evidence, ask.members)
    refuse_unpublished(ask)
    claim = ask.claim
    snapshot = inspect_source(source)
    found = source_differences(replace(snapshot, lock_sha256=shown_lock), claim)
    found += tuple(item for item in source_differences(snapshot, claim) if item not in found)
    if found:
        text = "; ".join(finding.detail for finding in found)
        raise FoundFalse(text, where=str(source), code="wrong-source", findings=found)
    vote = request.vote(REVIEW, claim, since=since)
    confirm_signing(
        [
            ("signs", f"{vote.member} reviewed the source of the release"),
            ("note", vote.note),
            ("compared with", f"the lock {since}" if since else "nothing: every input is new"),
            *claim_rows(claim),
        ],
        subject="claim",
        digest=claim.sha256,
        expected=request.expect,
    )
    return put_vote(request.attestations, vote, signer)
