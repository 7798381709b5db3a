"""A quorum with an image, and what the parties of a deployment give: settings, reports, plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest_build.formats.measure import measure
from coattest_parent.deployment.stack.settings import Settings
from coattest_verify.keypolicy.report import BuyerReport, sign_report
from coattest_verify.quorum.authority import Authority, authority_from
from support.verify.members import NOW, Members, profile_json, report_json

SERVICE = "111122223333"
ACCOUNTS = {"buyer-1": "222233334444", "buyer-2": "333344445555"}
SETTINGS = Settings(
    name="spring",
    account=SERVICE,
    region="eu-central-1",
    vpc="vpc-0123456789abcdef0",
    subnets=("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"),
    ami="ami-0123456789abcdef0",
)


def now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Release:
    """A release that a quorum decided on: its image, and the folder of its attestations."""

    image: Path
    members: Members
    name: str = "0.1.0"

    @classmethod
    def make(cls, folder: Path, image: Path, release: str = "0.1.0", by: Members | None = None) -> Release:
        """Sign the image's measurements as every member, of a new quorum or the one of another release."""
        found = measure(image)
        members = Members.make(folder / "quorum") if by is None else replace(by)
        local = profile_json("local", "image.local.eif")
        local["image"] |= {"size": found.size, "sha256": found.sha256, "sha384": found.sha384}
        local["pcrs"] = {"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2}
        report = report_json(release=release, profiles={"aws": profile_json("aws"), "local": local})
        members.claim(report)
        for name in members.file.names:
            members.sign(name, report, age=NOW - (now() - timedelta(hours=1)))
        return cls(image, members, release)

    @property
    def deciding(self) -> list[str]:
        """The decision's options on a command line."""
        return [*self.members.deciding(self.name)]

    @property
    def authority(self) -> Authority:
        """The decision with its quorum."""
        return authority_from(
            {
                "attestations": self.members.attestations,
                "root": self.members.root,
                "profile": "local",
                "release": self.name,
            },
            now(),
        )

    @property
    def digest(self) -> str:
        """The decision's digest in hex."""
        return self.authority.decision.release_digest.hex()

    def report(self, name: str, decisions: Sequence[str] = (), **changes: Any) -> bytes:
        """A buyer's signed report, admitting this release unless told otherwise."""
        values: dict[str, Any] = {
            "member": name,
            "kms": f"arn:aws:kms:eu-central-1:{ACCOUNTS[name]}:key/0-{name}",
            "bids": f"s3://bids-of-{name}/bids/",
            "role": SETTINGS.role_arn,
            "decisions": tuple(sorted(decisions or [self.digest])),
        }
        return sign_report(self.members.signers[name], BuyerReport(**(values | changes)))
