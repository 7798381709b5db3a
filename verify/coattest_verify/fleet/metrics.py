"""A look at a fleet as a file for Prometheus's textfile collector.

Source: Prometheus, "Exposition formats", text-based format. Labels are names with a grammar of their own, so
that none needs an escape; enclaves are counted and not labelled, as their ids come and go.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from coattest_verify.fleet.judge import DECIDED, STATUSES, VERIFIED

if TYPE_CHECKING:
    from coattest_verify.fleet.look import Look

HELP = {
    "enclaves": "Enclaves, or places without one, by what the last look found",
    "expected": "Enclaves that there must be",
    "oldest_document_seconds": "Age of the oldest document that was accepted",
    "policies": "1 for what the last look found of a buyer's key policy, 0 for each other status",
    "audits": "1 for what the last audit of a buyer's key found, 0 for each other status",
    "audit_covered_until_timestamp_seconds": "Until when digests show that the key's logs are complete",
    "release_decided": "1 when the quorum decided on the release, and nothing revoked it",
    "decision_expires_timestamp_seconds": "When the decision on the release ends",
    "exit_code": "0 all verified, 1 something found false, 3 something silent or undecided",
    "last_look_timestamp_seconds": "When the last look was; one that fails leaves it as it was",
}


def metrics(look: Look) -> str:
    """The text of the file."""
    rows, now = look.rows, look.at
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in HELP}
    count = Counter((row.source, row.status) for row in rows)
    for source in look.sources:
        label = f'source="{source.name}"'
        for status in STATUSES:
            found["enclaves"].append((f'{label},status="{status}"', count[source.name, status]))
        found["expected"].append((label, source.count))
        times = [
            row.time for row in rows if row.source == source.name and row.status == VERIFIED and row.time
        ]
        if times:
            found["oldest_document_seconds"].append((label, (now - min(times)).total_seconds()))
    for name, kind, checked in (("policies", "policy", look.policies), ("audits", "audit", look.audits)):
        for row in checked:
            label = f'{kind}="{row.source.partition(":")[2]}"'
            found[name] += [(f'{label},status="{status}"', row.status == status) for status in STATUSES]
            if row.time:
                found["audit_covered_until_timestamp_seconds"].append((label, row.time.timestamp()))
    for each in look.releases:
        label = f'release="{each.name}"'
        found["release_decided"].append((label, each.answer == DECIDED))
        if each.expires:
            found["decision_expires_timestamp_seconds"].append((label, each.expires.timestamp()))
    found["exit_code"].append(("", look.code))
    found["last_look_timestamp_seconds"].append(("", now.timestamp()))
    lines = []
    for name, values in found.items():
        lines += [f"# HELP coattest_fleet_{name} {HELP[name]}", f"# TYPE coattest_fleet_{name} gauge"]
        for labels, value in values:
            shown = f"{float(value):.3f}".rstrip("0").rstrip(".")
            lines.append(f"coattest_fleet_{name}{f'{{{labels}}}' if labels else ''} {shown}")
    return "\n".join(lines) + "\n"
