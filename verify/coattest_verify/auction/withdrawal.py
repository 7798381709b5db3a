"""A certificate that its member withdrew: a signed statement among the attestations.

It stops bids and seals with that certificate, of everybody who has it, and nothing else: what is sealed stays
sealed. Only the member itself withdraws, with any of its present keys.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from coattest.errors import Rejected
from coattest.files import Evidence
from coattest.findings import Finding
from coattest.strictjson import Fields, canonical, parse
from coattest_verify.auction.certify import Certified
from coattest_verify.quorum.members.file import NAME, MembersFile, parse_utc, utc
from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from coattest_verify.signatures.keys import Signer

PAYLOAD_TYPE = "application/vnd.coattest.buyer-key-withdrawal+json"
PURPOSE = "coattest/buyer-key-withdrawal/v1"
PREFIX = "withdraw-buyer-key."
MAX_WITHDRAWAL = 8 * 1024
"""Bytes of a withdrawal; a signature and three fields have about 600."""

WITHDRAWAL_NAME = re.compile(rf"withdraw-buyer-key\.({NAME.pattern})\.([0-9a-f]{{16}})\.dsse\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Which certificate (SHA-256 of what was signed, hex) a member withdrew, and when it says so."""

    member: str
    certificate: str
    time: datetime

    @property
    def payload(self) -> bytes:
        """The bytes that are signed: canonical JSON."""
        return canonical(
            {
                "purpose": PURPOSE,
                "member": self.member,
                "certificate": self.certificate,
                "time": utc(self.time),
            }
        )

    @property
    def file_name(self) -> str:
        """Its name among the attestations."""
        return file_name(self.member, self.certificate)


def file_name(member: str, certificate: str) -> str:
    """The name among the attestations of a member's withdrawal of a certificate (``Certified.sha256``)."""
    return f"{PREFIX}{member}.{certificate[:16]}.dsse.json"


def sign_withdrawal(withdrawal: Withdrawal, signer: Signer) -> bytes:
    """The signed withdrawal: DSSE JSON."""
    return sign_envelope(signer, PAYLOAD_TYPE, withdrawal.payload).encode()


def read_withdrawals(
    evidence: Evidence, members: MembersFile, only: Collection[Certified] | None = None
) -> tuple[frozenset[str], list[Finding]]:
    """The certificates that their members withdrew, and a finding for each file that only looks like that.

    With ``only`` the files of other certificates are left alone: whoever hosts the attestations can put
    thousands of them there, and each would cost the checking of many signatures.
    """
    found: set[str] = set()
    refused = []
    wanted = None if only is None else {file_name(each.member, each.sha256) for each in only}
    for name in evidence.names():
        if not name.startswith(PREFIX):
            continue
        if wanted is not None and name not in wanted and WITHDRAWAL_NAME.fullmatch(name):
            continue
        try:
            found.add(_authentic(name, evidence, members).certificate)
        except Rejected as error:
            refused.append(Finding(error.code, name, error.what))
    return frozenset(found), refused


def _authentic(name: str, evidence: Evidence, members: MembersFile) -> Withdrawal:
    match = WITHDRAWAL_NAME.fullmatch(name)
    if match is None:
        raise Rejected("not the name of a withdrawal", code="bad-name")
    member = members.member(match[1])
    if member is None:
        raise Rejected(f"{match[1]} is not a member", code="not-a-member")
    envelope = DsseEnvelope.decode(evidence.read(name, MAX_WITHDRAWAL), PAYLOAD_TYPE, max_size=MAX_WITHDRAWAL)
    if not envelope.signers(member.keys):
        raise Rejected(f"not signed by a key of {member.name}", code="bad-signature")
    fields = Fields(parse(envelope.payload, max_size=MAX_WITHDRAWAL), "")
    fields.exactly("purpose", PURPOSE)
    fields.exactly("member", member.name, code="wrong-member")
    certificate, time = fields.text("certificate", _SHA256), parse_utc(fields.text("time"))
    fields.done()
    withdrawal = Withdrawal(member.name, certificate, time)
    if withdrawal.file_name != name:
        raise Rejected("it withdraws a different certificate than its name says", code="bad-name")
    return withdrawal
