"""A stand-in for nitro-cli on the pretended instance: its verbs and its JSON, on the software host.

The environment says where its enclaves are, and which role and instance they belong to. It runs as
``python -m``: no program of this name is installed, so that nobody takes it for the real one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from coattest.errors import EnvironmentFailure, UsageError
from coattest.jsontext import emit_json
from coattest.programs.environment import OWN_VARIABLES, program_environment, python_program
from coattest.programs.start import ProgramLimits, run_program
from coattest.shell import run
from coattest_local import records

ENCLAVES, ROLE, INSTANCE = "COATTEST_NITRO_ENCLAVES", "COATTEST_NITRO_ROLE", "COATTEST_NITRO_INSTANCE"
LOCAL = "coattest_local.cli:main"
START_SECONDS = 120.0
CID = "cid"


@click.group()
def cli() -> None:
    """SIMULATOR of nitro-cli: enclaves on the software host, which protects nothing."""


@cli.command("run-enclave")
@click.option("--enclave-name", required=True)
@click.option("--enclave-cid", type=click.IntRange(4, 2**31 - 1), required=True)
@click.option("--eif-path", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--cpu-count", type=click.IntRange(1), required=True, help="Not limited here.")
@click.option("--memory", type=click.IntRange(64), required=True, help="Not limited here.")
@click.option("--debug-mode", is_flag=True, help="Attest zeros for the image.")
def stand_in_run_command(
    *, enclave_name: str, enclave_cid: int, eif_path: Path, cpu_count: int, memory: int, debug_mode: bool
) -> None:
    """Start an enclave; returns when it listens."""
    folder = _folder(enclave_name)
    if any(found["EnclaveCID"] == enclave_cid for found in _described()):
        raise UsageError(f"CID {enclave_cid} is in use", code="cid-in-use")
    words = ["run-enclave", str(eif_path.resolve()), "--directory", str(folder), "--detach", "--json"]
    words += ["--role-arn", os.environ[ROLE], "--instance-id", os.environ[INSTANCE]]
    done = run_program(
        python_program(LOCAL, *words, *(["--debug-mode"] if debug_mode else [])),
        environment=program_environment(OWN_VARIABLES),
        limits=ProgramLimits(seconds=START_SECONDS),
        leaves_service=True,
    )
    if done.code:
        raise EnvironmentFailure(
            " ".join(done.said.split())[-300:], where=enclave_name, code="enclave-not-started"
        )
    (folder / CID).write_text(str(enclave_cid))
    answer = {"EnclaveName": enclave_name, "EnclaveCID": enclave_cid, "NumberOfCPUs": cpu_count}
    emit_json({**answer, "MemoryMiB": memory, "EnclaveID": json.loads(done.stdout)["EnclaveID"]})


@cli.command("describe-enclaves")
def stand_in_describe_command() -> None:
    """The running enclaves, as nitro-cli lists them."""
    emit_json(list(_described()))


@cli.command("terminate-enclave")
@click.option("--enclave-name", required=True)
def stand_in_terminate_command(*, enclave_name: str) -> None:
    """Terminate an enclave."""
    record = records.end_enclave(_folder(enclave_name))
    if record is None:
        raise EnvironmentFailure("no enclave has this name", where=enclave_name, code="no-enclave")
    emit_json({"EnclaveName": enclave_name, "EnclaveID": record["EnclaveID"], "Terminated": True})


def address_of(enclaves: Path, cid: int) -> str | None:
    """The address on this machine of the enclave with a CID; None when there is none."""
    for folder in sorted(enclaves.glob("*")):
        record = records.running_record(folder)
        if record is not None and (folder / CID).read_text() == str(cid):
            return str(record["address"])
    return None


def _described() -> Iterator[dict[str, Any]]:
    for folder in sorted(Path(os.environ[ENCLAVES]).glob("*")):
        record = records.running_record(folder)
        if record is not None:
            yield {
                "EnclaveName": folder.name,
                "EnclaveID": record["EnclaveID"],
                "ProcessID": record["pid"],
                "EnclaveCID": int((folder / CID).read_text()),
                "State": "RUNNING",
                "Flags": record["Flags"],
                "Measurements": record["Measurements"],
            }


def _folder(name: str) -> Path:
    if not name.isalnum() or not name.isascii() or len(name) > 64:
        raise UsageError("not a name for an enclave", where=name[:80])
    return Path(os.environ[ENCLAVES]) / name


if __name__ == "__main__":
    run(cli, "nitro-cli (simulator)")
