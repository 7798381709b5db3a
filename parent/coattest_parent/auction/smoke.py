"""The upload with which ``deploy-from-attestation smoke`` tests an auction's enclave; it must be refused."""

from __future__ import annotations

from coattest.errors import FoundFalse
from coattest_parent.link.aws import SessionCredentials
from coattest_parent.link.channels import Address
from coattest_parent.link.enclave import BidUpload, EnclaveClient, EnclaveRefused

UPLOAD = 32 * 1024 * 1024
"""Bytes of the upload."""

BLOCK = 512 * 1024
"""Bytes that are sent at a time."""


def refused_upload(address: Address, size: int = UPLOAD) -> int:
    """Send an auction whose manifest does not decode, with a bid file of ``size`` bytes; returns ``size``.

    Raises FoundFalse (smoke) when the enclave does not refuse the manifest, CoattestError when the connection
    breaks.
    """
    blocks = (bytes(min(BLOCK, size - start)) for start in range(0, size, BLOCK))
    try:
        with EnclaveClient(address) as client:
            client.open(b"smoke", [BidUpload("smoke", size, blocks)], [], SessionCredentials("", "", ""))
    except EnclaveRefused as refusal:
        if refusal.code == "bad-manifest":
            return size
        raise
    raise FoundFalse("the enclave opened an auction without a manifest", where=str(address), code="smoke")
