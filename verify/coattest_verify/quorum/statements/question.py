"""The question to decide: which claim and profile, by which members, when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult

CLOCK_SKEW = timedelta(minutes=5)
"""How far a member's clock may be ahead of the verifier's."""


@dataclass(frozen=True, slots=True)
class DecisionQuestion:
    """One question, under one members file, at one time."""

    claim: Claimed
    members: MembersFile
    profile: str
    now: datetime

    @property
    def claimed(self) -> ProfileResult:
        """The claim's result for the profile."""
        return self.claim.profiles[self.profile]
