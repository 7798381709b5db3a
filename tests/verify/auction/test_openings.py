"""What an auction's Decrypts must be in the log of a buyer's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coattest_verify.auction.journal import SealJournal
from coattest_verify.auction.openings import WasSealed, context_is_whole
from coattest_verify.audit.judge import DECRYPT_RULES, judge_events
from support.auction.auctions import manifest
from support.verify.trail_records import EXPECTED, collected, record

SEALED = manifest()


def found(tmp_path: Path, *documents: dict[str, Any]) -> list[str]:
    """The codes of the findings, with a record of one seal."""
    journal = SealJournal(tmp_path / "seals")
    journal.record(SEALED.encode(), b"the payload")
    logs = collected(*documents)
    rules = (*DECRYPT_RULES, context_is_whole, WasSealed(journal))
    return [finding.code for finding, _ in judge_events(logs.events, EXPECTED, rules=rules).found_false]


def opened(manifest_digest: str = SEALED.digest.hex(), **changes: Any) -> dict[str, Any]:
    """A Decrypt for that manifest, with another value in its context, or None for none."""
    made = record()
    context = made["requestParameters"]["encryptionContext"]
    context |= {"coattest:auction": manifest_digest}
    context |= {f"coattest:{name.replace('_', '-')}": value for name, value in changes.items()}
    made["requestParameters"]["encryptionContext"] = {k: v for k, v in context.items() if v is not None}
    return made


def test_an_opening_of_what_was_sealed_is_as_decided(tmp_path: Path) -> None:
    """Whole context, the attested image, a manifest in the seal journal."""
    assert found(tmp_path, opened()) == []


@pytest.mark.parametrize("auction", ["5e" * 48, "5e", "../../etc/passwd", ""])
def test_a_manifest_that_was_never_sealed_is_an_alarm(tmp_path: Path, auction: str) -> None:
    """Whatever the service writes as the auction's digest."""
    assert found(tmp_path, opened(auction)) == ["never-sealed"]


@pytest.mark.parametrize(
    "changes", [{"image": "b0" * 48}, {"image": None}, {"seal_key": None}, {"image": "A0" * 48}]
)
def test_the_context_is_whole_and_names_the_attested_image(tmp_path: Path, changes: dict[str, Any]) -> None:
    """As an image of the old format would ask, or one that says it is another."""
    assert found(tmp_path, opened(**changes)) == ["unexpected-context"]


def test_a_payload_that_is_no_auction_is_not_compared(tmp_path: Path) -> None:
    """Other programs have other contexts."""
    other = record(requestParameters={"encryptionContext": {"coattest:buyer": "buyer-1"}})
    assert found(tmp_path, other) == []
