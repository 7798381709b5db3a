"""Policies with a known answer: the shared cases through the command, and adversarial ones of our own."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("z3")

from coattest.errors import FoundFalse, UsageError
from coattest_verify.cli import cli
from coattest_verify.keypolicy.iam import parse_policy
from coattest_verify.keypolicy.prove import DEADLINE, ProofQuestion, Status, goals, prove, search
from coattest_verify.keypolicy.prove.requests import EXAMPLE_ID
from support.shared_cases import shared_folder
from support.verify.keypolicy.adversarial import EVE, GOOD, POLICIES, Adversarial
from support.verify.keypolicy.adversarial_present import NOW, POLICIES_OF_REQUESTS
from support.verify.keypolicy.prover import ADMIN, BIDDER, KEY, A, allow, ask, deny, exactly

ALL = (*POLICIES, *POLICIES_OF_REQUESTS)
GOALS = ("plaintext", "power", "encryption", "decryption")
ROLES = {"administrators": [], "encrypters": [], "from": "nobody"}
EXIT = {"proved": 0, "refuted": 1, "unknown": 3}
WITHOUT_ACCESS = ("nobody-can-decrypt", "null-on-unknown-key")
"""Shared cases in which nobody decrypts, the decided enclave included."""


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document of ``verify policy prove``."""
    done = CliRunner().invoke(cli, ["policy", "prove", *arguments, "--json"], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value or 0), json.loads(done.stdout)


def test_each_shared_case_has_its_answer() -> None:
    """../shared/cases/policies: every file as expected.json says, and no other answer to the fourth goal."""
    folder = shared_folder("cases/policies")
    expected = json.loads((folder / "expected.json").read_text())
    files = {path.stem for path in folder.glob("*.json")} - {"expected"}
    assert files == set(expected["cases"])
    wrong = {}
    for name, wanted in expected["cases"].items():
        code, document = run(str(folder / f"{name}.json"), *expected["arguments"])
        found = {item["goal"]: item["status"] for item in document["goals"]}
        answers = {goal: wanted[goal] for goal in GOALS[:3]}
        answers["decryption"] = (
            "refuted" if name in WITHOUT_ACCESS else "unknown" if name == "notprincipal-role" else "proved"
        )
        statuses = set(answers.values())
        exit_code = 1 if "refuted" in statuses else 3 if "unknown" in statuses else 0
        if (found, code) != (answers, exit_code):
            wrong[name] = (found, code)
    assert not wrong


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_an_adversarial_policy_has_the_answer_that_aws_gives(case: Adversarial) -> None:
    """The words of AWS that decide stand beside each."""
    found = ask(*case.statements, tuples=(A,), key=case.key, now=case.now)
    assert {goal: found[goal].status.value for goal in GOALS} == {
        goal: getattr(case, goal) for goal in GOALS
    }, case.source
    for answer in found.values():
        if answer.status.value == "unknown":
            assert answer.reason


@pytest.mark.parametrize(
    "odd",
    [
        {"NumericLessThan": {"aws:CurrentTime": "5"}, "DateLessThan": {"aws:EpochTime": "7"}},
        {"NumericLessThan": {"aws:EpochTime": "2026"}, "DateLessThan": {"aws:CurrentTime": "2026"}},
        {"NumericLessThan": {"aws:EpochTime": "5"}, "DateLessThan": {"aws:EpochTime": "7"}},
        {"StringLike": {"aws:CurrentTime": "2*"}, "DateEquals": {"aws:TokenIssueTime": "2" * 20}},
        {"NumericEquals": {"aws:TokenIssueTime": "2"}, "IpAddress": {"aws:CurrentTime": "::/0"}},
        {"StringEquals": {"aws:SecureTransport": "x", "aws:PrincipalType": "y", "aws:userid": ""}},
        {"StringEquals": {"aws:UserAgent": "", "aws:RequestedRegion": "", "aws:ResourceAccount": ""}},
        {
            "Null": {
                "aws:ViaAWSService": "true",
                "aws:CurrentTime": "true",
                "aws:PrincipalIsAWSService": "true",
            }
        },
        {"StringLike": {"aws:PrincipalTag/x": "${aws:CurrentTime}${aws:EpochTime}"}},
    ],
)
def test_what_every_request_has_never_bounds_all_of_them_away(odd: dict[str, Any]) -> None:
    """Beside a condition that nothing meets, what is open to somebody is found: no proof is empty."""
    found = ask(GOOD, allow(EVE), allow(EVE, Condition=odd), tuples=(A,), key=KEY, now=NOW)
    assert (found["plaintext"].status, found["decryption"].status) == (Status.REFUTED, Status.PROVED)


def test_there_are_enough_of_them_and_each_has_its_source() -> None:
    """At least a hundred and fifty, under different names, none without a source."""
    assert len({case.name for case in ALL}) == len(ALL) >= 150
    assert all(case.source for case in ALL)


def written(folder: Path, *statements: dict[str, Any], **more: Any) -> str:
    """A policy file."""
    path = folder / "policy.json"
    path.write_text(json.dumps({"Version": "2012-10-17", **more, "Statement": list(statements)}))
    return str(path)


TUPLE = ("--tuple", ",".join(A))


def test_with_no_roles_given_the_answer_says_that_nobody_was_allowed(tmp_path: Path) -> None:
    """And the administrator's own PutKeyPolicy refutes."""
    path = written(tmp_path, allow(ADMIN, "kms:PutKeyPolicy"), allow(Condition=exactly(A)))
    code, document = run(path, *TUPLE)
    assert (code, document["roles"]) == (1, ROLES)
    told = CliRunner().invoke(cli, ["policy", "prove", path, *TUPLE])
    assert "No --administrator was given: nobody was allowed to be one." in told.stderr
    assert "the key is symmetric" in told.stderr
    assert "an administrator can put another one" in told.stderr


def test_no_id_of_a_policy_says_who_may_do_what(tmp_path: Path) -> None:
    """It claims a decision that nobody recomputed here. Roles that are given count."""
    statements = (
        allow(ADMIN, ["kms:PutKeyPolicy", "kms:DescribeKey"], Sid="Administer"),
        allow(BIDDER, "kms:Encrypt", Sid="Encrypt"),
        allow(Condition=exactly(A)),
    )
    path = written(tmp_path, *statements, Id=f"coattest-{'ab' * 32}")
    code, document = run(path, *TUPLE)
    assert (code, document["roles"]) == (1, ROLES)
    given = ("--administrator", ADMIN, "--encrypter", BIDDER)
    code, document = run(path, *TUPLE, *given)
    assert code == 0
    assert document["roles"] == {"administrators": [ADMIN], "encrypters": [BIDDER], "from": "options"}


def test_a_counterexample_is_a_request_that_aws_could_receive(tmp_path: Path) -> None:
    """A key's ARN, a caller with a name, keys in AWS's case; no document where none is needed."""
    path = written(tmp_path, allow("*", Condition={"StringEquals": {"AWS:principaltag/Team": "red"}}))
    _, document = run(path, *TUPLE)
    found = document["goals"][0]["counterexample"]
    assert re.fullmatch(
        r"arn:aws:kms:us-east-1:\d{12}:key/1234abcd-12ab-34cd-56ef-1234567890ab", found["resource"]
    )
    assert found["arn"].endswith(("/Somebody/somebody", "/Somebody"))
    assert set(found["context"]) == {
        "aws:PrincipalTag/Team",
        "aws:PrincipalArn",
        "aws:PrincipalAccount",
        "kms:CallerAccount",
    }


def test_a_busy_machine_shows_the_same_counterexample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by between any two looks at the clock, and none of it is the solver's."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__, process_time=time.process_time)
    for module in (goals, search):
        monkeypatch.setattr(module, "time", clock)
    policy = parse_policy(json.dumps({"Statement": [allow("*")]}))
    found = next(goals.answers(policy, ProofQuestion((A,)), until=600.0))
    assert found.counterexample is not None
    assert "/Somebody" in found.counterexample.arn
    assert EXAMPLE_ID in found.counterexample.resource


def test_notes_say_what_has_no_effect(tmp_path: Path) -> None:
    """A statement without Resource, and a condition key that KMS does not have."""
    statement = allow(Condition={"Null": {"kms:RecipientAttestation": "true"}}, Sid="Odd")
    del statement["Resource"]
    _, document = run(written(tmp_path, statement, allow(Condition=exactly(A))), *TUPLE)
    first, second = document["notes"]
    assert "statement Odd has no Resource" in first
    assert "kms:RecipientAttestation is not a condition key of KMS" in second


def test_now_is_when_the_enclave_must_decrypt(tmp_path: Path) -> None:
    """A permission that has ended admits nobody."""
    ended = {**exactly(A), "DateLessThan": {"aws:CurrentTime": "2021-01-01T00:00:00Z"}}
    code, document = run(written(tmp_path, allow(Condition=ended)), *TUPLE)
    assert (code, document["goals"][3]["status"]) == (1, "refuted")
    assert A[0] in document["goals"][3]["reason"]


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (
            (),
            '{"Statement":[{"Effect":"Allow","Principal":{"AWS":"ACCOUNT_ID"},"Action":"kms:*"}]}',
            "placeholder",
        ),
        ((), "\ufeff{}", "malformed-policy"),
        ((), '{"Statement":' + "[" * 9000, "malformed-policy"),
        ((), "\x00", "malformed-policy"),
        (("--key", "alias/x"), None, "usage"),
        (("--administrator", "KeyAdmin"), None, "usage"),
        (("--encrypter", "arn:aws:iam::ACCOUNT_ID:role/x"), None, "placeholder"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...], text: str | None, code: str
) -> None:
    """Exit code 2, and which one it is."""
    path = tmp_path / "policy.json"
    path.write_text(text if text is not None else written(tmp_path, allow()) and path.read_text())
    with pytest.raises(UsageError) as refused:
        run(str(path), *TUPLE, *arguments)
    assert refused.value.code == code


def test_nothing_is_proved_of_a_multi_region_key(tmp_path: Path) -> None:
    """Its id says that the assumption of one Region is false: a replica has a policy of its own."""
    path = written(tmp_path, allow(Condition=exactly(A)))
    with pytest.raises(FoundFalse, match="multi-Region"):
        run(path, *TUPLE, "--key", f"{KEY.rpartition('/')[0]}/mrk-{'0' * 32}")


def test_a_solver_that_does_not_come_back_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that ends by itself without an answer: both unknown, whatever is left to say."""
    policy = parse_policy(json.dumps({"Statement": [allow(Condition=exactly(A))]}))
    question = ProofQuestion((A,))
    late = prove(policy, question, deadline=0.02)
    assert {item.status for item in late} == {Status.UNKNOWN}
    assert all("no answer in" in str(item.reason) for item in late)
    monkeypatch.setattr("coattest_verify.keypolicy.prove.bounded.sys.executable", "/bin/false")
    broken = prove(policy, question)
    assert all("ended without an answer" in str(item.reason) for item in broken)


@pytest.mark.slow
def test_hostile_policies_end_with_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many stars, many values, many principals, long texts: an exit code by the deadline, no traceback."""
    monkeypatch.setitem(prove.__kwdefaults__, "deadline", DEADLINE)
    stars = {"StringLike": {"kms:EncryptionContext:x": ["*a" * 60 + "b", "*b*c" * 40, "?" * 90 + "*"]}}
    many = {"StringNotEquals": {"aws:PrincipalTag/x": [f"v{index}" for index in range(1500)]}}
    numbers = {"NumericLessThan": {"aws:MultiFactorAuthAge": [str(index) for index in range(700)]}}
    arns = [f"arn:aws:iam::{index:012d}:role/r{index}" for index in range(1, 400)]
    for statements in (
        (allow(Condition=stars), deny(Condition=stars)),
        (allow(), deny(Condition=many)),
        (allow(Condition=numbers), deny(Condition=numbers)),
        (allow(arns), deny(Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*1*:role/r*1*"}})),
        tuple(allow(Resource=f"arn:aws:kms:*:{index:012d}:key/*{index}*") for index in range(60)),
    ):
        code, document = run(written(tmp_path, *statements), *TUPLE)
        assert code in (0, 1, 3)
        assert [item["goal"] for item in document["goals"]] == list(GOALS)
