"""A signed rebuild: what one member built, from what, under which members file, and its answer to the claim.

The signed form is an in-toto Statement v1 with SLSA provenance v1 (``provenance``) in DSSE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from coattest.errors import Rejected
from coattest.findings import Finding
from coattest.network import NO_NETWORK, Network
from coattest.strictjson import Fields
from coattest_build.image import KERNEL_PROFILES, MINIMAL
from coattest_build.report import container_config
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import (
    ARCHITECTURE,
    COMMIT,
    RELEASE,
    SHA256,
    WORD,
    Claimed,
    ProfileResult,
    read_network,
    read_profiles,
)

AGREE, DISSENT, COULD_NOT_BUILD = "agree", "dissent", "could-not-build"
OUTCOMES = (AGREE, DISSENT, COULD_NOT_BUILD)

HOST = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
"""A host's name or pseudonym."""

MAX_REASON = 500
"""Characters of the reason that a dissenter gives."""

MAX_INPUTS = 4096
"""Locked inputs that one statement names. The shipped lock has about 150."""


LOCKED_INPUT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}\n[A-Za-z0-9][A-Za-z0-9+.~:!_-]{0,127}\n[a-z]{1,16}\n"
    r"[A-Za-z0-9](?:[A-Za-z0-9+.~%!_/-]{0,510}[A-Za-z0-9])?"
)
"""Name, version, kind and path of a locked input, a line each; none of them can be taken for another one."""


class LockedInput(NamedTuple):
    """One locked input. A tuple, because a quorum reads hundreds of thousands of them."""

    name: str
    version: str
    sha256: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Built:
    """How a member built it."""

    route: str
    commit: str | None
    kernel_compiled: bool
    kernel_sha256: str
    tool_version: str
    tool_sha256: str
    isolation: Mapping[str, Any] = field(hash=False)
    inputs: tuple[LockedInput, ...] = field(repr=False)

    @classmethod
    def read(cls, named: Fields, source: Fields, how: Fields, inputs: tuple[LockedInput, ...]) -> Built:
        """From a report or a statement: ``named`` has the route, ``source`` the commit. Raises Rejected."""
        kernel, tool = how.fields("kernel"), how.fields("tool")
        return cls(
            route=named.text("route", WORD),
            commit=source.optional("commit", source.text, COMMIT),
            kernel_compiled=kernel.boolean("compiled_here"),
            kernel_sha256=kernel.text("sha256", SHA256),
            tool_version=tool.text("version", WORD),
            tool_sha256=tool.text("sha256", SHA256),
            isolation=how.mapping("isolation", low=0, high=64),
            inputs=inputs,
        )

    @property
    def container(self) -> str | None:
        """SHA-256 of the configuration of the container image that is the payload, taken as given."""
        return container_config((item.kind, item.name, item.sha256) for item in self.inputs)


@dataclass(frozen=True, slots=True)
class Statement:
    """One member's answer. ``built`` is None and ``profiles`` empty when it could not build."""

    member: str
    outcome: str
    reason: str | None
    release: str
    architecture: str
    tree_sha256: str
    lock_sha256: str
    claim_sha256: str
    profiles: Mapping[str, ProfileResult] = field(hash=False)
    built: Built | None
    quorum_version: int
    quorum_sha256: str
    round: str
    time: datetime
    inputs_confirmed: bool = False
    """Whether ``verify inputs`` confirmed every pin of the lock on the member's machine."""
    host: str | None = None
    """The machine, as its member states it: a name, or a pseudonym of this quorum and round."""
    salt: str | None = None
    """Opens the member's commitment to this result (``coattest_verify.quorum.commitments``), hex."""

    @property
    def target(self) -> tuple[str, str, str, str]:
        """What was to be built: two results for one target are a contradiction."""
        return self.release, self.architecture, self.tree_sha256, self.lock_sha256

    @property
    def products(self) -> dict[str, dict[str, str]]:
        """The digests of every image (``PROFILE/NAME``) and of its registers (``PROFILE/PCR0``), by name."""
        found: dict[str, dict[str, str]] = {}
        for profile, result in sorted(self.profiles.items()):
            found[f"{profile}/{result.name}"] = {"sha256": result.sha256, "sha384": result.sha384}
            for index, value in enumerate(result.pcrs):
                found[f"{profile}/PCR{index}"] = {"sha384": value}
        return found


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """A build report (rebuild.json) as far as a statement needs it."""

    release: str
    architecture: str
    dirty: bool
    tree_sha256: str
    lock_sha256: str
    profiles: Mapping[str, ProfileResult]
    built: Built
    inputs_confirmed: bool = False
    kernel_profile: str = MINIMAL
    network: Network = NO_NETWORK

    @classmethod
    def read(cls, value: Any) -> RebuildReport:
        """From the JSON of a BuildReport; fields that a statement does not need are ignored.

        Raises Rejected.
        """
        fields = Fields(value, "")
        fields.exactly("format", "coattest-build/v1")
        source, kernel = fields.fields("source"), fields.fields("kernel")
        inputs = tuple(_input(item) for item in fields.items("inputs", high=MAX_INPUTS))
        return cls(
            release=fields.text("release", RELEASE),
            architecture=fields.text("architecture", ARCHITECTURE),
            dirty=source.boolean("dirty"),
            tree_sha256=source.text("tree_sha256", SHA256),
            lock_sha256=source.text("lock_sha256", SHA256),
            profiles=read_profiles(fields),
            kernel_profile=kernel.choice("profile", KERNEL_PROFILES) if kernel.has("profile") else MINIMAL,
            network=read_network(fields) if fields.optional("network", fields.fields) else NO_NETWORK,
            built=Built.read(fields, source, fields, inputs),
        )

    def differences(self, claim: Claimed) -> tuple[Finding, ...]:
        """Each difference of this build from a claim, most telling first; empty when there is none."""
        found: list[Finding] = []

        def check(name: str, mine: str, theirs: str, detail: str | None = None) -> None:
            if mine != theirs:
                detail = detail or f"{mine} instead of {theirs}"
                found.append(Finding("mismatch", name, detail, expected=theirs, found=mine))

        for name in ("tree_sha256", "lock_sha256", "release", "architecture", "kernel_profile"):
            check(name, getattr(self, name), getattr(claim, name))
        for profile in sorted({*claim.profiles, *self.profiles}):
            if profile not in self.profiles:
                found.append(Finding("not-built", profile, "not built here"))
            elif profile not in claim.profiles:
                found.append(Finding("not-claimed", profile, "not in the claim"))
            else:
                found += self.profiles[profile].differences(claim.profiles[profile], profile)
        check("container", self.built.container or "none", claim.container or "none")
        check("network", str(self.network), str(claim.network), "not the claim's network")
        return tuple(found)


def _input(value: Any) -> LockedInput:
    try:
        return checked_input(LockedInput(*(value[name] for name in LockedInput._fields)))
    except (KeyError, TypeError):
        raise Rejected("inputs: name, version, sha256, kind and path are strings") from None


def checked_input(found: LockedInput) -> LockedInput:
    """The input, if each of its texts has its form. Raises Rejected, and TypeError for what is not text."""
    if SHA256.fullmatch(found.sha256) is None or not LOCKED_INPUT.fullmatch(
        "\n".join((found.name, found.version, found.kind, found.path))
    ):
        raise Rejected("inputs: name, version, kind and path have their forms, sha256 is lower-case hex")
    return found


def statement_for(
    report: RebuildReport | None,
    claim: Claimed,
    members: MembersFile,
    *,
    member: str,
    outcome: str,
    now: datetime,
    reason: str | None = None,
    host: str | None = None,
    salt: str | None = None,
) -> Statement:
    """The statement that ``member`` is about to sign; ``report`` is None for "could not build"."""
    return Statement(
        member=member,
        outcome=outcome,
        reason=clean(reason) if reason else None,
        release=report.release if report else claim.release,
        architecture=report.architecture if report else claim.architecture,
        tree_sha256=report.tree_sha256 if report else claim.tree_sha256,
        lock_sha256=report.lock_sha256 if report else claim.lock_sha256,
        claim_sha256=claim.sha256,
        profiles=report.profiles if report else {},
        built=report.built if report else None,
        quorum_version=members.version,
        quorum_sha256=members.sha256,
        round=members.round,
        time=now.replace(microsecond=0),
        inputs_confirmed=report.inputs_confirmed if report else False,
        host=host,
        salt=salt if report else None,
    )


def clean(text: str) -> str:
    """A reason as one printable line of at most MAX_REASON characters."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in line)[:MAX_REASON]
