"""``verify release publish``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.errors import Rejected, UsageError
from coattest.files import read_whole
from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option, utc_now
from coattest_build.ownwork import COMPARED, OwnWork
from coattest_verify.cli.options import (
    EXISTING_FILE,
    SigningKey,
    quorum_options,
    read_once,
    release_option,
    report_options,
    signing_options,
)
from coattest_verify.cli.words import publish_rows
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import release_files
from coattest_verify.quorum.statements.claim import CLAIM_FILE, MAX_CLAIM, WORD, Claimed
from coattest_verify.rebuild.answer import read_report, read_state
from coattest_verify.rebuild.publishing import sign_publication
from coattest_verify.signatures.journal import SignatureJournal


def checked_tag(_context: click.Context, _parameter: click.Parameter, tag: str | None) -> str | None:
    """The tag, if it can be in a publication. Raises UsageError."""
    if tag is not None and not WORD.fullmatch(tag):
        raise UsageError(f"tag {ascii(tag)[:80]}", hint="letters, digits and ._/+-, at most 64")
    return tag


@click.command("publish")
@signing_options
@click.option("--claim", type=EXISTING_FILE, help="The claim (eif build --claim); default: the folder's.")
@click.option(
    "--tag", callback=checked_tag, help="The tag of the commit that was built; default: v and the release."
)
@report_options
@expect_option
@quorum_options
@release_option
@json_option
def publish_command(
    *,
    signing: SigningKey,
    claim: Path | None,
    tag: str | None,
    rebuilt: Path,
    vouched: Path | None,
    expect: str | None,
    attestations: Path,
    root: bytes | None,
    release: str | None,
    as_json: bool,
) -> None:
    """Sign that a claim is what you built, from which commit and tag, and put it into its release's folder.

    One member does that for each release, before the others answer: without it nothing is decided. The first
    publication that the log has owns the release's name. --expect is the SHA-256 of the claim; right after a
    verify rebuild against the same claim it is not needed.
    """
    pinned = Roots().pinned(root)
    with read_once(attestations) as evidence:
        state = read_state(evidence, attestations)
        signer = signing.signer(evidence, state.versions[-1])
        try:
            data = (
                read_whole(claim, MAX_CLAIM) if claim else release_files(evidence, release).read(CLAIM_FILE)
            )
            Claimed.decode(data)
        except Rejected as error:
            raise UsageError(
                error.what,
                where=str(claim or CLAIM_FILE),
                hint="--claim names what eif build --claim wrote",
                code="bad-claim",
            ) from None
        work = OwnWork()
        own = read_report(rebuilt, work, vouched)
        path = sign_publication(
            attestations,
            evidence,
            data,
            own,
            member=signing.member,
            signer=signer,
            root=pinned,
            state=state,
            tag=tag,
            now=utc_now(),
            journal=SignatureJournal(),
            approve=lambda claimed, vote: confirm_signing(
                publish_rows(claimed, vote),
                subject="claim",
                digest=claimed.sha256,
                expected=expect,
                looked_at=work.made(COMPARED, own.sha256, claimed.sha256),
            ),
        )
    if as_json:
        emit_json({"file": str(path) if path else None})
    else:
        err().print(f"{path}: signed" if path else "that claim is published already")
