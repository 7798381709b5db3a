"""A member's commitment to its build: made before anybody's result is known, opened by its statement."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from coattest.errors import CoattestError, UsageError
from coattest.files import read_bounded
from coattest_verify.quorum.releases import put_file, release_place
from coattest_verify.quorum.statements.salt import new_secret, read_secret, secret_folder, write_secret
from coattest_verify.quorum.statements.votes import (
    COMMIT,
    MAX_VOTE,
    Vote,
    make_vote,
    payload_type,
    sign_vote,
    vote_name,
)
from coattest_verify.rebuild.answer import OwnReport, refuse_dirty, remeasure
from coattest_verify.signatures.dsse import DsseEnvelope
from coattest_verify.signatures.keys import Signer


def commit_to(
    attestations: Path,
    own: OwnReport,
    member: str,
    signer: Signer,
    *,
    root: bytes,
    now: datetime,
    approve: Callable[[], None],
) -> tuple[Path, Vote, Path]:
    """Write the member's commitment to its build; its path, what it says, and where its secret is.

    ``approve`` is called before anything is signed, and raises to stop it. Raises UsageError (``exists``)
    for a second commitment to a source by one key, and as ``remeasure`` and ``refuse_dirty`` do.
    """
    refuse_dirty(own.report)
    remeasure(own)
    folder = secret_folder(member, root, own.report)
    secret = read_secret(folder, member, root) or new_secret(member, root)
    vote = make_vote(COMMIT, member, root=root, claim=own.report, note=secret.digest(own.report), now=now)
    place = release_place(vote.release, vote_name(vote))
    path = attestations / place
    if os.path.lexists(path):
        if _signed(path, signer):
            raise UsageError(
                "already exists",
                where=str(path),
                hint=f"one commitment per source; to keep it, name it {COMMIT}.{member}.old.dsse.json",
                code="exists",
            )
        # Whoever put it there keeps nobody from committing; by an earlier key of the member, it stays.
        place = place.replace(".dsse.", f"-{vote.signed_sha256[:16]}.dsse.")
    approve()
    # The salt first: a commitment that cannot be opened is useless.
    salt_file = write_secret(folder, secret)
    return put_file(attestations, place, sign_vote(vote, signer)), vote, salt_file


def _signed(path: Path, signer: Signer) -> bool:
    try:
        data = read_bounded(path, MAX_VOTE)
        envelope = DsseEnvelope.decode(data, payload_type(COMMIT), max_size=MAX_VOTE)
    except CoattestError:
        return False
    return bool(envelope.signers([signer.public]))
