"""The files of a decided release and of one auction, made with what the base install has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_auction_key, make_manifest
from coattest_verify.auction.certify import Life, Own, certify_buyer_key
from coattest_verify.quorum.authority import Authority
from coattest_verify.quorum.links import layout_name, link_name, sign_layout, sign_link
from coattest_verify.quorum.statements.provenance import sign_statement
from coattest_verify.signatures.keys import generate_key
from support.auction.auctions import ACCOUNTS, ARN, LOTS
from support.local.local_enclave import PCRS
from support.verify.members import NOW, Members, profile_json, report_json
from support.verify.receipts import OUTCOMES, result_file

BUYERS = ("buyer-1", "buyer-2")

MANAGING = (
    "--account 222233334444 --simulator --parent-role arn:aws:iam::111122223333:role/parent "
    "--administrator arn:aws:iam::222233334444:role/admin --encrypter arn:aws:iam::222233334444:role/desk"
)
"""The options for a key policy, beside those that name the decision."""


@dataclass(frozen=True, slots=True)
class World:
    """Two members, who are the buyers too; in ``folder`` are manifest.cbor and result.cbor."""

    folder: Path
    members: Members

    @property
    def deciding(self) -> tuple[str, ...]:
        """The options that name the decision."""
        return self.members.deciding()

    @property
    def places(self) -> dict[str, str]:
        """What stands for {attestations}, {deciding}, {managing}, {release} and {quorum} in a command."""
        attestations = self.members.attestations
        return {
            "attestations": str(attestations),
            "deciding": " ".join(self.deciding),
            "managing": MANAGING,
            "release": self.members.released.name,
            "quorum": f"--attestations {attestations} --root sha256:{self.members.root.hex()}",
        }


def make_world(folder: Path) -> World:
    """Everything as of now: the claim, both rebuilds, and the result of an auction that closed."""
    now = datetime.now(timezone.utc)
    members = Members.make(folder / "quorum")
    local = profile_json("local", "image.local.eif")
    local["pcrs"] = {f"PCR{index}": value.hex() for index, value in PCRS.items()}
    report = report_json(profiles={"aws": profile_json("aws"), "local": local})
    members.claim(report)
    records, keys = [], {}
    for name in BUYERS:
        signer = members.signers[name]
        statement = members.statement(name, report, age=NOW - now + timedelta(hours=1))
        members.write(f"rebuild.{name}.intoto.json", sign_statement(statement, signer))
        members.write(link_name(signer.public), sign_link(statement, signer))
        key = folder / f"{name}.key"
        public = generate_key(key, "p384")
        keys[name] = load_auction_key(key)
        arn = ARN.format(account=ACCOUNTS[name])
        own = Own(name, public.spki, arn, f"s3://bids-{name}/")
        certificate = certify_buyer_key(signer, own, Life(now - timedelta(days=1), now + timedelta(days=30)))
        buyer = messages.Buyer(name, public.spki, certificate, arn, own.bids)
        records.append(buyer)
    layout = sign_layout(members.file, BUYERS[0], members.signers[BUYERS[0]])
    assert layout is not None
    members.write(layout_name(members.file, BUYERS[0]), layout)
    outcome = members.decide(profile="local", now=now)
    assert outcome.members is not None
    closes = int(now.timestamp()) - 600
    manifest = make_manifest(
        auction="spring",
        rule="first-price",
        currency="EUR",
        lots=LOTS,
        buyers=records,
        closes=closes,
        publish_by=closes + 1800,
    )
    decided = Authority(outcome.require(), outcome.members, outcome.answers)
    (folder / "manifest.cbor").write_bytes(manifest.encode())
    (folder / "result.cbor").write_bytes(
        result_file(manifest, decided, keys, OUTCOMES, now - timedelta(minutes=5))
    )
    return World(folder, members)
