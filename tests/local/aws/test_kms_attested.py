"""Decrypt with an attestation document, as KMS does it."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import cbor2
import pytest

from coattest_local.aws.services import Services
from support.local import kms_world as world


@pytest.fixture
def sealed(buyer: Any, key: str) -> tuple[bytes, bytes]:
    """A data key of the auction: (plaintext, ciphertext blob)."""
    answer = buyer.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=world.CONTEXT)
    return answer["Plaintext"], answer["CiphertextBlob"]


@pytest.fixture(scope="module")
def kms(running: Services, parent: dict[str, str]) -> Any:
    """The parent's session at KMS."""
    return running.client("kms", "service", session=parent)


def request(key: str, blob: bytes, recipient: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """Arguments of Decrypt."""
    arguments = {"KeyId": key, "CiphertextBlob": blob, "EncryptionContext": world.CONTEXT, **changes}
    return arguments | ({"Recipient": recipient} if recipient else {})


def test_the_decided_enclave_gets_the_data_key_and_nobody_else_sees_it(
    kms: Any, key: str, sealed: tuple[bytes, bytes], enclave: world.Enclave
) -> None:
    """The answer opens with the enclave's private key alone; there is no plaintext in it."""
    answer = kms.decrypt(**request(key, sealed[1], enclave.recipient()))
    assert not answer.get("Plaintext")
    assert answer["KeyId"] == key
    assert answer["CiphertextForRecipient"][:2] == b"\x30\x80"
    assert enclave.open(answer["CiphertextForRecipient"]) == sealed[0]


def test_without_a_document_the_same_role_is_refused(kms: Any, key: str, sealed: tuple[bytes, bytes]) -> None:
    """A condition on an attestation key is false when the request has no document."""
    assert world.code_of(kms.decrypt, **request(key, sealed[1], None)) == "AccessDeniedException"


@pytest.mark.parametrize("register", [0, 1, 2])
def test_an_enclave_that_differs_in_one_register_is_refused(
    kms: Any, key: str, sealed: tuple[bytes, bytes], register: int
) -> None:
    """PCR0, PCR1 and PCR2 all have to be the decided ones."""
    stranger = world.Enclave({**world.PCRS, register: world.OTHER[register]})
    arguments = request(key, sealed[1], stranger.recipient())
    assert world.code_of(kms.decrypt, **arguments) == "AccessDeniedException"


def test_a_debug_enclave_of_the_decided_image_is_refused(
    kms: Any, key: str, sealed: tuple[bytes, bytes]
) -> None:
    """In debug mode the registers are zero, so the policy does not match: KMS itself has no rule about
    debug.
    """
    debug = world.Enclave(world.PCRS, debug=True)
    arguments = request(key, sealed[1], debug.recipient())
    assert world.code_of(kms.decrypt, **arguments) == "AccessDeniedException"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"EncryptionContext": {**world.CONTEXT, "coattest:buyer": "buyer-2"}}, "AccessDeniedException"),
        ({"EncryptionContext": {**world.CONTEXT, "more": "x"}}, "AccessDeniedException"),
        (
            {"EncryptionContext": {"Coattest:auction": "5e" * 48, "coattest:buyer": "buyer-1"}},
            "AccessDeniedException",
        ),
        ({"EncryptionContext": {}}, "AccessDeniedException"),
        ({"CiphertextBlob": b"not a ciphertext"}, "InvalidCiphertextException"),
        ({"EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}, "InvalidKeyUsageException"),
        ({"DryRun": True}, "DryRunOperationException"),
    ],
)
def test_what_else_must_be_right(
    kms: Any,
    key: str,
    sealed: tuple[bytes, bytes],
    *,
    enclave: world.Enclave,
    change: dict[str, Any],
    code: str,
) -> None:
    """Encryption context (keys in their case, no more and no fewer), ciphertext and algorithm."""
    arguments = request(key, sealed[1], enclave.recipient(), **change)
    assert world.code_of(kms.decrypt, **arguments) == code


def test_a_changed_ciphertext_is_invalid_and_another_keys_ciphertext_is_incorrect(
    kms: Any, buyer: Any, key: str, sealed: tuple[bytes, bytes], enclave: world.Enclave
) -> None:
    """The two mistakes have different names."""
    flipped = sealed[1][:-1] + bytes([sealed[1][-1] ^ 1])
    recipient = enclave.recipient()
    assert world.code_of(kms.decrypt, **request(key, flipped, recipient)) == "InvalidCiphertextException"
    other = buyer.create_key()["KeyMetadata"]["Arn"]
    blob = buyer.encrypt(KeyId=other, Plaintext=b"x", EncryptionContext=world.CONTEXT)["CiphertextBlob"]
    assert world.code_of(kms.decrypt, **request(key, blob, recipient)) == "IncorrectKeyException"


@pytest.mark.parametrize(("minutes", "reason"), [(-6, "too-old"), (6, "future-timestamp")])
def test_a_document_that_is_not_of_now_is_refused(
    kms: Any, key: str, sealed: tuple[bytes, bytes], minutes: int, reason: str
) -> None:
    """Older than five minutes, or from the future."""
    moment = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    recipient = world.Enclave(world.PCRS).recipient(now=moment)
    with pytest.raises(kms.exceptions.ClientError, match=reason) as refused:
        kms.decrypt(**request(key, sealed[1], recipient))
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_a_document_four_minutes_old_is_accepted(kms: Any, key: str, sealed: tuple[bytes, bytes]) -> None:
    """The limit is five minutes."""
    moment = datetime.now(timezone.utc) - timedelta(minutes=4)
    recipient = world.Enclave(world.PCRS).recipient(now=moment)
    assert world.code_of(kms.decrypt, **request(key, sealed[1], recipient)) == "none"


def test_documents_that_nobody_vouches_for_are_refused(
    kms: Any, key: str, sealed: tuple[bytes, bytes], enclave: world.Enclave
) -> None:
    """A changed signature, a changed payload, no public key, and bytes that are not a document."""
    document = enclave.document()
    outer = cbor2.loads(document)
    payload = outer[2].replace(bytes.fromhex(world.PCRS[0]), bytes.fromhex(world.OTHER[0]))
    changed = cbor2.dumps([outer[0], outer[1], payload, outer[3]])
    for bad in (document[:-1] + bytes([document[-1] ^ 1]), changed, b"\x84", document + b"\0"):
        recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": bad}
        assert world.code_of(kms.decrypt, **request(key, sealed[1], recipient)) == "ValidationException"
    for public_key in (None, b"\x30\x00"):
        recipient = enclave.recipient(public_key=public_key)
        assert world.code_of(kms.decrypt, **request(key, sealed[1], recipient)) == "ValidationException"


def test_a_denied_caller_does_not_learn_whether_the_ciphertext_was_good(
    running: Services, key: str, sealed: tuple[bytes, bytes]
) -> None:
    """Authorisation comes before the ciphertext is opened."""
    stranger = running.client("kms", "buyer-2")
    for blob in (sealed[1], sealed[1][:-1] + b"\0", b"rubbish"):
        arguments = {"KeyId": key, "CiphertextBlob": blob, "EncryptionContext": world.CONTEXT}
        assert world.code_of(stranger.decrypt, **arguments) == "AccessDeniedException"


def test_generate_data_key_and_random_answer_the_enclave_alone(
    running: Services, buyer: Any, parent: dict[str, str], enclave: world.Enclave
) -> None:
    """With a Recipient there is no plaintext in either answer."""
    policy = world.policy(
        world.administer("222233334444"),
        world.allow(world.PARENT, ["kms:GenerateDataKey", "kms:Decrypt"], world.attested(world.PCRS)),
    )
    arn = buyer.create_key(Policy=policy)["KeyMetadata"]["Arn"]
    kms = running.client("kms", "service", session=parent)
    made = kms.generate_data_key(KeyId=arn, KeySpec="AES_256", Recipient=enclave.recipient())
    assert not made.get("Plaintext")
    opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], Recipient=enclave.recipient())
    assert enclave.open(opened["CiphertextForRecipient"]) == enclave.open(made["CiphertextForRecipient"])
    random = kms.generate_random(NumberOfBytes=32, Recipient=enclave.recipient())
    assert not random.get("Plaintext")
    assert len(enclave.open(random["CiphertextForRecipient"])) == 32
    assert world.code_of(kms.generate_data_key, KeyId=arn, KeySpec="AES_256") == "AccessDeniedException"


def test_the_trail_says_which_enclave_decrypted_and_what_was_refused(
    running: Services, kms: Any, key: str, sealed: tuple[bytes, bytes], enclave: world.Enclave
) -> None:
    """Registers in base64, once for the key's account and once for the caller's; no ciphertext, no
    plaintext.
    """
    kms.decrypt(**request(key, sealed[1], enclave.recipient()))
    world.code_of(kms.decrypt, **request(key, sealed[1], None))
    events = [json.loads(line) for line in running.trail.read_text().splitlines()]
    mine = [event for event in events if event["resources"] and event["resources"][0]["ARN"] == key]
    allowed = [event for event in mine if event["eventName"] == "Decrypt" and "errorCode" not in event]
    assert {event["recipientAccountId"] for event in allowed} == {"111122223333", "222233334444"}
    assert len({event["sharedEventID"] for event in allowed}) == 1
    callers = {event["recipientAccountId"]: event["userIdentity"] for event in allowed}
    assert callers["111122223333"]["sessionContext"]["sessionIssuer"]["arn"] == world.PARENT
    assert sorted(callers["222233334444"]) == ["accountId", "principalId", "type"]
    assert callers["222233334444"]["type"] == "AWSAccount"
    assert callers["222233334444"]["principalId"] == callers["111122223333"]["principalId"]
    recipient = allowed[0]["additionalEventData"]["recipient"]
    assert recipient["attestationDocumentModuleId"] == "i-1234567890abcdef0-enc0123456789abcdef"
    digest = base64.b64decode(recipient["attestationDocumentEnclaveImageDigest"])
    assert digest.hex() == world.PCRS[0]
    assert allowed[0]["requestParameters"]["encryptionContext"] == world.CONTEXT
    refused = [event for event in mine if event.get("errorCode") == "AccessDenied"]
    assert refused
    assert "additionalEventData" not in refused[0]
    text = json.dumps(mine)
    assert base64.b64encode(sealed[0]).decode() not in text
    assert base64.b64encode(sealed[1]).decode() not in text
