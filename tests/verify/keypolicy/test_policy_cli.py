"""``verify policy`` from signed rebuilds to a key of the local KMS: printed, put, checked, and refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest_verify.keypolicy.report import check_report
from support.auction.buyer_desk import ADMIN, BIDDER, BUYER, SECOND, Buyer, desk
from support.local import kms_world as world
from support.verify.desk import Desk


@pytest.fixture(scope="module")
def buyer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buyer]:
    """Two members who agree, and the services with the principals that the policy names."""
    with desk(tmp_path_factory.mktemp("buyer")) as made:
        yield made


@pytest.fixture
def key(buyer: Buyer) -> str:
    """A key on which the policy was put by ``apply new``."""
    done = buyer.live("apply", "new")
    assert done.returncode == 0, done.stderr
    arn = json.loads(done.stdout)["key"]
    assert isinstance(arn, str)
    return arn


def test_the_policy_of_a_decision_is_printed(buyer: Buyer) -> None:
    """JSON on stdout; the decision's digest is in the Id."""
    done = buyer.policy("make", "--context", "app=ours", profile="aws", simulator=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    decision = buyer.quorum.decide(profile="aws", now=datetime.now(timezone.utc)).require()
    assert document["Id"] == f"coattest-{decision.release_digest.hex()}"
    assert decision.pcrs[0] in done.stdout
    again = buyer.policy("make", "--format", "canonical", profile="aws", simulator=False)
    assert "no --context" in again.stderr


def test_the_explanation_asks_with_every_register_that_is_required(buyer: Buyer) -> None:
    """PCR3 and PCR4 are computed from role and instance; only the release's own enclave decrypts, for the
    parent.
    """
    done = buyer.policy("explain", "--json", "--pcr3", world.PARENT, "--pcr4", world.INSTANCE)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    decrypts = [
        row for row in document["explanation"] if row["operation"] == "kms:Decrypt" and row["allowed"]
    ]
    assert [(row["who"], row["enclave"]) for row in decrypts] == [("parent", "release 0.1.0")]
    conditions = document["policy"]["Statement"][0]["Condition"]["StringEqualsIgnoreCase"]
    assert conditions["kms:RecipientAttestation:PCR4"].startswith("08f996b5")
    assert "kms:RecipientAttestation:PCR3" in conditions
    table = buyer.policy("explain")
    assert "another image" in table.stdout


def test_a_report_says_what_the_keys_policy_bears_out(buyer: Buyer, tmp_path: Path) -> None:
    """Whether it requires one instance; a policy that admits another release, or is none, is no report."""
    desk, quorum = Desk(tmp_path), buyer.quorum
    kms = f"arn:aws:kms:eu-central-1:{BUYER}:key/00000000-0000-4000-8000-222233334444"
    line = ["report", "--key", str(quorum.folder / "keys/buyer-1"), "--member", "buyer-1", "--json"]
    line += ["--kms-key", kms, "--bids", "s3://bids/", "--parent-role", world.PARENT, "--out", "report.json"]
    line += ["--policy", "policy.json", *quorum.deciding()]
    for pins, one_instance in (((), False), (("--pcr4", world.INSTANCE), True)):
        policy = buyer.policy("make", "--format", "canonical", *pins).stdout
        (tmp_path / "policy.json").write_text(policy)
        done = desk.run(*line)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["one-instance"] is one_instance
        signed = check_report((tmp_path / "report.json").read_bytes(), quorum.file)
        assert signed.one_instance is one_instance
        (tmp_path / "report.json").unlink()
    others = policy.replace(buyer.pcrs[0], "ab" * 48)
    kept_out = policy.replace("StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase")
    for text, code, reason in (
        (others, 1, "policy-first"),
        (kept_out, 1, "policy-first"),
        ("{", 2, "malformed-policy"),
    ):
        (tmp_path / "policy.json").write_text(text)
        done = desk.run(*line)
        assert (done.returncode, json.loads(done.stdout)["code"]) == (code, reason)
        assert not (tmp_path / "report.json").exists()


NO_ADDRESSES = ("", "localhost", "http://", "http://[", "http://u:secret@127.0.0.1:99999", "ftp://localhost")


@pytest.mark.parametrize(
    ("arguments", "options", "code", "reason"),
    [
        (("make",), {"member": "buyer-9"}, 3, "no-decision"),
        (("make",), {"simulator": False}, 1, "local-decision"),
        (("apply", "new"), {}, 2, "simulator-not-loopback"),
        (("check", "new"), {}, 2, "simulator-not-loopback"),
        (
            ("apply", "new", "--endpoint-url", "https://kms.eu-central-1.amazonaws.com"),
            {},
            2,
            "simulator-not-loopback",
        ),
        *((("check", "new", "--endpoint-url", url), {}, 2, "usage") for url in NO_ADDRESSES),
        (("check", "arn:aws", "--endpoint-url", "http://127.0.0.1:1"), {}, 3, None),
        (("apply",), {}, 2, None),
        (("apply", "new", "--alias", "alias/bids"), {}, 2, None),
        (("make", "--context", "no-equals"), {}, 2, "usage"),
        (("make", "--register", "8=zz"), {}, 1, "bad-pcr"),
        (("make", "--context", "buyer=${aws:username}"), {}, 2, "usage"),
        (("make", "--context", "coattest:buyer=buyer-1"), {}, 2, "usage"),
        (("make", "--pcr3", world.PARENT, "--register", f"3={'d3' * 48}"), {}, 2, "usage"),
        (("make", "--pcr3", world.PARENT, "--no-pcr3"), {}, 2, "usage"),
        (("make", "--pcr4", world.INSTANCE, "--register", f"4={'d4' * 48}"), {}, 2, "usage"),
        (("make", "--format", "terraform"), {}, 2, "usage"),
    ],
)
def test_what_is_refused_before_anything_is_called(
    buyer: Buyer, arguments: tuple[str, ...], options: dict[str, Any], code: int, reason: str | None
) -> None:
    """One's own statement missing, a local decision for anything but loopback, and nonsense."""
    done = buyer.policy(*arguments, "--json", **options)
    assert done.returncode == code, done.stderr
    assert "secret" not in done.stdout + done.stderr
    if reason:
        assert json.loads(done.stdout)["code"] == reason


def test_a_key_made_by_apply_opens_for_the_decided_enclave_only(buyer: Buyer, key: str) -> None:
    """From signed rebuilds to a data key in the enclave; another image and the administrator get nothing."""
    running = buyer.running
    access = running.client("iam", "buyer-1").create_access_key(UserName="bidder")["AccessKey"]
    bidder = running.client(
        "kms",
        "buyer-1",
        session={"AccessKeyId": access["AccessKeyId"], "SecretAccessKey": access["SecretAccessKey"]},
    )
    data_key = os.urandom(32)
    made = bidder.encrypt(KeyId=key, Plaintext=data_key, EncryptionContext=world.CONTEXT)
    parent = running.client("kms", "service", session=world.assume(running, "service", world.PARENT))
    request = {"KeyId": key, "CiphertextBlob": made["CiphertextBlob"], "EncryptionContext": world.CONTEXT}
    decided = world.Enclave(buyer.pcrs)
    answer = parent.decrypt(**request, Recipient=decided.recipient())
    assert decided.open(answer["CiphertextForRecipient"]) == data_key
    for stranger in (world.Enclave(world.OTHER), world.Enclave(buyer.pcrs, debug=True)):
        assert (
            world.code_of(parent.decrypt, **request, Recipient=stranger.recipient())
            == "AccessDeniedException"
        )
    assert world.code_of(parent.decrypt, **request) == "AccessDeniedException"
    assert world.code_of(bidder.decrypt, **request) == "AccessDeniedException"
    admin = running.client("kms", "buyer-1")
    assert world.code_of(admin.decrypt, **request) == "AccessDeniedException"
    assert (
        world.code_of(admin.create_grant, KeyId=key, GranteePrincipal=ADMIN, Operations=["Decrypt"])
        == "AccessDeniedException"
    )


def test_a_fresh_key_has_not_drifted_and_each_change_is_named(buyer: Buyer, key: str) -> None:
    """Exit 0, then exit 1 with the drifts: an added statement, a disabled key, another decision's tag."""
    assert buyer.live("check", key).returncode == 0
    kms = buyer.running.client("kms", "buyer-1")
    document = json.loads(kms.get_key_policy(KeyId=key)["Policy"])
    document["Statement"].append(world.allow(ADMIN, "kms:Decrypt") | {"Sid": "BackDoor"})
    kms.put_key_policy(KeyId=key, Policy=json.dumps(document))
    kms.disable_key(KeyId=key)
    kms.tag_resource(KeyId=key, Tags=[{"TagKey": "coattest:decision", "TagValue": "other"}])
    done = buyer.live("check", key)
    assert done.returncode == 1
    found = {item["code"]: item["detail"] for item in json.loads(done.stdout)["findings"]}
    assert set(found) == {"statement-extra", "key-state", "decision-tag"}
    assert "BackDoor" in found["statement-extra"]


def test_a_missing_tag_and_aliases_that_were_not_meant_are_drifts(buyer: Buyer, key: str) -> None:
    """Given with --alias, the key's names are all of its names; without, they are shown."""
    kms = buyer.running.client("kms", "buyer-1")
    kms.create_alias(AliasName="alias/bids", TargetKeyId=key)
    kms.create_alias(AliasName="alias/also", TargetKeyId=key)
    assert json.loads(buyer.live("check", key).stdout)["aliases"] == ["alias/also", "alias/bids"]
    assert buyer.live("check", key, "--alias", "alias/bids", "--alias", "alias/also").returncode == 0
    kms.untag_resource(KeyId=key, TagKeys=["coattest:decision"])
    done = buyer.live("check", key, "--alias", "alias/bids", "--alias", "alias/gone")
    found = [(item["code"], item["detail"].split(" ")[0]) for item in json.loads(done.stdout)["findings"]]
    assert found == [("decision-tag", "tag"), ("alias-missing", "alias/gone"), ("alias-extra", "alias/also")]
    assert done.returncode == 1


def test_grants_and_other_kinds_of_keys_are_drifts(buyer: Buyer) -> None:
    """A grant allows past the policy; a multi-Region key can be copied; imported material exists
    elsewhere.
    """
    kms = buyer.running.client("kms", "buyer-1")
    plain = kms.create_key()["KeyMetadata"]["Arn"]
    kms.create_grant(KeyId=plain, GranteePrincipal=ADMIN, Operations=["Decrypt"])
    multi = kms.create_key(MultiRegion=True)["KeyMetadata"]["Arn"]
    imported = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["Arn"]
    for arn, code in ((plain, "grants"), (multi, "multi-region"), (imported, "origin")):
        done = buyer.live("check", arn)
        assert done.returncode == 1, done.stderr
        assert code in {item["code"] for item in json.loads(done.stdout)["findings"]}
        refused = buyer.live("apply", arn)
        assert refused.returncode == 1
        assert json.loads(refused.stdout)["code"] == code


def test_apply_keeps_the_previous_policy_and_a_dry_run_changes_nothing(buyer: Buyer) -> None:
    """The difference is printed first; the old policy is in a file of mode 0600."""
    kms = buyer.running.client("kms", "buyer-1")
    arn = kms.create_key()["KeyMetadata"]["Arn"]
    before = kms.get_key_policy(KeyId=arn)["Policy"]
    dry = buyer.live("apply", arn, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout)["applied"] is False
    assert kms.get_key_policy(KeyId=arn)["Policy"] == before
    done = json.loads(buyer.live("apply", arn).stdout)
    assert Path(done["previous"]).read_text().strip() == before
    assert Path(done["previous"]).stat().st_mode & 0o777 == 0o600
    assert json.loads(kms.get_key_policy(KeyId=arn)["Policy"]) == done["policy"]
    assert buyer.live("check", arn).returncode == 0


@pytest.mark.parametrize(
    ("administrators", "extra", "code"),
    [
        ((ADMIN,), (), "one-administrator"),
        ((SECOND, BIDDER), (), "lock-out"),
        ((ADMIN, f"arn:aws:iam::{BUYER}:role/nobody"), (), "principal-missing"),
    ],
)
def test_the_preflight_refuses_what_would_lock_somebody_out(
    buyer: Buyer, administrators: tuple[str, ...], extra: tuple[str, ...], code: str
) -> None:
    """One administrator without a break-glass, a caller who would not be one, and a principal that is not
    there.
    """
    done = buyer.live("apply", "new", *extra, administrators=administrators)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == code


def test_one_administrator_and_a_named_break_glass_will_do(buyer: Buyer) -> None:
    """The break-glass principal may manage, and no more."""
    done = buyer.live("apply", "new", "--break-glass", SECOND, administrators=(ADMIN,))
    assert done.returncode == 0, done.stderr
    assert "BreakGlass" in {statement["Sid"] for statement in json.loads(done.stdout)["policy"]["Statement"]}


def test_the_roles_of_our_own_policy_are_read_from_it_and_shown(buyer: Buyer, tmp_path: Path) -> None:
    """Once it is the one that the decision makes; the same Id on another policy names nobody."""
    pytest.importorskip("z3")
    document = json.loads(buyer.policy("make", "--json").stdout)["policy"]
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(document))
    nobody: dict[str, Any] = {"administrators": (), "encrypters": ()}
    done = buyer.policy("prove", str(path), "--json", **nobody)
    assert done.returncode == 0, done.stdout
    named = {"administrators": [ADMIN, SECOND], "encrypters": [BIDDER], "from": "policy"}
    assert json.loads(done.stdout)["roles"] == named
    assert "Are they yours?" in buyer.policy("prove", str(path), **nobody).stderr
    for statement in document["Statement"]:
        if statement["Sid"] == "Administer":
            statement["Action"] = "kms:Create*"
    path.write_text(json.dumps(document))
    done = buyer.policy("prove", str(path), "--json", **nobody)
    assert done.returncode == 1
    assert json.loads(done.stdout)["roles"]["from"] == "nobody"


def test_any_policy_is_proved_or_refuted_by_its_file(buyer: Buyer, tmp_path: Path) -> None:
    """Exit 0 for the generated policy, 1 with a request for the default one, 3 for what is not known."""
    pytest.importorskip("z3")
    document = json.loads(buyer.policy("make", "--json").stdout)["policy"]
    good, default, strange = (tmp_path / name for name in ("good", "default", "strange"))
    good.write_text(json.dumps(document))
    default.write_text(world.policy(world.allow(f"arn:aws:iam::{BUYER}:root", "kms:*")))
    strange.write_text(world.policy(world.allow("*", "kms:*", {"StringNearly": {"a": "b"}})))
    tuples = ",".join(buyer.pcrs[index] for index in range(3))
    for arguments in ((), ("--tuple", tuples)):
        done = buyer.policy("prove", str(good), "--json", *arguments)
        assert done.returncode == 0, done.stderr
        assert "asking the solver" not in done.stderr
        assert {item["status"] for item in json.loads(done.stdout)["goals"]} == {"proved"}
    glass = ("--break-glass", f"arn:aws:iam::{BUYER}:user/break-glass")
    good.write_text(json.dumps(json.loads(buyer.policy("make", "--json", *glass).stdout)["policy"]))
    assert buyer.policy("prove", str(good), *glass).returncode == 0
    assert buyer.policy("prove", str(good)).returncode == 1
    refuted = buyer.policy("prove", str(default), "--tuple", tuples)
    assert refuted.returncode == 1
    assert "calls kms:Decrypt" in refuted.stdout
    unknown = buyer.policy("prove", str(strange), "--tuple", tuples, "--json")
    assert unknown.returncode == 3
    assert {item["status"] for item in json.loads(unknown.stdout)["goals"]} == {"unknown"}
    zeros = ",".join(["00" * 48, buyer.pcrs[1], buyer.pcrs[2]])
    debug = buyer.policy("prove", str(good), "--tuple", zeros, "--json")
    assert (debug.returncode, json.loads(debug.stdout)["code"]) == (1, "zero-pcr")
    default.write_text("{}")
    refused = buyer.policy("prove", str(default), "--tuple", tuples)
    assert (refused.returncode, refused.stderr.count(f"verify: {default}: Statement: ")) == (2, 1)
