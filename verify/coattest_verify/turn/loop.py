"""Fetch, do the member's part, push, and again, until there is nothing left to publish.

A push that lost the race is thrown away with the append in it; the member's own signatures are kept and go on
top of the new tip, so that nobody signs twice. An append is cosigned only in the next round, when it was
fetched back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from stat import S_ISREG

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest.files import Folder, ReadOnce, read_or_none
from coattest_verify.quorum.change.names import CLAIM, LINK, SHARED, STATEMENT, OtherFiles, place_of
from coattest_verify.quorum.change.tree import CommitFiles, changed
from coattest_verify.quorum.log.examine import MAX_PART
from coattest_verify.quorum.statements.votes import PUBLISH, leaf
from coattest_verify.turn.objects import write_commit
from coattest_verify.turn.repository import OwnRepository
from coattest_verify.turn.steps import MemberTurn

MAX_ROUNDS = 100
"""Fetches of one turn; each lost push is one."""

MAX_BACK = 64
"""Commits that are looked at to find the one since which the log is refused."""

MAX_REFUSALS = 3
"""Pushes that fail in a row while the tip stays where it is: then there is no right to push."""

WAIT_SECONDS = 0.3
"""Before a push is tried again while the tip has not moved: the winner may be about to."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ended: the tip at its end, and the branch where the files were handed in, if not on main."""

    tip: str
    published: bool
    branch: str | None = None
    said: str = ""


def take_turn(
    repository: OwnRepository, member: MemberTurn, others: OtherFiles, now: Callable[[], datetime]
) -> TurnEnd:
    """Do everything that is the member's part. Raises EnvironmentFailure, FoundFalse, Rejected, UsageError.

    ``others`` are signed files of other rooms, see ``place_of``. What was not done is in ``member.waits``.
    """
    own: dict[str, tuple[bytes | None, bytes]] = {}
    published, refusals, before, said = False, 0, "", ""
    for _ in range(MAX_ROUNDS):
        tip = repository.fetch()
        if refusals and tip == before:
            time.sleep(WAIT_SECONDS)
            tip = repository.fetch()
        refusals = refusals if tip == before else 0
        before = tip
        with repository.files_at(tip) as commit:
            push = repository.settings.push and refusals < MAX_REFUSALS
            done = len(member.done)
            try:
                changes = _round(commit, member, others, own, now(), append=push)
            except FoundFalse as error:
                raise _with_origin(error, repository, member, tip, now()) from None
            if not changes:
                _name_origin(repository, member, tip, now())
                return TurnEnd(tip, published)
            words = [*member.done[done:], *member.logged]
            made = write_commit(
                repository.path,
                commit,
                repository.settings.folder,
                changes,
                author=member.name,
                message=f"{member.name}: {', '.join(words) or 'again, after another push'}",
                now=now(),
            )
        if not push:
            _name_origin(repository, member, tip, now())
            member.done += member.logged
            return TurnEnd(tip, False, repository.hand_in(made, member.name), said)
        refused = repository.push(made)
        if refused is None:
            published = True
            member.done += member.logged
            continue
        said = refused
        refusals += 1
    raise EnvironmentFailure(
        f"{MAX_ROUNDS} rounds, and others pushed first in each: {said}",
        where=repository.settings.url,
        hint="take another turn",
        code="git",
    )


def _name_origin(repository: OwnRepository, member: MemberTurn, tip: str, now: datetime) -> None:
    """Say of a log that waits which commit made it so."""
    error = member.waits.get("log")
    if isinstance(error, FoundFalse):
        member.waits["log"] = _with_origin(error, repository, member, tip, now)


def _with_origin(
    error: FoundFalse, repository: OwnRepository, member: MemberTurn, tip: str, now: datetime
) -> FoundFalse:
    """The error, with the commit since which the log is refused, and how to take that back.

    A turn does not do that itself: where a file was removed, its entry in the log is what tells.
    """
    if error.code not in {"bad-log", "removed-entry"}:
        return error
    commit, names = tip, list[str]()
    for _ in range(MAX_BACK):
        parents = repository.parents(commit)
        if not parents:
            break
        with repository.files_at(parents[0]) as before, repository.files_at(commit) as after:
            if member.log_refused(ReadOnce(before), now) is None:
                names = list(changed(before.entries, after.entries))
                break
        commit = parents[0]
    else:
        return error
    if not parents or not names:
        return error
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    merge = "-m 1 " if len(parents) > 1 else ""
    return FoundFalse(
        error.what,
        where=error.where,
        hint=f"commit {commit} ({names[0]}{more}) did that: ask its author; who may push takes it back with"
        f" git revert {merge}{commit}",
        code=error.code,
        findings=error.findings,
    )


def _round(
    commit: CommitFiles,
    member: MemberTurn,
    others: OtherFiles,
    own: dict[str, tuple[bytes | None, bytes]],
    now: datetime,
    *,
    append: bool,
) -> dict[str, bytes | None]:
    """The files that this round changes, None for what goes; it works in a folder made from ``commit``.

    ``own`` has what this turn signed in earlier rounds, with what was in its place, and gets what it signs.
    """
    with tempfile.TemporaryDirectory(prefix="coattest-turn-") as name:
        folder = Path(name).resolve() / "attestations"
        folder.mkdir(mode=0o700)
        fetched = _fetched(commit, others)
        unchanged = {at: content for at, (earlier, content) in own.items() if fetched.get(at) == earlier}
        for at, content in {**fetched, **unchanged}.items():
            # The folder is this round's: nobody misses it after a crash, so nothing waits for the disk.
            (folder / at).parent.mkdir(parents=True, exist_ok=True)
            (folder / at).write_bytes(content)
        in_force = member.own_part(folder, now)
        for at, content in _content(folder).items():
            place = place_of(at, others)
            if fetched.get(at) != content and place is not None and place.kind not in SHARED:
                own[at] = (fetched.get(at), content)
        if in_force:
            member.log(folder, now, append=append)
        after = _content(folder)
    changes: dict[str, bytes | None] = {
        at: content
        for at, content in after.items()
        if fetched.get(at) != content and not (member.refused is not None and _shows(at))
    }
    return changes | {at: None for at in fetched if at not in after}


def _fetched(commit: CommitFiles, others: OtherFiles) -> dict[str, bytes]:
    """The plain files with names that attestations have; everything else is not looked at."""
    found: dict[str, bytes] = {}
    for name, entry in commit.entries.items():
        place = place_of(name, others)
        if place is None or not entry.plain:
            continue
        data = read_or_none(commit, name, place.limit)
        if data is not None:  # otherwise it is too large, and counts for nobody
            found[name] = data
    return found


def _shows(name: str) -> bool:
    """Whether a result can be copied from a file of this name, or it announces one that can."""
    place = place_of(name, {})
    return place is not None and (
        place.kind in {CLAIM, STATEMENT, LINK} or leaf(name).startswith(f"{PUBLISH}.")
    )


def _content(folder: Path) -> dict[str, bytes]:
    with Folder(folder) as opened:
        return {name: opened.read(name, MAX_PART) for name, found in opened.walk() if S_ISREG(found.st_mode)}
