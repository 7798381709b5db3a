"""``verify release archive``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import click

from coattest.errors import FoundFalse
from coattest.files import Folder, read_bounded, write_atomic
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_verify.cli.options import (
    FILE,
    SigningKey,
    named_decision_options,
    read_once,
    signing_options,
)
from coattest_verify.quorum.authority import authority_from
from coattest_verify.quorum.bundle import MAX_BUNDLE, make_bundle, read_bundle
from coattest_verify.quorum.decision import decide_from
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import put_vote
from coattest_verify.quorum.statements.votes import ARCHIVE, make_vote


@click.command("archive")
@signing_options
@click.option(
    "--out",
    "target",
    type=FILE,
    required=True,
    help="The proof bundle. One that is there, another member's, is checked and named as it is.",
)
@expect_option
@named_decision_options
@json_option
def archive_command(
    *, signing: SigningKey, target: Path, expect: str | None, as_json: bool, **decision: Any
) -> None:
    """Sign that a decided release is kept in a proof bundle, so that its files may leave the folder.

    verify log append logs the bundle's digest. When as many members as change the quorum named the same
    bundle, verify lint-change lets the release's claim, agreements, links, reviews and commitments go. A
    release that is not decided cannot be archived. --expect is the SHA-256 of the bundle.
    """
    now = utc_now()
    decided = authority_from(decision, now)
    attestations: Path = decision["attestations"]
    root = Roots().pinned(decision["root"])
    release = decided.decision.release
    if target.exists():
        data = read_bounded(target, MAX_BUNDLE)
    else:
        with Folder(attestations) as folder:
            data = make_bundle(folder, now=now, releases=[release])
    there = decide_from(
        read_bundle(data).files, root=root, seen=None, profile=decision["profile"], now=now, release=release
    )
    if there.decision is None or there.decision.digest != decided.decision.digest:
        raise FoundFalse(
            f"does not decide on release {release} as the folder does",
            where=str(target),
            hint="archive into a new file",
            code="bad-bundle",
        )
    digest = hashlib.sha256(data).hexdigest()
    with read_once(attestations) as evidence:
        signer = signing.signer(evidence, decided.members)
    vote = make_vote(ARCHIVE, signing.member, root=root, claim=decided.decision, note=digest, now=now)
    if not target.exists():
        # Before the question: what a later --expect names must still be there.
        write_atomic(target, data)
    confirm_signing(
        [
            ("signs", f"{signing.member}: release {release} is archived, its files may go"),
            ("agreed", ", ".join(decided.decision.agreed)),
            ("bundle", f"{target}, {len(data)} bytes"),
        ],
        subject="bundle",
        digest=digest,
        expected=expect,
    )
    path = put_vote(attestations, vote, signer)
    if as_json:
        emit_json({"file": str(path), "bundle": str(target), "sha256": digest, "release": release})
        return
    err().print(f"{path}: signed; keep {target}, sha256:{digest}; next: verify log append")
