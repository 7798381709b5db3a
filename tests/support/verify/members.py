"""Members for tests: real keys, a signed quorum.toml, claims and signed rebuilds, in a folder of the test.

quorum = Members.make(tmp_path, ["buyer-1", "buyer-2"])
quorum.claim(report)                      # releases/<release>/claim.json for a build report (a dict)
quorum.sign("buyer-1", report)            # releases/<release>/rebuild.buyer-1.intoto.json
quorum.decide(profile="local").require()  # the decision, against the root of this quorum
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest.findings import Finding
from coattest_verify.quorum.decision import Outcome, decide
from coattest_verify.quorum.members.file import MEMBERS_TYPE, Member, MembersFile
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.releases import RELEASE_FILE
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.provenance import sign_statement
from coattest_verify.quorum.statements.statement import RebuildReport, Statement, statement_for
from coattest_verify.quorum.statements.votes import PUBLISH, make_vote, sign_vote, vote_name
from coattest_verify.signatures import dsse, keys

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)
EXPIRES = datetime(2030, 1, 1, tzinfo=timezone.utc)


def hex_digest(name: str, bits: int) -> str:
    """A digest of the right length that depends on ``name``."""
    return hashlib.new(f"sha{bits}", name.encode()).hexdigest()


def profile_json(seed: str, name: str = "image.eif") -> dict[str, Any]:
    """One profile of a build report; another seed gives another application ramdisk."""
    sections = [
        {"type": "kernel", "size": 2_400_000, "sha384": hex_digest("kernel", 384)},
        {"type": "cmdline", "size": 120, "sha384": hex_digest("cmdline", 384)},
        {"type": "metadata", "size": 300, "sha384": hex_digest("metadata", 384)},
        {"type": "ramdisk", "size": 16_384, "sha384": hex_digest("boot", 384)},
        {"type": "ramdisk", "size": 34_000_000, "sha384": hex_digest(f"app {seed}", 384)},
    ]
    return {
        "image": {
            "name": name,
            "size": 36_500_000,
            "sha256": hex_digest(f"image {seed}", 256),
            "sha384": hex_digest(f"image {seed}", 384),
        },
        "pcrs": {
            "PCR0": hex_digest(f"PCR0 {seed}", 384),
            "PCR1": hex_digest("PCR1", 384),
            "PCR2": hex_digest(f"PCR2 {seed}", 384),
        },
        "sections": sections,
    }


def report_json(
    seed: str = "good",
    *,
    release: str = "0.1.0",
    source: str = "source",
    compiled: bool = True,
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: int = 3,
) -> dict[str, Any]:
    """A build report (rebuild.json) as the builder writes it."""
    return {
        "format": "coattest-build/v1",
        "release": release,
        "architecture": "x86_64",
        "route": "native",
        "source": {
            "commit": "a" * 40,
            "dirty": False,
            "tree_sha256": hex_digest(f"tree {source}", 256),
            "lock_sha256": hex_digest("lock", 256),
        },
        "profiles": copy.deepcopy(
            dict(
                profiles
                or {
                    "aws": profile_json(f"{seed} aws"),
                    "local": profile_json(f"{seed} local", "image.local.eif"),
                }
            )
        ),
        "kernel": {
            "profile": "minimal",
            "compiled_here": compiled,
            "sha256": hex_digest("bzImage", 256),
        },
        "isolation": {"namespaces": ["user", "mount", "pid", "net"], "no_new_privs": True},
        "tool": {"version": "0.1.0", "sha256": hex_digest("tool", 256)},
        "inputs": [
            {
                "name": f"package-{index}",
                "version": "1.0-1",
                "sha256": hex_digest(f"package {index}", 256),
                "path": f"pool/main/p/package-{index}_1.0-1_amd64.deb",
                "kind": "deb",
            }
            for index in range(inputs)
        ],
    }


def sentences(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Findings as "where: detail", for tests that compare them with text."""
    return tuple(f"{finding.where}: {finding.detail}" for finding in findings)


def claim_json(report: Mapping[str, Any]) -> dict[str, Any]:
    """The claim that a publisher makes from its own build report."""
    return {
        "format": "coattest-claim/v1",
        "release": report["release"],
        "architecture": report["architecture"],
        "source": {name: report["source"][name] for name in ("tree_sha256", "lock_sha256")},
        "profiles": copy.deepcopy(dict(report["profiles"])),
    }


@dataclass
class Members:
    """A quorum in ``folder``: keys/NAME, attestations/, and this quorum's own remembered roots in config/."""

    folder: Path
    file: MembersFile
    root: bytes
    signers: dict[str, Any]
    claimed: Claimed | None = None

    @classmethod
    def make(
        cls,
        folder: Path,
        names: Sequence[str] = ("buyer-1", "buyer-2"),
        *,
        threshold: int | None = None,
        kinds: Sequence[str] = ("ed25519", "p256", "p384"),
        keys_each: int = 1,
        **values: Any,
    ) -> Members:
        """Make keys and quorum.toml version 1, signed by all. ``threshold`` defaults to all members.

        A second key of buyer-1 is the signer "buyer-1/2".
        """
        signers, members = {}, []
        for index, name in enumerate(names):
            publics = []
            for number in range(1, keys_each + 1):
                label = name if number == 1 else f"{name}/{number}"
                path = folder / "keys" / label.replace("/", "-key-")
                publics.append(keys.generate_key(path, kinds[index % len(kinds)]))
                signers[label] = keys.load_signer(path)
            members.append(Member(name, tuple(publics)))
        defaults: dict[str, Any] = {"expires": EXPIRES, "round": "1", "dissent": "block"}
        file = MembersFile.make(
            version=1,
            previous=None,
            threshold=len(members) if threshold is None else threshold,
            members=tuple(members),
            **{**defaults, **values},
        )
        made = cls(folder, file, bytes.fromhex(file.sha256), signers)
        made.attestations.mkdir(parents=True, exist_ok=True)
        made.install(file, names)
        return made

    @property
    def attestations(self) -> Path:
        """The folder that everybody writes to."""
        return self.folder / "attestations"

    @property
    def released(self) -> Path:
        """The folder of the release that was claimed last."""
        return self.attestations / "releases" / (self.claimed.release if self.claimed else "0.1.0")

    def deciding(self, release: str = "0.1.0") -> tuple[str, ...]:
        """The options that name the decision on a release, for every command that relies on one."""
        where = ("--attestations", str(self.attestations), "--root", f"sha256:{self.root.hex()}")
        return (*where, "--profile", "local", "--release", release)

    @property
    def roots(self) -> Roots:
        """What a verifier of this test remembers."""
        return Roots(self.folder / "config")

    def key(self, name: str) -> Path:
        """A member's private key file."""
        return self.folder / "keys" / name

    def install(self, file: MembersFile, signed_by: Sequence[str]) -> None:
        """Make ``file`` the quorum.toml, with the signatures of some members."""
        self.file = file
        self.write("quorum.toml", file.raw)
        for name in signed_by:
            self.countersign(file, name)

    def countersign(self, file: MembersFile, name: str) -> None:
        """Write one member's signature on a members file."""
        envelope = dsse.sign_envelope(self.signers[name], MEMBERS_TYPE, file.raw)
        self.write(f"quorum.{file.version}.{name}.dsse.json", envelope.encode())

    def claim(self, report: Mapping[str, Any], *, by: str | None = None) -> Claimed:
        """Publish the claim of a report, as the first member or another one, and no other one any more."""
        data = json.dumps(claim_json(report)).encode()
        self.claimed = Claimed.decode(data)
        self.write("claim.json", data)
        for earlier in self.released.glob("publish.*"):
            earlier.unlink()
        self.publish(by or self.file.names[0])
        return self.claimed

    def publish(self, member: str, tag: str = "v1", commit: str | None = "a" * 40) -> Path:
        """One member's publication of the present claim."""
        assert self.claimed is not None, "publish a claim first"
        vote = make_vote(
            PUBLISH,
            member,
            root=self.root,
            claim=self.claimed,
            note="publishes this claim",
            now=NOW,
            published=(self.claimed.sha256, commit, tag),
        )
        return self.write(vote_name(vote), sign_vote(vote, self.signers[member]))

    def statement(
        self,
        member: str,
        report: Mapping[str, Any] | None,
        *,
        outcome: str = "agree",
        age: timedelta = timedelta(hours=1),
        reason: str | None = None,
        **changes: Any,
    ) -> Statement:
        """A statement that is not signed yet; ``changes`` replace fields of it."""
        assert self.claimed is not None, "publish a claim first"
        made = statement_for(
            RebuildReport.read(report) if report else None,
            self.claimed,
            self.file,
            member=member,
            outcome=outcome,
            now=NOW - age,
            reason=reason,
        )
        return replace(made, **changes)

    def sign(
        self,
        member: str,
        report: Mapping[str, Any] | None,
        *,
        name: str | None = None,
        key_of: str | None = None,
        **options: Any,
    ) -> Path:
        """Write a signed statement; ``key_of`` signs with somebody else's key."""
        statement = self.statement(member, report, **options)
        data = sign_statement(statement, self.signers[key_of or member])
        return self.write(name or f"rebuild.{member}.intoto.json", data)

    def write(self, name: str, data: bytes) -> Path:
        """Put a file into the folder of attestations, or of the latest claimed release."""
        path = self.released / name if RELEASE_FILE.fullmatch(name) else self.attestations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def decide(
        self, *, profile: str = "aws", now: datetime = NOW, own: str | None = None, release: str | None = None
    ) -> Outcome:
        """Decide on the release that was claimed last, with this quorum's root and memory."""
        return decide(
            self.attestations,
            root=self.root,
            profile=profile,
            now=now,
            own=own,
            release=release or self.released.name,
            roots=self.roots,
        )
