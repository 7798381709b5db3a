"""One auction of two buyers with real keys, bids and seals, whoever made the accounts and the enclave."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from coattest_parent.auction.courier import bid_digests, upload_bid
from coattest_parent.auction.steps import make_bid
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from coattest_verify.auction import messages
from coattest_verify.auction.bids import read_bids
from coattest_verify.auction.journal import SealJournal
from coattest_verify.auction.receipt import ReceiptVerdict, verify_receipt
from coattest_verify.auction.sealing import plan_seal, sign_seal
from coattest_verify.quorum.decision import Decision
from support.auction.auctions import KEYS, certified, manifest, opening, own
from support.local.local_enclave import Cloud

CSV = {
    "buyer-1": b"lot,amount\nlot-1,100000\nlot-2,200000\nlot-3,150000\n",
    "buyer-2": b"lot,amount\nlot-1,120000\nlot-2,180000\nlot-3,150000\n",
}


class RealAuction:
    """One auction with its buyers' state, from bids to receipt; ``prefix`` is that of bids in a bucket."""

    def __init__(
        self,
        cloud: Cloud,
        directory: Path,
        name: str,
        rule: str = "first-price",
        *,
        decided: Decision,
        prefix: str = "auctions/",
    ) -> None:
        now = int(time.time())
        made = manifest(name, rule=rule, lots=tuple(messages.Lot(f"lot-{i}", 0) for i in (1, 2, 3)))
        buyers = tuple(
            dataclasses.replace(
                buyer,
                kms=cloud.buyers[buyer.name].key_arn,
                bids=f"s3://{cloud.buyers[buyer.name].bucket}/{prefix}",
            )
            for buyer in made.buyers
        )
        self.open_for_bids = dataclasses.replace(made, buyers=buyers, closes=now + 600, publish_by=now + 1200)
        self.manifest = dataclasses.replace(made, buyers=buyers, closes=now, publish_by=now + 1200)
        self.cloud, self.directory, self.decision = cloud, directory, decided
        self.files: dict[str, bytes] = {}
        self.bids = CSV

    def bid(self, name: str) -> bytes:
        """Make and upload a buyer's bid file."""
        buyer = messages.named_buyer(self.manifest, name)
        aws = self.cloud.as_buyer(name)
        bids = read_bids(self.bids[name], messages.LotList(self.manifest.lots))
        journal = SealJournal(self.directory / name)
        just_before = datetime.fromtimestamp(self.manifest.closes - 1, timezone.utc)
        content = make_bid(
            self.manifest,
            own(self.manifest, name),
            opening(self.decision),
            bids,
            aws,
            check_certificate=certified,
            journal=journal,
            when=just_before,
        )
        upload_bid(aws, buyer, self.manifest.digest, content)
        self.files[name] = content
        return content

    def digests(self, name: str, **chosen: bytes) -> Mapping[str, bytes]:
        """Every bid file's digest, as a buyer finds them at their places; ``chosen`` are files."""
        given = {other: messages.bid_digest(file) for other, file in chosen.items()}
        return bid_digests(self.manifest, self.cloud.as_buyer(name), given)

    def seal(self, name: str, own_bid: bytes | None = None, **chosen: bytes) -> bytes:
        """A buyer's signature over the bid files."""
        journal = SealJournal(self.directory / name)
        plan = plan_seal(
            self.manifest,
            own(self.manifest, name),
            opening(self.decision),
            bids=self.digests(name, **chosen),
            own_bid=own_bid or self.files[name],
            check_certificate=certified,
            journal=journal,
            now=int(time.time()),
        )
        return sign_seal(plan, KEYS[name], journal)

    def bid_and_seal(self) -> list[bytes]:
        """Every buyer's seal, after everybody's bid."""
        for name in CSV:
            self.bid(name)
        return [self.seal(name) for name in CSV]

    def verify(self, result_file: messages.ResultFile, **changes: object) -> ReceiptVerdict:
        """What anybody finds about a result."""
        arguments = {
            "root": LOCAL_SIMULATOR,
            "check_certificate": certified,
            "now": datetime.now(timezone.utc),
            **changes,
        }
        return verify_receipt(result_file.encode(), self.manifest.encode(), self.decision, **arguments)
