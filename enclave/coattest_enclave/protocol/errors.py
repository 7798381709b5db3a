"""The one error root of the enclave: a code from a closed list and a detail that is never a secret.

Both leave the enclave in an error frame, so neither may depend on a plaintext, a key or an amount.
"""

from __future__ import annotations

from typing import ClassVar


class EnclaveError(Exception):
    """Root of every failure that a request can end with; ``code`` is what the error frame carries."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class MessageError(EnclaveError):
    """Bytes that are not the message they should be."""

    code = "bad-frame"


class TooLarge(MessageError):
    """A message, or a size it announces, is over its limit."""

    code = "too-large"


class BadManifest(EnclaveError):
    """The manifest does not decode or breaks a rule."""

    code = "bad-manifest"


class BadSeal(EnclaveError):
    """Not every buyer signed the same seal over this manifest."""

    code = "bad-seal"


class BadBidDigest(EnclaveError):
    """A bid file is not the one that was sealed."""

    code = "bad-bid-digest"


class BadBid(EnclaveError):
    """A sealed bid file is not a COSE_Encrypt0 of the expected form, or does not authenticate."""

    code = "bad-bid"


class KmsDenied(EnclaveError):
    """KMS answered and refused: policy, context, key state or credentials."""

    code = "kms-denied"


class KmsFailed(EnclaveError):
    """KMS was not reached, or what came back is not an acceptable answer."""

    code = "kms-failed"


class ClockFailure(EnclaveError):
    """The NSM's time is missing or absurd."""

    code = "clock"
