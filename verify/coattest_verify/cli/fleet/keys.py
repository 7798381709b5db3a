"""What ``verify fleet`` finds of buyers' keys: each one's policy, and the trail of its use.

A policy is made as ``verify policy make`` makes it, and compared as ``verify policy check`` does; a trail is
audited as by ``verify audit``, over a window that moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse
from coattest.files import read_whole
from coattest.findings import Finding
from coattest.shell import from_os_error
from coattest_verify.audit.digests import NO_DIGESTS
from coattest_verify.audit.verdict import AuditOutcome, conclude
from coattest_verify.cli.audit import Audited, audited
from coattest_verify.cli.policy.making import policy_of
from coattest_verify.cli.policy.options import check_simulator
from coattest_verify.fleet.file import FleetFile
from coattest_verify.fleet.judge import (
    ANSWERS,
    DECIDED,
    DRIFTED,
    REFUSED,
    SILENT,
    UNDECIDED,
    VERIFIED,
    ExpectedRelease,
    Judged,
)
from coattest_verify.fleet.keys import WatchedAudit, WatchedPolicy
from coattest_verify.fleet.reach import Clients
from coattest_verify.keypolicy.compare import policy_differences
from coattest_verify.keypolicy.iam import Policy, PolicyError, parse_policy
from coattest_verify.keypolicy.iam.parse import MAX_DOCUMENT_BYTES
from coattest_verify.keypolicy.live import key_findings, read_key
from coattest_verify.quorum.authority import outcome_from

_UNASKED: Mapping[str, Any] = {
    "pcr3_role": None,
    "no_pcr3": False,
    "pcr4_instance": None,
    "until": None,
    "delegate_to_account": False,
    "region": None,
    "journal": None,
    "no_journal": True,
    "require_digests": True,
}
"""Options of the commands that FLEET.toml has no field for."""


@dataclass(slots=True)
class KeyChecks:
    """Looks at the keys of a FLEET.toml; ``options`` are the command's. An audit is kept until its next.

    A call raises UsageError for what makes no sense in FLEET.toml; whatever else is wrong is a row.
    """

    fleet: FleetFile
    options: Mapping[str, Any]
    clients: Clients
    audits: dict[str, tuple[datetime, Judged]] = field(default_factory=dict)

    def __call__(
        self, now: datetime, decided: Mapping[str, ExpectedRelease]
    ) -> tuple[list[Judged], list[Judged]]:
        """A row for each policy, and for each audit."""
        policies = [self._policy(each, now, decided) for each in self.fleet.policies]
        return policies, [self._audit(each, now, decided) for each in self.fleet.audits]

    def _policy(self, policy: WatchedPolicy, now: datetime, decided: Mapping[str, ExpectedRelease]) -> Judged:
        row = Judged(f"policy:{policy.name}", policy.place, VERIFIED, release=", ".join(policy.releases))
        if (undecided := _not_decided(row, policy.releases, decided)) is not None:
            return undecided
        given = {
            **_UNASKED,
            **self.options,
            "member": policy.member,
            "account": policy.account,
            "partition": next(iter((*policy.administrators, "arn:aws"))).split(":")[1],
            "parent_roles": policy.parent_roles,
            "administrators": policy.administrators,
            "encrypters": policy.encrypters,
            "break_glass": policy.break_glass,
            "seal_key": policy.seal_key,
            "context": policy.context,
            "registers": policy.registers,
            "simulator": self.options["profile"] == "local",
        }
        if policy.key:
            check_simulator(given)
        try:
            decisions = tuple(
                outcome_from(given, now, policy.member, release=name).decided()[0] for name in policy.releases
            )
            expected = policy_of(given, decisions, now).parsed
        except (FoundFalse, EnvironmentFailure) as error:
            # Decided, and not with this member's own statement, or not as a policy could be made from.
            return _failed(row, error, REFUSED if isinstance(error, FoundFalse) else UNDECIDED)
        try:
            found = self._differences(policy, expected)
        except (EnvironmentFailure, OSError) as error:
            return _failed(row, error, SILENT)
        return replace(row, status=DRIFTED, findings=found) if found else row

    def _differences(self, policy: WatchedPolicy, expected: Policy) -> tuple[Finding, ...]:
        if policy.file is None:
            key = read_key(self.clients("kms", policy.key.split(":")[3]), policy.key)
            return key_findings(key, expected, policy.aliases)
        try:
            text = read_whole(policy.file, MAX_DOCUMENT_BYTES).decode()
            return policy_differences(expected, parse_policy(text))
        except (PolicyError, UnicodeDecodeError) as error:
            return (Finding("policy-unreadable", policy.file.name, f"cannot be read: {error}"),)

    def _audit(self, audit: WatchedAudit, now: datetime, decided: Mapping[str, ExpectedRelease]) -> Judged:
        row = Judged(f"audit:{audit.name}", audit.key, VERIFIED, release=", ".join(audit.releases))
        if (undecided := _not_decided(row, audit.releases, decided)) is not None:
            return undecided
        at, last = self.audits.get(audit.name, (now, None))
        if last is not None and now - at < timedelta(milliseconds=audit.every_ms):
            return last
        until = now - timedelta(milliseconds=audit.max_age_ms)
        since = until - timedelta(milliseconds=audit.window_ms)
        given = {
            **_UNASKED,
            **self.options,
            "source": audit.logs,
            "key_arn": audit.key,
            "member": audit.member,
            "releases": audit.releases,
            "roles": audit.parent_roles,
            "context": audit.context,
            "public_keys": audit.public_keys,
            "since": since.replace(tzinfo=None),
            "days_of": since,
        }
        try:
            made = _audited(row, audited(given, now), until)
        except (CoattestError, OSError) as error:  # a folder that is not there is a wrong use to the command
            return _failed(row, error, REFUSED if isinstance(error, FoundFalse) else SILENT)
        self.audits[audit.name] = now, made
        return made


def _audited(row: Judged, done: Audited, until: datetime) -> Judged:
    """An audit as a row, whose time is how far the digests show that the logs are complete."""
    covered = done.coverage.digests_of
    row = replace(row, time=covered[1] if covered else None)
    verdict = conclude(done.report, done.coverage, none_expected=True)
    # Digests that are not there yet are silence; whoever keeps them away hides nothing that the logs show.
    false = tuple(finding for finding in done.report.findings if finding.code != NO_DIGESTS)
    if false:
        return replace(row, status=DRIFTED, findings=false)
    if covered is None or covered[1] < until:
        last = f"{covered[1]:%Y-%m-%dT%H:%M:%SZ}" if covered else "never"
        detail = f"no digest shows that the logs are complete up to {until:%Y-%m-%dT%H:%M:%SZ}"
        finding = Finding("hours-missing", row.place, detail, f"{until:%Y-%m-%dT%H:%M:%SZ}", last)
        return replace(row, status=SILENT, findings=(finding,))
    if verdict.outcome is AuditOutcome.UNDECIDED:
        found = tuple(finding for finding, _ in done.report.undecided)
        found = found or (Finding(verdict.code or "undecided", row.place, verdict.sentence),)
        return replace(row, status=UNDECIDED, findings=found)
    return row


def _not_decided(
    row: Judged, releases: tuple[str, ...], decided: Mapping[str, ExpectedRelease]
) -> Judged | None:
    """The row of a key whose releases are not all decided; None when they are."""
    for each in (decided[name] for name in releases):
        if each.answer != DECIDED:
            return replace(row, status=ANSWERS.get(each.answer, UNDECIDED), findings=each.reasons)
    return None


def _failed(row: Judged, failure: CoattestError | OSError, status: str) -> Judged:
    error = from_os_error(failure) if isinstance(failure, OSError) else failure
    found = tuple(error.findings) or (Finding(error.code, row.place, error.what),)
    return replace(row, status=status, findings=found)
