"""What an instance is: user data that fetches one archive by its digest, and that archive. Pure.

The archive has the units and scripts of ``instance/``, the package's units, and the few values of this
release and these settings. It affects availability only: the enclave's own document tells which code runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from importlib import resources

from coattest_parent.deployment.stack.settings import Settings
from coattest_verify.quorum.decision import Decision

USER_DATA_MAX = 16 * 1024
"""Bytes before base64 (EC2 User Guide, "Run commands when you launch an EC2 instance with user data")."""

FIRST_BOOT = "first-boot.sh"
LOGS = "/var/log/coattest"

PLACE = {
    "REGION": "${AWS::Region}",
    "STACK": "${AWS::StackName}",
    "ARTIFACTS": "${ArtifactBucket}",
    "RESULTS": "${ResultBucket}",
}
"""What CloudFormation fills in in the first lines of user data."""


def image_key(decision: Decision) -> str:
    """The image's object, under its digest."""
    return f"releases/{decision.image_sha384}.eif"


def configuration(settings: Settings, decision: Decision, regions: Iterable[str]) -> bytes:
    """The archive. ``regions`` are those of the buyers' keys: the proxy reaches KMS there alone."""
    release = {
        "IMAGE": image_key(decision),
        "IMAGE_SHA384": decision.image_sha384,
        "RELEASE": decision.release,
        "CPUS": settings.cpus,
        "MEMORY": settings.memory,
        **{f"PCR{index}": decision.pcrs[index] for index in range(3)},
    }
    proxy = " ".join(f"--region {region}" for region in sorted(set(regions)))
    texts = {
        **{name: text for name, text in instance_files().items() if name != FIRST_BOOT},
        "allocator.yaml": f"---\nmemory_mib: {settings.memory}\ncpu_count: {settings.cpus}\n",
        "agent.json": _agent(settings),
        "programs.sha256": f"{settings.programs}\n",
        "proxy.env": f"COATTEST_PROXY_ARGUMENTS={proxy}\n",
        "release.env": "".join(f"COATTEST_{name}={value}\n" for name, value in release.items()),
    }
    return tar_of({name: text.encode() for name, text in sorted(texts.items())})


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of files by name, in this order; modes, owners and times are always the same.

    A wheel's name may have more than the 100 characters of ustar: then it is in a header of pax.
    """
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size, item.mode = len(content), 0o644
            archive.addfile(item, io.BytesIO(content))
    return target.getvalue()


def archive_digest(archive: bytes) -> str:
    """SHA-256 of an archive in hex: its name in the bucket."""
    return hashlib.sha256(archive).hexdigest()


def configuration_key(digest: str) -> str:
    """The archive's object, under its digest."""
    return f"parents/{digest}.tar"


def instance_files() -> dict[str, str]:
    """Scripts and units as they are installed, by file name."""
    package = resources.files("coattest_parent")
    folders = (package / "deployment" / "stack" / "instance", package / "units")
    items = [item for folder in folders for item in folder.iterdir() if item.is_file()]
    return {item.name: item.read_text("utf-8") for item in sorted(items, key=lambda item: item.name)}


def boot_script(digest: str) -> str:
    """User data: the place and the archive's digest, then ``first-boot.sh`` as it is."""
    head = {**PLACE, "CONFIGURATION": digest}
    lines = "".join(f"COATTEST_{name}={value}\n" for name, value in head.items())
    return f"#!/bin/bash\n{lines}{instance_files()[FIRST_BOOT]}"


def _agent(settings: Settings) -> str:
    parent, boot = settings.log_groups
    units = [name.removesuffix(".service") for name in instance_files() if name.endswith(".service")]
    # One for each file: of a wildcard the agent follows only the file that was written last.
    followed = [(parent, f"{LOGS}/{unit}.log", f"{{instance_id}}-{unit}") for unit in units]
    followed.append((boot, "/var/log/cloud-init-output.log", "{instance_id}"))
    names = ("log_group_name", "file_path", "log_stream_name")
    collected = [dict(zip(names, each, strict=True)) for each in followed]
    return json.dumps({"logs": {"logs_collected": {"files": {"collect_list": collected}}}}, sort_keys=True)
