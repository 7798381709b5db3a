"""From `eif init` to an answer of the booted image: FastAPI with numpy, Express, and a program in Go."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import pytest

from coattest_build import builder, image
from coattest_build.cli.init import FIRST
from coattest_local.qemu.enclave import run_in_qemu
from coattest_local.qemu.tools import QemuTools, find_tools
from coattest_verify.attestation import ExpectNonce, ExpectPcrs, ExpectUserData, verify_document
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from support.only_in import only_in

pytestmark = pytest.mark.image

ROOT = Path(__file__).parents[3]
ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"

NUMPY = """
import numpy


@app.get("/solve/{a}/{b}")
def solve(a: int, b: int, nonce: str = Query(pattern="^[0-9a-f]{64}$")) -> dict[str, str]:
    answer = str(numpy.linalg.solve(numpy.array([[a, 1], [1, b]]), numpy.array([a + 2, 1 + 2 * b])).round(6))
    document = attest(sha384(answer.encode()).digest(), bytes.fromhex(nonce))
    return {"answer": answer, "document": b64encode(document).decode()}
"""
EXPRESS = """
'use strict'
const { createHash } = require('node:crypto')
const express = require('express')
const { PORT, attest } = require('./host.js')

const app = express()
app.get('/hello/:name', async (request, response, next) => {
  try {
    const self = `${process.getuid()} in ${process.cwd()}`
    const answer = `Hello, ${request.params.name}, from Express as ${self}.`
    const digest = createHash('sha384').update(answer).digest()
    const document = await attest(digest, Buffer.from(request.query.nonce, 'hex'))
    response.json({ answer, document: document.toString('base64') })
  } catch (error) {
    next(error)
  }
})
app.listen(PORT, '127.0.0.1')
"""


@pytest.fixture(scope="module")
def tools() -> QemuTools:
    """QEMU and vhost-device-vsock, which ``tox -e boot`` builds."""
    only_in("boot")
    return find_tools()


def type_in(folder: Path, command: str) -> None:
    """Type a command in a folder, with this environment's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-3000:]}"


def with_numpy(tree: Path) -> str:
    """Add numpy to the names and an answer to the service; the path to ask for."""
    with (tree / "enclave/requirements.in").open("a") as names:
        names.write("numpy\n")
    with (tree / "enclave/app/__init__.py").open("a") as service:
        service.write(NUMPY)
    return "/solve/3/5"


def with_express(tree: Path) -> str:
    """Add Debian's Express to the packages, without what it depends on, and use it.

    The bridge is found in PATH, in a working folder that no package has.
    """
    path = tree / image.IMAGE_FILE
    text = path.read_text().replace('"node-undici",', '"node-express", "node-undici",')
    text = text.replace("nsm = true", 'nsm = true\nworkdir = "/srv/made"')
    path.write_text(text.replace('command = ["/usr/bin/python3.11"', 'command = ["python3.11"'))
    (tree / "enclave/app/server.js").write_text(EXPRESS)
    return "/hello/Ada"


def as_it_is(tree: Path) -> str:
    """Leave the tree as it is."""
    assert (tree / "enclave/source/main.go").exists()
    return "/hello/Ada"


WORK: Mapping[str, tuple[Callable[[Path], str], str, str]] = {
    "python": (with_numpy, "eif lock --keep", "[1. 2.]"),
    "static": (as_it_is, "eif lock --keep", "Hello, Ada."),
    "node": (
        with_express,
        "eif lock --keep --runtime-depends",
        "Hello, Ada, from Express as 65534 in /srv/made.",
    ),
}
"""For each kind: what is changed in the tree, how it is locked, and the answer."""


@pytest.mark.parametrize("kind", WORK)
def test_a_started_enclave_answers_in_qemu(tools: QemuTools, tmp_path: Path, kind: str) -> None:
    """With a document of this image over the answer; a minimal kernel and its init are coattest's claim's."""
    change, locking, answer = WORK[kind]
    tree = tmp_path / "tree"
    type_in(tmp_path, f"eif init {kind} tree")
    path = change(tree)
    for command in FIRST[kind]:
        type_in(tree, locking if command.startswith("eif lock") else command)
    report = builder.build(tree, tmp_path / "out", profiles=["aws"])
    with run_in_qemu(
        tmp_path / "out/image.eif",
        tmp_path / "e",
        role_arn=ROLE,
        instance_id=INSTANCE,
        tools=tools,
        port=7000,
    ) as enclave:
        command = [sys.executable, "ask.py", enclave.address, path, "asked"]
        asked = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    console = (tmp_path / "e/console.log").read_text(errors="replace")
    assert asked.returncode == 0, asked.stderr + console[-3000:]
    assert asked.stdout == f"{answer}\n"
    registers = [bytes.fromhex(value) for _, value in dict(report.profiles)["aws"].pcrs]
    verdict = verify_document(
        (tree / "asked/document.cbor").read_bytes(),
        [
            ExpectPcrs(dict(enumerate(registers))),
            ExpectNonce(bytes.fromhex((tree / "asked/nonce").read_text())),
            ExpectUserData(hashlib.sha384(answer.encode()).digest()),
        ],
        now=datetime.now(timezone.utc),
        root=LOCAL_SIMULATOR,
    )
    assert verdict.findings == ()
    claim = json.loads((ROOT / "attestations/releases/0.1.0/claim.json").read_text())
    minimal = image.load_spec(tree).kernel.profile == image.MINIMAL
    assert (registers[1].hex() in json.dumps(claim)) is minimal
