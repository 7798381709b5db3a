"""What the instance does at boot, as a shell script for ``Fn::Sub``. Pure.

It names no release: a change of user data restarts the instance, and an upgrade must not. It runs at every
boot, as otherwise a change would never be installed. What it installs affects availability only: the
enclave's own document tells which code runs.
"""

from __future__ import annotations

import json

from coattest_parent.deployment.stack import programs, units
from coattest_parent.deployment.stack.settings import Settings

USER_DATA_MAX = 16 * 1024
"""Bytes before base64 (EC2 User Guide, "Run commands when you launch an EC2 instance with user data")."""


_BOUNDARY = "coattest-part"


def at_every_boot(script: str) -> str:
    """User data that runs ``script`` at every boot.

    cloud-init runs a plain script at an instance's first boot only, and CloudFormation applies changed user
    data by stopping and starting the same instance (cloud-init, "Scripts user" and "MIME multi-part archive";
    CloudFormation, AWS::EC2::Instance, UserData).
    """
    config = "#cloud-config\ncloud_final_modules:\n  - [scripts-user, always]\n"
    head = f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"\nMIME-Version: 1.0\n\n'
    parts = (("cloud-config", config), ("x-shellscript", script))
    return (
        head
        + "".join(
            f'--{_BOUNDARY}\nContent-Type: text/{kind}; charset="us-ascii"\nMIME-Version: 1.0\n\n{text}\n'
            for kind, text in parts
        )
        + f"--{_BOUNDARY}--\n"
    )


def boot_script(settings: Settings) -> str:
    """The script. ``${Name}`` is CloudFormation's; the shell's own variables have no braces."""
    files = {
        "/etc/nitro_enclaves/allocator.yaml": units.allocator_yaml(settings),
        "/opt/aws/amazon-cloudwatch-agent/etc/coattest.json": _agent(settings),
        **{f"/etc/systemd/system/{name}": text for name, text in units.units(settings).items()},
    }
    lines = [
        "#!/bin/bash",
        "set -euo pipefail",
        "dnf install -y aws-nitro-enclaves-cli amazon-cloudwatch-agent python3.11",
        f"id {units.USER} || useradd --system --shell /sbin/nologin {units.USER}",
        f"install -d -m 0755 {units.RELEASES} {units.LOGS} /opt/coattest /etc/coattest",
    ]
    for path, text in files.items():
        lines += [f"cat > {path} <<'EOF'", text.rstrip("\n"), "EOF"]
    lines += _install(settings)
    lines += [
        "systemctl daemon-reload",
        "systemctl disable --now nitro-enclaves-allocator.service || true",
        f"systemctl enable --now {units.ALLOCATOR}",
        # The courier starts once a release was verified: only then is there an enclave to name.
        *([f"systemctl enable --now {units.PROXY}"] if settings.programs else []),
        # At a later boot they run already, with the programs installed before.
        *([f"systemctl try-restart {units.PROXY} {units.COURIER}"] if settings.programs else []),
        "/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s "
        "-c file:/opt/aws/amazon-cloudwatch-agent/etc/coattest.json",
    ]
    return "\n".join(lines) + "\n"


def _install(settings: Settings) -> list[str]:
    if settings.programs is None:
        return []
    name = programs.NAME
    return [
        "cd /opt/coattest",
        f"aws s3api get-object --region ${{AWS::Region}} --bucket ${{ArtifactBucket}} "
        f"--key {settings.programs_key} {name}",
        f"echo '{settings.programs}  {name}' | sha256sum --check --strict",
        f"tar -xf {name} --no-same-owner",
        "python3.11 -m venv /opt/coattest",
        f"{units.PROGRAMS}/pip install --no-input --no-index --find-links {programs.WHEELS} --require-hashes "
        f"-r {programs.REQUIREMENTS}",
        # The proxy reaches KMS in the regions of the buyers' keys and nothing else.
        "arguments=",
        'for region in ${KmsRegions}; do arguments="$arguments --region $region"; done',
        'echo "COATTEST_PROXY_ARGUMENTS=$arguments" > /etc/coattest/proxy.env',
        'echo "COATTEST_COURIER_ARGUMENTS=--publish s3://${ResultBucket}/results/"'
        " > /etc/coattest/courier.env",
    ]


def _agent(settings: Settings) -> str:
    parent, boot = settings.log_groups
    collected = [
        {"file_path": f"{units.LOGS}/*.log", "log_group_name": parent},
        {"file_path": "/var/log/cloud-init-output.log", "log_group_name": boot},
    ]
    for item in collected:
        item["log_stream_name"] = "{instance_id}"
    return json.dumps({"logs": {"logs_collected": {"files": {"collect_list": collected}}}}, sort_keys=True)
