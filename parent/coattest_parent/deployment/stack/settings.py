"""What the service chooses about its own account. None of it decides trust: only the decision does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coattest.errors import UsageError

FORMAT = "coattest-stack/v1"

ENCLAVES = 2
"""Enclaves at a time: the running release, and during an upgrade the next one beside it. Nitro allows 4."""

_PATTERNS = {
    # Part of the names of stacks, the role, log groups and S3 objects.
    "name": r"[a-z][a-z0-9-]{0,23}",
    "account": r"\d{12}",
    "region": r"[a-z]{2}(-[a-z]+)+-\d",
    # Nitro, x86_64 (the image's architecture), at least 8 vCPUs: two enclaves of 2 and the instance's own.
    "instance_type": r"(?:c|m|r)[5-8](?:i|a)?(?:d|n|dn|-flex)?\.(?:2|4|6|8|9|10|12|16|18|24|32|48)xlarge",
    "vpc": r"vpc-[0-9a-f]{8,17}",
    "subnet": r"subnet-[0-9a-f]{8,17}",
    "ami": r"ami-[0-9a-f]{8,17}",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a deployment; ``memory`` is MiB per enclave, ``cpus`` vCPUs per enclave."""

    name: str
    account: str
    region: str
    vpc: str
    subnet: str
    ami: str
    instance_type: str = "c6i.2xlarge"
    cpus: int = 2
    memory: int = 2048
    auto_recovery: bool = False
    programs: str | None = None
    """SHA-256 (hex) of the archive that is installed on the instance; None installs nothing of coattest."""

    def __post_init__(self) -> None:
        for name, pattern in _PATTERNS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
                raise UsageError(f"{value!r} does not match {pattern}", where=_option(name))
        for name, low, high in (("cpus", 2, 46), ("memory", 512, 65536)):
            value = getattr(self, name)
            kind = "an even number" if name == "cpus" else "a number"
            if type(value) is not int or not low <= value <= high or (name == "cpus" and value % 2):
                raise UsageError(f"{value!r} is not {kind} from {low} to {high}", where=_option(name))
        if type(self.auto_recovery) is not bool:
            raise UsageError("not true or false", where=_option("auto_recovery"))
        if self.programs is not None and not re.fullmatch(r"[0-9a-f]{64}", str(self.programs)):
            raise UsageError("not the SHA-256 of an archive of programs", where="--wheel")

    @property
    def base_stack(self) -> str:
        """Phase 1's stack: role, buckets, log groups."""
        return f"coattest-{self.name}-base"

    @property
    def main_stack(self) -> str:
        """Phase 2's stack: the rest."""
        return f"coattest-{self.name}"

    @property
    def role_name(self) -> str:
        """The parent's role; the buyers' key policies and PCR3 name it."""
        return f"coattest-{self.name}-parent"

    @property
    def partition(self) -> str:
        """The region's partition (IAM User Guide, "Amazon Resource Names")."""
        others = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
        return next((name for start, name in others.items() if self.region.startswith(start)), "aws")

    @property
    def role_arn(self) -> str:
        """The role's ARN: known before it exists, because its name is."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.role_name}"

    @property
    def programs_key(self) -> str:
        """The object of the programs, beside the images."""
        return f"releases/parent/{self.programs}.tar"

    @property
    def log_groups(self) -> tuple[str, ...]:
        """The parent's log groups."""
        return tuple(f"/coattest/{self.name}/{kind}" for kind in ("parent", "boot"))

    def to_json(self) -> dict[str, Any]:
        """The content of ``settings.json``."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Settings:
        """Read ``settings.json`` of a plan; raises UsageError."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(value, Mapping) or set(value) != names | {"format"} or value["format"] != FORMAT:
            raise UsageError("not the settings of a plan", where=where, hint="make the plan again")
        return cls(**{name: value[name] for name in names})


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
