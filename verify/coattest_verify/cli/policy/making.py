"""The policy that ``options.making_options`` ask for, with what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from coattest.errors import UsageError
from coattest.shell import err, utc_now
from coattest_build.formats.measure import pcr3, pcr4
from coattest_enclave.protocol import binding as auction
from coattest_verify.auction.buyers import load_own_key
from coattest_verify.auction.openings import AUCTION_CONTEXT
from coattest_verify.cli.options import decisions_from
from coattest_verify.keypolicy.generate import ContextRules, PolicyOptions, generate_policy, policy_text
from coattest_verify.keypolicy.iam import Policy, parse_policy
from coattest_verify.quorum.decision import Decision

DESCRIPTION = "coattest: decrypts only in the decided enclave"
EXAMPLE_KEY = "key/00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class MadePolicy:
    """A generated policy with what it was made from."""

    document: dict[str, Any]
    parsed: Policy
    decisions: tuple[Decision, ...]
    account: str
    administrators: tuple[str, ...]
    break_glass: str | None
    warnings: tuple[str, ...]


def make_policy(given: Mapping[str, Any]) -> MadePolicy:
    """The policy for the decisions that the options name; warnings go to stderr.

    Raises NoDecision, and what ``generate_policy`` raises.
    """
    now = utc_now()
    # What binds a member needs the member's own agreeing statement.
    made = policy_of(given, decisions_from(given, now=now, own=given["member"]), now)
    for warning in made.warnings:
        err().print(f"warning: {warning}", style="yellow")
    return made


def policy_of(given: Mapping[str, Any], decisions: tuple[Decision, ...], now: datetime) -> MadePolicy:
    """The policy that options ask for, for these decisions. Raises what ``generate_policy`` raises."""
    options = PolicyOptions(
        registers=further(given),
        bind_role=not given["no_pcr3"],
        break_glass=given["break_glass"],
        until=given["until"].replace(tzinfo=timezone.utc) if given["until"] else None,
        delegate_to_account=given["delegate_to_account"],
    )
    document = generate_policy(
        decisions,
        account=given["account"],
        parent_roles=given["parent_roles"],
        administrators=given["administrators"],
        encrypters=given["encrypters"],
        now=now,
        context=context_rules(given),
        partition=given["partition"],
        simulator=given["simulator"],
        options=options,
    )
    return MadePolicy(
        document,
        parse_policy(policy_text(document)),
        decisions,
        given["account"],
        tuple(dict.fromkeys(given["administrators"])),
        given["break_glass"],
        _warnings(given),
    )


def context_rules(given: Mapping[str, Any]) -> ContextRules:
    """What ``--context`` and ``--seal-key`` require: an auction's context for ``--member`` as buyer, or these
    pairs and no others. Raises UsageError.
    """
    wanted = pairs(given["context"], "--context")
    if given["seal_key"] is None:
        if set(wanted) & set(AUCTION_CONTEXT):
            raise UsageError(
                "an auction's context has more keys than that, so nothing could be decrypted",
                where="--context",
                hint="--seal-key KEY.pub makes all conditions of an auction's bids",
            )
        return ContextRules(wanted)
    if wanted:
        raise UsageError("--seal-key makes all conditions itself", where="--context")
    seal_key = auction.seal_key_digest(load_own_key(given["seal_key"])).hex()
    named = {auction.BUYER: given["member"], auction.SEAL_KEY: seal_key}
    return ContextRules(named, (auction.AUCTION,), auction.IMAGE)


def _warnings(given: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    if given["simulator"]:
        found.append("SIMULATOR: the local profile's documents can be made by anyone; this protects nothing")
    if given["delegate_to_account"]:
        found.append(
            "RISK: whoever writes IAM policies in this account can become an administrator of the key"
        )
    if given["no_pcr3"]:
        found.append("RISK: the decided image may decrypt in any account: its parent's role is not required")
    if not given["context"] and not given["seal_key"]:
        found.append("no --context, no --seal-key: the enclave may decrypt any ciphertext of this key")
    return tuple(found)


def pairs(items: tuple[str, ...], option: str, valid: Callable[[str], bool] = bool) -> dict[str, str]:
    """Each KEY once with its VALUE. Raises UsageError, also for a key that is not ``valid``."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not value or not valid(key) or key in found:
            raise UsageError(f"{item!r} is not KEY=VALUE, or given twice", where=option)
        found[key] = value
    return found


def made_document(made: MadePolicy, **more: Any) -> dict[str, Any]:
    """The policy as JSON, with a command's further fields."""
    return {
        "policy": made.document,
        "canonical": policy_text(made.document),
        "decisions": [decision.to_json() for decision in made.decisions],
        "warnings": list(made.warnings),
        **more,
    }


def _is_index(text: str) -> bool:
    """Whether a text is a register's index in ASCII digits; int() would take those of other scripts."""
    return text.isascii() and text.isdecimal() and len(text) <= 2


def further(given: Mapping[str, Any]) -> dict[int, str]:
    """The registers that are required beside the decided ones, where options name them.

    Raises UsageError when two options name one.
    """
    named = [(int(key), text) for key, text in pairs(given["registers"], "--register", _is_index).items()]
    if given["pcr3_role"]:
        named.append((3, pcr3(given["pcr3_role"])))
    if given["pcr4_instance"]:
        named.append((4, pcr4(given["pcr4_instance"])))
    found = dict(named)
    if len(found) != len(named) or (given["no_pcr3"] and 3 in found):
        raise UsageError("a register is named by two options", where="--register, --pcr3, --no-pcr3, --pcr4")
    return found
