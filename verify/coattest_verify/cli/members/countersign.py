"""``verify countersign``."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.jsontext import emit_json
from coattest.shell import err, json_option
from coattest_verify.cli.options import attestations_option, signer_from, signing_options
from coattest_verify.quorum.signing import countersign as sign_waiting


@click.command()
@signing_options
@attestations_option
@json_option
def countersign(
    *, key: Path, passphrase_file: Path | None, member: str, attestations: Path, as_json: bool
) -> None:
    """Sign quorum.toml, or the proposal in quorum.next.toml, which takes effect with enough signatures.

    Look at it first: verify quorum-policy.
    """
    signer = signer_from(key, passphrase_file, attestations, member)
    state = sign_waiting(attestations, member, signer)
    policy = state.policy
    if as_json:
        emit_json(
            {
                "version": policy.version,
                "sha256": policy.sha256,
                "signed": list(state.signed),
                "lacks": list(state.lacks),
                "complete": not state.lacks,
            }
        )
        return
    err().print(f"version {policy.version}, sha256:{policy.sha256}: signed by {member}", markup=False)
    for lack in state.lacks:
        err().print(f"lacks {lack}", markup=False)
    if not state.lacks:
        err().print("complete", style="green")
