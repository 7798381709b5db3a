"""The names in a policy: whom a principal can be, and placeholders that nobody filled in.

Source: IAM User Guide, "AWS JSON policy elements: Principal" and "IAM identifiers".
"""

from __future__ import annotations

import re

from coattest_verify.keypolicy.iam.model import PolicyError, PrincipalPattern

PRINCIPAL_KINDS = ("AWS", "Service", "Federated", "CanonicalUser")

_PARTITION = r"aws(?:-[a-z]+)*"
_NAME = r"[A-Za-z0-9+=,.@_-]+"
_PATH = r"(?:[!-~]+/)?"
PRINCIPAL_ARN = re.compile(
    rf"arn:{_PARTITION}:iam::[0-9]{{12}}:(?:root|(?:user|role)/{_PATH}{_NAME})"
    rf"|arn:{_PARTITION}:sts::[0-9]{{12}}:(?:assumed-role/{_NAME}/{_NAME}|federated-user/{_NAME})"
)
"""A root user, user, role, session or federated user."""

UNIQUE_ID = re.compile(r"(?:AIDA|AROA)[A-Z0-9]{12,124}")
"""The id of a user or role. KMS shows it for one that was deleted."""

KEY_ARN = re.compile(rf"arn:{_PARTITION}:kms:[a-z0-9-]+:[0-9]{{12}}:key/[A-Za-z0-9-]+")

_ACCOUNT = re.compile(r"[0-9]{12}")
_PLAIN = re.compile(r"<[^<>]*>|\{\{[^{}]*\}\}|\$\{AWS::[A-Za-z]+\}|\[\[[^\[\]]*\]\]")
_WORD = re.compile(
    r"(?<![A-Za-z0-9_-])(?:(?:[A-Z]+_)+[A-Z0-9]+|[A-Z]{2,}(?:-[A-Z]{2,})+|ACCOUNT|REGION)(?![A-Za-z0-9_-])"
    r"|(?i:account[_-]?(?:id|number)|your[_-][a-z_-]+|replace[_-]?(?:me|with)[a-z_-]*|change[_-]?me|x{4,}"
    r"|placeholder)"
)


def refuse_placeholder(text: str, where: str, *, anywhere: bool = True) -> None:
    """Raise PolicyError (``placeholder``) for a text that somebody was meant to fill in, as ``<account-id>``.

    With ``anywhere`` also words such as ACCOUNT_ID, for texts that are an ARN, an account or a digest.
    """
    found = _PLAIN.search(text) or (_WORD.search(text) if anywhere else None)
    if found:
        raise PolicyError(
            f"{found[0]} in {text!r} is a placeholder", where=where, hint="fill it in", code="placeholder"
        )


def refuse_placeholder_arn(text: str, where: str) -> None:
    """The same for the ARN of a resource, whose own name may look like anything but in a key's id."""
    start, name = text.split(":", 5)[:5], (text.split(":", 5) + [""] * 6)[5]
    refuse_placeholder(":".join(start), where)
    refuse_placeholder(name, where, anywhere=name.startswith("key/"))


def principal(kind: str, value: str, where: str) -> PrincipalPattern:
    """One entry of a Principal element. Raises PolicyError for what no principal can be."""
    if kind == "AWS" and _ACCOUNT.fullmatch(value):
        # "AWS account principals": the account id is a short form of the root ARN.
        return PrincipalPattern(kind, f"arn:aws:iam::{value}:root", short=True)
    if value == "*" and kind == "AWS":
        return PrincipalPattern(kind, value)
    if "*" in value or "?" in value:
        # "You cannot use a wildcard to match part of a principal name or ARN."
        raise PolicyError(f"{value!r}: no wildcard inside a principal", where=where)
    if kind != "AWS" or PRINCIPAL_ARN.fullmatch(value) or UNIQUE_ID.fullmatch(value):
        return PrincipalPattern(kind, value)
    refuse_placeholder(value, where)
    raise PolicyError(
        f"{value!r} is not a principal",
        where=where,
        hint="an account, or the ARN of a user, role or session",
    )
