"""The errors of messages and enclave: a code from a closed list, and a detail that is never a secret.

Both leave the enclave in an error frame, so neither may depend on a plaintext, a key or an amount.
"""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "bad-bid",
    "bad-bid-digest",
    "bad-frame",
    "bad-manifest",
    "bad-seal",
    "clock",
    "internal",
    "kms-denied",
    "kms-failed",
    "too-large",
    "wrong-image",
]
"""Every code of an error frame; docs/protocol.md ("Frames") says what each means."""


class EnclaveError(Exception):
    """A request has failed; ``code`` and ``detail`` are what the error frame carries."""

    def __init__(self, detail: str, code: Code = "internal") -> None:
        super().__init__(detail)
        self.detail = detail
        self.code: Code = code


class MessageError(EnclaveError):
    """The bytes are not a valid message, or it is over a limit (``too-large``)."""

    def __init__(self, detail: str, code: Code = "bad-frame") -> None:
        super().__init__(detail, code)
