"""What a generated key policy lets in, and from which decisions none is made."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest.errors import FoundFalse, UsageError
from coattest_build.formats.measure import pcr3
from coattest_build.formats.registers import EMPTY_PCR2
from coattest_verify.keypolicy import snippets
from coattest_verify.keypolicy.compare import policy_differences
from coattest_verify.keypolicy.explain import explain_policy
from coattest_verify.keypolicy.generate import (
    ContextRules,
    PolicyOptions,
    decision_tag,
    policy_text,
)
from coattest_verify.keypolicy.iam import (
    Effect,
    PolicyKind,
    Principal,
    Request,
    authorize,
    evaluate,
    parse_policy,
)
from support.verify.decisions import (
    ACCOUNT,
    ADMINS,
    AN_AUCTIONS,
    ENCRYPTER,
    NOW,
    PARENT,
    SERVICE,
    decision,
    make,
)
from support.verify.usage_errors import usage_error

KEY = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CONTEXT = {"coattest:auction": "5e" * 48, "coattest:buyer": "buyer-1"}


def request(
    who: str = PARENT,
    action: str = "kms:Decrypt",
    *,
    pcrs: dict[int, str] | None = None,
    context: dict[str, str] | None = None,
    **more: tuple[str, ...],
) -> Request:
    """A request for the key; an enclave's document has PCR3 of the caller's role, if nothing else is said."""
    registers = {3: pcr3(who), **pcrs} if pcrs else {}
    keys: dict[str, tuple[str, ...]] = {
        f"kms:RecipientAttestation:PCR{index}": (value,) for index, value in registers.items()
    }
    if pcrs and 0 in pcrs:
        keys["kms:RecipientAttestation:ImageSha384"] = (pcrs[0],)
    pairs = CONTEXT if context is None else context
    keys |= {f"kms:EncryptionContext:{name}": (value,) for name, value in pairs.items()}
    keys["kms:EncryptionContextKeys"] = tuple(pairs)
    account = who.split(":")[4]
    return Request(Principal(who, account), action, KEY, keys | more)


def says(document: dict[str, Any], asked: Request) -> Effect:
    """The evaluator's answer."""
    return evaluate(parse_policy(policy_text(document)), asked)


def test_the_parent_decrypts_from_the_decided_enclave_and_from_no_other() -> None:
    """All registers must be the decided ones; without a document, or with one register off, a Deny
    answers.
    """
    document, good = make(), dict(decision().pcrs)
    assert says(document, request(pcrs=good)) is Effect.ALLOW
    assert says(document, request(pcrs={k: v.upper() for k, v in good.items()})) is Effect.ALLOW
    assert says(document, request()) is Effect.EXPLICIT_DENY
    assert says(document, request(pcrs={**good, 0: "ff" * 48})) is Effect.EXPLICIT_DENY
    for register in (1, 2):
        assert says(document, request(pcrs={**good, register: "ff" * 48})) is Effect.IMPLICIT_DENY
        missing = {index: value for index, value in good.items() if index != register}
        assert says(document, request(pcrs=missing)) is Effect.IMPLICIT_DENY
    assert says(document, request(pcrs=dict.fromkeys(range(3), "00" * 48))) is Effect.EXPLICIT_DENY


def test_two_releases_decrypt_during_a_rotation_and_their_mixtures_do_not() -> None:
    """One statement a release, and Denies that name the images of all releases."""
    old, new = decision("a"), decision("b", release="1.1.0")
    document = make([old, new])
    for release in (old, new):
        assert says(document, request(pcrs=dict(release.pcrs))) is Effect.ALLOW
    for mixed in ({**old.pcrs, 1: new.pcrs[1]}, {**old.pcrs, 2: new.pcrs[2]}, {**new.pcrs, 0: old.pcrs[0]}):
        assert says(document, request(pcrs=dict(mixed))) is not Effect.ALLOW
    assert says(document, request(pcrs={0: "c0" * 48, 1: "c1" * 48, 2: "c2" * 48})) is Effect.EXPLICIT_DENY
    assert policy_text(make([old, new])) == policy_text(make([new, old]))
    assert old.release_digest.hex() in document["Id"]
    assert new.release_digest.hex() in document["Id"]


def test_encrypters_encrypt_without_a_document_and_do_nothing_else() -> None:
    """The attestation Denies are on Decrypt alone; no operation hands an encrypter a plaintext."""
    document = make()
    assert says(document, request(ENCRYPTER, "kms:Encrypt")) is Effect.ALLOW
    assert says(document, request(PARENT, "kms:Encrypt")) is Effect.IMPLICIT_DENY
    assert says(document, request(ENCRYPTER, "kms:GenerateDataKey")) is Effect.IMPLICIT_DENY
    assert says(document, request(ENCRYPTER, pcrs=dict(decision().pcrs))) is Effect.IMPLICIT_DENY


@pytest.mark.parametrize("who", [*ADMINS, PARENT, ENCRYPTER, f"arn:aws:iam::{ACCOUNT}:root"])
@pytest.mark.parametrize(
    "action",
    ["kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:CreateGrant", "kms:ReplicateKey", "kms:DeriveSharedSecret"],
)
def test_nobody_takes_ciphertext_or_power_past_the_conditions(who: str, action: str) -> None:
    """Denied to everybody, the root user included, whatever document comes with it."""
    assert says(make(), request(who, action, pcrs=dict(decision().pcrs))) is Effect.EXPLICIT_DENY


def test_administrators_manage_and_do_not_decrypt() -> None:
    """Not even from the decided enclave; and nobody else manages."""
    document = make(options=PolicyOptions(break_glass=f"arn:aws:iam::{ACCOUNT}:user/glass"))
    for who in (*ADMINS, f"arn:aws:iam::{ACCOUNT}:user/glass"):
        assert says(document, request(who, "kms:PutKeyPolicy")) is Effect.ALLOW
        assert says(document, request(who, pcrs=dict(decision().pcrs))) is Effect.IMPLICIT_DENY
        assert says(document, request(who, "kms:GenerateDataKey")) is Effect.IMPLICIT_DENY
    for who in (PARENT, ENCRYPTER, f"arn:aws:iam::{ACCOUNT}:user/other"):
        assert says(document, request(who, "kms:PutKeyPolicy")) is Effect.IMPLICIT_DENY


def test_the_account_has_no_power_unless_it_is_delegated_and_then_none_to_decrypt() -> None:
    """No root delegation by default; on request it covers administration."""
    request_ = request(f"arn:aws:iam::{ACCOUNT}:user/other", "kms:PutKeyPolicy")
    everything = parse_policy(
        json.dumps(
            {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
        ),
        kind=PolicyKind.OTHER,
    )

    def allowed(document: dict[str, Any], asked: Request) -> bool:
        policy = parse_policy(policy_text(document))
        return authorize(asked, owner=ACCOUNT, resource_policy=policy, identity_policies=[everything]).allowed

    delegating = make(options=PolicyOptions(delegate_to_account=True))
    assert not allowed(make(), request_)
    assert allowed(delegating, request_)
    decrypting = replace(request_, action="kms:Decrypt")
    assert not allowed(delegating, decrypting)


def test_a_context_is_required_key_by_key_in_its_case() -> None:
    """The buyer, its own seal key and the release's image, an auction with any value, and nothing more."""
    good = dict(decision().pcrs)
    document = make(context=AN_AUCTIONS)
    auctions = {**CONTEXT, "coattest:seal-key": "5e" * 32, "coattest:image": good[0]}
    assert says(document, request(pcrs=good, context=auctions)) is Effect.ALLOW
    for context in (
        {},
        {"coattest:buyer": "buyer-1"},
        CONTEXT,
        {**auctions, "coattest:buyer": "buyer-2"},
        {**auctions, "coattest:seal-key": "6e" * 32},
        {**auctions, "coattest:image": decision("b").pcrs[0]},
        {**auctions, "more": "x"},
        {name: value for name, value in auctions.items() if name != "coattest:auction"},
        {
            **{name: value for name, value in auctions.items() if "buyer" not in name},
            "Coattest:Buyer": "buyer-1",
        },
    ):
        assert says(document, request(pcrs=good, context=context)) is Effect.IMPLICIT_DENY
    exact = make(context=ContextRules({"a": "b"}))
    assert says(exact, request(pcrs=good, context={"a": "b"})) is Effect.ALLOW
    assert says(exact, request(pcrs=good, context={"a": "b", **CONTEXT})) is Effect.IMPLICIT_DENY


def test_the_bidder_encrypts_only_what_a_decided_image_may_open() -> None:
    """Encrypt alone, under the same context as Decrypt; no operation hands out a plaintext key."""
    releases = [decision("a"), decision("b")]
    document = make(releases, context=AN_AUCTIONS)
    auctions = {**CONTEXT, "coattest:seal-key": "5e" * 32}

    def may(action: str, **changes: str) -> bool:
        asked = request(ENCRYPTER, action, context={**auctions, **changes})
        return says(document, asked) is Effect.ALLOW

    for release in releases:
        assert may("kms:Encrypt", **{"coattest:image": release.pcrs[0]})
        for operation in ("kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"):
            assert not may(operation, **{"coattest:image": release.pcrs[0]})
    assert not may("kms:Encrypt")
    assert not may("kms:Encrypt", **{"coattest:image": decision("c").pcrs[0]})
    assert not may("kms:Encrypt", **{"coattest:image": releases[0].pcrs[0], "coattest:seal-key": "00" * 32})


def test_in_a_rotation_each_image_opens_what_was_made_for_it() -> None:
    """Both releases decrypt, each only under its own image in the context."""
    old, new = decision("a"), decision("b")
    document = make([old, new], context=AN_AUCTIONS)
    for enclave in (old, new):
        for made_for in (old, new):
            context = {**CONTEXT, "coattest:seal-key": "5e" * 32, "coattest:image": made_for.pcrs[0]}
            asked = request(pcrs=dict(enclave.pcrs), context=context)
            assert (says(document, asked) is Effect.ALLOW) is (enclave is made_for)


def test_further_registers_and_an_end_are_conditions_of_every_release() -> None:
    """PCR3 and PCR4 must match too; after the end nobody decrypts."""
    until = NOW + timedelta(days=1)
    document = make(
        [decision("a"), decision("b")],
        options=PolicyOptions(registers={3: "d3" * 48, 4: "d4" * 48}, until=until),
    )
    for first in "ab":
        good = {**decision(first).pcrs, 3: "d3" * 48, 4: "d4" * 48}
        before = {"aws:CurrentTime": ("2026-06-01T12:00:00Z",)}
        after = {"aws:CurrentTime": ("2026-06-02T00:00:00Z",)}
        assert says(document, request(pcrs=good, **before)) is Effect.ALLOW
        assert says(document, request(pcrs=good, **after)) is Effect.IMPLICIT_DENY
        assert says(document, request(pcrs={**good, 4: "ff" * 48}, **before)) is Effect.IMPLICIT_DENY


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_further_register_does_not_replace_a_decided_one(index: int) -> None:
    """PCR0 to PCR2 come from the decision and from nowhere else."""
    with pytest.raises(UsageError):
        make(options=PolicyOptions(registers={index: "ff" * 48}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pcrs": {0: "00" * 48, 1: "a1" * 48, 2: "a2" * 48}}, "zero-pcr"),
        ({"pcrs": {0: "a0" * 48, 1: "a1" * 48, 2: "00" * 48}}, "zero-pcr"),
        ({"pcrs": {0: "a0" * 48, 1: "a1" * 48, 2: EMPTY_PCR2}}, "empty-pcr2"),
        ({"pcrs": {0: "a0" * 48, 1: "a0" * 48, 2: "a2" * 48}}, "empty-pcr2"),
        ({"pcrs": {0: "a0" * 48, 1: "a1" * 48}}, "missing-pcr"),
        ({"pcrs": {0: "A0" * 48, 1: "a1" * 48, 2: "a2" * 48}}, "bad-pcr"),
        ({"pcrs": {0: "a0" * 47, 1: "a1" * 48, 2: "a2" * 48}}, "bad-pcr"),
        ({"expires": NOW}, "decision-expired"),
        ({"profile": "local"}, "local-decision"),
    ],
)
def test_no_policy_is_made_from_such_a_decision(changes: dict[str, Any], reason: str) -> None:
    """Each refusal has its reason code."""
    with pytest.raises(FoundFalse) as refused:
        make(decision(**changes))
    assert refused.value.code == reason
    assert refused.value.exit_code == 1


def test_a_profile_of_ones_own_is_not_called_local() -> None:
    """It makes no policy either, and the message says which profile would."""
    with pytest.raises(
        FoundFalse, match="for the profile staging, and KMS is for enclaves of aws"
    ) as refused:
        make(decision(profile="staging"))
    assert refused.value.code == "local-decision"


def test_two_results_for_one_image_are_a_mixture() -> None:
    """The same PCR0 with other registers, or the same release twice."""
    second = decision(pcrs={**decision().pcrs, 1: "ff" * 48})
    with pytest.raises(FoundFalse) as refused:
        make([decision(), second])
    assert refused.value.code == "mixed-tuples"


def test_a_local_decision_needs_the_word_simulator() -> None:
    """Nothing else about it changes."""
    local = decision(profile="local")
    assert says(make(local, simulator=True), request(pcrs=dict(local.pcrs))) is Effect.ALLOW


@pytest.mark.parametrize(
    "changes",
    [
        {"parent_roles": ["*"]},
        {"parent_roles": [f"arn:aws:iam::{SERVICE}:root"]},
        {"parent_roles": [f"arn:aws:iam::{SERVICE}:role/*"]},
        {"parent_roles": [f"arn:aws:sts::{SERVICE}:assumed-role/parent/i-1"]},
        {"parent_roles": ["AROAEXAMPLEEXAMPLE1"]},
        {"parent_roles": [f"arn:aws:iam::{SERVICE}:user/parent"]},
        {"parent_roles": [PARENT + "\n"]},
        {"administrators": [f"arn:aws:iam::{SERVICE}:user/admin"]},
        {"administrators": [f"arn:aws:iam::{ACCOUNT}:root"]},
        {"encrypters": [f"arn:aws:iam::{SERVICE}:user/bidder"]},
        {"parent_roles": [ADMINS[1]]},
        {"options": PolicyOptions(break_glass=ADMINS[0])},
    ],
)
def test_principals_that_are_everybody_or_nobody_in_particular_are_refused(changes: dict[str, Any]) -> None:
    """No wildcard, account, session or unique id; administrators and encrypters are of the key's own
    account.
    """
    with pytest.raises(UsageError) as caught:
        make(**changes)
    assert caught.value.code == "bad-principal"


@pytest.mark.parametrize(
    "changes",
    [
        {"account": "22223333444"},
        {"parent_roles": []},
        {"administrators": []},
        {"encrypters": []},
        {"partition": "x"},
    ],
)
def test_what_is_missing_is_a_usage_error(changes: dict[str, Any]) -> None:
    """Exit code 2."""
    with pytest.raises(UsageError):
        make(**changes)


@pytest.mark.parametrize("until", [NOW, NOW - timedelta(seconds=1)])
def test_an_end_that_is_over_is_refused(until: datetime) -> None:
    """Nobody would decrypt."""
    with pytest.raises(UsageError, match="has passed"):
        make(options=PolicyOptions(until=until))


def test_every_parent_role_that_is_named_decrypts_and_no_other() -> None:
    """Each role has its own statement a release: one role's enclave is nothing for the other's caller."""
    second = f"arn:aws:iam::{SERVICE}:role/second"
    document = make([decision("a"), decision("b")], parent_roles=[PARENT, second, second])
    sids = [statement["Sid"] for statement in document["Statement"]]
    assert len(set(sids)) == len(sids)
    assert sum(sid.startswith("Decrypt") for sid in sids) == 4
    for release in ("a", "b"):
        pcrs = dict(decision(release).pcrs)
        for who, other in ((PARENT, second), (second, PARENT)):
            mixed = request(who, "kms:Decrypt", pcrs={**pcrs, 3: pcr3(other)})
            assert says(document, mixed) is Effect.IMPLICIT_DENY
        for who in (PARENT, second):
            assert says(document, request(who, "kms:Decrypt", pcrs=pcrs)) is Effect.ALLOW
        third = f"arn:aws:iam::{SERVICE}:role/third"
        assert says(document, request(third, "kms:Decrypt", pcrs=pcrs)) is not Effect.ALLOW


def test_the_parents_role_is_measured_unless_told_otherwise() -> None:
    """PCR3 is the role's. A role with a path is refused: what is measured then is not documented."""
    good = dict(decision().pcrs)
    for register in ("00" * 48, pcr3(f"{PARENT}2")):
        assert says(make(), request(pcrs={**good, 3: register})) is Effect.IMPLICIT_DENY
    anywhere = make(options=PolicyOptions(bind_role=False))
    assert says(anywhere, request(pcrs={**good, 3: "ff" * 48})) is Effect.ALLOW
    pathed = f"arn:aws:iam::{SERVICE}:role/service/parent"
    with usage_error("bad-principal", match="path"):
        make(parent_roles=[pathed])
    measured = PolicyOptions(registers={3: "d3" * 48})
    asked = request(pathed, pcrs={**good, 3: "d3" * 48})
    assert says(make(parent_roles=[pathed], options=measured), asked) is Effect.ALLOW
    assert says(make(parent_roles=[pathed], options=PolicyOptions(bind_role=False)), asked) is Effect.ALLOW


@pytest.mark.parametrize("pair", [("buyer", "${aws:username}"), ("${aws:userid}", "a"), ("a", "x${*}")])
def test_a_policy_variable_in_a_context_is_refused(pair: tuple[str, str]) -> None:
    """The value would be the caller's choice."""
    with usage_error("usage", match="variable"):
        make(context=ContextRules(dict([pair])))


def test_the_signers_register_is_one_more_condition() -> None:
    """PCR8 on request: the same image, unsigned or signed by somebody else, gets nothing."""
    document = make(options=PolicyOptions(registers={8: "88" * 48}))
    for value, effect in (("88" * 48, True), ("89" * 48, False), (None, False)):
        pcrs = {**decision().pcrs, **({8: value} if value else {})}
        assert (says(document, request(PARENT, "kms:Decrypt", pcrs=pcrs)) is Effect.ALLOW) is effect


def test_a_policy_stays_within_what_kms_takes() -> None:
    """32 KB; more releases than fit are refused, not cut."""
    many = [decision(pcrs={i: f"{n:02x}{i:02x}" * 24 for i in range(3)}) for n in range(1, 30)]
    assert len(policy_text(make(many)).encode()) <= 32 * 1024
    with pytest.raises(UsageError, match="bytes"):
        make([decision(pcrs={i: f"{n:02x}{i:02x}" * 24 for i in range(3)}) for n in range(1, 60)])


REGISTER = st.sampled_from(["a0", "a1", "a2", "b0", "b1", "b2", "00", "ff"]).map(lambda pair: pair * 48)


@settings(max_examples=300)
@given(
    pcrs=st.dictionaries(st.integers(0, 3), REGISTER),
    who=st.sampled_from(
        [PARENT, *ADMINS, ENCRYPTER, f"arn:aws:iam::{ACCOUNT}:root", "arn:aws:iam::999999999999:role/x"]
    ),
    action=st.sampled_from(["kms:Decrypt", "kms:ReEncryptFrom", "kms:CreateGrant", "kms:DeriveSharedSecret"]),
    context=st.sampled_from([{}, CONTEXT, {"a": "b"}]),
)
def test_whatever_is_asked_plaintext_leaves_only_for_a_decided_tuple(
    pcrs: dict[int, str], who: str, action: str, context: dict[str, str]
) -> None:
    """An Allow implies the parent, Decrypt, and all registers of one release."""
    old, new = decision("a"), decision("b")
    if says(make([old, new]), request(who, action, pcrs=pcrs, context=context)) is Effect.ALLOW:
        assert (who, action) == (PARENT, "kms:Decrypt")
        assert any(all(pcrs.get(i) == release.pcrs[i] for i in range(3)) for release in (old, new))


def test_a_policy_that_says_the_same_in_other_words_has_not_drifted() -> None:
    """Order, lists of one, and the case of actions and keys are no difference; each real one is named."""
    document = make([decision("a"), decision("b")], context=AN_AUCTIONS)
    expected = parse_policy(policy_text(document))
    other = json.loads(policy_text(document))
    other["Statement"].reverse()
    for statement in other["Statement"]:
        statement["Resource"] = ["*"]
        if isinstance(statement["Action"], str):
            statement["Action"] = [statement["Action"].replace("kms:Decrypt", "KMS:decrypt")]
    assert policy_differences(expected, parse_policy(json.dumps(other))) == ()
    missing = {**document, "Statement": document["Statement"][:-1]}
    assert [d.code for d in policy_differences(expected, parse_policy(json.dumps(missing)))] == [
        "statement-missing"
    ]
    for element in ("Resource", "Action"):
        # KMS takes such a statement, and it has no effect: a Deny is gone.
        gone = json.loads(policy_text(document))
        for statement in gone["Statement"]:
            if statement["Effect"] == "Deny":
                del statement[element]
        found = policy_differences(expected, parse_policy(json.dumps(gone)))
        assert {difference.code for difference in found} == {"statement-changed"}
    extra = json.loads(policy_text(document))
    extra["Statement"].append(
        {"Sid": "Me", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}
    )
    assert [d.code for d in policy_differences(expected, parse_policy(json.dumps(extra)))] == [
        "statement-extra"
    ]
    changed = json.loads(policy_text(document))
    changed["Statement"][0]["Principal"]["AWS"] = f"arn:aws:iam::{SERVICE}:role/other"
    assert [d.code for d in policy_differences(expected, parse_policy(json.dumps(changed)))] == [
        "statement-changed"
    ]
    assert [
        d.code for d in policy_differences(expected, parse_policy(json.dumps({**document, "Id": "x"})))
    ] == ["policy-id"]


DESCRIPTION = 'bids of "buyer" ${one} %{two}'


def test_the_cloudformation_template_is_valid_and_carries_the_same_policy(tmp_path: Path) -> None:
    """cfn-lint has no error and no warning; the lock-out check is never bypassed; the tag fits."""
    document = make([decision("a"), decision("b"), decision("c"), decision("d")])
    path = tmp_path / "template.json"
    path.write_text(snippets.cloudformation(document, DESCRIPTION))
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, path], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    properties = json.loads(path.read_text())["Resources"]["CoattestKey"]["Properties"]
    assert properties["KeyPolicy"] == document
    assert properties["BypassPolicyLockoutSafetyCheck"] is False
    assert properties["Description"] == DESCRIPTION
    assert properties["EnableKeyRotation"] is True
    decided, enclave = properties["Tags"]
    assert decided == {"Key": "coattest:decision", "Value": decision_tag(str(document["Id"]))}
    assert len(decided["Value"]) <= 256
    assert enclave == {"Key": "coattest:enclave-key", "Value": "true"}


def test_the_terraform_resource_is_valid_and_carries_the_same_policy() -> None:
    """An independent HCL reader finds the policy; text that HCL would interpolate is escaped."""
    hcl2 = pytest.importorskip("hcl2")
    document = make(context=ContextRules({"coattest:buyer": "%{if}"}))
    ((resource,),) = [
        item.values() for item in hcl2.loads(snippets.terraform(document, DESCRIPTION))["resource"]
    ]
    (found,) = (value for name, value in resource.items() if "coattest" in name)
    heredoc = found["policy"].strip('"').splitlines()
    assert heredoc[0] == "<<-POLICY"
    assert heredoc[-1].strip() == "POLICY"
    assert json.loads(heredoc[1].replace("%%{", "%{")) == document
    assert found["bypass_policy_lockout_safety_check"] is False
    assert found["multi_region"] is False
    assert found["description"].replace("$${", "${").replace("%%{", "%{") == json.dumps(DESCRIPTION)


def test_the_explanation_is_the_evaluators() -> None:
    """The parent decrypts from the release, not from another image; the administrator does not."""
    lines = explain_policy(
        parse_policy(policy_text(make())),
        principals={"parent": PARENT, "administrator": ADMINS[0]},
        enclaves={
            "release": {**decision().pcrs, 3: pcr3(PARENT)},
            "other": {**decision("b").pcrs, 3: pcr3(PARENT)},
        },
        encryption_context=CONTEXT,
        key_arn=KEY,
    )
    allowed = {(line.who, line.enclave, line.operation) for line in lines if line.allowed}
    assert ("parent", "release", "kms:Decrypt") in allowed
    assert {item for item in allowed if item[2] == "kms:Decrypt"} == {("parent", "release", "kms:Decrypt")}
    assert ("administrator", "no document", "kms:PutKeyPolicy") in allowed
