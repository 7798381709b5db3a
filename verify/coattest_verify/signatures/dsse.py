"""DSSE envelopes (secure-systems-lab/dsse, protocol 1.0.2), read strictly and verified against given keys.

The payload type is part of what is signed, so a signature for one purpose never serves another.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass

from coattest.errors import Rejected
from coattest.strictjson import MAX_DEPTH, MAX_SIZE, Fields, canonical, more_than, parse, too_deep
from coattest_verify.signatures.keys import PublicKey, Signer

MAX_SIGNATURES = 16
"""Signatures on one envelope: a member's keys, and those that it had before."""

_MAX_PARTS = 8 * MAX_SIGNATURES
"""Commas, brackets and escapes of an envelope: what has more is not read. Base64 has none of them."""

_LOOKED_AT = 4096
"""Bytes of such an envelope that are looked at, to say what is wrong with it."""

_KEYID = re.compile(r"[0-9A-Za-z_.:/+=-]{0,256}")


@dataclass(frozen=True, slots=True)
class DsseEnvelope:
    """A payload, its type, and signatures as (key id hint, signature)."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def decode(cls, data: bytes, payload_type: str, *, max_size: int = MAX_SIZE) -> DsseEnvelope:
        """Parse an envelope of the given payload type. Raises Rejected."""
        if more_than(_MAX_PARTS, data, b",", b"[", b"{", b"\\"):
            if too_deep(data[:_LOOKED_AT]):
                raise Rejected(f"nested deeper than {MAX_DEPTH}", code="too-deep")
            raise Rejected("more parts than a signed file has")
        fields = Fields(parse(data, max_size=max_size), "")
        fields.exactly("payloadType", payload_type, code="payload-type")
        payload = _base64(fields.text("payload", limit=max_size), "payload")
        signatures = []
        for entry in fields.each("signatures", low=1, high=MAX_SIGNATURES):
            keyid = entry.text("keyid", _KEYID) if entry.has("keyid") else ""
            signatures.append((keyid, _base64(entry.text("sig"), "sig")))
        fields.done()
        return cls(payload_type, payload, tuple(signatures))

    @property
    def pae(self) -> bytes:
        """What is signed: the Pre-Authentication Encoding."""
        return pae(self.payload_type, self.payload)

    def signers(self, keys: Sequence[PublicKey]) -> tuple[PublicKey, ...]:
        """Those of ``keys`` that signed this envelope, which takes one verification a key.

        A key id says which of several signatures to try, and no more: anybody can write one.
        """
        message, named = self.pae, dict(self.signatures)
        ((_, first), *others) = self.signatures
        tried = ((key, named.get(key.keyid) if others else first) for key in keys)
        return tuple(
            key for key, signature in tried if signature is not None and key.verifies(signature, message)
        )

    def encode(self) -> bytes:
        """The envelope as JSON with a final newline."""
        return (
            canonical(
                {
                    "payloadType": self.payload_type,
                    "payload": base64.b64encode(self.payload).decode(),
                    "signatures": [
                        {"keyid": keyid, "sig": base64.b64encode(signature).decode()}
                        for keyid, signature in self.signatures
                    ],
                }
            )
            + b"\n"
        )


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's Pre-Authentication Encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(signer: Signer, payload_type: str, payload: bytes) -> DsseEnvelope:
    """An envelope with one signature."""
    signature = signer.sign(pae(payload_type, payload))
    return DsseEnvelope(payload_type, payload, ((signer.public.keyid, signature),))


def _base64(text: str, name: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        raise Rejected(f"{name}: not base64") from None
    # Only the last four characters can be spelled in more than one way: padding, or bits that mean nothing.
    if len(text) % 4 or base64.b64encode(data[-(len(data) % 3 or 3) :]).decode() != text[-4:]:
        raise Rejected(f"{name}: not canonical base64")
    return data
