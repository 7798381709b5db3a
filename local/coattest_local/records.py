"""DIR/enclave.json: which enclave runs in a directory, for other processes that use it.

The host's process holds the lock beside it for as long as it lives. So a record whose host has died is never
taken for a running enclave, and another process with the same id is never taken for the host.
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
from coattest.files import write_atomic, write_plain
from coattest_local.host.enclave import RunningEnclave
from coattest_local.qemu.enclave import QemuEnclave

RECORD = "enclave.json"
LOCK = "host.lock"
STOP_SECONDS = 20.0


def record_of(enclave: RunningEnclave, image: Path) -> dict[str, Any]:
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
    """Hold the directory's lock and remove a stale record.

    Raises UsageError (enclave-directory-busy) when an enclave runs there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with write_plain(directory / LOCK, append=True) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                "an enclave already runs here",
                where=str(directory),
                hint="nitro-local terminate-enclave --directory, or another directory",
                code="enclave-directory-busy",
            ) from error
        (directory / RECORD).unlink(missing_ok=True)
        try:
            yield
        finally:
            (directory / RECORD).unlink(missing_ok=True)


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """Write the record; from then on other processes may use the enclave."""
    write_atomic(directory / RECORD, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode(), 0o600)


def running_record(directory: Path) -> dict[str, Any] | None:
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


def end_enclave(directory: Path) -> dict[str, Any] | None:
    """End the host of ``directory`` and wait for it; returns its record, or None when it had ended already.

    Raises UsageError (no-enclave) where no enclave ever ran: a mistyped name would leave it running.
    """
    record = running_record(directory)
    if record is None:
        if not (directory / LOCK).exists():
            raise UsageError(
                "no enclave ever ran in this directory",
                where=str(directory),
                hint="give run-enclave's --directory",
                code="no-enclave",
            )
        _remove_stale(directory)
        return None
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(int(record["pid"]))
        try:
            if running_record(directory) != record:
                return record
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not select.select([handle], [], [], STOP_SECONDS)[0]:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [])
        finally:
            os.close(handle)
    _remove_stale(directory)
    return record


def _remove_stale(directory: Path) -> None:
    """Remove the record of an enclave that has ended; one that has started since then keeps its own."""
    with contextlib.suppress(BlockingIOError), (directory / LOCK).open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / RECORD).unlink(missing_ok=True)
