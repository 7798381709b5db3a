"""KMS's cryptographic operations on symmetric keys, authorised by the key policy with all its conditions.

Source of each rule: the operation's page in the KMS API Reference.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from coattest_local.aws.http import ServiceError
from coattest_local.aws.kms import ciphertext, keys
from coattest_local.aws.kms.call import Call
from coattest_local.aws.kms.keys import Key
from coattest_local.aws.kms.recipient import Recipient

Answer = dict[str, Any]
Parameters = Mapping[str, Any]

MAX_PLAINTEXT = 4096
MAX_CIPHERTEXT = 6144
MAX_RANDOM = 1024
DATA_KEY_SIZES = {"AES_128": 16, "AES_256": 32}


def _encrypt(call: Call) -> Answer:
    """Encrypt."""
    context = keys.requested_context(call.parameters)
    plaintext = _blob(call.parameters, "Plaintext", MAX_PLAINTEXT)
    _symmetric(call.parameters, "EncryptionAlgorithm")
    key = call.key(call.parameters.get("KeyId"), "kms:Encrypt", context, None)
    _ready(call, key)
    sealed = ciphertext.seal_blob(key.state.key_material, key.arn, plaintext, context)
    return {"CiphertextBlob": _encoded(sealed), "KeyId": key.arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def _decrypt(call: Call) -> Answer:
    """Decrypt: with a Recipient the plaintext is returned only encrypted to the enclave's key."""
    context = keys.requested_context(call.parameters)
    sealed = _blob(call.parameters, "CiphertextBlob", MAX_CIPHERTEXT)
    _symmetric(call.parameters, "EncryptionAlgorithm")
    recipient = call.recipient()
    key, plaintext = _opened(call, sealed, "KeyId", "kms:Decrypt", context=context, recipient=recipient)
    answer: Answer = {"KeyId": key.arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    return answer | _secret("Plaintext", plaintext, recipient)


def _re_encrypt(call: Call) -> Answer:
    """ReEncrypt: kms:ReEncryptFrom on the source key, kms:ReEncryptTo on the destination."""
    source = keys.requested_context(call.parameters, "SourceEncryptionContext")
    destination = keys.requested_context(call.parameters, "DestinationEncryptionContext")
    sealed = _blob(call.parameters, "CiphertextBlob", MAX_CIPHERTEXT)
    _symmetric(call.parameters, "SourceEncryptionAlgorithm")
    _symmetric(call.parameters, "DestinationEncryptionAlgorithm")
    target = call.key(call.parameters.get("DestinationKeyId"), "kms:ReEncryptTo", destination, None)
    keys.usable(target)
    key, plaintext = _opened(call, sealed, "SourceKeyId", "kms:ReEncryptFrom", context=source, recipient=None)
    again = ciphertext.seal_blob(target.state.key_material, target.arn, plaintext, destination)
    return {
        "CiphertextBlob": _encoded(again),
        "SourceKeyId": key.arn,
        "KeyId": target.arn,
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }


def _generate_random(call: Call) -> Answer:
    """GenerateRandom: needs no key, only the caller's own policies."""
    size = call.parameters.get("NumberOfBytes")
    if not isinstance(size, int) or not 1 <= size <= MAX_RANDOM:
        raise ServiceError("ValidationException", f"NumberOfBytes is 1 to {MAX_RANDOM}")
    recipient = call.recipient()
    call.account_wide("kms:GenerateRandom", recipient)
    return _secret("Plaintext", os.urandom(size), recipient)


def _data_key(call: Call, action: str, *, plaintext: bool) -> Answer:
    """A data key under the key, and in plaintext or encrypted to the recipient if asked for."""
    context = keys.requested_context(call.parameters)
    size = _data_key_size(call.parameters)
    recipient = call.recipient() if plaintext else None
    key = call.key(call.parameters.get("KeyId"), action, context, recipient)
    _ready(call, key)
    data_key = os.urandom(size)
    sealed = ciphertext.seal_blob(key.state.key_material, key.arn, data_key, context)
    answer: Answer = {"CiphertextBlob": _encoded(sealed), "KeyId": key.arn}
    return answer | (_secret("Plaintext", data_key, recipient) if plaintext else {})


def _secret(name: str, plaintext: bytes, recipient: Recipient | None) -> Answer:
    """The plaintext, or with a recipient an empty plaintext and CiphertextForRecipient."""
    if recipient is None:
        return {name: _encoded(plaintext)}
    return {name: "", "CiphertextForRecipient": _encoded(recipient.encrypt(plaintext))}


def _opened(
    call: Call,
    sealed: bytes,
    parameter: str,
    action: str,
    *,
    context: Mapping[str, str],
    recipient: Recipient | None,
) -> tuple[Key, bytes]:
    """Find the key, authorise, then open: a caller without the right does not learn if it would open."""
    requested = call.parameters.get(parameter)
    try:
        named = ciphertext.key_of(sealed)
    except ciphertext.BadCiphertext as error:
        if requested is not None:
            call.key(requested, action, context, recipient)
        raise ServiceError("InvalidCiphertextException") from error
    key = call.key(requested if requested is not None else named, action, context, recipient)
    if key.arn != named:
        raise ServiceError(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        )
    _ready(call, key)
    try:
        return key, ciphertext.open_blob(key.state.key_material, sealed, context)
    except ciphertext.BadCiphertext as error:
        raise ServiceError("InvalidCiphertextException") from error


def _ready(call: Call, key: Key) -> None:
    keys.usable(key)
    if key.state.key_usage != "ENCRYPT_DECRYPT" or key.state.key_spec != "SYMMETRIC_DEFAULT":
        raise ServiceError("InvalidKeyUsageException", f"{key.arn} is not a symmetric encryption key.")
    if call.parameters.get("DryRun"):
        raise ServiceError(
            "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.", 412
        )


def _data_key_size(parameters: Parameters) -> int:
    spec, size = parameters.get("KeySpec"), parameters.get("NumberOfBytes")
    if (spec is None) == (size is None):
        raise ServiceError("ValidationException", "Please specify either number of bytes or key spec.")
    if spec is not None:
        if spec not in DATA_KEY_SIZES:
            raise ServiceError("ValidationException", "KeySpec is AES_128 or AES_256")
        return DATA_KEY_SIZES[spec]
    if not isinstance(size, int) or not 1 <= size <= MAX_RANDOM:
        raise ServiceError("ValidationException", f"NumberOfBytes is 1 to {MAX_RANDOM}")
    return size


def _symmetric(parameters: Parameters, name: str) -> None:
    if parameters.get(name, "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
        raise ServiceError("InvalidKeyUsageException", f"{name} of a symmetric key is SYMMETRIC_DEFAULT.")


def _blob(parameters: Parameters, name: str, limit: int) -> bytes:
    """A base64 parameter of 1 to ``limit`` bytes. Raises ServiceError (ValidationException)."""
    try:
        value = base64.b64decode(parameters.get(name) or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ServiceError("SerializationException", f"{name} is not base64") from error
    if not 1 <= len(value) <= limit:
        raise ServiceError("ValidationException", f"{name} has 1 to {limit} bytes")
    return value


def _encoded(value: bytes) -> str:
    """Base64, as in JSON 1.1 answers."""
    return base64.b64encode(value).decode()


OPERATIONS: Mapping[str, Callable[[Call], Answer]] = {
    "Decrypt": _decrypt,
    "Encrypt": _encrypt,
    "GenerateDataKey": partial(_data_key, action="kms:GenerateDataKey", plaintext=True),
    "GenerateDataKeyWithoutPlaintext": partial(
        _data_key, action="kms:GenerateDataKeyWithoutPlaintext", plaintext=False
    ),
    "GenerateRandom": _generate_random,
    "ReEncrypt": _re_encrypt,
}
"""The cryptographic operations by their names in X-Amz-Target."""
