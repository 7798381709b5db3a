"""Events against the decision. Pure.

A Decrypt that succeeded must have come from a decided enclave, through an expected role, in the key's
Region, with the expected encryption context. Any operation that could take plaintext or power past the
policy is a finding if it succeeded. A changed policy is not a finding by itself, but it is always shown:
"administrators do not decrypt" depends on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from coattest.findings import Finding
from coattest_verify.audit.events import Event

NEVER = (
    "CreateGrant",
    "DeriveSharedSecret",
    "ImportKeyMaterial",
    "ReEncrypt",
    "ReplicateKey",
    "UpdatePrimaryRegion",
)
"""Operations that give access to plaintext or hand out power, and that no decided policy allows."""

NOTABLE = (
    "CancelKeyDeletion",
    "DisableKey",
    "EnableKey",
    "PutKeyPolicy",
    "RetireGrant",
    "RevokeGrant",
    "ScheduleKeyDeletion",
)
"""Operations that change permissions or the state of the key."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the decision and the key's owner expect.

    ``context`` are pairs that every Decrypt must have. ``group_by`` are context keys by whose values Decrypts
    are grouped; the first one names what a single enclave is expected to decrypt.
    """

    key_arn: str
    tuples: tuple[tuple[str, str, str], ...]
    roles: tuple[str, ...]
    context: Mapping[str, str] = field(default_factory=dict, hash=False)
    group_by: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def account(self) -> str:
        """The account that owns the key: whose trail is read."""
        return self.key_arn.split(":")[4]

    @property
    def region(self) -> str:
        """The key's Region."""
        return self.key_arn.split(":")[3]


@dataclass(frozen=True, slots=True)
class DecryptGroup:
    """Attested Decrypts with the same context values (of ``Expected.group_by``) by one enclave.

    An honest retry is a second Decrypt by the same enclave.
    """

    values: tuple[str, ...]
    module_id: str
    count: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The audit's outcome. ``problems`` are findings, each with its event where it is about one."""

    groups: tuple[DecryptGroup, ...]
    problems: tuple[tuple[Finding, Event | None], ...]
    denied: tuple[Event, ...]
    notable: tuple[Event, ...]
    events: int

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong."""
        return tuple(finding for finding, _ in self.problems)

    @property
    def reruns(self) -> tuple[tuple[str, ...], ...]:
        """Context values of what more than one enclave decrypted, where the first one is there."""
        counted = Counter(group.values for group in self.groups if group.values and group.values[0])
        return tuple(sorted(values for values, count in counted.items() if count > 1))

    @property
    def ok(self) -> bool:
        """Whether every Decrypt is as decided and nothing is missing."""
        return not self.problems


def judge_events(events: Iterable[Event], expected: Expected, missing: Iterable[Finding] = ()) -> AuditReport:
    """Judge the events of the key; ``missing`` are findings about the logs themselves."""
    mine = _of_key(events, expected)
    good: dict[tuple[tuple[str, ...], str], list[datetime]] = {}
    problems: list[tuple[Finding, Event | None]] = [(finding, None) for finding in missing]
    denied, notable = [], []
    for event in mine:
        if event.error is not None:
            denied.append(event)
        elif event.name == "Decrypt":
            found = _decrypt(event, expected)
            problems += [(finding, event) for finding in found]
            if not found:
                values = tuple(event.context.get(key, "") for key in expected.group_by)
                good.setdefault((values, event.module_id or ""), []).append(event.time)
        elif event.name in NEVER:
            problems.append((_finding("past-the-policy", event, f"{event.name} succeeded"), event))
        elif event.name in NOTABLE:
            notable.append(event)
    groups = tuple(
        DecryptGroup(*names, len(times), min(times), max(times)) for names, times in sorted(good.items())
    )
    return AuditReport(groups, tuple(problems), tuple(denied), tuple(notable), len(mine))


def _of_key(events: Iterable[Event], expected: Expected) -> list[Event]:
    known: set[Event] = set()
    found = []
    for event in sorted(events, key=lambda item: (item.time, item.identity)):
        inside = (expected.since is None or event.time >= expected.since) and (
            expected.until is None or event.time < expected.until
        )
        # A call across accounts is in both accounts' trails; the key owner's is the one that counts. A copy
        # in every field is the same event twice; the same id alone is not, or it could hide another.
        if not inside or event.account not in ("", expected.account) or event in known:
            continue
        if expected.key_arn in event.keys:
            known.add(event)
            found.append(event)
    return found


def _finding(
    code: str, event: Event, detail: str, expected: str | None = None, found: str | None = None
) -> Finding:
    return Finding(code, f"event {event.identity}", detail, expected, found)


def _decrypt(event: Event, expected: Expected) -> list[Finding]:
    if event.registers is None:
        return [_finding("unattested", event, "a Decrypt without an attestation document")]
    findings = []
    found = tuple(event.registers.get(index, b"").hex() for index in range(3))
    if found not in expected.tuples:
        detail = "an enclave that was not decided on" if all(found) else "PCR0, PCR1 or PCR2 is not recorded"
        decided = " or ".join(sorted(item[0] for item in expected.tuples))
        detail = f"{detail}: PCR0 {found[0] or 'missing'}"
        findings.append(_finding("undecided-enclave", event, detail, decided, found[0] or None))
    if event.role not in expected.roles:
        caller = event.role or event.principal
        roles = " or ".join(expected.roles)
        findings.append(_finding("unexpected-role", event, f"by {caller}", roles, caller))
    if event.region != expected.region:
        detail = f"in {event.region}"
        findings.append(_finding("unexpected-region", event, detail, expected.region, event.region))
    wrong = sorted(key for key, value in expected.context.items() if event.context.get(key) != value)
    if wrong:
        detail = f"encryption context differs in {', '.join(wrong)}"
        findings.append(_finding("unexpected-context", event, detail))
    return findings
