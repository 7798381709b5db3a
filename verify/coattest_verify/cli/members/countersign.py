"""``verify members countersign``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.shell import confirm_signing, err, expect_option, json_option
from coattest_verify.cli.options import SigningKey, attestations_option, read_once, signing_options
from coattest_verify.cli.words import countersign_rows
from coattest_verify.quorum.members.chain import claimed_root
from coattest_verify.quorum.memory import Roots, parse_digest
from coattest_verify.quorum.signing import check_countersigner, countersign, pending
from coattest_verify.signatures.journal import SignatureJournal


@click.command("countersign")
@signing_options
@click.option(
    "--instead-of",
    type=parse_digest("--instead-of"),
    metavar="sha256:HEX",
    help="Give up your signature on this other version of the same number. Both signatures exist then: if"
    " both versions get enough, nothing is decided any more.",
)
@expect_option
@attestations_option
@json_option
def countersign_command(
    *,
    signing: SigningKey,
    instead_of: bytes | None,
    expect: str | None,
    attestations: Path,
    as_json: bool,
) -> None:
    """Sign quorum.toml, or the proposal in quorum.next.toml, which takes effect with enough signatures.

    Shows what it says and what it changes, and signs exactly those bytes. --expect is the SHA-256 of the
    file. One version of each number is signed: this user's state remembers which.
    """
    with read_once(attestations) as evidence:
        waiting = pending(evidence)
        signer = signing.signer(evidence)
        check_countersigner(waiting, signing.member, signer.public)
        confirm_signing(
            countersign_rows(waiting, signing.member),
            subject=waiting.file,
            digest=waiting.members.sha256,
            expected=expect,
        )
        state = countersign(
            attestations,
            evidence,
            signing.member,
            signer,
            journal=SignatureJournal(),
            instead_of=instead_of.hex() if instead_of else None,
            seen=Roots().seen(claimed_root(evidence, waiting.current)),
        )
    members = state.members
    if as_json:
        emit_json(
            {
                "version": members.version,
                "sha256": members.sha256,
                "signed": list(state.signed),
                "lacks": [finding.to_json() for finding in state.lacks],
                "complete": not state.lacks,
            }
        )
        return
    err().print(f"version {members.version}, sha256:{members.sha256}: signed by {signing.member}")
    for finding in state.lacks:
        err().print(f"not in force: {finding}")
    if not state.lacks:
        err().print("complete", style="green")
