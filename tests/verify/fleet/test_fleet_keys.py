"""Buyers' keys: the policy that each must have, and the trail of its use."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import UsageError
from coattest.files import Folder
from coattest_local.aws import services
from coattest_verify.attestation import AWS_NITRO
from coattest_verify.cli.fleet.keys import KeyChecks
from coattest_verify.cli.policy.making import policy_of
from coattest_verify.fleet.file import load_fleet
from coattest_verify.fleet.judge import DECIDED, ExpectedRelease
from coattest_verify.fleet.look import Look, Watcher
from coattest_verify.fleet.reach import Clients, no_aws
from coattest_verify.keypolicy.generate import policy_text
from coattest_verify.keypolicy.live import create_key
from coattest_verify.quorum.bundle import make_bundle
from support.local.kms_world import make_role, may
from support.verify.audit.digest_chain import LOGS, PKCS1, START, chain
from support.verify.decisions import PARENT
from support.verify.fleet.worlds import fleet_toml, told
from support.verify.members import NOW, Members, report_json
from support.verify.trail_records import KEY, record
from support.verify.usage_errors import usage_error

BUYER = "222233334444"
ADMIN = f"arn:aws:iam::{BUYER}:user/admin"
POLICY = {
    "name": "buyer-1",
    "file": "policy.json",
    "account": BUYER,
    "member": "buyer-1",
    "releases": ["0.1.0"],
    "parent-roles": [PARENT],
    "administrators": [ADMIN],
    "encrypters": [ADMIN],
    "context": ["purpose=test"],
}
AUDIT = {
    "name": "buyer-1",
    "key": KEY,
    "logs": "trail",
    "public-keys": "keys.json",
    "releases": ["0.1.0"],
    "parent-roles": [PARENT],
    "window": "2h",
    "max-age": "1h",
}
SHOWN_UNTIL = START + timedelta(hours=3)
"""The end of the last digest."""


@pytest.fixture(scope="module")
def quorum(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Release 0.1.0, on which both members agree."""
    made = Members.make(tmp_path_factory.mktemp("quorum"))
    made.claim(report_json())
    for name in ("buyer-1", "buyer-2"):
        made.sign(name, report_json())
    with Folder(made.attestations) as evidence:
        (made.folder / "bundle.json").write_bytes(make_bundle(evidence, now=NOW))
    return made


@dataclass
class KeyWorld:
    """A folder with FLEET.toml, a policy and a trail, a clock that the test sets, and what is decided."""

    folder: Path
    quorum: Members
    now: datetime
    answer: str = DECIDED
    clients: Clients = no_aws
    watcher: Watcher | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the command decides from."""
        return {
            "attestations": None,
            "bundle": self.quorum.folder / "bundle.json",
            "root": self.quorum.root,
            "profile": "aws",
            "fresh": None,
            "endpoint_url": None,
        }

    def write(self, *, policy: dict[str, Any] | None = None, audit: dict[str, Any] | None = None) -> None:
        """FLEET.toml, which is read by the next watcher."""
        text = fleet_toml(*([policy] if policy else [])).replace("source", "policy")
        text += fleet_toml(*([audit] if audit else [])).partition("\n")[2].replace("source", "audit")
        (self.folder / "FLEET.toml").write_text(text)
        self.watcher = None

    def look(self) -> Look:
        """A look by the watcher that made the last one."""
        if self.watcher is None:
            fleet = load_fleet(self.folder / "FLEET.toml")
            decision = self.quorum.decide(now=self.now).require()
            pcrs = {index: bytes.fromhex(value) for index, value in decision.pcrs.items()}
            self.watcher = Watcher(
                fleet,
                lambda _: {"0.1.0": ExpectedRelease("0.1.0", self.answer, pcrs)},
                AWS_NITRO,
                lambda: self.now,
                self.clients,
                state=self.folder / "state.json",
                prometheus=self.folder / "fleet.prom",
                keys=KeyChecks(fleet, self.options, self.clients),
            )
        return self.watcher.look()

    def policy(self) -> dict[str, Any]:
        """The policy that the decision gives."""
        given = {
            "member": "buyer-1",
            "account": BUYER,
            "partition": "aws",
            "parent_roles": (PARENT,),
            "administrators": (ADMIN,),
            "encrypters": (ADMIN,),
            "break_glass": None,
            "seal_key": None,
            "context": ("purpose=test",),
            "registers": (),
            "simulator": False,
            **dict.fromkeys(("pcr3_role", "no_pcr3", "pcr4_instance", "until", "delegate_to_account")),
        }
        return policy_of(given, (self.quorum.decide(now=self.now).require(),), self.now).document

    def put(self, policy: dict[str, Any]) -> None:
        """Write the policy's file."""
        (self.folder / "policy.json").write_text(json.dumps(policy))

    def figures(self) -> list[str]:
        """The lines for Prometheus."""
        return (self.folder / "fleet.prom").read_text().splitlines()


@pytest.fixture
def world(quorum: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyWorld:
    """A policy as decided, and three hours of a trail that its digests vouch for."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
    made = KeyWorld(tmp_path, quorum, SHOWN_UNTIL + timedelta(minutes=50))
    made.put(made.policy())
    keys = {"PublicKeyList": [{"Fingerprint": "f1", "Value": base64.b64encode(PKCS1).decode()}]}
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    for name, content in LOGS.items():
        log(made, name.removesuffix(".gz"), content)
        (tmp_path / "trail" / name.removesuffix(".gz")).rename(tmp_path / "trail" / name)
    for digest in chain():
        log(made, digest.where, digest.content)
        log(made, f"{digest.where}.signature", digest.signature.encode())
    log(made, "logs/use.json", json.dumps({"Records": [decrypt(made)]}).encode())
    return made


def decrypt(world: KeyWorld, **changes: Any) -> dict[str, Any]:
    """A Decrypt by the decided enclave in the trail's time."""
    pcrs = world.quorum.decide(now=world.now).require().pcrs
    at = START + timedelta(minutes=90)
    return record(**{"registers": dict(pcrs), "eventTime": f"{at:%Y-%m-%dT%H:%M:%SZ}", **changes})


def log(world: KeyWorld, name: str, content: bytes) -> None:
    """A file of the trail."""
    path = world.folder / "trail" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_keys_as_decided_are_verified(world: KeyWorld) -> None:
    """With nobody else in FLEET.toml; the audit says until when its logs are complete."""
    world.write(policy=POLICY, audit=AUDIT)
    look = world.look()
    assert [row.findings for row in (*look.policies, *look.audits)] == [(), ()]
    found = look.to_json()
    assert (look.code, told(look), found["ok"]) == (0, [], True)
    assert [(each["name"], each["status"]) for each in (*found["policies"], *found["audits"])] == [
        ("buyer-1", "verified"),
        ("buyer-1", "verified"),
    ]
    assert found["audits"][0]["covered_until"] == SHOWN_UNTIL.isoformat()
    for line in (
        'coattest_fleet_policies{policy="buyer-1",status="verified"} 1',
        'coattest_fleet_policies{policy="buyer-1",status="drifted"} 0',
        'coattest_fleet_audits{audit="buyer-1",status="verified"} 1',
        "coattest_fleet_exit_code 0",
    ):
        assert line in world.figures()
    until = f'covered_until_timestamp_seconds{{audit="buyer-1"}} {SHOWN_UNTIL.timestamp():.0f}'
    assert any(line.endswith(until) for line in world.figures())


def test_a_policy_that_was_changed_is_an_alarm_and_then_news(world: KeyWorld) -> None:
    """With the statement that differs; what does not parse is no policy of the decision either."""
    world.write(policy=POLICY)
    assert world.look().code == 0
    policy = world.policy()
    policy["Statement"][0]["Principal"] = {"AWS": ADMIN}
    world.put(policy)
    look = world.look()
    assert (look.code, told(look)) == (1, [("alarm", "drifted", str(world.folder / "policy.json"))])
    assert [finding.code for finding in look.policies[0].findings] == ["statement-changed"]
    assert "policy:buyer-1" in str(look.changes[0])
    (world.folder / "policy.json").write_bytes(b"\xff")
    assert [finding.code for finding in world.look().policies[0].findings] == ["policy-unreadable"]
    world.put(world.policy())
    look = world.look()
    assert (look.code, [(kind, what) for kind, what, _ in told(look)]) == (0, [("news", "verified")])
    assert str(look.changes[0]).endswith("is verified again")


def test_a_policy_that_cannot_be_read_is_waited_for(world: KeyWorld) -> None:
    """Silence is not false."""
    world.write(policy=POLICY)
    (world.folder / "policy.json").unlink()
    look = world.look()
    assert (look.code, [(kind, what) for kind, what, _ in told(look)]) == (3, [("news", "waiting")])
    world.now += timedelta(minutes=11)
    look = world.look()
    assert (look.code, [(kind, what) for kind, what, _ in told(look)]) == (3, [("alarm", "silent")])


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [("revoked", "revoked", 1), ("refused", "refused", 1), ("pending", "undecided", 3)],
)
def test_keys_of_a_release_that_is_not_decided_are_what_it_is(
    world: KeyWorld, answer: str, status: str, code: int
) -> None:
    """Nothing can be made of it to compare with."""
    world.write(policy=POLICY, audit=AUDIT)
    assert world.look().code == 0
    world.answer = answer
    look = world.look()
    assert look.code == code
    assert [(kind, what) for kind, what, _ in told(look)] == [("alarm", status)] * 3


def test_a_policy_needs_its_members_own_statement(world: KeyWorld) -> None:
    """Whoever is no member agreed on nothing."""
    world.write(policy={**POLICY, "member": "buyer-9"})
    look = world.look()
    assert (look.code, look.policies[0].status) in ((1, "refused"), (3, "undecided"))
    assert look.policies[0].findings


def test_a_live_key_is_compared_with_its_policy(world: KeyWorld, tmp_path: Path) -> None:
    """As verify policy check does: its policy, and what no policy shows, such as its state."""
    with services.start(tmp_path / "services", quiet=True) as running:
        make_role(running, "service", "parent", may=may("kms:Decrypt"))
        kms = running.client("kms", "buyer-1")
        policy = world.policy()
        key = create_key(kms, policy_text(policy), str(policy["Id"]), "")
        world.clients = lambda service, region: running.client(service, "buyer-1")
        live = {name: value for name, value in POLICY.items() if name not in ("file", "account")}
        world.write(policy={**live, "key": key})
        assert (world.look().code, world.look().policies[0].findings) == (0, ())
        kms.disable_key(KeyId=key)
        look = world.look()
        assert (look.code, told(look)) == (1, [("alarm", "drifted", key)])
        assert [finding.code for finding in look.policies[0].findings] == ["key-state"]
    assert world.look().policies[0].status == "waiting"


@pytest.mark.parametrize(
    ("broken", "status", "code"),
    [
        ("an undecided enclave", "drifted", "undecided-enclave"),
        ("a log that is gone", "drifted", "log-missing"),
        ("a log that was changed", "drifted", "log-changed"),
        ("an hour in between", "drifted", "hours-missing"),
        ("the first hour", "drifted", "hours-missing"),
        ("the last hour", "waiting", "hours-missing"),
        ("every digest", "waiting", "hours-missing"),
        ("every digest, and an undecided enclave", "drifted", "undecided-enclave"),
        ("a forged digest", "drifted", "digest-signature"),
        ("no folder", "waiting", "usage"),
    ],
)
def test_what_a_trail_shows_or_lacks(world: KeyWorld, broken: str, status: str, code: str) -> None:
    """A use that is not as decided, and logs that are not what was delivered, are false; none is silence."""
    digests = [digest.where for digest in chain()]
    gone = {"an hour in between": digests[1:2], "the first hour": digests[:1], "the last hour": digests[2:]}
    for name in {**gone, "every digest": digests}.get(broken.partition(",")[0], []):
        (world.folder / "trail" / name).unlink()
        (world.folder / "trail" / f"{name}.signature").unlink()
    if broken.endswith("an undecided enclave"):
        use = decrypt(world, registers={0: "77" * 48, 1: "77" * 48, 2: "77" * 48})
        log(world, "logs/use.json", json.dumps({"Records": [use]}).encode())
    if broken == "a log that is gone":
        (world.folder / "trail" / next(iter(LOGS))).unlink()
    if broken == "a log that was changed":
        log(world, next(iter(LOGS)), b'{"Records": []}')
    if broken == "a forged digest":
        log(world, f"{digests[2]}.signature", b"00" * 256)
    world.write(audit={**AUDIT, **({"logs": "elsewhere"} if broken == "no folder" else {})})
    look = world.look()
    assert (look.audits[0].status, look.code) == (status, 1 if status == "drifted" else 3)
    assert code in {finding.code for finding in look.audits[0].findings}


def test_an_audit_is_made_again_after_its_time(world: KeyWorld) -> None:
    """Until then the last one stands; then the hours that came in between are missed."""
    world.write(audit={**AUDIT, "every": "15m"})
    assert world.look().code == 0
    (world.folder / "trail").rename(world.folder / "away")
    world.now += timedelta(minutes=14)
    assert world.look().code == 0
    (world.folder / "away").rename(world.folder / "trail")
    world.now += timedelta(minutes=1)
    look = world.look()
    assert (look.code, look.audits[0].status) == (3, "waiting")


def test_days_before_the_window_are_not_read(world: KeyWorld) -> None:
    """By CloudTrail's folders; of logs two days more, and of what has no day everything."""
    log(world, "AWSLogs/1/CloudTrail/r/2026/11/20/a.json", b"no log")
    world.write(audit=AUDIT)
    assert world.look().code == 0
    log(world, "AWSLogs/1/CloudTrail/r/2026/11/21/a.json", b"no log")
    world.watcher = None
    assert world.look().code == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"key": KEY},
        {"file": None, "account": None},
        {"account": None},
        {"member": None},
        {"releases": None},
        {"administrators": ["admin"]},
        {"context": ["a"]},
        {"registers": ["3=zz"]},
        {"aliases": ["alias/x"]},
        {"more": "1"},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(world: KeyWorld, changes: dict[str, Any]) -> None:
    """Each field has a grammar; names of a file mean nothing."""
    world.write(policy={**POLICY, **changes})
    with usage_error("malformed"):
        world.look()


@pytest.mark.parametrize(
    "changes", [{"parent-roles": None}, {"window": "0"}, {"key": "alias/x"}, {"logs": None}, {"since": "1h"}]
)
def test_an_audit_that_makes_no_sense_is_refused(world: KeyWorld, changes: dict[str, Any]) -> None:
    """A window of no time would look at nothing."""
    world.write(audit={**AUDIT, **changes})
    with usage_error("malformed"):
        world.look()


def test_a_policy_of_no_administrator_is_no_policy(world: KeyWorld) -> None:
    """What verify policy make refuses ends the look as a wrong use."""
    world.write(policy={**POLICY, "administrators": None})
    with pytest.raises(UsageError):
        world.look()
