"""CiphertextForRecipient in KMS's shape, the ciphertext blob, and the flag for documents that nobody
signed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest_enclave.payload import cms as reader
from coattest_local.aws import services
from coattest_local.aws.kms import ciphertext
from coattest_local.aws.kms.cms import CHUNK, envelop
from support.local import kms_world as world

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "kms"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SPKI = KEY.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)


def shape(data: bytes) -> list[Any]:
    """Tags of BER, nested; an indefinite length is marked, contents are left out, identifiers and versions
    are not.
    """
    tree, end = _shape(data, 0)
    assert end == len(data)
    return tree


def _shape(data: bytes, at: int) -> tuple[list[Any], int]:
    tag, length = data[at], data[at + 1]
    at += 2
    if length == 0x80:
        children = []
        while data[at : at + 2] != b"\0\0":
            child, at = _shape(data, at)
            children.append(child)
        return [tag, "indefinite", *children], at + 2
    if length > 0x80:
        size = length & 0x7F
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
    content, after = data[at : at + length], at + length
    if tag & 0x20:
        children = []
        while at < after:
            child, at = _shape(data, at)
            children.append(child)
        return [tag, "definite", *children], after
    return [tag, content.hex() if tag in (0x02, 0x05, 0x06) else "content"], after


@pytest.mark.parametrize(
    ("vector", "size"),
    [("aws-sdk-c-input_ber.ber", 32), ("rustcrypto-kms_ciphertext_for_recipient_4.ber", 4 * CHUNK + 100)],
)
def test_the_envelope_has_the_shape_of_a_recorded_answer(vector: str, size: int) -> None:
    """Same tags, lengths of the same kind, same identifiers and versions as an answer of KMS itself."""
    recorded = VECTORS / vector
    if not recorded.exists():
        pytest.skip("the shared vectors are not beside the checkout")
    assert shape(envelop(os.urandom(size), SPKI)) == shape(recorded.read_bytes())


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=2 * CHUNK + 32))
def test_the_enclave_opens_what_the_service_closes(plaintext: bytes) -> None:
    """Every size, on chunk borders too, by the reader inside the image."""
    assert reader.decrypt(envelop(plaintext, SPKI), KEY) == plaintext


@given(
    st.binary(min_size=1, max_size=64), st.dictionaries(st.text(min_size=1), st.text(), max_size=3), st.data()
)
def test_a_blob_opens_with_its_key_and_context_and_no_mutation_does(
    plaintext: bytes, context: dict[str, str], data: st.DataObject
) -> None:
    """A changed bit, a wrong context, a wrong key: BadCiphertext and nothing else."""
    material, arn = (
        bytes(32),
        "arn:aws:kms:eu-central-1:222233334444:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    )
    blob = ciphertext.seal_blob(material, arn, plaintext, context)
    assert ciphertext.key_of(blob) == arn
    assert ciphertext.open_blob(material, blob, context) == plaintext
    bit = data.draw(st.integers(0, len(blob) * 8 - 1))
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << bit % 8
    for key, sealed, pairs in (
        (material, bytes(changed), context),
        (material, blob, {**context, "one more": "x"}),
        (b"\1" * 32, blob, context),
        (material, blob[: data.draw(st.integers(0, len(blob) - 1))], context),
    ):
        with pytest.raises(ciphertext.BadCiphertext):
            ciphertext.open_blob(key, sealed, pairs)


def test_unsigned_documents_are_refused(running: services.Services) -> None:
    """QEMU's NSM makes such documents by itself; nothing takes them (ADR 70)."""
    enclave = world.Enclave(world.PCRS)
    outer = cbor2.loads(enclave.document())
    kms = running.client("kms", "buyer-1")
    policy = world.policy(
        world.administer("222233334444"),
        world.allow(
            "arn:aws:iam::222233334444:user/admin", "kms:GenerateDataKey", world.attested(world.PCRS)
        ),
    )
    arn = kms.create_key(Policy=policy)["KeyMetadata"]["Arn"]
    for header in (outer[0], b"\xa1\x01\x20"):
        document = cbor2.dumps([header, {}, outer[2], bytes(96)])
        recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": document}
        arguments = {"KeyId": arn, "KeySpec": "AES_256", "Recipient": recipient}
        assert world.code_of(kms.generate_data_key, **arguments) == "ValidationException"
