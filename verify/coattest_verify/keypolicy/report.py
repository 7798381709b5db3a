"""What a buyer reports to the service for a deployment, signed with the member's quorum key.

A report names the key, bucket and role in the buyer's own stack, the decisions that the key's policy admits,
and whether it requires one instance (PCR4). The service cannot read another account's key policy (KMS
Developer Guide, "AWS KMS permissions": GetKeyPolicy has no cross-account use), so an upgrade waits for these
reports: policies first. A false report costs only the buyer who made it: its own auction fails.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from coattest.errors import Rejected
from coattest.strictjson import Fields, canonical, parse, shown
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import SHA256
from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from coattest_verify.signatures.keys import Signer

REPORT_TYPE = "application/vnd.coattest.buyer-report+json"
"""DSSE payload type."""

PURPOSE = "coattest/buyer-report/v1"

MAX_REPORT = 16 * 1024
"""Bytes of a report; one with two decisions and one signature has about 900."""

DECISIONS_MAX = 8
"""Decisions that a key may admit at a time; two during an upgrade."""

_KEY = re.compile(
    r"arn:aws[a-z-]*:kms:([a-z]{2}(?:-[a-z]{1,12}){1,3}-\d):(\d{12}):key/[0-9A-Za-z-]{1,64}", re.ASCII
)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_BIDS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[A-Za-z0-9!_.'()-]+/)*)", re.ASCII)


def _bad_report(what: str) -> Rejected:
    """The error for a report that is not that buyer's, or lacks what a deployment needs."""
    return Rejected(what, code="buyer-report")


@dataclass(frozen=True, slots=True)
class BuyerReport:
    """A buyer's report. ``bids`` is ``s3://bucket/prefix/``; ``decisions`` are SHA-256 digests in hex;
    ``one_instance`` is whether the key's policy requires PCR4.
    """

    member: str
    kms: str
    bids: str
    role: str
    decisions: tuple[str, ...]
    one_instance: bool = False

    def __post_init__(self) -> None:
        checks = (
            (_KEY.fullmatch(self.kms), "kms", "is not the full ARN of a KMS key"),
            (_BIDS.fullmatch(self.bids), "bids", "is not s3://bucket/ or s3://bucket/prefix/"),
            (_ROLE.fullmatch(self.role), "role", "is not the ARN of a role"),
            (
                0 < len(self.decisions) <= DECISIONS_MAX
                and all(isinstance(item, str) and SHA256.fullmatch(item) for item in self.decisions)
                and list(self.decisions) == sorted(set(self.decisions)),
                "decisions",
                f"are not 1 to {DECISIONS_MAX} different digests in order",
            ),
        )
        for ok, name, what in checks:
            if not ok:
                raise _bad_report(f"{name} {what}")

    @property
    def account(self) -> str:
        """The buyer's account: the key's."""
        return self.kms.split(":")[4]

    @property
    def region(self) -> str:
        """The key's region."""
        return self.kms.split(":")[3]

    @property
    def objects(self) -> str:
        """The ARN pattern of the bid files: everything under the reported prefix."""
        partition = self.kms.split(":")[1]
        return f"arn:{partition}:s3:::{self.bids.removeprefix('s3://')}*"

    def to_json(self) -> dict[str, Any]:
        """The signed content."""
        return {
            "purpose": PURPOSE,
            "member": self.member,
            "kms": self.kms,
            "bids": self.bids,
            "role": self.role,
            "decisions": list(self.decisions),
            "one-instance": self.one_instance,
        }

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the signed content in canonical JSON."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()


def sign_report(signer: Signer, report: BuyerReport) -> bytes:
    """DSSE JSON of the report, signed with the member's quorum key."""
    return sign_envelope(signer, REPORT_TYPE, canonical(report.to_json())).encode()


def check_report(content: bytes, quorum: MembersFile) -> BuyerReport:
    """The report in ``content``, signed by one of its member's keys in ``quorum``. Raises Rejected."""
    try:
        envelope = DsseEnvelope.decode(content.strip(), REPORT_TYPE, max_size=MAX_REPORT)
        fields = Fields(parse(envelope.payload, max_size=MAX_REPORT), "")
        fields.exactly("purpose", PURPOSE)
        member = fields.text("member")
        report = BuyerReport(
            member=member,
            kms=fields.text("kms"),
            bids=fields.text("bids"),
            role=fields.text("role"),
            decisions=tuple(fields.items("decisions", low=1, high=DECISIONS_MAX)),
            one_instance=fields.boolean("one-instance"),
        )
        fields.done()
    except Rejected as error:
        raise _bad_report(error.what) from None
    party = quorum.member(member)
    if party is None:
        raise _bad_report(f"{shown(member)} is not a member of quorum.toml")
    if not envelope.signers(party.keys):
        raise _bad_report(f"not signed by a key of {member}")
    return report
