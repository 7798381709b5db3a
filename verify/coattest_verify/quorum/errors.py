"""Why there is no decision, and why a members file is refused."""

from __future__ import annotations

from coattest.errors import FoundFalse


class PolicyRefused(FoundFalse):
    """``quorum.toml`` or its chain of versions is not what the pinned root leads to."""

    default_code = "policy"


class NoDecision(FoundFalse):
    """The statements do not add up to a decision; ``reasons`` names every cause."""

    default_code = "no-decision"

    def __init__(self, reasons: tuple[str, ...], *, where: str | None = None) -> None:
        super().__init__("no decision: " + "; ".join(reasons), where=where, hint="see verify quorum")
        self.reasons = reasons
