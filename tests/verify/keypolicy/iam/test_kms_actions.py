"""AWS's list of KMS's actions and condition keys, its classes, and the script that renews it."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import tarfile
from typing import Any

import pytest

from coattest_verify.keypolicy.iam import KMS
from coattest_verify.keypolicy.iam.actions import CLASSES, NOT_ON_A_KEY, READS_PLAINTEXT, KmsAction
from support.source_tree import ROOT


def test_each_action_of_the_list_is_in_exactly_one_class() -> None:
    """And no class has a name that AWS's list does not have."""
    assert KMS.unclassified() == frozenset()
    assert sorted(name for names in CLASSES for name in names) == sorted(KMS.actions)


def test_a_new_action_in_no_class_makes_the_answer_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may call it; a policy that does not allow it is proved as before."""
    pytest.importorskip("z3")
    from coattest_verify.keypolicy.prove import goals, search
    from support.verify.keypolicy.prover import A, allow, ask, exactly, statuses

    more = {**KMS.actions, "Unwrap": KmsAction("Unwrap", False, frozenset())}
    newer = dataclasses.replace(KMS, actions=more)
    for module in (goals, search):
        monkeypatch.setattr(module, "KMS", newer)
    good = allow(Condition=exactly(A))
    found = ask(good, allow(action="kms:*", Condition=exactly(A)), allow(action="kms:Unwrap"), tuples=(A,))
    assert found["plaintext"].status.value == "unknown"
    assert "kms:Unwrap" in str(found["plaintext"].reason)
    assert {status.value for status in statuses(ask(good, tuples=(A,)))} == {"proved"}


@pytest.mark.parametrize(
    ("key", "spelled", "kind"),
    [
        ("kms:recipientattestation:pcr8", "kms:RecipientAttestation:PCR8", "String"),
        ("KMS:EncryptionContext:Buyer", "kms:EncryptionContext:Buyer", "String"),
        ("kms:encryptioncontextkeys", "kms:EncryptionContextKeys", "ArrayOfString"),
        ("AWS:principaltag/Team", "aws:PrincipalTag/Team", "String"),
        ("aws:sourceip", "aws:SourceIp", "IPAddress"),
    ],
)
def test_a_key_is_found_in_any_case(key: str, spelled: str, kind: str) -> None:
    """Names are not case-sensitive; the caller's part of one stays as it is."""
    assert KMS.find(key) == (spelled, kind)


@pytest.mark.parametrize("key", ["kms:RecipientAttestation", "kms:RecipientAttestation:PCR32", "kms:X"])
def test_a_key_of_kms_that_is_none_is_never_sent(key: str) -> None:
    """Another service's may be: a session can bring one along."""
    assert KMS.never_sent(key)
    assert not KMS.never_sent("corp:X")
    assert not KMS.documented("corp:X", "kms:Decrypt")


def test_a_context_can_have_a_pair_without_a_name() -> None:
    """No page gives a least length of its keys (KMS API Reference, "Decrypt", EncryptionContext)."""
    assert not KMS.never_sent("kms:EncryptionContext:")


@pytest.mark.parametrize(
    ("key", "action", "documented"),
    [
        ("kms:RecipientAttestation:PCR0", "kms:Decrypt", True),
        ("kms:RecipientAttestation:PCR0", "kms:ReEncryptFrom", False),
        ("kms:EncryptionContext:x", "kms:Encrypt", True),
        ("kms:GrantOperations", "kms:Decrypt", False),
        ("kms:KeySpec", "kms:Decrypt", True),
        ("aws:TagKeys", "kms:Decrypt", False),
        ("aws:TagKeys", "kms:TagResource", True),
        ("aws:ResourceTag/x", "kms:Decrypt", True),
        ("aws:PrincipalArn", "kms:PutKeyPolicy", True),
    ],
)
def test_which_keys_a_request_can_have(key: str, action: str, documented: bool) -> None:
    """By the action's and the key's own lists; a global key everywhere."""
    assert KMS.documented(key, action) is documented


def test_the_script_reads_the_package_that_it_pins() -> None:
    """The table from an archive of the package's form: actions, keys, global keys, the day of the version."""
    path = ROOT / "verify/kms-actions/renew.py"
    spec = importlib.util.spec_from_file_location("renew", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    attested = "kms:RecipientAttestation:PCR0"
    files: dict[str, Any] = {
        "package.json": {"version": "0.1.202611291"},
        "data/resourceTypes/kms.json": {"key": {"conditionKeys": ["kms:KeySpec"]}},
        "data/conditionKeys/kms.json": {"a": {"key": attested, "type": "String"}},
        "data/actions/kms.json": {
            "decrypt": {
                "name": "Decrypt",
                "accessLevel": "Write",
                "resourceTypes": [{"name": "key"}],
                "conditionKeys": ["kms:ViaService", attested],
            }
        },
        "dist/esm/globalConditionKeys.js": "key: 'aws:PrincipalTag/tag-key', category: 'p', type: 'String'",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, value in files.items():
            data = (value if isinstance(value, str) else json.dumps(value)).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        table = script.read_package(archive)
    assert json.loads(script.as_text(table)) == table
    assert table["date"] == "2026-11-29"
    assert table["keys"] == {attested: "String", "aws:PrincipalTag/${TagKey}": "String"}
    assert table["actions"]["Decrypt"] == {
        "access": "Write",
        "attested": True,
        "conditions": ["kms:KeySpec", "kms:ViaService"],
        "key": True,
    }


def test_no_reader_of_plaintext_is_without_a_key() -> None:
    """What key policies do not govern reads nothing."""
    assert not READS_PLAINTEXT & NOT_ON_A_KEY
