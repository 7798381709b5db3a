"""What a signature says, in plain words: rows of a name and a value for ``confirm_signing``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coattest_verify.quorum.cosigning import CosignPlan
from coattest_verify.quorum.log.entries import parse_entry
from coattest_verify.quorum.log.publication import Published
from coattest_verify.quorum.members.file import MembersFile, utc
from coattest_verify.quorum.signing import Pending
from coattest_verify.quorum.statements.claim import Claimed, ProfileResult
from coattest_verify.quorum.statements.statement import RebuildReport, Statement
from coattest_verify.quorum.statements.votes import Vote

Rows = list[tuple[str, str]]
TAKEN_AS_GIVEN = "taken as given, not built from source"
"""What a rebuild says about a container image: its bytes are these; who made them of what, it does not."""


def claim_rows(of: Claimed | RebuildReport) -> Rows:
    """The release, its source and what it builds to, according to a claim or a report."""
    container = of.container if isinstance(of, Claimed) else of.built.container
    return [
        ("release", f"{of.release} for {of.architecture}"),
        ("source tree", of.tree_sha256),
        ("lock", of.lock_sha256),
        ("kernel profile", of.kernel_profile),
        ("network", str(of.network)),
        *payload_rows(container),
        *_results(of.profiles),
    ]


def publish_rows(claim: Claimed, vote: Vote) -> Rows:
    """What a member's publication of a claim says."""
    return [
        ("signs", f"{vote.member} publishes this claim, and nobody another one under its name"),
        ("commit", vote.commit or "none: the source is no repository"),
        ("tag", vote.tag),
        *claim_rows(claim),
    ]


def published_rows(published: Published) -> Rows:
    """Who published the claim that a statement is about."""
    if published.finding is not None:
        return [("WARNING", published.finding.detail)]
    return [
        ("claim", f"published by {published.by}: commit {published.commit or 'unknown'}, {published.tag}")
    ]


def report_rows(report: RebuildReport) -> Rows:
    """What was built, from what, and how."""
    kernel = "compiled here" if report.built.kernel_compiled else "from this machine's cache"
    return [*claim_rows(report), ("kernel", kernel)]


def commit_rows(member: str, report: RebuildReport) -> Rows:
    """What a commitment says, to its own member alone."""
    return [("signs", f"{member} has this result, without showing it"), *report_rows(report)]


def statement_rows(statement: Statement) -> Rows:
    """What a member's statement about a rebuild says."""
    words = {
        "agree": "rebuilt the release, and it is what is claimed",
        "dissent": "rebuilt the release, and DISSENTS from the claim",
        "could-not-build": "could not build the release",
    }
    rows = [
        ("signs", f"{statement.member} {words[statement.outcome]}"),
        ("members file", f"version {statement.quorum_version}, sha256:{statement.quorum_sha256}"),
        ("round", statement.round),
        ("release", f"{statement.release} for {statement.architecture}"),
        ("source tree", statement.tree_sha256),
        ("lock", statement.lock_sha256),
        *_results(statement.profiles),
    ]
    if statement.reason:
        rows.append(("reason", statement.reason))
    if statement.built is not None:
        here = statement.built.kernel_compiled
        rows += [
            ("kernel", "compiled here" if here else "from this machine's cache"),
            *payload_rows(statement.built.container),
            ("inputs", "confirmed here" if statement.inputs_confirmed else "not confirmed here"),
            ("commitment", "opened by this statement" if statement.salt else "none"),
        ]
    return [*rows, ("host", statement.host or "not named")]


def payload_rows(container: str | None) -> Rows:
    """What is said of a container image, by the SHA-256 (hex) of its configuration; nothing without one."""
    if container is None:
        return []
    return [("payload", f"a container image, {TAKEN_AS_GIVEN}: sha256:{container}")]


def _results(profiles: Mapping[str, ProfileResult]) -> Rows:
    return [
        (f"{name} PCR{index}", value)
        for name, result in sorted(profiles.items())
        for index, value in enumerate(result.pcrs)
    ]


def cosign_rows(member: str, plan: CosignPlan) -> Rows:
    """What a cosignature says."""
    return [
        ("signs", f"{member} checked the log up to its entry {plan.checkpoint.size - 1}"),
        *[("new entry", entry_words(entry)) for entry in plan.fresh],
    ]


def entry_words(data: bytes) -> str:
    """An entry of the log in a few words. Raises Rejected."""
    entry = parse_entry(data)
    facts = entry.facts
    version = f"version {facts['version']}" if "version" in facts else ""
    words = (entry.kind, entry.member, entry.outcome, version, facts.get("release"))
    return " ".join(word for word in words if word)


def describe_rules(members: MembersFile) -> Rows:
    """The rules of a members file."""
    rows = [
        ("agreement", f"{members.threshold} of {len(members.members)} members"),
        ("changes", f"signed by {members.changing} of {len(members.members)} members"),
        *[
            (f"group {group.name}", f"{group.threshold} of {', '.join(group.parts)}")
            for group in members.groups
        ],
        ("dissent", "blocks, and silence is not agreement" if members.dissent == "block" else "is reported"),
        ("round", members.round),
        ("statements", f"count for {members.max_age_days} days"),
        (
            "kernel",
            "compiled by each member" if members.require_compiled_kernel else "from a cache counts too",
        ),
        ("expires", utc(members.expires)),
    ]
    if members.routes > 1:
        rows.append(("diversity", f"{members.routes} build routes"))
    if members.hosts:
        rows.append(("diversity", f"{members.hosts} hosts, as the members state them"))
    if members.commitments:
        rows.append(
            ("commitments", f"{members.commitments} agreeing members committed before any result was known")
        )
    if members.reviews:
        rows.append(("reviews", f"{members.reviews} members must have reviewed the source"))
    if members.restart is not None:
        text = f"goes on from {members.restart.size} entries, root {members.restart.root}, and no others"
        rows.append(("log", text))
    rows.append(("revocation", f"by {members.revoke_threshold} of {len(members.members)} members"))
    return rows


def members_rows(members: MembersFile) -> Rows:
    """A members file: its rules, and everybody's keys."""
    return [
        *describe_rules(members),
        *[
            (f"member {member.name}", f"{key.scheme} sha256:{key.fingerprint}")
            for member in members.members
            for key in member.keys
        ],
    ]


def _only(word: str, rows: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> Rows:
    return [(word, f"{name}: {value}") for name, value in rows if (name, value) not in others]


def countersign_rows(waiting: Pending, member: str) -> Rows:
    """What a signature on the pending version says, and what else was signed for it."""
    members = waiting.members
    old, new = members_rows(waiting.current), members_rows(members)
    rows = [
        ("signs", f"{member} agrees to version {members.version} of the members file"),
        *new,
        *_only("removes", old, new),
        *_only("adds", new, old),
        ("signed by", ", ".join(waiting.signed) or "nobody yet"),
    ]
    rows += [
        (
            "WARNING",
            f"{', '.join(rival.signed)} signed a different version {members.version}: sha256:{rival.sha256}",
        )
        for rival in waiting.rivals
    ]
    return rows
