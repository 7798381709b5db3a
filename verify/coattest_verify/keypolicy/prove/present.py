"""What AWS says that every request has, and when it is made.

Source: IAM User Guide, "AWS global condition context keys", the Availability of each key; "Variables and
tags", table of principal key values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import Policy
from coattest_verify.keypolicy.iam.callers import Caller
from coattest_verify.keypolicy.iam.conditions import instant, mistyped
from coattest_verify.keypolicy.iam.match import by_segments, parts_of, without_variables
from coattest_verify.keypolicy.prove.ranges import NEITHER, pieces, time_text
from coattest_verify.keypolicy.prove.space import Slot, Space
from coattest_verify.keypolicy.prove.texts import constant, segments_regex

NOW, EPOCH_NOW, ISSUED = "aws:currenttime", "aws:epochtime", "aws:tokenissuetime"
REGION, OWNER = "aws:requestedregion", "aws:resourceaccount"
TYPE, OF_A_SERVICE = "aws:principaltype", "aws:principalisawsservice"
_TRUE_OR_FALSE = ("aws:securetransport", "aws:viaawsservice", OF_A_SERVICE)
_OF_THE_CALLERS_CHOICE = "aws:useragent"
ALWAYS = (NOW, EPOCH_NOW, REGION, _OF_THE_CALLERS_CHOICE, *_TRUE_OR_FALSE, TYPE, "aws:userid")
"""Keys that no request lacks, in lower case: "always included in the request context", but the last two "for
all requests, including anonymous requests" and aws:PrincipalIsAWSService "for all signed API requests".
"""


def always(space: Space, caller: Caller) -> list[Any]:
    """What every request of a caller has of these keys, where the policy looks at them."""
    found: list[Any] = []
    for key in filter(space.mentions, ALWAYS):
        for slot in space.slots(key)[:1]:
            found += [slot.present] if key == _OF_THE_CALLERS_CHOICE else [slot.present, z3.Not(slot.empty)]
            if key in _TRUE_OR_FALSE:
                found += _one_of(space, slot, ["true", "false"])
            if key in (NOW, EPOCH_NOW) and _is_time(space, key):
                found.append(slot.value != constant(NEITHER))
            if key == OF_A_SERVICE:
                found += _one_of(space, slot, [str(caller.principal.kind != "AWS").lower()])
            if key == TYPE and caller.principal.kind == "AWS":
                found += _one_of(space, slot, _types(caller))
                found += _type_by_arn(space, slot) if len(_types(caller)) > 1 else ()
    return [*found, *_one_clock(space)]


def _one_of(space: Space, slot: Slot, listed: Iterable[str]) -> list[Any]:
    return [z3.Not(slot.empty), space.one_of(slot.value, listed)]


def _types(caller: Caller) -> list[str]:
    """aws:PrincipalType of a caller: that of the others of an account is one of several."""
    principal = caller.principal
    if principal.role_arn is not None:
        return ["AssumedRole"]
    if principal.user_arn is not None or ":federated-user/" in principal.arn:
        return ["FederatedUser"]
    if not caller.named:
        return ["Account", "FederatedUser", "User"]
    return ["Account" if principal.is_root else "User"]


def _type_by_arn(space: Space, slot: Slot) -> Iterator[Any]:
    """A root user's ARN ends so, and a federated user's says so."""
    arn = space.slots("aws:principalarn")[0].value
    for kind, pattern in (
        ("Account", "arn:*:iam::*:root"),
        ("FederatedUser", "arn:*:sts::*:federated-user/*"),
    ):
        parts = without_variables(parts_of(pattern, False))
        is_one = space.matches(arn, segments_regex(parts), partial(by_segments, parts))
        yield space.one_of(slot.value, [kind]) == is_one


def _is_time(space: Space, key: str) -> bool:
    """Whether the policy compares a key, as a time and in no other way."""
    return space.choices(key) is not None and not any(map(mistyped, space.conditions(key)))


def _one_clock(space: Space) -> list[Any]:
    """The two keys of a request's time show the same moment."""
    if not (_is_time(space, NOW) and _is_time(space, EPOCH_NOW)):
        return []
    moments = pieces([*space.moments(NOW), *space.moments(EPOCH_NOW)])
    return [z3.Or(*(z3.And(*_shows(space, item)) for item in moments))]


def _shows(space: Space, time: Decimal) -> Iterator[Any]:
    """That the request's time, by each key that the policy looks at, answers as this moment does."""
    for key, text in ((NOW, time_text(time)), (EPOCH_NOW, _seconds(time))):
        if _is_time(space, key):
            slot = space.slots(key)[0]
            yield z3.And(slot.present, *_one_of(space, slot, space.equivalents(key, text)))


def _seconds(time: Decimal) -> str:
    """Epoch seconds with a point: four digits alone are a year."""
    text = format(time, "f")
    return text if "." in text else f"{text}.0"


def of_its_key(space: Space, key_arn: str) -> list[Any]:
    """That a request is called in the key's Region, and that its account owns the resource ("equal to the AWS
    account ID for the account with the resources evaluated in the request").
    """
    region, account = key_arn.split(":")[3:5]
    found: list[Any] = []
    for key, value in ((REGION, region), (OWNER, account)):
        if space.mentions(key):
            slot = space.slots(key)[0]
            found.append(z3.Implies(slot.present, z3.And(*_one_of(space, slot, [value]))))
    return found


def placed(key_arn: str, context: Mapping[str, Sequence[str]]) -> str:
    """The ARN of an example with the Region and account that a request's context (in lower case) has."""
    parts = key_arn.split(":")
    for index, key in ((3, REGION), (4, OWNER)):
        parts[index] = next(iter(context.get(key, ())), parts[index])
    return ":".join(parts)


def made_at(space: Space, now: datetime | None) -> list[Any]:
    """That a request is made at a time, with credentials that were issued by then."""
    if now is None:
        return []
    time = instant(f"{now:%Y-%m-%dT%H:%M:%SZ}")
    found = list(_shows(space, time))
    if _is_time(space, ISSUED):
        slot = space.slots(ISSUED)[0]
        by_then = [item for item in pieces([time, *space.moments(ISSUED)]) if item <= time]
        values = {text for item in by_then for text in space.equivalents(ISSUED, time_text(item))}
        found.append(z3.Implies(slot.present, z3.And(*_one_of(space, slot, sorted(values)))))
    return found


def looks_at(policy: Policy, stem: str) -> bool:
    """Whether a policy's conditions or variables name a key that begins so (in lower case)."""
    return any(key.startswith(stem) for key in Space(policy).named())
