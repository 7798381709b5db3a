"""A rotation against the local KMS while both releases keep decrypting: there is never a moment with none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from coattest.aws import AwsFailure
from coattest_verify.audit.events import KeyName
from coattest_verify.keypolicy.generate import policy_text
from coattest_verify.keypolicy.iam import parse_policy
from coattest_verify.keypolicy.live import KeyState, create_key, replaced, severed
from support.auction.buyer_desk import Buyer, desk
from support.local import kms_world as world
from support.verify.members import NOW, Members, report_json
from support.verify.trail_records import KEY


@pytest.fixture(scope="module")
def buyer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buyer]:
    """A buyer with a decided release, and the services."""
    with desk(tmp_path_factory.mktemp("rotation")) as made:
        yield made


@pytest.fixture(scope="module")
def following(buyer: Buyer) -> Members:
    """The next release: the same quorum and folder, another claim, signed by both."""
    quorum = replace(buyer.quorum)
    report = report_json("next", release="0.2.0", source="next")
    quorum.claim(report)
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report, age=NOW - datetime.now(timezone.utc) + timedelta(hours=1))
    return quorum


@dataclass
class Watch:
    """Decrypts with the one and the other release in turns, and writes down which of them worked."""

    decrypt: dict[str, Any]
    seen: list[tuple[bool, bool]] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            self.seen.append((self._works("old"), self._works("new")))

    def _works(self, release: str) -> bool:
        code = world.code_of(self.decrypt[release])
        self.codes.add(code)
        return code == "none"

    def settled(self) -> tuple[bool, bool]:
        """What two more rounds say, begun after now."""
        wanted = len(self.seen) + 2
        deadline = time.monotonic() + 60
        while len(self.seen) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.seen[-1]


def decisions(quorum: Members) -> dict[int, str]:
    """The registers that a quorum decided on."""
    return dict(quorum.decide(profile="local", now=datetime.now(timezone.utc)).require().pcrs)


def test_one_release_decrypts_at_every_moment_of_a_rotation(buyer: Buyer, following: Members) -> None:
    """Old; old and new; new. Both at once only ever by the one tuple or the other, and a swap in one step is
    refused.
    """
    assert following.attestations == buyer.quorum.attestations
    created = json.loads(buyer.live("apply", "new").stdout)["key"]
    running = buyer.running
    access = running.client("iam", "buyer-1").create_access_key(UserName="bidder")["AccessKey"]
    session = {"AccessKeyId": access["AccessKeyId"], "SecretAccessKey": access["SecretAccessKey"]}
    bidder = running.client("kms", "buyer-1", session=session)
    blob = bidder.encrypt(KeyId=created, Plaintext=bytes(32), EncryptionContext=world.CONTEXT)
    parent = running.client("kms", "service", session=world.assume(running, "service", world.PARENT))
    request = {
        "KeyId": created,
        "CiphertextBlob": blob["CiphertextBlob"],
        "EncryptionContext": world.CONTEXT,
    }

    def by(pcrs: dict[int, str]) -> Any:
        enclave = world.Enclave(pcrs)
        return lambda: parent.decrypt(**request, Recipient=enclave.recipient())

    tuples = {"old": decisions(buyer.quorum), "new": decisions(following)}
    watch = Watch({name: by(pcrs) for name, pcrs in tuples.items()})
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        assert watch.settled() == (True, False)
        swapped = buyer.live("apply", created, releases=("0.2.0",))
        assert (swapped.returncode, json.loads(swapped.stdout)["code"]) == (1, "no-overlap")
        assert watch.settled() == (True, False)
        added = buyer.live("apply", created, releases=("0.2.0", "0.1.0"))
        assert added.returncode == 0, added.stderr
        assert watch.settled() == (True, True)
        mixed = world.Enclave({**tuples["old"], 2: tuples["new"][2]})
        assert (
            world.code_of(parent.decrypt, **request, Recipient=mixed.recipient()) == "AccessDeniedException"
        )
        both = buyer.live("check", created, releases=("0.2.0", "0.1.0"))
        assert both.returncode == 0, both.stdout
        assert buyer.live("check", created).returncode == 1
        retired = buyer.live("apply", created, releases=("0.2.0",))
        assert retired.returncode == 0, retired.stderr
        assert watch.settled() == (False, True)
    finally:
        watch.stop.set()
        thread.join()
    assert all(first or second for first, second in watch.seen)
    assert watch.codes == {"none", "AccessDeniedException"}
    back = buyer.live("apply", created, "--retire-all")
    assert back.returncode == 0, back.stderr
    assert world.code_of(watch.decrypt["new"]) == "AccessDeniedException"


def test_a_key_without_a_release_has_nothing_to_keep(buyer: Buyer) -> None:
    """The default policy of a new key names no image, so the first policy is no swap."""
    plain = buyer.running.client("kms", "buyer-1").create_key()["KeyMetadata"]["Arn"]
    assert buyer.live("apply", plain).returncode == 0


def test_a_policy_that_cannot_be_read_is_replaced_when_that_is_asked_for() -> None:
    """AWS may know words that this version does not; nobody then knows which release decrypts."""
    allow = {"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
    wanted = parse_policy(json.dumps({"Statement": [allow]}))
    strange = json.dumps({"Statement": [allow | {"Condition": {"StringMatches": {"a": "b"}}}]})
    kind = ("Enabled", "AWS_KMS", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    key = KeyState(
        KEY, *kind, multi_region=False, replicas=(), policy=strange, grants=(), aliases=(), decision=None
    )
    (kept,), (shown,) = severed(key, wanted), replaced(key, wanted)
    assert (kept.code, shown.code) == ("policy-unreadable", "policy-unreadable")
    assert "--retire-all" in kept.detail
    assert severed(replace(key, policy=json.dumps({"Statement": [allow]})), wanted) == ()


def test_a_new_key_that_cannot_be_rotated_is_named(buyer: Buyer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It exists, and costs; the error is the only place that can say which one it is."""
    kms, allow = buyer.running.client("kms", "buyer-1"), json.loads(buyer.policy("make").stdout)
    refusal = ClientError({"Error": {"Code": "AccessDeniedException"}}, "EnableKeyRotation")
    monkeypatch.setattr(kms, "enable_key_rotation", Mock(side_effect=refusal))
    with pytest.raises(AwsFailure) as refused:
        create_key(kms, policy_text(allow), str(allow["Id"]), "")
    assert KeyName.parse(str(refused.value.where))


def test_the_previous_policies_are_kept_one_file_each(buyer: Buyer) -> None:
    """Two changes of one key leave two files."""
    arn = buyer.running.client("kms", "buyer-1").create_key()["KeyMetadata"]["Arn"]
    files = {json.loads(buyer.live("apply", arn).stdout)["previous"] for _ in range(2)}
    assert len(files) == 2
    assert all(Path(file).exists() for file in files)
