"""Events against the decision. Pure.

A Decrypt that succeeded must have come from a decided enclave, through an expected role, in the key's
Region, with the expected encryption context: ``DECRYPT_RULES``, one function each. Any operation that could
take plaintext or power past the policy is a finding if it succeeded. A changed key is not a finding by
itself, but it is always shown: "administrators do not decrypt" depends on its policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Final

from coattest.errors import require_kind
from coattest.findings import Finding
from coattest_build.formats.measure import pcr3
from coattest_verify.audit.events import Event, KeyName, Names, in_window
from coattest_verify.audit.operations import CHANGES, DECRYPT, KEYLESS, KNOWN, NEVER, READS

EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""Where an event without a readable time stands in the order."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the decision and the key's owner expect.

    ``roles`` are ARNs of roles, ``role_ids`` unique ids (AROA..) of roles: an event of another account's
    caller may have nothing else. ``context`` are pairs that every Decrypt must have. ``group_by`` are context
    keys by whose values Decrypts are grouped; the first one names what a single enclave is expected to
    decrypt.
    """

    key: KeyName
    tuples: tuple[tuple[str, str, str], ...]
    roles: tuple[str, ...]
    role_ids: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=dict, hash=False)
    group_by: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


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


EventFinding = tuple[Finding, Event | None]
"""A finding, and its event where it is about one."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The audit's outcome.

    ``found_false`` is what is wrong; ``undecided`` is what nobody can tell from these logs. ``operations``
    counts every event of the key by its operation. ``copies`` are second records of a call.
    """

    groups: tuple[DecryptGroup, ...]
    found_false: tuple[EventFinding, ...]
    undecided: tuple[EventFinding, ...]
    denied: tuple[Event, ...]
    notable: tuple[Event, ...]
    operations: Mapping[str, int]
    copies: int
    outside: int
    """Events of the key outside the window."""

    @property
    def events(self) -> int:
        """How many events of the key were judged."""
        return sum(self.operations.values())

    def __bool__(self) -> bool:
        """True only if events were judged and each is as decided; ``conclude`` judges logs without any."""
        return self.events > 0 and not self.found_false and not self.undecided

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong."""
        return tuple(finding for finding, _ in self.found_false)

    @property
    def reruns(self) -> tuple[tuple[str, ...], ...]:
        """Context values of what more than one enclave decrypted, where the first one is there."""
        counted = Counter(group.values for group in self.groups if group.values and group.values[0])
        return tuple(sorted(values for values, count in counted.items() if count > 1))


@dataclass(frozen=True, slots=True)
class Known:
    """What the trail itself says about the key and its callers."""

    ids: frozenset[str]
    """Shared ids of the calls on this key that its own account recorded."""
    calls: frozenset[int] | set[int]
    """Hashes of the ids of all calls that the key's account recorded (``Collected.calls``)."""
    roles: Mapping[str, str]
    """ARN of a role by its unique id."""
    aliases: frozenset[str]


DecryptRule = Callable[[Event, Expected, Known], Iterable[Finding]]
"""One thing that a successful Decrypt must be; ``role-unconfirmed`` is undecided, all else found false."""

UNDECIDED: Final = frozenset({"pages-missing", "role-unconfirmed", "trail-changed"})
"""Codes of findings that say what these logs cannot show."""


def finding_of(
    code: str, event: Event, detail: str, expected: str | None = None, found: str | None = None
) -> Finding:
    """A finding about an event."""
    return Finding(code, f"event {event.identity}", detail, expected, found)


def _attested(event: Event, expected: Expected, _known: Known) -> Iterable[Finding]:
    if event.registers is None:
        yield finding_of("unattested", event, "a Decrypt without an attestation document")
        return
    found = tuple(event.registers.get(index, b"").hex() for index in range(3))
    if found not in expected.tuples:
        detail = "an enclave that was not decided on" if all(found) else "PCR0, PCR1 or PCR2 is not recorded"
        decided = " or ".join(sorted(item[0] for item in expected.tuples))
        detail = f"{detail}: PCR0 {found[0] or 'missing'}"
        yield finding_of("undecided-enclave", event, detail, decided, found[0] or None)


def _by_role(event: Event, expected: Expected, known: Known) -> Iterable[Finding]:
    caller = event.caller
    shown = caller.role or caller.shown
    roles = " or ".join((*expected.roles, *expected.role_ids))
    wrong = finding_of("unexpected-role", event, f"by {shown}", roles, shown)
    named = caller.role or _role_of_session(caller.arn, expected.roles) or known.roles.get(caller.unique_id)
    if caller.unique_id in expected.role_ids or named in expected.roles:
        return
    accounts = {role.split(":")[4] for role in expected.roles}
    if named or caller.arn or expected.role_ids or caller.account not in accounts:
        yield wrong
        return
    # The record has an account and a unique id only. The document says which role the parent instance has.
    attested = (event.registers or {}).get(3, b"").hex()
    if any(attested == pcr3(role) for role in expected.roles if role.split(":")[4] == caller.account):
        return
    detail = (
        f"the caller is recorded as {caller.unique_id or 'nobody'} of account {caller.account} only, and "
        f"PCR3 is not that of the role; if that is the role's unique id, say --parent-role {caller.unique_id}"
    )
    yield finding_of("role-unconfirmed", event, detail, roles, shown)


def _role_of_session(arn: str | None, roles: Sequence[str]) -> str | None:
    """The role of arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION: names are unique in an account."""
    parts = (arn or "").split(":")
    if len(parts) != 6 or parts[2] != "sts" or not parts[5].startswith("assumed-role/"):
        return None
    name = parts[5].split("/")[1]
    return next((r for r in roles if r.split(":")[4] == parts[4] and r.rsplit("/", 1)[-1] == name), None)


def _in_region(event: Event, expected: Expected, _known: Known) -> Iterable[Finding]:
    if event.region != expected.key.region:
        detail = f"in {event.region or 'an unknown Region'}"
        yield finding_of("unexpected-region", event, detail, expected.key.region, event.region or None)


def _with_context(event: Event, expected: Expected, _known: Known) -> Iterable[Finding]:
    wrong = sorted(key for key, value in expected.context.items() if event.context.get(key) != value)
    if wrong:
        yield finding_of("unexpected-context", event, f"encryption context differs in {', '.join(wrong)}")


DECRYPT_RULES: Final[tuple[DecryptRule, ...]] = (_attested, _by_role, _in_region, _with_context)
"""What a successful Decrypt is judged by. A caller may add its own."""


def judge_events(
    events: Iterable[Event],
    expected: Expected,
    missing: Iterable[Finding] = (),
    *,
    calls: frozenset[int] | set[int] = frozenset(),
    rules: Sequence[DecryptRule] = DECRYPT_RULES,
) -> AuditReport:
    """Judge the events of the key; ``missing`` are findings about the logs themselves.

    ``calls`` are the hashed ids of all calls that the key's account recorded.
    """
    require_kind(events, Iterable, "events")
    require_kind(expected, Expected, "expected")
    ordered = sorted(events, key=lambda item: (item.time or EPOCH, item.identity))
    own = [event for event in ordered if event.names is Names.THIS and _own(event, expected.key)]
    known = Known(
        ids=frozenset(name for event in own for name in event.shared),
        calls=calls,
        roles={e.caller.unique_id: e.caller.role for e in own if e.caller.unique_id and e.caller.role},
        aliases=frozenset(alias for event in own for alias in event.aliases),
    )
    judged, seen = [], set[bytes]()
    copies = outside = 0
    for event in ordered:
        if not _of_key(event, expected.key, known):
            continue
        if not in_window(event.time, expected.since, expected.until):
            outside += 1
        # A copy in every field is the same event twice; with the same id alone it could hide another.
        elif event.fingerprint in seen or _copy(event, expected.key, known):
            copies += 1
        else:
            seen.add(event.fingerprint)
            judged.append(event)
    found: list[EventFinding] = [(finding, None) for finding in missing]
    good: dict[tuple[tuple[str, ...], str], list[datetime]] = {}
    notable = []
    for event in judged:
        wrong = list(_wrong_use(event, expected, known, rules))
        found += [(finding_of("bad-event", event, f"{event.name}: {flaw}"), event) for flaw in event.flaws]
        found += [(finding, event) for finding in wrong]
        if wrong or event.error is not None:
            continue
        if event.name in CHANGES:
            notable.append(event)
        elif event.name == DECRYPT and not event.flaws:
            values = tuple(event.context.get(key, "") for key in expected.group_by)
            good.setdefault((values, event.module_id or ""), []).append(event.time or EPOCH)
    return AuditReport(
        groups=tuple(
            DecryptGroup(*names, len(times), min(times), max(times)) for names, times in sorted(good.items())
        ),
        found_false=tuple(item for item in found if item[0].code not in UNDECIDED),
        undecided=tuple(item for item in found if item[0].code in UNDECIDED),
        denied=tuple(event for event in judged if event.error is not None),
        notable=tuple(notable),
        operations=dict(sorted(Counter(event.name for event in judged).items())),
        copies=copies,
        outside=outside,
    )


def _own(event: Event, key: KeyName) -> bool:
    """Whether the key's own account recorded it."""
    return event.account in ("", key.account) and not event.network


def _of_key(event: Event, key: KeyName, known: Known) -> bool:
    """Whether the event is of the key, or may be."""
    if event.names is Names.THIS or event.aliases & known.aliases:
        return True
    if event.names is Names.ANOTHER or event.name in KEYLESS:
        return False
    if event.by_alias:
        # Another account's record may name no more of a key than its alias.
        return True
    # It names no key: one of the key's account and Region can be of this key.
    return event.account in ("", key.account) and event.region in ("", key.region)


def _copy(event: Event, key: KeyName, known: Known) -> bool:
    """Whether it is a second record, by the caller's account or a VPC endpoint, of a call that the key's
    account recorded. That account's record is the one that counts.
    """
    if event.names is Names.NONE and event.network:
        return any(hash(name) in known.calls for name in event.shared)
    return not _own(event, key) and bool(event.shared & known.ids)


def _wrong_use(
    event: Event, expected: Expected, known: Known, rules: Sequence[DecryptRule]
) -> Iterator[Finding]:
    """What is wrong with a call that succeeded."""
    if event.error is not None:
        return
    if event.names is Names.NONE and not event.aliases & known.aliases:
        detail = f"{event.name} succeeded on a key that the record does not name"
        yield finding_of("unnamed-key", event, detail)
    elif not _own(event, expected.key) and event.name not in READS:
        where = event.account or "a VPC endpoint"
        detail = f"{event.name} is in the trail of {where}, not in that of the key's account"
        yield finding_of("not-in-own-trail", event, detail)
    elif event.name == DECRYPT:
        for rule in rules:
            yield from rule(event, expected, known)
    elif event.name in NEVER:
        yield finding_of("past-the-policy", event, f"{event.name} succeeded")
    elif event.name not in KNOWN:
        detail = f"{event.name} succeeded, which is not among KMS's operations that this version knows"
        yield finding_of("unknown-operation", event, detail)
