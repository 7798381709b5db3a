"""The roles that a policy names are read from one that our own decisions make, and from no other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from coattest_verify.keypolicy.generate import ContextRules, PolicyOptions, policy_id, policy_text
from coattest_verify.keypolicy.iam import parse_policy
from coattest_verify.keypolicy.roles import Roles, roles_of
from support.verify.decisions import ACCOUNT, ADMINS, AN_AUCTIONS, ENCRYPTER, NOW, PARENT, decision, make

EVE = f"arn:aws:iam::{ACCOUNT}:user/eve"
SECOND = PARENT.replace("parent", "second")
WITH_PATH = PARENT.replace("parent", "team/parent")


def read(document: dict[str, Any], *decisions: Any) -> Roles | None:
    """The roles of a document under some decisions, or one."""
    return roles_of(parse_policy(policy_text(document)), decisions or (decision(),), now=NOW)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"context": ContextRules({"coattest:buyer": "b"})},
        {"context": ContextRules({"x": "y"})},
        {"context": AN_AUCTIONS},
        {"parent_roles": [PARENT, SECOND]},
        {"options": PolicyOptions(bind_role=False)},
        {"options": PolicyOptions(registers={3: "ab" * 48, 8: "cd" * 48})},
        {"options": PolicyOptions(registers={4: "ab" * 48})},
        {"options": PolicyOptions(bind_role=False), "parent_roles": [WITH_PATH]},
        {"options": PolicyOptions(until=datetime(2027, 1, 1, tzinfo=timezone.utc))},
        {"options": PolicyOptions(delegate_to_account=True)},
        {"partition": "aws-cn"},
    ],
    ids=str,
)
def test_every_policy_that_we_make_is_read(arguments: dict[str, Any]) -> None:
    """Whatever it was made with."""
    text = json.dumps([*ADMINS, ENCRYPTER, PARENT])
    if arguments.get("partition"):
        text = text.replace("arn:aws:", "arn:aws-cn:")
    *admins, encrypter, parent = json.loads(text)
    more = {"parent_roles": [parent], "administrators": admins, "encrypters": [encrypter]} | arguments
    assert read(make(**more)) == Roles(tuple(sorted(admins)), (encrypter,))


def test_of_two_releases_and_with_a_break_glass() -> None:
    """All decisions are needed; who breaks the glass is an administrator."""
    both = (decision("a"), decision("b"))
    document = make(list(both), options=PolicyOptions(break_glass=EVE))
    assert read(document, *both) == Roles((*sorted(ADMINS), EVE), (ENCRYPTER,))
    assert read(document, both[0]) is None


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Our policy with something changed, whose Id still claims the decision."""
    document = copy.deepcopy(make())
    change({item["Sid"]: item for item in document["Statement"]} | {"": document})
    assert document["Id"] == policy_id([decision()])
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["Administer"]["Action"].append("kms:CreateGrant"),
        lambda it: it["Administer"].update(Action="kms:*"),
        lambda it: it["Administer"]["Principal"].update(AWS=f"arn:aws:iam::{ACCOUNT}:root"),
        lambda it: it["Administer"].update(Principal="*"),
        lambda it: it["Administer"].update(Effect="Deny"),
        lambda it: it["Encrypt"].update(Action="kms:*"),
        lambda it: it["Encrypt"]["Principal"].update(AWS=EVE, Service="s3.amazonaws.com"),
        lambda it: it["DenyAlways"].update(Action="kms:CreateGrant"),
        lambda it: it["DenyUnattested"].pop("Resource"),
        lambda it: it[""]["Statement"].append({**it["Administer"], "Principal": {"AWS": EVE}}),
        lambda it: it[""]["Statement"].append(
            {**it["Encrypt"], "Sid": "DecryptMore", "Principal": {"AWS": EVE}, "Action": "kms:Decrypt"}
        ),
        lambda it: it[""].update(Version="2008-10-17"),
        lambda it: it[""].update(Statement=it[""]["Statement"][:1]),
        lambda it: it[""]["Statement"][0]["Condition"].update(DateLessThan={"aws:CurrentTime": "2027"}),
        lambda it: it[""]["Statement"][0]["Condition"]["StringEqualsIgnoreCase"].update(
            {"kms:RecipientAttestation:PCR99": "ab" * 48}
        ),
    ],
)
def test_a_policy_that_claims_the_decision_is_not_believed(change: Callable[[dict[str, Any]], Any]) -> None:
    """Its Id is right, and the decision makes another policy."""
    assert read(changed(change)) is None


def test_the_id_must_be_that_of_our_decisions() -> None:
    """Another's, none, or one of no decision at all."""
    assert read(make(decision("b"))) is None
    assert read({**make(), "Id": f"coattest-{'ab' * 32}"}) is None
    assert read({name: value for name, value in make().items() if name != "Id"}) is None
    assert roles_of(parse_policy(policy_text(make())), (), now=NOW) is None
