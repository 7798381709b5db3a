"""Everybody who could call, as finitely many classes that a policy's principal elements cannot tell apart.
Pure.

A principal element only ever compares for equality (a wildcard inside one is not valid), so a caller is
either one that the policy names, or one of "the others" of an account that it names, or of an account that
it does not. What conditions say of a caller's ARN is left to the solver: the others' names are symbols there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from coattest_verify.iam import Policy, Principal

#: Stands for a name that no policy mentions.
NOBODY = "coattest-prover-somebody"

_ARN = re.compile(r"arn:(?P<partition>[a-z-]+):(?P<service>iam|sts)::(?P<account>\d{12}):(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class Caller:
    """A class of callers and one of them.

    ``named`` when the class is that one alone; ``outside`` when even the account is one that is not named,
    so that account and partition are symbols too.
    """

    label: str
    principal: Principal
    named: bool
    outside: bool = False


def callers(policy: Policy, arns: Iterable[str]) -> tuple[Caller, ...]:
    """The classes of callers for a policy; ``arns`` are further ones to tell apart (administrators,
    encrypters).
    """
    values = {("AWS", arn) for arn in arns}
    for statement in policy.statements:
        values |= {(item.kind, item.value) for item in statement.principals or ()}
    found: dict[tuple[str, str], Caller] = {}
    accounts: dict[str, str] = {}
    for kind, value in sorted(values):
        if kind != "AWS":
            principal = Principal(value, "", kind=kind)
            found[kind, value] = Caller(f"{kind} {value}", principal, True)
            continue
        match = _ARN.fullmatch(value)
        if match:
            accounts[match["account"]] = match["partition"]
            for caller in _named(value, match):
                found[kind, caller.principal.arn] = caller
        elif value != "*":
            unique = Principal(
                f"arn:aws:iam::{_unused(accounts)}:user/{NOBODY}", _unused(accounts), unique_id=value
            )
            found[kind, value] = Caller(f"the principal with id {value}", unique, True)
    others = [
        caller for account, partition in sorted(accounts.items()) for caller in _others(account, partition)
    ]
    outside = tuple(
        Caller(caller.label, caller.principal, named=False, outside=True)
        for caller in _others(_unused(accounts), "aws", "of an account that the policy does not name")
    )
    return (*found.values(), *others, *outside)


def _named(value: str, match: re.Match[str]) -> Iterable[Caller]:
    account, partition, name = match["account"], match["partition"], match["name"]
    if name == "root":
        yield Caller(f"the root user of {account}", Principal(value, account, partition=partition), True)
    elif name.startswith("role/"):
        session = f"arn:{partition}:sts::{account}:assumed-role/{name.rsplit('/', 1)[-1]}/{NOBODY}"
        principal = Principal(session, account, role_arn=value, partition=partition)
        yield Caller(f"a session of {value}", principal, True)
    elif name.startswith("assumed-role/"):
        role = f"arn:{partition}:iam::{account}:role/{name.split('/')[1]}"
        yield Caller(
            f"the session {value}", Principal(value, account, role_arn=role, partition=partition), True
        )
    else:
        yield Caller(value, Principal(value, account, partition=partition), True)


def _others(account: str, partition: str, label: str = "") -> Iterable[Caller]:
    where = label or f"of {account}"
    role = f"arn:{partition}:iam::{account}:role/{NOBODY}"
    session = f"arn:{partition}:sts::{account}:assumed-role/{NOBODY}/{NOBODY}"
    yield Caller(
        f"any other role {where}", Principal(session, account, role_arn=role, partition=partition), False
    )
    user = f"arn:{partition}:iam::{account}:user/{NOBODY}"
    yield Caller(f"any other user {where}", Principal(user, account, partition=partition), False)


def _unused(accounts: Iterable[str]) -> str:
    taken = set(accounts)
    return next(number for number in (f"{index:012d}" for index in range(10**12)) if number not in taken)
