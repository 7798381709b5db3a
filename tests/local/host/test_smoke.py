"""The smoke command against the real image on the software host, and its dealings with nitro-cli."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coattest_build.formats.measure import measure
from coattest_local.host.enclave import RunningEnclave, run_enclave
from coattest_parent.auction.smoke import refused_upload
from coattest_parent.deployment.smoke import smoke
from coattest_parent.link.channels import parse_address
from coattest_verify.attestation.profiles import AWS_NITRO, LOCAL_SIMULATOR

pytestmark = pytest.mark.image

ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"
SMOKE = (sys.executable, "-c", "from coattest_parent.cli.deploy import main; main()", "smoke")
UPLOAD = partial(refused_upload, size=2 * 1024 * 1024)
CHECKS = ["document", "clock", "connections", "both directions", "still alive"]


def clock() -> datetime:
    """The machine's clock."""
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def image(built_images: Any) -> Path:
    """The local profile's image of this checkout."""
    path: Path = built_images.image("local")
    return path


@pytest.fixture
def enclave(image: Path, tmp_path: Path) -> Iterator[RunningEnclave]:
    """The image on the software host."""
    with run_enclave(image, tmp_path / "e", role_arn=ROLE, instance_id=INSTANCE) as running:
        yield running


def registers(image: Path) -> dict[int, bytes]:
    """PCR0, 1 and 2 as we measure them."""
    found = measure(image)
    return {index: bytes.fromhex(value) for index, value in enumerate((found.pcr0, found.pcr1, found.pcr2))}


def test_a_working_enclave_passes_every_check(enclave: RunningEnclave, image: Path) -> None:
    """Document, clock, connections and both directions are fine on a host that works."""
    address = parse_address(enclave.address)
    checks = list(smoke(address, pcrs=registers(image), root=LOCAL_SIMULATOR, clock=clock, upload=UPLOAD))
    assert [(check.name, check.ok) for check in checks] == [(name, True) for name in CHECKS], checks


def test_another_image_another_root_and_another_time_fail_the_document(
    enclave: RunningEnclave, image: Path
) -> None:
    """The document is verified, not looked at; the checks that need no verification still pass."""
    good = {"pcrs": registers(image), "root": LOCAL_SIMULATOR, "clock": clock}
    bad = (
        {**good, "pcrs": {**registers(image), 0: b"\x01" * 48}},
        {**good, "root": AWS_NITRO},
        {**good, "clock": lambda: clock() + timedelta(days=1)},
    )
    for arguments in bad:
        checks = smoke(parse_address(enclave.address), upload=UPLOAD, **arguments)  # type: ignore[arg-type]
        assert [check.name for check in checks if not check.ok] == ["document", "still alive"]


def test_nobody_listening_fails_every_check(tmp_path: Path, image: Path) -> None:
    """Each check fails with a reason; none raises."""
    address = parse_address(f"unix:{tmp_path / 'nobody.sock'}")
    checks = list(smoke(address, pcrs=registers(image), root=LOCAL_SIMULATOR, clock=clock, upload=UPLOAD))
    assert [check.name for check in checks if not check.ok] == CHECKS


def run_smoke(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a process."""
    environment = {**os.environ, **({"PATH": path} if path else {})}
    return subprocess.run(
        [*SMOKE, *arguments], capture_output=True, text=True, check=False, timeout=120, env=environment
    )


def test_the_command_prints_what_it_found(enclave: RunningEnclave, image: Path, tmp_path: Path) -> None:
    """With right registers it exits 0, with PCR4 of another instance 1; --json names every check."""
    measurements = tmp_path / "m.json"
    measurements.write_text(json.dumps(measure(image).nitro_json()))
    common = ("--measurements", str(measurements), "--profile", "local", "--json")
    common += ("--address", enclave.address, "--role-arn", ROLE)
    done = run_smoke(*common, "--instance-id", INSTANCE)
    assert done.returncode == 0, done.stderr
    assert [row["check"] for row in json.loads(done.stdout)["checks"]] == CHECKS
    assert run_smoke(*common, "--instance-id", "i-00000000000000000").returncode == 1


NITRO_CLI = """#!/bin/sh
# Stands in for nitro-cli: keeps a record of what it was told, and answers in its shape.
echo "$@" >> "$0.log"
case "$1" in
run-enclave) [ -e "$0.fail" ] && { echo "[ E26 ] Insufficient memory" >&2; exit 26; }
    echo '{"EnclaveName":"image","EnclaveID":"i-0-enc1","EnclaveCID":4294967294,"NumberOfCPUs":2}' ;;
terminate-enclave) echo '{"EnclaveID":"i-0-enc1","Terminated":true}' ;;
esac
"""


def test_nitro_clis_enclave_is_ended_even_when_it_does_not_answer(image: Path, tmp_path: Path) -> None:
    """The image is started without debug mode; a CID at which nobody answers is exit 3, and it is ended."""
    tool = tmp_path / "nitro-cli"
    tool.write_text(NITRO_CLI)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    measurements = tmp_path / "m.json"
    measurements.write_text(json.dumps(measure(image).nitro_json()))
    arguments = ("--measurements", str(measurements), "--image", str(image), "--listen-seconds", "1")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert run_smoke(*arguments, path=path).returncode == 3
    told = (tmp_path / "nitro-cli.log").read_text().splitlines()
    assert told == [
        f"run-enclave --eif-path {image} --cpu-count 2 --memory 1024",
        "terminate-enclave --enclave-id i-0-enc1",
    ]
    (tmp_path / "nitro-cli.fail").touch()
    failed = run_smoke(*arguments, path=path)
    assert failed.returncode == 3
    assert "Insufficient memory" in failed.stderr


@pytest.mark.parametrize(
    "content", ["", "{}", '{"Measurements": {"PCR0": "00", "PCR1": "00", "PCR2": "00"}}']
)
def test_what_is_no_measurement_document_is_a_usage_error(tmp_path: Path, content: str) -> None:
    """The registers come from a document of eif measure or nitro-cli, or not at all."""
    (tmp_path / "m.json").write_text(content)
    done = run_smoke("--measurements", str(tmp_path / "m.json"), "--address", "vsock:16:5005")
    assert done.returncode == 2
    assert run_smoke("--measurements", str(tmp_path / "m.json")).returncode == 2
