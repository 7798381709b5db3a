"""All possible callers, in finitely many classes that principal elements cannot tell apart. Pure.

A principal element only ever compares for equality (a wildcard inside one is not valid), so a caller is
either one that the policy names, or one of "the others" of an account that it names, or of an account that
it does not, or a service. What conditions say of a caller's ARN is left to the solver: the others' names are
symbols there. A caller has several names at once (its session, its role, its unique id), so every combination
of named ones that can be one caller is a class of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from coattest_verify.keypolicy.iam.evaluate import Principal
from coattest_verify.keypolicy.iam.model import Policy

_STEM = "somebody"
_ARN = re.compile(r"arn:(?P<partition>[a-z-]+):(?P<service>iam|sts)::(?P<account>[0-9]{12}):(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class Caller:
    """A class of callers, with one member as its representative.

    ``named`` when the class is that one alone; ``outside`` when even the account is one that is not named,
    so that account and partition are symbols too. ``free_path`` when a session is named and its role is one
    that is not: a session's ARN leaves out its role's path. ``apart`` are the partitions in which the
    account's number is named, when the class is that number's in all others. ``whole`` when everybody with
    this aws:PrincipalArn is in this class or in another that is named; a named session is not all sessions
    of its role.
    """

    label: str
    principal: Principal
    named: bool
    outside: bool = False
    free_path: bool = False
    whole: bool = False
    apart: tuple[str, ...] = ()


def callers(policy: Policy, arns: Iterable[str]) -> tuple[Caller, ...]:
    """The classes of callers for a policy; ``arns`` are further ones to tell apart (administrators,
    encrypters).
    """
    values = {("AWS", arn) for arn in arns}
    for statement in policy.statements:
        values |= {(item.kind, item.value) for item in statement.principals or ()}
    nobody = _fresh(value for _, value in values)
    matches = {value: _ARN.fullmatch(value) for kind, value in values if kind == "AWS"}
    known = {value: match for value, match in sorted(matches.items()) if match}
    unique = sorted(value for value, match in matches.items() if match is None and value != "*")
    accounts = sorted({(match["account"], match["partition"]) for match in known.values()})
    people = [caller for value, match in known.items() for caller in _named(value, match, known, nobody)]
    for account, partition in accounts:
        people += _others(account, partition, nobody)
    for account in sorted({account for account, _ in accounts}):
        # The same number in another partition is another account.
        partitions = tuple(partition for number, partition in accounts if number == account)
        strangers = _others(account, f"aws-{nobody}", nobody, f"of {account} in another partition")
        people += [replace(caller, apart=partitions) for caller in strangers]
    taken = {account for account, _ in accounts}
    unused = next(number for number in (f"{index:012d}" for index in range(10**12)) if number not in taken)
    strangers = _others(unused, "aws", nobody, "of an account that the policy does not name")
    people += [replace(caller, outside=True) for caller in strangers]
    # Nobody calls as an identity provider: who came by one is a role's session (``evaluate``).
    services = [
        Caller(f"{kind} {value}", Principal(value, "", kind=kind), True)
        for kind, value in sorted(values)
        if kind == "Service"
    ]
    service = Principal(f"{nobody}.amazonaws.com", "", kind="Service")
    services.append(Caller("a service, or somebody without an ARN", service, False))
    return (*people, *_with_ids(people, unique), *services)


def _fresh(values: Iterable[str]) -> str:
    """A name that occurs in none of the values, so that a policy cannot mean "somebody" by it."""
    text = "\n".join(values)
    names = (_STEM, *(f"{_STEM}-{index}" for index in range(text.count(_STEM))))
    return next((name for name in names if name not in text), f"{_STEM}-{len(text)}")


def _named(value: str, match: re.Match[str], known: Iterable[str], nobody: str) -> Iterable[Caller]:
    account, partition, name = match["account"], match["partition"], match["name"]
    if name.startswith("role/"):
        session = f"arn:{partition}:sts::{account}:assumed-role/{name.rsplit('/', 1)[-1]}/{nobody}"
        principal = Principal(session, account, role_arn=value, partition=partition)
        yield Caller(f"a session of {value}", principal, True, whole=True)
    elif name.startswith("assumed-role/"):
        role, stem = name.split("/")[1], f"arn:{partition}:iam::{account}:role/"
        roles = [arn for arn in known if arn.startswith(stem) and arn.rsplit("/", 1)[-1] == role]
        for arn in roles:
            principal = Principal(value, account, role_arn=arn, partition=partition)
            yield Caller(f"the session {value}", principal, True)
        # The session's ARN leaves out its role's path: it may be of a role that is not named, too.
        other = f"{stem}{nobody}/{role}" if f"{stem}{role}" in roles else f"{stem}{role}"
        principal = Principal(value, account, role_arn=other, partition=partition)
        label = f"the session {value}" + (", of a role with another path" if roles else "")
        yield Caller(label, principal, True, free_path=True)
    else:
        principal = Principal(value, account, partition=partition)
        yield Caller(value, principal, True, whole=True)
        if name.startswith("user/"):
            yield _federated(principal, nobody)
        elif name.startswith("federated-user/"):
            stem = f"arn:{partition}:iam::{account}:user/"
            for user in (arn for arn in known if arn.startswith(stem)):
                yield Caller(f"{value}, of {user}", replace(principal, user_arn=user), True, whole=True)


def _federated(user: Principal, nobody: str) -> Caller:
    """Federated sessions of a user, who has the user's permissions under a name of the session's own (IAM
    User Guide, "Session policies"; STS API Reference, "GetFederationToken").
    """
    arn = f"arn:{user.partition}:sts::{user.account}:federated-user/{nobody}"
    return Caller(f"a federated session of {user.arn}", replace(user, arn=arn, user_arn=user.arn), False)


def _others(account: str, partition: str, nobody: str, label: str = "") -> list[Caller]:
    where = label or f"of {account}"
    role = f"arn:{partition}:iam::{account}:role/{nobody}"
    session = f"arn:{partition}:sts::{account}:assumed-role/{nobody}/{nobody}"
    user = f"arn:{partition}:iam::{account}:user/{nobody}"
    return [
        Caller(
            f"any other role {where}", Principal(session, account, role_arn=role, partition=partition), False
        ),
        Caller(
            f"any other user (root and federated users too) {where}",
            Principal(user, account, partition=partition),
            False,
        ),
    ]


def _with_ids(people: Sequence[Caller], unique: Sequence[str]) -> list[Caller]:
    """Everybody once more for each unique id that a policy names. AROA.. is a role's, AIDA.. a user's."""
    sessions = [
        replace(
            caller,
            label=f"a federated session of {caller.label}",
            principal=_federated(caller.principal, caller.principal.arn.rsplit("/", 1)[-1]).principal,
        )
        for caller in people
        if not caller.named and caller.principal.role_arn is None and caller.principal.user_arn is None
    ]
    return [
        replace(
            caller,
            label=f"{caller.label}, with id {value}",
            principal=replace(caller.principal, unique_id=value),
        )
        for value in unique
        for caller in (*people, *sessions)
        if not (value.startswith("AROA") and caller.principal.role_arn is None)
        and not (value.startswith("AIDA") and caller.principal.role_arn is not None)
    ]
