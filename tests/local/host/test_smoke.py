"""The smoke command against the real image on the software host, and its dealings with nitro-cli."""

from __future__ import annotations

import dataclasses
import hashlib
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

from coattest.errors import EnvironmentFailure, Rejected
from coattest_build.formats.measure import measure
from coattest_local.host.enclave import RunningEnclave, run_enclave
from coattest_parent.auction.smoke import refused_upload
from coattest_parent.cli.deploy import nitro_cli
from coattest_parent.cli.deploy.smoke import smoke_command
from coattest_parent.deployment.smoke import smoke
from coattest_parent.link.channels import parse_address
from coattest_verify.attestation.profiles import AWS_NITRO, LOCAL_SIMULATOR
from coattest_verify.fleet.hardware import CHECKS, hardware_findings, read_hardware, sign_hardware
from coattest_verify.signatures.keys import PublicKey, generate_key, load_signer
from support.raises import raises_code

pytestmark = pytest.mark.image

ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"
SMOKE = (sys.executable, "-c", "from coattest_parent.cli.deploy import main; main()", "smoke")
UPLOAD = partial(refused_upload, size=2 * 1024 * 1024)


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
    assert [check.name for check in checks if not check.ok] == list(CHECKS)


def run_smoke(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a process, outside the checkout that it comes from: it may sign."""
    environment = {**os.environ, **({"PATH": path} if path else {})}
    return subprocess.run(
        [*SMOKE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
        cwd="/",
    )


def test_whatever_ends_a_connection_is_a_failure(
    enclave: RunningEnclave, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that ends by something else than our errors got no documents either."""

    def broken(*_: object) -> None:
        raise BrokenPipeError("no documents")

    monkeypatch.setattr("coattest_parent.deployment.smoke._ask", broken)
    address = parse_address(enclave.address)
    checks = list(smoke(address, pcrs=registers(image), root=LOCAL_SIMULATOR, clock=clock, upload=UPLOAD))
    failed = [check for check in checks if not check.ok]
    assert [check.name for check in failed] == ["connections", "both directions"]
    assert all("no documents" in str(check) for check in failed)


def test_the_command_prints_what_it_found(enclave: RunningEnclave, image: Path, tmp_path: Path) -> None:
    """With right registers it exits 0, with PCR4 of another instance 1; --json names every check."""
    measurements = tmp_path / "m.json"
    measurements.write_text(json.dumps(measure(image).nitro_json()))
    common = ("--measurements", str(measurements), "--profile", "local", "--json")
    common += ("--address", enclave.address, "--role-arn", ROLE)
    done = run_smoke(*common, "--instance-id", INSTANCE)
    assert done.returncode == 0, done.stderr
    assert [row["check"] for row in json.loads(done.stdout)["checks"]] == list(CHECKS)
    assert run_smoke(*common, "--instance-id", "i-00000000000000000").returncode == 1


def signed(folder: Path, measurements: Path) -> tuple[Path, tuple[str, ...], list[PublicKey]]:
    """Where a report goes, the options that have it signed, and the key that judges it."""
    key, report = folder / "smoke.key", folder / "report.json"
    expect = f"sha256:{hashlib.sha256(measurements.read_bytes()).hexdigest()}"
    options = ("--report", str(report), "--key", str(key), "--expect", expect)
    return report, options, [generate_key(key)]


def test_a_report_of_the_simulator_is_judged_again_and_never_counts(
    enclave: RunningEnclave, image: Path, tmp_path: Path
) -> None:
    """It has the documents and says what made it; every other thing that is wrong with one is a finding."""
    measurements = tmp_path / "m.json"
    measurements.write_text(json.dumps(measure(image).nitro_json()))
    path, options, keys = signed(tmp_path, measurements)
    arguments = ("--measurements", str(measurements), "--address", enclave.address, "--profile", "local")
    done = run_smoke(*arguments, *options, "--instance-id", INSTANCE)
    assert done.returncode == 0, done.stderr
    assert "counts for nothing: report: made on the simulator" in done.stderr
    report = read_hardware(path.read_bytes(), keys)
    assert [check.name for check in report.checks] == list(CHECKS)
    assert [len(check.documents) for check in report.checks] == [1, 1, 0, 0, 1]
    assert report.machine["instance"] == INSTANCE
    assert [finding.code for finding in hardware_findings(report)] == ["simulator"]

    def codes(**changes: Any) -> set[str]:
        return {each.code for each in hardware_findings(dataclasses.replace(report, **changes))}

    # A simulator's documents prove nothing where the report denies what made it.
    assert "root" in codes(simulator=False)
    first, *others = report.checks
    assert codes(checks=(dataclasses.replace(first, ok=False), *others)) == {"simulator", "smoke"}
    assert codes(checks=(first,)) == {"simulator", "smoke"}
    bare = tuple(dataclasses.replace(check, documents=()) for check in report.checks)
    assert codes(checks=bare) == {"simulator", "smoke"}
    (nonce, document) = first.documents[0]
    for pair in ((bytes(len(nonce)), document), (nonce, document[:-1] + b"\0")):
        assert len(codes(checks=(dataclasses.replace(first, documents=(pair,)), *others))) > 1
    assert "measurement" in codes(registers={**report.registers, 1: b"\1" * 48})
    assert "module-id" in codes(machine={**report.machine, "instance": "i-0"})
    assert len(codes(began=report.began - 10**10, ended=report.ended - 10**10)) > 1
    assert "too-old" in codes(began=report.ended + 10**6, ended=report.ended + 10**6)

    generate_key(tmp_path / "other.key", "p256")
    other = load_signer(tmp_path / "other.key")
    with pytest.raises(Rejected, match="not signed"):
        read_hardware(path.read_bytes(), [other.public])
    for changes in ({"registers": {0: b"\1" * 48}}, {"registers": {}}, {"ended": 2**52}, {"machine": {}}):
        broken = sign_hardware(other, dataclasses.replace(report, **changes))
        with raises_code(Rejected, "hardware-report"):
            read_hardware(broken, [other.public])


NITRO_CLI = """#!/bin/sh
# Stands in for nitro-cli: keeps a record of what it was told, and answers in its shape.
echo "$@" >> "$0.log"
case "$*" in
--version) echo "Nitro CLI 1.4.2" ;;
*--attach-console*) echo "[    0.000000] Linux version"; sleep 100 ;;
run-enclave*) [ -e "$0.fail" ] && { echo "[ E26 ] Insufficient memory" >&2; exit 26; }
    echo '{"EnclaveName":"image","EnclaveID":"i-0-enc1","EnclaveCID":4294967294,"NumberOfCPUs":2}' ;;
terminate-enclave*) echo '{"EnclaveID":"i-0-enc1","Terminated":true}' ;;
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


def test_a_boot_that_fails_is_reported_with_its_console(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image boots once more in debug mode, which is ended; the report says what the machine is."""
    tool = tmp_path / "nitro-cli"
    tool.write_text(NITRO_CLI)
    tool.chmod(0o755)
    (tmp_path / "nitro-cli.fail").touch()
    measurements = tmp_path / "m.json"
    measurements.write_text(json.dumps(measure(image).nitro_json()))
    path, options, keys = signed(tmp_path, measurements)
    monkeypatch.setattr(nitro_cli, "CONSOLE_SECONDS", 1)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir("/")
    line = ["--measurements", str(measurements), "--image", str(image), *options]
    with raises_code(EnvironmentFailure, "nitro-cli", match="Insufficient memory"):
        smoke_command.main(line, standalone_mode=False)
    report = read_hardware(path.read_bytes(), keys)
    assert report.console.startswith("[    0.000000] Linux version")
    assert report.machine["nitro-cli"] == "Nitro CLI 1.4.2"
    assert report.machine["kernel"] == os.uname().release
    assert {finding.code for finding in hardware_findings(report)} == {"smoke"}
    told = (tmp_path / "nitro-cli.log").read_text().splitlines()
    name = told[2].rpartition(" ")[2]
    assert told[2].endswith(f"--debug-mode --attach-console --enclave-name {name}")
    assert told[3] == f"terminate-enclave --enclave-name {name}"


@pytest.mark.parametrize(
    "content", ["", "{}", '{"Measurements": {"PCR0": "00", "PCR1": "00", "PCR2": "00"}}']
)
def test_what_is_no_measurement_document_is_a_usage_error(tmp_path: Path, content: str) -> None:
    """The registers come from a document of eif measure or nitro-cli, or not at all."""
    (tmp_path / "m.json").write_text(content)
    done = run_smoke("--measurements", str(tmp_path / "m.json"), "--address", "vsock:16:5005")
    assert done.returncode == 2
    assert run_smoke("--measurements", str(tmp_path / "m.json")).returncode == 2
