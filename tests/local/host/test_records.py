"""Which enclave runs in a directory: the record belongs to who holds the lock."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coattest_local import records

HOST = """
import os, sys, time
from pathlib import Path
from coattest_local import records
folder = Path(sys.argv[1])
with records.claimed(folder):
    records.write_record(folder, {"pid": os.getpid()})
    print("ready", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def hosting(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A host's process that holds the lock, and leaves its record when a signal ends it."""
    with subprocess.Popen([sys.executable, "-c", HOST, str(folder)], stdout=subprocess.PIPE) as host:
        try:
            assert host.stdout is not None
            assert host.stdout.readline() == b"ready\n"
            yield host
        finally:
            host.kill()


def test_an_ended_enclaves_record_is_removed(tmp_path: Path) -> None:
    """Also when its host was killed before, and so could not remove it itself."""
    with hosting(tmp_path) as host:
        assert records.end_enclave(tmp_path) == {"pid": host.pid}
    assert not (tmp_path / records.RECORD).exists()
    with hosting(tmp_path) as host:
        host.kill()
        host.wait()
        assert (tmp_path / records.RECORD).exists()
        assert records.end_enclave(tmp_path) is None
    assert not (tmp_path / records.RECORD).exists()


def test_an_enclave_that_starts_as_another_ends_keeps_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the lock owns the record: what ended there before removes nothing."""
    own = {"pid": os.getpid()}
    with contextlib.ExitStack() as following, hosting(tmp_path) as host:

        def ended(*arguments: Any) -> Any:
            found = select.select(*arguments)
            following.enter_context(records.claimed(tmp_path))
            records.write_record(tmp_path, own)
            return found

        monkeypatch.setattr(records, "select", SimpleNamespace(select=ended))
        assert records.end_enclave(tmp_path) == {"pid": host.pid}
        assert json.loads((tmp_path / records.RECORD).read_bytes()) == own
        assert records.running_record(tmp_path) == own
