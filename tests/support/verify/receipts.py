"""A receipt with real signatures, made without an enclave process: for tests of who verifies and shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from coattest_local.host.ca import issue_chain
from coattest_local.host.nsm import boot_pcrs, document_payload, sign_document
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from coattest_verify.auction import messages
from coattest_verify.auction.page import receipt_page
from coattest_verify.auction.receipt import ReceiptVerdict, verify_receipt
from coattest_verify.quorum.authority import Authority
from support.auction.auctions import KEYS, certified, manifest, opening
from support.auction.auctions import outcomes as packed
from support.local.local_enclave import INSTANCE, PCRS
from support.verify.members import NOW, Members, profile_json, report_json

CLOSES = int(NOW.timestamp()) - 3600
OUTCOMES = (messages.Won("buyer-2"), messages.Unsold(), messages.Tie(("buyer-1", "buyer-2")))


@dataclass(frozen=True, slots=True)
class Made:
    """A receipt, what it is about, and what a verifier needs."""

    manifest: messages.Manifest
    result_file: bytes
    authority: Authority
    now: datetime

    def verdict(self) -> ReceiptVerdict:
        """What ``verify receipt`` finds."""
        return verify_receipt(
            self.result_file,
            self.manifest.encode(),
            self.authority.decision,
            root=LOCAL_SIMULATOR,
            check_certificate=certified,
            now=self.now,
        )


def page_of(made: Made, verdict: ReceiptVerdict | None = None, **options: Any) -> str:
    """The page of a receipt."""
    return receipt_page(
        made.verdict() if verdict is None else verdict,
        result_file=made.result_file,
        manifest=made.manifest,
        authority=made.authority,
        now=made.now,
        **options,
    )


def authority(folder: Path) -> Authority:
    """Two members who rebuilt and signed an image with the measurements of ``PCRS``."""
    members = Members.make(folder)
    local = profile_json("local", "image.local.eif")
    local["pcrs"] = {f"PCR{index}": value.hex() for index, value in PCRS.items()}
    report = report_json(profiles={"aws": profile_json("aws"), "local": local})
    members.claim(report)
    for name in ("buyer-1", "buyer-2"):
        members.sign(name, report)
    outcome = members.decide(profile="local")
    assert outcome.members is not None
    return Authority(outcome.require(), outcome.members, outcome.answers)


def make(
    decided: Authority,
    *,
    rule: str = "first-price",
    outcomes: Sequence[messages.Outcome] = OUTCOMES,
    seconds_after: int = 60,
) -> Made:
    """A receipt for lots with these outcomes, made ``seconds_after`` the closing time."""
    lots = [messages.Lot(f"lot-{number}", 0) for number in range(1, len(outcomes) + 1)]
    auction = manifest(rule=rule, lots=lots, closes=CLOSES, publish_by=CLOSES + 1800)
    when = datetime.fromtimestamp(CLOSES + seconds_after, timezone.utc)
    return Made(auction, result_file(auction, decided, KEYS, outcomes, when), decided, NOW)


def result_file(
    auction: messages.Manifest,
    decided: Authority,
    keys: Mapping[str, ec.EllipticCurvePrivateKey],
    outcomes: Sequence[messages.Outcome],
    when: datetime,
) -> bytes:
    """What the decided enclave answers at ``when``, under seals by the buyers' auction keys."""
    bids = tuple((buyer.name, messages.sha384(buyer.name.encode())) for buyer in auction.buyers)
    may = opening(decided.decision)
    seal = messages.Seal(auction.digest, may.release, may.image, bids)
    seals = tuple(
        messages.sign1(seal.encode(), keys[buyer.name], buyer.name.encode()) for buyer in auction.buyers
    )
    named = tuple(zip(auction.lots.ids.split("\n"), outcomes, strict=True))
    priced = auction.rule == messages.SECOND_PRICE
    columns = packed([buyer.name for buyer in auction.buyers], named, priced=priced)
    result = messages.Result(
        auction.auction, auction.digest, seal.digest, auction.currency, auction.rule, columns
    ).encode()
    module = f"{INSTANCE}-enc0123456789abcdef"
    chain = issue_chain(module, when)
    payload = document_payload(
        module_id=module,
        timestamp=int(when.timestamp() * 1000),
        pcrs=boot_pcrs(PCRS, pcr3=bytes(48), pcr4=bytes(48)),
        chain=chain,
        fields={
            "public_key": None,
            "user_data": messages.receipt_user_data(result),
            "nonce": seal.digest,
        },
    )
    return messages.ResultFile(result, sign_document(payload, chain.key), seals).encode()
