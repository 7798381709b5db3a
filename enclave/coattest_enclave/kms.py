"""KMS Decrypt with Recipient: one call per buyer, over TLS that ends here.

Source: KMS API reference, Decrypt. The parent's proxy only moves bytes. An answer counts as KMS's because the
endpoint's certificate is for its name, under the measured CA bundle, and the KeyId is the one in the request.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_enclave import cms, sigv4, transport
from coattest_enclave.nsm import Nsm
from coattest_enclave.protocol.errors import EnclaveError, MessageError
from coattest_enclave.protocol.manifest import parse_key_arn
from coattest_enclave.trust import Trust

TIMEOUT = 20.0
"""Seconds of silence after which a call has failed."""

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
failure. Only these names are repeated to the parent.
"""


@dataclass(frozen=True, slots=True)
class Kms:
    """What a Decrypt needs besides the ciphertext, for one request."""

    trust: Trust
    proxies: list[str]
    nsm: Nsm
    credentials: sigv4.Credentials
    now: Callable[[], datetime]
    key: rsa.RSAPrivateKey

    def decrypt(self, ciphertext: bytes, key_arn: str, context: Mapping[str, str]) -> bytearray:
        """The 32-byte data key in ``ciphertext``, in a buffer to overwrite.

        Raises EnclaveError: ``kms-denied``, ``kms-failed``, or ``internal`` when the NSM fails.
        """
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
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failed(f"no answer from KMS: {_cause(error)}") from None
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
        with (
            transport.tunnel(self.proxies, host, TIMEOUT) as stream,
            context.wrap_socket(stream, server_hostname=host) as tls,
        ):
            connection = http.client.HTTPConnection(host)
            connection.sock = tls
            connection.request("POST", "/", body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read(REPLY_MAX + 1)


def read_reply(status: int, reply: bytes, key_arn: str) -> bytes:
    """The envelope in KMS's reply to a Decrypt under ``key_arn``; raises EnclaveError."""
    if len(reply) > REPLY_MAX:
        raise _failed("KMS's reply is too large")
    try:
        fields: Any = json.loads(reply)
    except (ValueError, RecursionError):
        raise _failed(f"KMS's reply is not JSON (status {status})") from None
    if not isinstance(fields, dict):
        raise _failed(f"KMS's reply is not an object (status {status})")
    if status != http.HTTPStatus.OK:
        kind = str(fields.get("__type", "")).rpartition("#")[2]
        if 400 <= status < 500 and kind in DENIED:
            raise EnclaveError(kind, "kms-denied")
        raise _failed(f"KMS replied with status {status}")
    if fields.get("KeyId") != key_arn:
        raise _failed("KMS answered for a different key")
    if fields.get("Plaintext"):
        raise _failed("KMS answered with a plaintext")
    try:
        return base64.b64decode(fields["CiphertextForRecipient"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise _failed("KMS's reply has no CiphertextForRecipient") from None


def _failed(detail: str) -> EnclaveError:
    return EnclaveError(detail, "kms-failed")


def _cause(error: Exception) -> str:
    """What an error frame may say: OpenSSL's verdict or the kind of failure, never a text from outside."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused ({re.sub(r'[^a-z ]', '', error.verify_message)})"
    return "timed out" if isinstance(error, TimeoutError) else type(error).__name__
