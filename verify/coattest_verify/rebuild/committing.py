"""A member's commitment to its build: made before anybody's result is known, opened by its statement."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from coattest.errors import UsageError
from coattest_verify.quorum.releases import put_vote, release_place
from coattest_verify.quorum.statements.salt import new_secret, read_secret, secret_folder, write_secret
from coattest_verify.quorum.statements.votes import COMMIT, Vote, make_vote, vote_name
from coattest_verify.rebuild.answer import OwnReport, refuse_dirty, remeasure
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
    for a second commitment to a source, and as ``remeasure`` and ``refuse_dirty`` do.
    """
    refuse_dirty(own.report)
    remeasure(own)
    folder = secret_folder(member, root, own.report)
    secret = read_secret(folder, member, root) or new_secret(member, root)
    vote = make_vote(COMMIT, member, root=root, claim=own.report, note=secret.digest(own.report), now=now)
    path = attestations / release_place(vote.release, vote_name(vote))
    if path.exists() or path.is_symlink():
        raise UsageError(
            "already exists",
            where=str(path),
            hint="one commitment per source; to keep the old one, put a word before its .dsse.json",
            code="exists",
        )
    approve()
    # The salt first: a commitment that cannot be opened is useless.
    salt_file = write_secret(folder, secret)
    return put_vote(attestations, vote, signer), vote, salt_file
