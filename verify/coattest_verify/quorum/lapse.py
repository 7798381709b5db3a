"""When a decision ends by time alone: what it rests on ages, and the members file expires.

A statement counts for ``max_age_days``, and so does a cosignature that excuses silence. The decision ends at
the first moment from which what counts is not enough any more. One more statement never makes it end earlier.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from coattest.findings import Finding
from coattest_verify.quorum.diversity import undiversified
from coattest_verify.quorum.members.file import MEMBERS_FILE, MembersFile, utc
from coattest_verify.quorum.tally import Answer

WARN_BEFORE = timedelta(days=14)
"""How long before its end a decision is shown with a warning."""


def end_of(
    agree: Sequence[Answer],
    members: MembersFile,
    excused: Mapping[str, datetime],
    own: str | None,
    enough: Callable[[Sequence[Answer]], bool],
) -> datetime:
    """When the decision that these answers make ends; every moment before it is one of a decision.

    ``excused`` says for each excused member until when. ``own`` is a member whose own answer is required.
    ``enough`` is what else the answers that are left must fulfil.
    """
    age = members.max_age
    moments = sorted(
        moment
        for moment in {
            *(statement.time + age for answer in agree for statement in answer.counting),
            *(excused.values() if members.dissent == "block" else ()),
        }
        if moment < members.expires
    )

    def lapsed(moment: datetime) -> bool:
        since = moment - members.max_age
        left = [
            replace(answer, counting=counting)
            for answer in agree
            if (counting := tuple(item for item in answer.counting if item.time > since))
        ]
        names = {answer.member for answer in left}
        if members.unmet(names) or undiversified(left, members) or (own is not None and own not in names):
            return True
        if not enough(left):
            return True
        answered = names | {name for name, until in excused.items() if until > moment}
        return members.dissent == "block" and not answered >= set(members.names)

    first = bisect.bisect_left(moments, True, key=lapsed)
    return moments[first] if first < len(moments) else members.expires


def expiring(members: MembersFile, now: datetime) -> tuple[Finding, ...]:
    """A warning when the members file expires within two weeks, or has: nothing is decided from then on."""
    if members.expires - now >= WARN_BEFORE:
        return ()
    days = (members.expires - now).days
    when = f"expired at {utc(members.expires)}"
    if days >= 0:
        when = f"expires at {utc(members.expires)}, in {days} days"
    text = f"{when}: members sign a new version (verify members enroll)"
    return (Finding("ends-soon", MEMBERS_FILE, text),)


def ending(release: str, end: datetime, now: datetime) -> tuple[Finding, ...]:
    """A warning when a decision ends within two weeks."""
    if end - now >= WARN_BEFORE:
        return ()
    days = (end - now).days
    text = f"the decision ends at {utc(end)}, in {days} days: members sign again, or renew quorum.toml"
    return (Finding("ends-soon", release, text),)
