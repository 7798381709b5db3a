"""Where the enclaves run: one place per release, so that the next one starts beside the running one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from coattest_parent.deployment.live import ask
from coattest_parent.deployment.runner import Enclave, LocalRunner, require_local


class EnclaveHost(Protocol):
    """What a rollout needs of the parent instance."""

    @property
    def on_instance(self) -> bool:
        """Whether the enclaves are the instance's own, and end with it."""
        ...

    def running(self) -> Mapping[str, Enclave]:
        """The enclaves that run now, by release."""
        ...

    def run(self, release: str, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        """Start a release and return once it listens."""
        ...

    def document(self, enclave: Enclave, nonce: bytes) -> bytes:
        """A live document of a running enclave over a nonce, unverified."""
        ...

    def attend(self, release: str) -> None:
        """The release was verified: auctions are opened in it from now on."""
        ...

    def terminate(self, release: str) -> None:
        """End a release's enclave; does nothing when it is gone."""
        ...


class LocalHost:
    """The software host (or QEMU) in place of nitro-cli: one directory per release."""

    on_instance = False

    def __init__(self, directory: Path, program: tuple[str, ...] | None = None) -> None:
        self.directory = directory
        self.program = program

    def running(self) -> Mapping[str, Enclave]:
        """See EnclaveHost."""
        names = [path.name for path in self.directory.glob("*") if re.fullmatch(r"[0-9a-f]{16}", path.name)]
        found = {name: self._runner(name).describe() for name in sorted(names)}
        return {name: enclave for name, enclave in found.items() if enclave is not None}

    def run(self, release: str, image: Path, *, role_arn: str, instance_id: str) -> Enclave:
        """See EnclaveHost."""
        return self._runner(release).run(image, role_arn=role_arn, instance_id=instance_id)

    def document(self, enclave: Enclave, nonce: bytes) -> bytes:
        """See EnclaveHost; never from an enclave that could be on another machine."""
        require_local(enclave)
        return ask(enclave, nonce)

    def attend(self, release: str) -> None:
        """See EnclaveHost; here the ``auction`` commands get the enclave's address by hand."""

    def terminate(self, release: str) -> None:
        """See EnclaveHost."""
        runner = self._runner(release)
        if runner.describe() is not None:
            runner.terminate()

    def _runner(self, release: str) -> LocalRunner:
        return LocalRunner(self.directory / release, self.program)
