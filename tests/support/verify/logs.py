"""A quorum's log in a folder: appended to and cosigned, or made up by who has no key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from coattest_verify.quorum.cosigning import append_log, cosign_log
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, LOG, Log, head
from coattest_verify.quorum.log.merkle import log_files
from coattest_verify.quorum.members.chain import Seen
from coattest_verify.signatures.keys import Signer
from support.verify.members import NOW, Members


def sign_log(
    attestations: Path,
    root: bytes,
    member: str,
    signer: Signer,
    *,
    seen: Seen | None,
    now: datetime,
    append: bool = True,
) -> Log:
    """Append what is there (unless told not to), and cosign; the log as it was cosigned."""
    if append:
        append_log(attestations, root, seen=seen)
    return cosign_log(attestations, root, member, signer, seen=seen, now=now)[0]


def sign_log_as(
    quorum: Members, member: str, *, seen: Seen | None = None, now: datetime = NOW, append: bool = True
) -> Log:
    """The same in a quorum's folder, by one of its members."""
    signer = quorum.signers[member]
    return sign_log(quorum.attestations, quorum.root, member, signer, seen=seen, now=now, append=append)


def made_log(entries: Sequence[bytes], root: bytes, restart: str = "") -> dict[str, bytes]:
    """The files of a log of these entries, which nobody cosigned: what a host without any key can write."""
    files = {LOG + path: content for path, content in log_files(entries).items()}
    return {**files, CHECKPOINT_FILE: head(entries, root, restart).encode()}


def write_log(quorum: Members, entries: Sequence[bytes]) -> None:
    """Put that log into a quorum's folder."""
    for name, content in made_log(entries, quorum.root).items():
        quorum.write(name, content)
