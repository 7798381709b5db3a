"""A buyer's auction key and KMS key, certified with its member's quorum key.

The manifest of an auction names each buyer's key and KMS ARN. Without this certificate the manifest's writer
could put in its own key (docs/protocol.md, "Rule by rule").
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from coattest.errors import Rejected
from coattest.strictjson import Fields, canonical, parse, shown
from coattest_enclave.protocol import messages
from coattest_verify.quorum.authority import Authority
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.signatures.dsse import DsseEnvelope, sign_envelope
from coattest_verify.signatures.keys import Signer

CERTIFICATE_TYPE = "application/vnd.coattest.buyer-key+json"
"""DSSE payload type."""

PURPOSE = "coattest/buyer-key/v1"

MAX_CERTIFICATE = 8 * 1024
"""Bytes of a certificate; a P-384 key, an ARN and a signature have about 700."""

CODE = "bad-certificate"


def certify_buyer_key(signer: Signer, member: str, auction_key_spki: bytes, kms_arn: str) -> bytes:
    """DSSE JSON in which a member's quorum key certifies an auction key (SPKI DER) and a KMS key ARN."""
    payload = canonical(
        {
            "purpose": PURPOSE,
            "member": member,
            "key": base64.b64encode(auction_key_spki).decode(),
            "kms": kms_arn,
        }
    )
    return sign_envelope(signer, CERTIFICATE_TYPE, payload).encode()


def check_buyer_certificate(
    certificate: bytes, quorum: MembersFile, member: str, spki: bytes, kms_arn: str
) -> None:
    """Return when one of the member's keys in ``quorum`` certified exactly this key and ARN.

    Raises Rejected (``bad-certificate``).
    """
    party = quorum.member(member)
    if party is None:
        raise Rejected(f"{shown(member)} is not a member of quorum.toml", code=CODE)
    try:
        envelope = DsseEnvelope.decode(certificate, CERTIFICATE_TYPE, max_size=MAX_CERTIFICATE)
        if not envelope.signers(party.keys):
            raise Rejected(f"not signed by a key of {member}")
        fields = Fields(parse(envelope.payload, max_size=MAX_CERTIFICATE), "")
        fields.exactly("purpose", PURPOSE)
        fields.exactly("member", member)
        fields.exactly("key", base64.b64encode(spki).decode())
        fields.exactly("kms", kms_arn)
        fields.done()
    except Rejected as error:
        raise Rejected(error.what, code=CODE) from None


def certificate_check(authority: Authority) -> Callable[[messages.Buyer], None]:
    """A check of a buyer's key and KMS ARN against the members file that ``authority`` decided under.

    The check raises Rejected (``bad-certificate``).
    """

    def check(buyer: messages.Buyer) -> None:
        check_buyer_certificate(buyer.certificate, authority.members, buyer.name, buyer.key, buyer.kms)

    return check
