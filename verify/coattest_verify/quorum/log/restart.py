"""Which log counts where a version of the members file begins it again, after a loss or a fork. Pure.

A version with a restart point names the entries that the log has so far (size and root). It is signed like
any other version, by ``change`` members and all groups of it and of the one before. Rules (ADR 199):

1. The log of the last such version in force counts, and no other one: its origin, and so its key, name that
   version, so a cosignature on another log is none on this one. It begins with the named entries.
2. What a verifier has seen of an earlier log of the same chain of versions binds no more. What it has seen
   of this log, or of a later one, does; and so do the versions and objections that it has seen
   (``members.chain``, ``objections``).
3. Without such a version in force a log that says to be begun again is no log, and a fork stays a fork.
"""

from __future__ import annotations

from coattest.findings import Finding
from coattest_verify.quorum.log.entries import SeenLog
from coattest_verify.quorum.log.examine import CHECKPOINT_FILE, CheckedLog, Log, extends
from coattest_verify.quorum.log.fold import LogState
from coattest_verify.quorum.log.merkle import tree_root
from coattest_verify.quorum.members.file import MembersFile


def log_in_force(found: CheckedLog, state: LogState, root: bytes, seen: SeenLog | None) -> CheckedLog:
    """The log that counts where these versions are in force, or why ``found`` is not that one."""
    began = state.began
    if seen is not None and seen.restart != (began.sha256 if began else ""):
        earlier = {"", *(file.sha256 for file in state.versions if file.restart)}
        if began is None or seen.version >= began.version or seen.restart not in earlier:
            text = f"the log that was seen before goes on from version {seen.version}, which is not here"
            return Finding("log-fork", CHECKPOINT_FILE, text)
    if began is not None:
        log = _begun(found, began, root)
        return (extends(log, seen) or log) if isinstance(log, Log) else log
    if isinstance(found, Log) and found.restart:
        text = "goes on from a version of the members file that is not in force here"
        return Finding("bad-log", CHECKPOINT_FILE, text)
    return found


def _begun(found: CheckedLog, began: MembersFile, root: bytes) -> CheckedLog:
    """The log that ``began`` begins again (rule 1)."""
    if not isinstance(found, Log):
        return found or Finding("log-gone", CHECKPOINT_FILE, "the log is gone")
    size, wanted = (began.restart.size, began.restart.root) if began.restart else (0, "")
    named = f"version {began.version} of the members file begins the log again with {size} entries"
    if len(found.entries) < size:
        text = f"{named}, and {len(found.entries)} are here"
        return Finding("log-shrunk", CHECKPOINT_FILE, text)
    if tree_root(found.leaves[:size]).hex() != wanted:
        return Finding("log-fork", CHECKPOINT_FILE, f"{named}, and others are here")
    # Nobody has appended since then: what the earlier log has after these entries was given up.
    return found if found.restart == began.sha256 else found.begun_again(began, root)
