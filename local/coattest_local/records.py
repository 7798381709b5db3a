"""DIR/enclave.json: what runs in a directory, for whoever reaches the enclave as a separate process.

The lock beside it is held by the host's process for as long as it lives, so that a record that outlived its
host is never taken for a running enclave, nor a recycled process id for the host.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coattest.errors import UsageError
from coattest.files import write_atomic
from coattest_local.host.enclave import RunningEnclave
from coattest_local.qemu.enclave import QemuEnclave

RECORD = "enclave.json"
LOCK = "host.lock"
STOP_SECONDS = 20.0


class DirectoryBusy(UsageError):
    """Another enclave runs in the directory."""

    default_code = "enclave-directory-busy"


def to_json(enclave: RunningEnclave | QemuEnclave, image: Path) -> dict[str, Any]:
    """The record of a running enclave, with nitro-cli's names where it has them."""
    return {
        "EnclaveName": image.stem,
        "EnclaveID": enclave.enclave_id,
        "Flags": "DEBUG_MODE" if enclave.debug else "NONE",
        **enclave.measurements.nitro_json(),
        "address": enclave.address,
        "proxy_address": enclave.proxy_address,
        "console": str(enclave.console),
        "pid": os.getpid(),
        "host": "qemu" if isinstance(enclave, QemuEnclave) else "software",
        "simulator": True,
    }


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; DirectoryBusy when an enclave runs there. A stale record is removed."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryBusy(
                "an enclave already runs here",
                where=str(directory),
                hint="nitro-local terminate-enclave --directory, or another directory",
            ) from error
        (directory / RECORD).unlink(missing_ok=True)
        try:
            yield
        finally:
            (directory / RECORD).unlink(missing_ok=True)


def write(directory: Path, record: dict[str, Any]) -> None:
    """Publish the record: whoever sees the file may use the enclave."""
    write_atomic(directory / RECORD, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode(), 0o600)


def read(directory: Path) -> dict[str, Any] | None:
    """The record of the enclave that runs in ``directory``, or None when none does."""
    try:
        with (directory / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass
    with contextlib.suppress(FileNotFoundError, ValueError):
        record = json.loads((directory / RECORD).read_bytes())
        if isinstance(record, dict):
            return record
    return None


def terminate(directory: Path) -> dict[str, Any] | None:
    """Ask the host of ``directory`` to end and wait until it has; its record, or None when nothing ran."""
    record = read(directory)
    if record is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(int(record["pid"]))
        try:
            if read(directory) != record:
                return record
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not select.select([handle], [], [], STOP_SECONDS)[0]:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [])
        finally:
            os.close(handle)
    (directory / RECORD).unlink(missing_ok=True)
    return record
