"""Events against the decision. Pure.

A Decrypt that succeeded must have come from a decided enclave, through an expected role, in the key's
Region, with the expected encryption context. Everything that could take plaintext or power past the policy
is a problem if it succeeded. A changed policy is not a problem by itself; it is what "administrators do not
decrypt" rests on, so it is always shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from coattest_verify.audit.events import Event

AUCTION, BUYER = "coattest:auction", "coattest:buyer"
#: Operations that get at plaintext or hand on power, and that no decided policy allows.
NEVER = (
    "CreateGrant",
    "DeriveSharedSecret",
    "ImportKeyMaterial",
    "ReEncrypt",
    "ReplicateKey",
    "UpdatePrimaryRegion",
)
#: Operations that change who may do what, or what becomes of the key.
NOTABLE = (
    "CancelKeyDeletion",
    "DisableKey",
    "EnableKey",
    "PutKeyPolicy",
    "RetireGrant",
    "RevokeGrant",
    "ScheduleKeyDeletion",
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the decision and the buyer expect. ``context`` are pairs that every Decrypt must have."""

    key_arn: str
    tuples: tuple[tuple[str, str, str], ...]
    roles: tuple[str, ...]
    context: Mapping[str, str] = field(default_factory=dict, hash=False)
    since: datetime | None = None
    until: datetime | None = None

    @property
    def account(self) -> str:
        """The account that owns the key: whose trail is read."""
        return self.key_arn.split(":")[4]


@dataclass(frozen=True, slots=True)
class Problem:
    """An event that should not be there, or something that is missing. ``code`` is stable."""

    code: str
    detail: str
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Attested Decrypts of one auction, buyer and enclave: an honest retry is a second one by the same
    enclave.
    """

    auction: str
    buyer: str
    module_id: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """The audit's outcome."""

    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]
    denied: tuple[Event, ...]
    notable: tuple[Event, ...]
    events: int

    @property
    def reruns(self) -> tuple[tuple[str, str], ...]:
        """Auction and buyer of what more than one enclave decrypted: a retry is by the same one."""
        counted = Counter((group.auction, group.buyer) for group in self.groups if group.auction)
        return tuple(sorted(pair for pair, count in counted.items() if count > 1))

    @property
    def ok(self) -> bool:
        """Whether every Decrypt is as decided and nothing is missing."""
        return not self.problems


def judge(events: Iterable[Event], expected: Expected, missing: Iterable[Problem] = ()) -> Report:
    """Judge the events of the key; ``missing`` are problems of the logs themselves."""
    mine = _of_key(events, expected)
    good: dict[tuple[str, str, str], list[datetime]] = {}
    problems, denied, notable = list(missing), [], []
    for event in mine:
        if event.error is not None:
            denied.append(event)
        elif event.name == "Decrypt":
            found = _decrypt(event, expected)
            problems += found
            if not found:
                group = (event.context.get(AUCTION, ""), event.context.get(BUYER, ""), event.module_id or "")
                good.setdefault(group, []).append(event.time)
        elif event.name in NEVER:
            problems.append(Problem("past-the-policy", f"{event.name} succeeded", event))
        elif event.name in NOTABLE:
            notable.append(event)
    groups = tuple(Group(*names, len(times), min(times), max(times)) for names, times in sorted(good.items()))
    return Report(groups, tuple(problems), tuple(denied), tuple(notable), len(mine))


def _of_key(events: Iterable[Event], expected: Expected) -> list[Event]:
    seen: set[Event] = set()
    found = []
    for event in sorted(events, key=lambda item: (item.time, item.identity)):
        inside = (expected.since is None or event.time >= expected.since) and (
            expected.until is None or event.time < expected.until
        )
        # A call across accounts is in both accounts' trails; the key owner's is the one that counts. A copy
        # in every field is the same event twice; the same id alone is not, or it could hide another.
        if not inside or event.account not in ("", expected.account) or event in seen:
            continue
        if expected.key_arn in event.keys:
            seen.add(event)
            found.append(event)
    return found


def _decrypt(event: Event, expected: Expected) -> list[Problem]:
    if event.registers is None:
        return [Problem("unattested", "a Decrypt without an attestation document", event)]
    problems = []
    found = tuple(event.registers.get(index, b"").hex() for index in range(3))
    if found not in expected.tuples:
        detail = "an enclave that was not decided on" if all(found) else "PCR0, PCR1 or PCR2 is not recorded"
        problems.append(Problem("other-enclave", f"{detail}: PCR0 {found[0] or 'missing'}", event))
    if event.role not in expected.roles:
        problems.append(Problem("other-role", f"by {event.role or event.principal}", event))
    if event.region != expected.key_arn.split(":")[3]:
        problems.append(Problem("other-region", f"in {event.region}", event))
    wrong = sorted(key for key, value in expected.context.items() if event.context.get(key) != value)
    if wrong:
        problems.append(Problem("other-context", f"encryption context differs in {', '.join(wrong)}", event))
    return problems
