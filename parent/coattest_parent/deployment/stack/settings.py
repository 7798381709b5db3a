"""What the service chooses about its own account. None of it decides trust: only the decision does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from coattest.errors import UsageError

FORMAT = "coattest-stack/v1"

SUBNETS_MAX = 6
"""Subnets of a group: no region has more zones than six."""

_PATTERNS = {
    # Part of the names of stacks, the role, log groups and S3 objects.
    "name": r"[a-z][a-z0-9-]{0,23}",
    "account": r"\d{12}",
    "region": r"[a-z]{2}(-[a-z]+)+-\d",
    # Whether a type has enclaves, and room for this one, AWS says (``checks``).
    "instance_type": r"[a-z][a-z0-9]{0,11}(?:-[a-z0-9]{1,8})?\.(?:[0-9]{0,3}x?large|metal(?:-[0-9]{1,3}xl)?)",
    "vpc": r"vpc-[0-9a-f]{8,17}",
    "ami": r"ami-[0-9a-f]{8,17}",
}

_SUBNET = re.compile(r"subnet-[0-9a-f]{8,17}", re.ASCII)
_NUMBERS = {"cpus": (2, 94), "memory": (512, 262144), "capacity": (1, 100)}


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of a deployment: each of ``capacity`` instances has one enclave of ``cpus`` vCPUs and
    ``memory`` MiB.
    """

    name: str
    account: str
    region: str
    vpc: str
    subnets: tuple[str, ...]
    ami: str
    instance_type: str = "c6i.xlarge"
    cpus: int = 2
    memory: int = 2048
    capacity: int = 1
    programs: str | None = None
    """SHA-256 (hex) of the archive that is installed on the instances; None is for a plan of phase 1 only."""

    def __post_init__(self) -> None:
        for name, pattern in _PATTERNS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
                raise UsageError(f"{value!r} does not match {pattern}", where=_option(name))
        subnets = ", ".join(self.subnets) or "none"
        count = len(set(filter(_SUBNET.fullmatch, self.subnets)))
        if not 2 <= count == len(self.subnets) <= SUBNETS_MAX:
            what = f"{subnets}: not 2 to {SUBNETS_MAX} different subnets, in as many zones"
            raise UsageError(what, where="--subnet")
        for name, (low, high) in _NUMBERS.items():
            value = getattr(self, name)
            kind = "an even number" if name == "cpus" else "a number"
            if type(value) is not int or not low <= value <= high or (name == "cpus" and value % 2):
                raise UsageError(f"{value!r} is not {kind} from {low} to {high}", where=_option(name))
        if self.programs is not None and not re.fullmatch(r"[0-9a-f]{64}", str(self.programs)):
            raise UsageError("not the SHA-256 of an archive of programs", where="--wheel")

    @property
    def base_stack(self) -> str:
        """The stack of what all releases share: role, buckets, log groups, security group."""
        return f"coattest-{self.name}-base"

    @property
    def parents_stacks(self) -> re.Pattern[str]:
        """The names of the stacks of parents, whichever their release."""
        return re.compile(rf"coattest-{self.name}-[0-9a-f]{{12}}")

    @property
    def role_name(self) -> str:
        """The parent's role; the buyers' key policies and PCR3 name it."""
        return f"coattest-{self.name}-parent"

    @property
    def partition(self) -> str:
        """The region's partition (IAM User Guide, "Amazon Resource Names")."""
        others = {
            "cn-": "aws-cn",
            "us-gov-": "aws-us-gov",
            "us-iso-": "aws-iso",
            "us-isob-": "aws-iso-b",
            "eu-isoe-": "aws-iso-e",
            "us-isof-": "aws-iso-f",
        }
        return next((name for start, name in others.items() if self.region.startswith(start)), "aws")

    @property
    def role_arn(self) -> str:
        """The role's ARN: known before it exists, because its name is."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.role_name}"

    @property
    def programs_key(self) -> str:
        """The object of the programs, under its digest."""
        return f"programs/{self.programs}.tar"

    @property
    def log_groups(self) -> tuple[str, ...]:
        """The parent's log groups."""
        return tuple(f"/coattest/{self.name}/{kind}" for kind in ("parent", "boot"))

    def to_json(self) -> dict[str, Any]:
        """The content of ``settings.json``."""
        return {"format": FORMAT, **asdict(self), "subnets": list(self.subnets)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Settings:
        """Read ``settings.json`` of a plan; raises UsageError."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(value, Mapping) or set(value) != names | {"format"} or value["format"] != FORMAT:
            raise UsageError("not the settings of a plan", where=where, hint="make the plan again")
        subnets = value["subnets"]
        if not isinstance(subnets, list) or not all(isinstance(each, str) for each in subnets):
            raise UsageError("subnets are not a list of names", where=where, hint="make the plan again")
        given: dict[str, Any] = {name: value[name] for name in names}
        return cls(**{**given, "subnets": tuple(subnets)})


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
