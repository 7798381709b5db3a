"""A pretended parent instance: it boots from its user data, late, and does what the units there would do.

It runs no shell. Its user data must be what this package makes: the place and the digest of an archive, then
``first-boot.sh`` as it is. What that script and the units fetch is fetched here with the rights of the
instance's role; their enclave runs on the software host, as processes of this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coattest.errors import CoattestError
from coattest_build.formats.measure import measure
from coattest_local import records
from coattest_local.aws.faults import Faults
from coattest_parent.deployment.live import LIVE_TIMEOUT
from coattest_parent.deployment.stack.configuration import PLACE, boot_script, configuration_key
from coattest_parent.link.enclave import live_document

STARTS = 3
"""Starts of the enclave until its unit gives up (coattest-enclave.service, StartLimitBurst)."""

ALIVE_SECONDS = 0.2
"""Seconds between two looks at the enclave's process."""


AskS3 = Callable[..., bytes]
"""S3 with the rights of the instance's role: method, ``/BUCKET/KEY``, a body; raises OSError."""


class BootFailed(Exception):
    """What a step of the boot says when it fails."""


@dataclass(slots=True, kw_only=True)
class PretendedInstance:
    """One instance, from its boot to its end: what its group's launch template says of it, ``cpus`` and
    ``memory`` (MiB) of its type, and who is called when it turns itself off.
    """

    id: str
    stack: str
    role_arn: str
    user_data: str
    enclaves: bool
    cpus: int
    memory: int
    folder: Path
    ask_s3: AskS3
    faults: Faults
    power_off: Callable[[], None]
    gone: threading.Event = field(default_factory=threading.Event)
    place: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Boot, serve and end; returns once the enclave has ended too."""
        try:
            release = self._boot()
            for _ in range(STARTS):
                self._serve(release)
                if self.gone.is_set():
                    return
            raise BootFailed("coattest-enclave.service: the enclave is gone")
        except (BootFailed, CoattestError, OSError, ValueError, KeyError) as error:
            self._give_up(str(error))
        finally:
            self._end_enclave()

    def _boot(self) -> Mapping[str, str]:
        """What first-boot.sh and install.sh do; returns the values of release.env."""
        self.place = parse_user_data(self.user_data)
        digest = self.place["CONFIGURATION"]
        files = _unpacked(self._fetched(configuration_key(digest), digest))
        programs = files["programs.sha256"].strip()
        if programs != "None":  # a plan for the simulator may leave them out
            self._fetched(f"programs/{programs}.tar", programs)
        release = dict(line.split("=", 1) for line in files["release.env"].splitlines())
        release = {name.removeprefix("COATTEST_"): value for name, value in release.items()}
        cpus, memory = int(release["CPUS"]), int(release["MEMORY"])
        if not self.enclaves:
            raise BootFailed("coattest-allocator.service: /dev/nitro_enclaves: no such device")
        if cpus + 2 > self.cpus or memory >= self.memory:
            raise BootFailed("coattest-allocator.service: not enough CPUs or memory for the enclave")
        image = self._fetched(release["IMAGE"], release["IMAGE_SHA384"], "it is not the decided one")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "image.eif").write_bytes(image)
        return release

    def _fetched(self, key: str, digest: str, otherwise: str = "computed checksum did NOT match") -> bytes:
        content = self.ask_s3("GET", f"/{self.place['ARTIFACTS']}/{key}")
        kind = hashlib.sha384 if len(digest) == 96 else hashlib.sha256
        if kind(content).hexdigest() != digest:
            raise BootFailed(f"{key}: {otherwise}")
        return content

    def _serve(self, release: Mapping[str, str]) -> None:
        """One start of the enclave, and its documents for as long as it runs."""
        image = self.folder / "image.eif"
        found = measure(image)
        measured = {"PCR0": found.pcr0, "PCR1": found.pcr1, "PCR2": found.pcr2}
        if any(release[name] != value for name, value in measured.items()):
            raise BootFailed("coattest-enclave.service: nitro-cli measured another PCR than the release has")
        runner = self.faults.launcher(self.stack, self.folder / "enclave")
        runner.run(image, role_arn=self.role_arn, instance_id=self.id)
        while (enclave := runner.describe()) and not self.gone.is_set():
            # coattest-live.service starts again; whether the enclave is gone is looked at elsewhere.
            with contextlib.suppress(CoattestError, OSError):
                self._put("document.cbor", live_document(enclave.address, timeout=LIVE_TIMEOUT)[1])
            for _ in range(max(1, int(self.faults.document_seconds / ALIVE_SECONDS))):
                if self.gone.wait(ALIVE_SECONDS) or not runner.describe():
                    break

    def _put(self, name: str, content: bytes) -> None:
        key = f"live/{self.place['STACK']}/{self.id}/{name}"
        self.ask_s3("PUT", f"/{self.place['RESULTS']}/{key}", content)

    def _give_up(self, said: str) -> None:
        """The log to the bucket, some time to look at it, and power off."""
        self._end_enclave()
        # As on an instance: it could not be shipped, or it never learned where to.
        with contextlib.suppress(OSError, KeyError):
            self._put("failed.log", f"{said}\n".encode())
        if not self.gone.wait(self.faults.dead_seconds):
            self.power_off()

    def _end_enclave(self) -> None:
        if (self.folder / "enclave" / records.LOCK).exists():
            records.end_enclave(self.folder / "enclave")


def parse_user_data(text: str) -> dict[str, str]:
    """The values in the first lines of user data. Raises BootFailed for any other script."""
    found = dict(re.findall(r"^COATTEST_([A-Z]+)=([A-Za-z0-9._:/-]+)$", text, re.MULTILINE))
    expected = boot_script(found.get("CONFIGURATION", ""))
    for name, value in PLACE.items():
        expected = expected.replace(value, found.get(name, ""), 1)
    if text != expected:
        raise BootFailed("cloud-init: the pretended instance runs no other script than coattest's")
    return found


def _unpacked(archive: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        members = [item for item in opened.getmembers() if item.isfile()]
        return {item.name: opened.extractfile(item).read().decode() for item in members}  # type: ignore[union-attr]
