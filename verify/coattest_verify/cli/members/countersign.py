"""``verify members countersign``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.shell import err, json_option
from coattest_verify.cli.options import SigningKey, attestations_option, signing_options
from coattest_verify.quorum.signing import countersign


@click.command("countersign")
@signing_options
@attestations_option
@json_option
def countersign_command(*, signing: SigningKey, attestations: Path, as_json: bool) -> None:
    """Sign quorum.toml, or the proposal in quorum.next.toml, which takes effect with enough signatures.

    Look at it first: verify members show.
    """
    state = countersign(attestations, signing.member, signing.signer(attestations))
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
    err().print(
        f"version {members.version}, sha256:{members.sha256}: signed by {signing.member}", markup=False
    )
    for finding in state.lacks:
        err().print(f"not in force: {finding}", markup=False)
    if not state.lacks:
        err().print("complete", style="green")
