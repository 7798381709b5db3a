"""Refusals: what is wrong with one file, and the decision that did not come about."""

from __future__ import annotations

from coattest_verify.shell import FoundFalse


class Rejected(FoundFalse):
    """A file or a part of it that does not count, with the code of the rule that it broke."""

    default_reason = "malformed"


class PolicyRefused(FoundFalse):
    """``quorum.toml`` or its chain of versions is not what the pinned root leads to."""

    default_reason = "policy"


class NoDecision(FoundFalse):
    """The statements do not add up to a decision; ``reasons`` names every cause."""

    default_reason = "no-decision"

    def __init__(self, reasons: tuple[str, ...], *, where: str | None = None) -> None:
        super().__init__("no decision: " + "; ".join(reasons), where=where, hint="see verify quorum")
        self.reasons = reasons
