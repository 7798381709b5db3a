"""A region of an account as AWS gives it: a default VPC that leads out, and AWS's own machine image.

moto's default VPC has no way out, and its images are of 2017. Sources: VPC User Guide, "Default VPC
components"; AL2023 User Guide, "AL2023 on Amazon EC2".
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami

AMI = "ami-0123456789abcdef0"
"""The id of the one image that can be a parent's."""


def furnish(account: str, region: str) -> None:
    """Add what is lacking, once for each account and region."""
    backend: Any = ec2_backends[account][region]
    if AMI in backend.amis:
        return
    backend.amis[AMI] = Ami(
        backend,
        AMI,
        name="al2023-ami-2023.9.20251117.1-kernel-6.1-x86_64",
        owner_id="137112412989",
        owner_alias="amazon",
        public=True,
        virtualization_type="hvm",
        architecture="x86_64",
        root_device_type="ebs",
        root_device_name="/dev/xvda",
        region_name=f"{region}a",
    )
    (vpc,) = [each for each in backend.vpcs.values() if each.is_default]
    gateway = backend.create_internet_gateway()
    backend.attach_internet_gateway(gateway.id, vpc.id)
    (table,) = [each for each in backend.route_tables.values() if each.vpc_id == vpc.id]
    backend.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
