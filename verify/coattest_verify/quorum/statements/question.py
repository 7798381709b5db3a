"""The question to decide: which claim and profile, by which members, when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult

CLOCK_SKEW = timedelta(minutes=5)
"""How far a member's clock may be ahead of the verifier's."""


def enough_until(
    times: Mapping[str, datetime], members: MembersFile, age: timedelta, now: datetime
) -> datetime | None:
    """Until when ``change`` members' signatures of these times are younger than ``age``; None if not now.

    One more signature never shortens it.
    """
    ends = {name: time + age for name, time in times.items() if time <= now + CLOCK_SKEW}
    for end in sorted(set(ends.values()), reverse=True):
        if end > now and not members.unmet_change([name for name, each in ends.items() if each >= end]):
            return end
    return None


@dataclass(frozen=True, slots=True)
class DecisionQuestion:
    """One question, under one members file, at one time."""

    claim: Claimed
    members: MembersFile
    profile: str
    now: datetime
    versions: tuple[MembersFile, ...] = ()
    """Every version up to ``members``, oldest first; empty when only what was made under it counts."""

    @property
    def made_under(self) -> frozenset[str]:
        """The digests (hex) of the versions under which a statement may have been made."""
        return frozenset(version.sha256 for version in (*self.versions, self.members))

    @property
    def claimed(self) -> ProfileResult:
        """The claim's result for the profile."""
        return self.claim.profiles[self.profile]
