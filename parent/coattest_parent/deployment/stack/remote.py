"""Enclaves on the parent instance itself: nitro-cli through RunCommand.

What the instance says about an enclave is compared with the decision but not trusted: the document that comes
back is verified here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest.aws import aws_errors
from coattest.errors import UsageError
from coattest_parent.deployment.runner import Enclave, not_started
from coattest_parent.deployment.stack import units
from coattest_parent.deployment.stack.settings import Settings
from coattest_parent.deployment.stack.ssm import TO, Instance
from coattest_parent.deployment.stack.stacks import Say, Stacks
from coattest_parent.link.aws import Aws
from coattest_parent.link.channels import CID_MAX, ENCLAVE_PORT, Vsock, proxy_address_for
from coattest_verify.quorum.statements.claim import SHA384

RELEASE = re.compile(r"[0-9a-f]{16}")
SHORT_SECONDS = 60.0
"""Seconds for a command that only asks or switches something."""

LISTEN_SECONDS = 60
"""Seconds until a started enclave listens."""

START_SECONDS = 900.0
"""Seconds for the first start: the end of user data, the image from S3, nitro-cli's heartbeat."""

FIRST_CID = 16
"""The lowest CID used here: 0 to 3 are taken (vsock(7); nitro-cli: 3 is the parent)."""

DOCUMENT_MAX = 16 * 1024
"""Bytes of an attestation document; in base64 it fits RunCommand's output."""

_ID = re.compile(r"i-[0-9a-f]{4,17}-enc[0-9a-f]{4,17}")


def cid_of(release: str) -> int:
    """The CID of a release's enclave: the same at every start, so that the courier finds it again."""
    return FIRST_CID + int(release[:7], 16)


@dataclass(frozen=True, slots=True)
class RemoteHost:
    """The enclaves of a deployment's instance; see EnclaveHost."""

    aws: Aws
    settings: Settings
    say: Say

    @property
    def on_instance(self) -> bool:
        """See EnclaveHost."""
        return True

    def running(self) -> Mapping[str, Enclave]:
        """See EnclaveHost; empty when there is no instance."""
        name = self._output(self.settings.main_stack, "InstanceId")
        if name is None or not self._alive(name):
            return {}
        answer = self._instance(name).run(
            [["nitro-cli", "describe-enclaves"]], SHORT_SECONDS, "describe-enclaves"
        )
        return parse_enclaves(answer)

    def run(self, release: str, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        """See EnclaveHost. The instance fetches the image from the bucket and compares its SHA-384 with the
        file here.
        """
        bucket = self._output(self.settings.base_stack, "ArtifactBucket")
        if bucket is None:
            raise not_started("there is no bucket with the image", self.settings.base_stack)
        sha384 = hashlib.sha384(image.read_bytes()).hexdigest()
        commands = self._start(_checked(release), bucket, sha384)
        self._instance(instance_id).run(commands, START_SECONDS, f"run-enclave {release}")
        found = self.running().get(release)
        if found is None:
            raise not_started("the enclave ended as soon as it was started", f"{instance_id} {release}")
        return found

    def document(self, enclave: Enclave, nonce: bytes) -> bytes:
        """A live document, unverified: the instance's own program asks the enclave for it."""
        program = f"{units.PROGRAMS}/deploy-from-attestation"
        command = [program, "live", "--address", str(enclave.address)]
        command += ["--nonce", nonce.hex(), "--wait", str(LISTEN_SECONDS)]
        name = self._output(self.settings.main_stack, "InstanceId") or ""
        answer = self._instance(name).run([command], LISTEN_SECONDS + SHORT_SECONDS, "live document")
        try:
            found = base64.b64decode(answer.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise not_started("not base64", f"{name} live document") from None
        if not 0 < len(found) <= DOCUMENT_MAX:
            raise not_started(f"a document of {len(found)} bytes", f"{name} live document")
        return found

    def attend(self, release: str) -> None:
        """See EnclaveHost: the courier's environment names the release, and the courier starts with it."""
        commands = [
            ["cp", f"{units.RELEASES}/{_checked(release)}/{units.ENCLAVE_ENV}", units.ATTENDED],
            ["systemctl", "enable", units.COURIER],
            ["systemctl", "restart", units.COURIER],
        ]
        name = self._output(self.settings.main_stack, "InstanceId") or ""
        self._instance(name).run(commands, SHORT_SECONDS, f"courier to {release}")

    def terminate(self, release: str) -> None:
        """See EnclaveHost; its unit is disabled, so that it does not start at the next boot."""
        name = self._output(self.settings.main_stack, "InstanceId")
        if name is None or not self._alive(name):
            return
        commands = [["systemctl", "disable", _unit(release)]]
        if release in self.running():
            commands.append(["nitro-cli", "terminate-enclave", "--enclave-name", _checked(release)])
        self._instance(name).run(commands, SHORT_SECONDS, f"terminate-enclave {release}")

    def _start(self, release: str, bucket: str, sha384: str) -> list[list[str]]:
        folder, cid, settings = f"{units.RELEASES}/{release}", str(cid_of(release)), self.settings
        image, checksum, environment = (
            f"{folder}/{name}" for name in ("image.eif", "image.sha384", units.ENCLAVE_ENV)
        )
        fetch = [
            "--region",
            settings.region,
            "--bucket",
            bucket,
            "--key",
            f"releases/{release}/{sha384}.eif",
            image,
        ]
        start = ["--enclave-name", release, "--enclave-cid", cid, "--eif-path", image]
        size = ["--cpu-count", str(settings.cpus), "--memory", str(settings.memory)]
        variables = "COATTEST_ENCLAVE_CID=%s\\nCOATTEST_ENCLAVE=vsock:%s:%s\\n"
        return [
            # User data may still be running; what it installs is used below.
            ["cloud-init", "status", "--wait"],
            ["install", "-d", "-m", "0755", folder],
            ["aws", "s3api", "get-object", *fetch],
            ["printf", "%s  %s\\n", sha384, image, TO, checksum],
            ["sha384sum", "--check", "--strict", "--status", checksum],
            ["printf", variables, cid, cid, str(ENCLAVE_PORT), TO, environment],
            ["nitro-cli", "run-enclave", *start, *size],
            ["systemctl", "enable", _unit(release)],
        ]

    def _instance(self, name: str) -> Instance:
        if not re.fullmatch(r"i-[0-9a-f]{8,17}", name):
            raise UsageError(f"{name!r} is not an instance", where=self.settings.main_stack, code="instance")
        return Instance(self.aws.ssm(self.settings.region), name)

    def _alive(self, name: str) -> bool:
        """Whether the instance runs or is about to: a stopped one has no enclaves."""
        with aws_errors(name):
            answer = self.aws.ec2(self.settings.region).describe_instances(
                Filters=[{"Name": "instance-id", "Values": [name]}]
            )
        found = answer["Reservations"]
        states = [item.get("State", {}).get("Name") for each in found for item in each.get("Instances", [])]
        return bool({"pending", "running"} & set(states))

    def _output(self, stack: str, name: str) -> str | None:
        found = Stacks(self.aws.cloudformation(self.settings.region), self.say).find(stack)
        return found.output(name) if found and name in found.outputs else None


def parse_enclaves(text: str) -> Mapping[str, Enclave]:
    """``nitro-cli describe-enclaves`` (its README, "describe-enclaves"): the releases that run, by name.

    Enclaves whose name is not a release's are not ours and are left out, and so are those that are ending.
    Raises EnvironmentFailure (enclave-not-started).
    """
    try:
        value: Any = json.loads(text)
        if not isinstance(value, list):
            raise TypeError("not a list")
        ours = [item for item in value if RELEASE.fullmatch(str(item.get("EnclaveName")))]
        found = [_enclave(item) for item in ours if item["State"] != "TERMINATING"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise not_started(f"not the output of nitro-cli: {str(error)[:200]}", "describe-enclaves") from None
    if len({name for name, _ in found}) != len(found):
        raise not_started("two enclaves of one name", "describe-enclaves")
    return dict(found)


def _enclave(value: Mapping[str, Any]) -> tuple[str, Enclave]:
    if value["State"] != "RUNNING":
        raise ValueError(f"{value['EnclaveName']} is {value['State']}")
    cid, pid, measured = value["EnclaveCID"], value["ProcessID"], value["Measurements"]
    if type(cid) is not int or type(pid) is not int or not FIRST_CID <= cid <= CID_MAX:
        raise ValueError("EnclaveCID or ProcessID")
    if not _ID.fullmatch(str(value["EnclaveID"])) or not re.fullmatch(r"[A-Z_]{1,40}", str(value["Flags"])):
        raise ValueError("EnclaveID or Flags")
    names = {f"PCR{index}": index for index in (0, 1, 2, 8)}
    pcrs = tuple((names[name], str(measured[name])) for name in names if name in measured)
    if len(pcrs) < 3 or not all(SHA384.fullmatch(each) for _, each in pcrs):
        raise ValueError("Measurements")
    address = Vsock(cid, ENCLAVE_PORT)
    enclave = Enclave(
        str(value["EnclaveID"]), address, proxy_address_for(address), pid, str(value["Flags"]), pcrs
    )
    return str(value["EnclaveName"]), enclave


def _checked(release: str) -> str:
    if not RELEASE.fullmatch(release):
        raise UsageError("not the name of a release", where=release[:80], code="bad-release")
    return release


def _unit(release: str) -> str:
    return units.ENCLAVE.replace("@", f"@{_checked(release)}")
