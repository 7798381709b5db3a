"""The condition keys of a class of callers: aws:PrincipalArn, aws:PrincipalAccount, kms:CallerAccount.

Source: IAM User Guide, "AWS global condition context keys" and "IAM identifiers".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import z3  # type: ignore[import-untyped,unused-ignore]

from coattest_verify.keypolicy.iam import Principal
from coattest_verify.keypolicy.iam.callers import Caller
from coattest_verify.keypolicy.prove.space import Space
from coattest_verify.keypolicy.prove.texts import constant, sequence

ACCOUNT = z3.Loop(z3.Range("0", "9"), 12, 12)
PARTITION = sequence(["aws", z3.Star(z3.Union(z3.Range("a", "z"), z3.Re("-")))])
NAME = z3.Plus(
    z3.Union(*(z3.Range(*pair) for pair in ("az", "AZ", "09")), *(z3.Re(sign) for sign in "+=,.@_-"))
)
"""IAM User Guide, "IAM identifiers": names have letters, digits and +=,.@_-; a path any of ! to ~."""

PATH = z3.Option(sequence([z3.Plus(z3.Range("!", "~")), "/"]))


def known(caller: Caller) -> dict[str, str]:
    """The keys of a caller that have one value for the whole class.

    Of a service that is an ARN which only a pattern for every ARN matches: aws:PrincipalArn is "included in
    the request context for all signed requests", and those of services are signed; but the values that AWS
    lists are those of users, roles, federated and root users.
    """
    principal = caller.principal
    if principal.kind != "AWS":
        return {"aws:principalarn": f"arn:aws:service:::{principal.arn}"}
    if caller.outside:
        return {}
    fixed = {"aws:principalaccount": principal.account, "kms:calleraccount": principal.account}
    exact = caller.named and not caller.free_path
    return {**fixed, "aws:principalarn": principal.principal_arn} if exact else fixed


def role_with_any_path(caller: Caller, everybody: Sequence[Caller]) -> Any:
    """The expression of a role's ARN when only its session's is known: none of the roles that are named."""
    stem, _, path = caller.principal.principal_arn.partition(":role/")
    any_path = sequence([f"{stem}:role/", PATH, path.rsplit("/", 1)[-1]])
    return z3.Intersect(any_path, _none_of(everybody))


def _none_of(everybody: Sequence[Caller]) -> Any:
    """The expression of every ARN but those of callers that are named as a whole."""
    named = sorted({other.principal.principal_arn for other in everybody if other.whole})
    return z3.Complement(z3.Union(*(z3.Re(constant(text)) for text in (*named, "", "-"))))


def anonymous(space: Space, caller: Caller, everybody: Sequence[Caller]) -> list[Any]:
    """The ARN of a caller that is not named: of its account and kind, none of those named, and otherwise
    free.
    """
    (arn,) = space.slots("aws:principalarn")
    (account,) = space.slots("aws:principalaccount")
    (caller_account,) = space.slots("kms:calleraccount")
    principal = caller.principal
    if not caller.outside:
        free = _none_of(everybody)
        partition: Any = principal.partition
        if caller.apart:
            named_here = z3.Union(*(z3.Re(text) for text in (*caller.apart, "-", "")))
            partition = z3.Intersect(PARTITION, z3.Complement(named_here))
        shape = z3.Union(
            *(
                sequence(["arn:", partition, f":{service}::{principal.account}:", name])
                for service, name in _kinds(principal)
            ),
            z3.Re("-"),
        )
        return [z3.InRe(arn.value, z3.Intersect(free, shape))]
    taken = sorted({other.principal.account for other in everybody if not other.outside})
    unknown = z3.Intersect(ACCOUNT, z3.Complement(z3.Union(*(z3.Re(text) for text in (*taken, "", "-")))))
    bound = [z3.InRe(account.value, unknown), caller_account.value == account.value]
    if space.mentions("aws:principalaccount") or space.mentions("kms:calleraccount"):
        # Only a policy that looks at both can tell whether they belong together.
        partition, service, rest = (z3.String(f"caller#{part}") for part in ("partition", "service", "name"))
        texts = ["arn:", partition, ":", service, "::", account.value, ":", rest]
        whole = z3.Concat(*(z3.StringVal(text) if isinstance(text, str) else text for text in texts))
        kinds = [
            z3.And(service == z3.StringVal(word), z3.InRe(rest, name)) for word, name in _kinds(principal)
        ]
        return [*bound, arn.value == whole, z3.InRe(partition, PARTITION), z3.Or(*kinds)]
    shapes = [
        sequence(["arn:", PARTITION, f":{service}::", unknown, ":", name])
        for service, name in _kinds(principal)
    ]
    return [*bound, z3.InRe(arn.value, z3.Union(*shapes, z3.Re("-")))]


def _kinds(principal: Principal) -> list[tuple[str, Any]]:
    """Service and name of the ARNs that aws:PrincipalArn can have (IAM User Guide, "Global condition context
    keys"): a role's for its sessions; else a user's, the root user's, a federated user's.
    """
    federated = ("sts", sequence(["federated-user/", NAME]))
    if principal.user_arn is not None:
        return [federated]
    if principal.role_arn is not None:
        return [("iam", sequence(["role/", PATH, NAME]))]
    return [
        ("iam", z3.Union(sequence(["user/", PATH, NAME]), z3.Re("root"))),
        federated,
    ]
