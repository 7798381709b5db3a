"""KMS Decrypt with Recipient: one call per buyer, over TLS that ends here.

Source: KMS API reference, Decrypt. The parent's proxy only moves bytes. An answer counts as KMS's because the
endpoint's certificate is for its name, under the measured CA bundle, and the KeyId is the one in the request.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_enclave.payload import cms, http_reply, sigv4, transport
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.trust import Trust, unique_pairs
from coattest_enclave.protocol.errors import EnclaveError, MessageError
from coattest_enclave.protocol.key_arn import parse_key_arn

TIMEOUT = 20.0
"""Seconds that one call may take, from the tunnel to the last byte."""

PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further call for the same key, when one may pass that did not."""

OK, TOO_MANY = 200, 429

REPLY_MAX = 64 * 1024
"""Bytes of a reply's body: an envelope of at most 16 KB in base64, and some more."""

RSA_BITS = 2048
"""The smallest key that KMS takes; each request makes a new one (docs/adr/0032)."""

DATA_KEY_SIZE = 32
"""Bytes of an AES-256 key."""

DENIED = frozenset(
    {
        "AccessDeniedException",
        "DisabledException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncorrectKeyException",
        "InvalidCiphertextException",
        "InvalidClientTokenId",
        "InvalidGrantTokenException",
        "InvalidKeyUsageException",
        "InvalidSignatureException",
        "KMSInvalidStateException",
        "MissingAuthenticationTokenException",
        "NotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
"""Error types with which KMS refuses (KMS API reference, Decrypt and common errors); every other one is a
failure.
"""

BUSY = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
    }
)
"""Error types with which KMS is too busy (the same pages), as is any other of status 429 or from 500 on.

Only the names in both lists are repeated to the parent.
"""


DROPPED = (TimeoutError, ConnectionError, ssl.SSLEOFError)
"""What a connection ends with that was cut, or was too slow. A refused certificate is none of them."""


class Passing(EnclaveError):
    """KMS was too busy for this call, or the connection was dropped; the next call may pass."""


@dataclass(frozen=True, slots=True)
class Kms:
    """What a Decrypt needs besides the ciphertext, for one request."""

    trust: Trust
    proxies: list[str]
    nsm: Nsm
    credentials: sigv4.Credentials
    now: Callable[[], datetime]
    key: rsa.RSAPrivateKey
    sleep: Callable[[float], None] = time.sleep

    def decrypt(self, ciphertext: bytes, key_arn: str, context: Mapping[str, str]) -> bytearray:
        """The 32-byte data key in ``ciphertext``, in a buffer to overwrite.

        Asks again, after a pause, when KMS is too busy, the connection is dropped or the time is over. Raises
        EnclaveError: ``kms-denied``, ``kms-failed``, or ``internal`` when the NSM fails.
        """
        for pause in PAUSES:
            try:
                return self._once(ciphertext, key_arn, context)
            except Passing:
                self.sleep(pause)
        return self._once(ciphertext, key_arn, context)

    def _once(self, ciphertext: bytes, key_arn: str, context: Mapping[str, str]) -> bytearray:
        arn = parse_key_arn(key_arn)
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        # This document leaves only inside TLS to KMS.
        document = self.nsm.attest(user_data=None, nonce=None, public_key=spki)
        body = json.dumps(
            {
                "CiphertextBlob": base64.b64encode(ciphertext).decode(),
                "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "EncryptionContext": dict(context),
                "KeyId": key_arn,
                "Recipient": {
                    "AttestationDocument": base64.b64encode(document).decode(),
                    "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
                },
            }
        ).encode()
        host = self.trust.kms_host.format(region=arn.region)
        headers = {
            "Host": host,
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "TrentService.Decrypt",
        }
        signed = sigv4.sign_request(
            headers, body, self.credentials, region=arn.region, service="kms", now=self.now()
        )
        try:
            status, reply = self._post(host, body, signed)
        except (OSError, ValueError) as error:
            kind = Passing if isinstance(error, DROPPED) else EnclaveError
            raise kind(f"no answer from KMS: {_cause(error)}", "kms-failed") from None
        envelope = read_reply(status, reply, key_arn)
        try:
            data_key = cms.decrypt(envelope, self.key)
        except MessageError as error:
            raise _failed(error.detail) from None
        if len(data_key) != DATA_KEY_SIZE:
            raise _failed("the data key has the wrong length")
        return data_key

    def _post(self, host: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        # This context checks chain and host name, and loads no CA of the system.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self.trust.ca_pem)
        deadline = time.monotonic() + TIMEOUT
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(["POST / HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""])
        with transport.tunnel(self.proxies, host, deadline) as stream:
            stream.settimeout(transport.left(deadline))
            with context.wrap_socket(stream, server_hostname=host) as tls:
                tls.settimeout(transport.left(deadline))
                tls.sendall(head.encode("ascii") + body)

                def receive(size: int) -> bytes:
                    tls.settimeout(transport.left(deadline))
                    return tls.recv(size)

                return http_reply.read(receive, REPLY_MAX)


def read_reply(status: int, reply: bytes, key_arn: str) -> bytes:
    """The envelope in KMS's reply to a Decrypt under ``key_arn``; raises EnclaveError, Passing when it is
    worth asking again.
    """
    try:
        fields: Any = json.loads(reply.decode("utf-8"), object_pairs_hook=unique_pairs)
    except (ValueError, RecursionError):
        fields = None
    if status != OK:
        given = fields.get("__type") if isinstance(fields, dict) else None
        kind = given.rpartition("#")[2] if isinstance(given, str) else ""
        if 400 <= status < 500 and kind in DENIED:
            raise EnclaveError(kind, "kms-denied")
        detail = kind if kind in BUSY else f"KMS replied with status {status}"
        if kind in BUSY or status == TOO_MANY or status >= 500:
            raise Passing(detail, "kms-failed")
        raise _failed(detail)
    if not isinstance(fields, dict):
        raise _failed("KMS's reply is not a JSON object with each name once")
    if fields.get("KeyId") != key_arn:
        raise _failed("KMS answered for a different key")
    if fields.get("Plaintext") not in (None, ""):  # "null or empty" where there is an envelope
        raise _failed("KMS answered with a plaintext")
    try:
        return base64.b64decode(fields["CiphertextForRecipient"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise _failed("KMS's reply has no CiphertextForRecipient") from None


def _failed(detail: str) -> EnclaveError:
    return EnclaveError(detail, "kms-failed")


def _cause(error: Exception) -> str:
    """What an error frame may say: OpenSSL's verdict or the kind of failure, never a text from outside."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused ({re.sub(r'[^a-z ]', '', error.verify_message)})"
    return "timed out" if isinstance(error, TimeoutError) else type(error).__name__
