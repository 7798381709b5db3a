"""What an auction's Decrypts must be, beside what every Decrypt must be: rules for ``audit.judge_events``.

A buyer's bid opens under its own seal only, in the image that it was made for. So in the log of its key there
is no Decrypt of a manifest that it never sealed, and none whose context names another image than the one that
KMS saw attested.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coattest.findings import Finding
from coattest_enclave.protocol.binding import AUCTION, BUYER, IMAGE, SEAL_KEY
from coattest_verify.auction.journal import SealJournal
from coattest_verify.audit.events import Event
from coattest_verify.audit.judge import Expected, Known, finding_of

AUCTION_CONTEXT = (AUCTION, BUYER, IMAGE, SEAL_KEY)
"""The encryption context of a bid: manifest, buyer, image and seal key (docs/protocol.md, "Bid")."""
_DIGEST = re.compile(r"[0-9a-f]{96}")


def context_is_whole(event: Event, _expected: Expected, _known: Known) -> Iterable[Finding]:
    """An auction's context has all of its keys, and ``image`` is the attested image."""
    if AUCTION not in event.context:
        return
    missing = sorted(set(AUCTION_CONTEXT) - set(event.context))
    if missing:
        yield finding_of("unexpected-context", event, f"the auction's context lacks {', '.join(missing)}")
        return
    if event.registers is None:
        return  # unattested: a finding of its own
    attested = event.registers.get(0, b"").hex()
    if event.context[IMAGE] != attested:
        detail = "the context names a different image than the attested one"
        yield finding_of("unexpected-context", event, detail, attested, event.context[IMAGE])


@dataclass(frozen=True, slots=True)
class WasSealed:
    """The rule that every opened manifest is one that the buyer sealed, by the journal of its seals."""

    journal: SealJournal

    def __call__(self, event: Event, _expected: Expected, _known: Known) -> Iterable[Finding]:
        auction = event.context.get(AUCTION)
        if auction is None:
            return
        if not _DIGEST.fullmatch(auction) or self.journal.sealed(bytes.fromhex(auction)) is None:
            detail = (
                f"ALARM: a bid was opened for manifest {auction[:96]}, which you never sealed by the record "
                f"in {self.journal.directory}"
            )
            yield finding_of("never-sealed", event, detail)
