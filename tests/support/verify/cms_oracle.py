"""A second reader of CiphertextForRecipient: asn1crypto, strict."""

from __future__ import annotations

from asn1crypto import cms as asn1_cms

from coattest_enclave.payload import cms


def by_asn1crypto(data: bytes) -> cms.EnvelopedData:
    """The same parts, found by asn1crypto."""
    enveloped = asn1_cms.ContentInfo.load(data, strict=True)["content"]
    (recipient,) = enveloped["recipient_infos"]
    encrypted = enveloped["encrypted_content_info"]
    return cms.EnvelopedData(
        recipient.chosen["rid"].chosen.native,
        recipient.chosen["encrypted_key"].native,
        encrypted["content_encryption_algorithm"]["parameters"].native,
        encrypted["encrypted_content"].native,
    )
