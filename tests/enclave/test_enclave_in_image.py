"""The program in its image under both hosts: with its own kernel, /dev/nsm and AF_VSOCK, and on sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_enclave.protocol import wire
from coattest_local.host.ca import issue_server_certificate
from coattest_local.host.enclave import RunningEnclave, run_enclave
from coattest_local.qemu.enclave import QemuEnclave, run_in_qemu
from coattest_local.qemu.tools import find_tools
from coattest_parent.link.channels import connect_to, parse_address
from coattest_verify.auction import messages
from coattest_verify.auction.messages import Tie, Won
from conftest import BuiltImages
from support.auction import deciding
from support.enclave.fake_kms import HOST, FakeKms, FakeProxy
from support.enclave.fake_nsm import fields_of
from support.enclave.running_enclave import Auction
from support.only_in import only_in

pytestmark = pytest.mark.image

ANSWER_SECONDS = 120
ROLE, INSTANCE = "arn:aws:iam::111122223333:role/parent", "i-1234567890abcdef0"


Machine = QemuEnclave | RunningEnclave


@pytest.fixture(scope="module", params=["QEMU", "software host"])
def machine(
    request: pytest.FixtureRequest, built_images: BuiltImages, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """The image of the local profile, running under either host."""
    image = built_images.image("local")
    directory = tmp_path_factory.mktemp("machine")
    if request.param == "QEMU":
        only_in("boot")
        with run_in_qemu(image, directory, role_arn=ROLE, instance_id=INSTANCE, tools=find_tools()) as it:
            yield it
        return
    running = run_enclave(image, directory, role_arn=ROLE, instance_id=INSTANCE)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def local_kms(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeKms]:
    """A KMS endpoint with a certificate by the published local CA, behind the proxy the guest expects."""
    certificate = tmp_path_factory.mktemp("kms") / "kms.pem"
    certificate.write_bytes(b"".join(issue_server_certificate([HOST])))
    proxy = Path(machine.proxy_address.removeprefix("unix:"))
    with FakeKms(certificate) as kms, FakeProxy(proxy, kms.address):
        yield kms


def converse(machine: Machine, frames: list[wire.Frame]) -> list[wire.Frame]:
    """Send a request to the program and return its answers."""
    answers: list[wire.Frame] = []
    with connect_to(parse_address(machine.address), ANSWER_SECONDS) as stream:

        def send() -> None:
            for frame in frames:
                wire.write_frame(stream, frame)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        while not answers or answers[-1].type in ("progress", "data"):
            frame = wire.read_frame(stream)
            assert frame is not None
            answers.append(frame)
        sender.join()
    return answers


def test_an_auction_runs_in_the_image(machine: Machine, local_kms: FakeKms) -> None:
    """Keys from KMS through the proxy, winners as expected, a receipt with the image's measurement."""
    amounts = {"buyer-1": [100000, 200000, 150000], "buyer-2": [120000, 180000, 150000]}
    book = Auction.make(amounts, image=bytes.fromhex(machine.measurements.pcr0)).encrypt(local_kms)
    answer = converse(machine, list(book.open_frames()))[-1]
    assert answer.type == "result", (answer, machine.console.read_text())
    outcomes = [outcome for _, outcome in messages.Result.decode(answer.body["result"]).lots]
    assert outcomes == [Won("buyer-2"), Won("buyer-1"), Tie(("buyer-1", "buyer-2"))]
    # The decision on the plain amounts here: so both hosts give the same canonical bytes.
    here = deciding.result(book.manifest, book.seal.digest, amounts).encode()
    assert answer.body["result"] == here
    receipt = fields_of(answer.body["receipt"])
    assert receipt["user_data"] == messages.receipt_user_data(answer.body["result"])
    assert receipt["nonce"] == book.seal.digest
    assert not receipt["public_key"]
    assert receipt["pcrs"][0].hex() == machine.measurements.pcr0


def test_liveness_in_the_image(machine: Machine) -> None:
    """A liveness document carries the nonce and the image's PCR0."""
    (answer,) = converse(machine, [wire.Frame(1, "alive", {"nonce": b"n" * 32})])
    fields = fields_of(answer.body["document"])
    assert fields["nonce"] == b"n" * 32
    assert fields["pcrs"][0].hex() == machine.measurements.pcr0


def test_an_unsealed_auction_is_refused_in_the_image(machine: Machine, local_kms: FakeKms) -> None:
    """The same rules hold there: no seal, no KMS call."""
    book = Auction.make({"buyer-1": [1], "buyer-2": [2]}).encrypt(local_kms)
    before = len(local_kms.requests)
    answer = converse(machine, list(book.open_frames(seals=book.seals()[:1])))[-1]
    assert answer.body["code"] == "bad-seal"
    assert len(local_kms.requests) == before


def test_the_console_says_one_line_of_ours(machine: Machine) -> None:
    """After auctions and refusals the program has written its start line and nothing else."""
    lines = [line for line in machine.console.read_text().splitlines() if "coattest-enclave" in line]
    assert len(lines) == 1
    assert "profile local, serving " in lines[0]
    assert "Traceback" not in machine.console.read_text()
