"""The parts of the QEMU runner that need no QEMU: heartbeat, keeper, signer, comparison, pins, edits."""

from __future__ import annotations

import lzma
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest.network import parse_network
from coattest_build.formats.measure import ImageMeasurements, pcr3, pcr4
from coattest_local.cli.boot import liveness
from coattest_local.cli.run_enclave import outside
from coattest_local.qemu.boot import ZERO, compare_registers, expected
from coattest_local.qemu.enclave import KEEPER, Machine, qemu_command
from coattest_local.qemu.heartbeat import Heartbeat
from coattest_local.qemu.signer import SIGNER_VARIABLE, DocumentSigner
from coattest_local.qemu.tools import QemuTools, find_tools, has_machine
from coattest_parent.link.channels import Unix
from coattest_parent.link.enclave import EnclaveClient, EnclaveFailed
from coattest_verify.attestation import ExpectNonce, ExpectPcrs, verify_document
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from coattest_verify.auction import messages
from support.local.qemu_compiler import patch, pins
from support.loopback import free_port
from support.parent.network import serving
from support.raises import raises_code
from support.unnoticed import unnoticed_where_it_waits

ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"
MODULE = f"{INSTANCE}-enc0123456789abcdef"
NONCE = b"n" * 32
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=timezone.utc)
OURS = {
    0: "11" * 48,
    1: "22" * 48,
    2: "33" * 48,
    3: pcr3(ROLE),
    4: pcr4(INSTANCE),
    8: ZERO,
}


def qemu_document(**changes: Any) -> bytes:
    """A document as QEMU 10.0's hw/virtio/virtio-nsm.c writes it: definite map, algorithm -1, zeros."""
    payload = {
        "module_id": MODULE,
        "digest": "SHA384",
        "timestamp": int(NOW.timestamp()) * 1000,
        "pcrs": {index: bytes.fromhex(OURS.get(index, ZERO)) for index in range(16)},
        "certificate": bytes(64),
        "cabundle": [bytes(64)],
        "public_key": None,
        "user_data": messages.alive_user_data(),
        "nonce": NONCE,
        **changes,
    }
    return cbor2.dumps([cbor2.dumps({1: -1}), {}, cbor2.dumps(payload), bytes(64)])


# ------------------------------------------------------------------------------ comparison


def test_our_registers_are_those_of_image_and_parent() -> None:
    """PCR0, 1, 2 and 8 come from the measurement, 3 and 4 from role and instance."""
    measured = ImageMeasurements(1, "", "", OURS[0], OURS[1], OURS[2], None, (), 0)
    assert expected(measured, role_arn=ROLE, instance_id=INSTANCE) == OURS


def test_six_equal_registers_are_reported_equal() -> None:
    """A document with our registers gives six lines, all equal, and says that it is not signed."""
    report = compare_registers(qemu_document(), nonce=NONCE, ours=OURS)
    assert [register.index for register in report.registers] == [0, 1, 2, 3, 4, 8]
    assert report.equal
    assert not report.signed
    assert report.to_json()["equal"] is True


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 8])
def test_any_register_that_differs_is_found(index: int) -> None:
    """Each of the six registers counts."""
    report = compare_registers(qemu_document(), nonce=NONCE, ours={**OURS, index: "ff" * 48})
    assert not report.equal
    assert [register.index for register in report.registers if not register.equal] == [index]


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": b"m" * 32},
        {"nonce": None},
        {"user_data": None},
        {"user_data": b"other"},
        {"public_key": b"key"},
        {"pcrs": {0: bytes(48)}},
        {"pcrs": []},
        {"pcrs": dict.fromkeys((0, 1, 2, 3, 4, 8), "text")},
    ],
)
def test_a_document_that_does_not_answer_us_is_refused(changes: dict[str, Any]) -> None:
    """Old documents, other purposes and missing registers are errors, not differences."""
    with pytest.raises(FoundFalse) as caught:
        compare_registers(qemu_document(**changes), nonce=NONCE, ours=OURS)
    assert caught.value.code == "wrong-document"


@given(st.binary(max_size=300) | st.builds(lambda cut: qemu_document()[:cut], st.integers(0, 600)))
def test_no_bytes_of_a_guest_break_the_comparison(document: bytes) -> None:
    """Whatever the guest sends, the answer is wrong-document."""
    with pytest.raises(FoundFalse) as caught:
        compare_registers(document, nonce=NONCE, ours=OURS)
    assert caught.value.code == "wrong-document"


# ------------------------------------------------------------------------------ signer


def exchange(path: Path, document: bytes) -> bytes:
    """What the signer answers to QEMU."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(struct.pack(">I", len(document)) + document)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            header = stream.read(4)
            return stream.read(struct.unpack(">I", header)[0]) if header else b""


def test_a_signed_document_says_what_qemu_said_and_verifies(tmp_path: Path) -> None:
    """Registers, nonce and time stay QEMU's; the verifier accepts it below the simulator's root."""
    signer = DocumentSigner(tmp_path / "s.sock", clock=lambda: NOW)
    try:
        signed = exchange(tmp_path / "s.sock", qemu_document(public_key=b"k" * 300))
    finally:
        signer.close()
    before = cbor2.loads(cbor2.loads(qemu_document(public_key=b"k" * 300))[2])
    after = cbor2.loads(cbor2.loads(signed)[2])
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"certificate", "cabundle"}
    image = {index: bytes.fromhex(OURS[index]) for index in (0, 1, 2)}
    expectations = [ExpectPcrs(image), ExpectNonce(NONCE)]
    verdict = verify_document(signed, expectations, now=NOW, root=LOCAL_SIMULATOR)
    assert verdict.ok, verdict.findings
    assert compare_registers(exchange_free(signed), nonce=NONCE, ours=OURS).signed


def exchange_free(signed: bytes) -> bytes:
    """The signed document without its public key, which a liveness document may not have."""
    protected, unprotected, payload, signature = cbor2.loads(signed)
    fields = {**cbor2.loads(payload), "public_key": None}
    return cbor2.dumps([protected, unprotected, cbor2.dumps(fields), signature])


@pytest.mark.parametrize("document", [b"", b"junk", cbor2.dumps([b"", {}, cbor2.dumps({}), b""])])
def test_the_signer_answers_junk_with_silence_and_lives(tmp_path: Path, document: bytes) -> None:
    """Bytes that are not a document get a closed connection; the next document is signed."""
    signer = DocumentSigner(tmp_path / "s.sock", clock=lambda: NOW)
    try:
        assert exchange(tmp_path / "s.sock", document) == b""
        assert exchange(tmp_path / "s.sock", qemu_document())
    finally:
        signer.close()


# ------------------------------------------------------------------------------ heartbeat


def test_the_heartbeat_is_answered_and_remembered(tmp_path: Path) -> None:
    """0xB7 comes back; another byte does not, and does not count as a sign of life."""
    heartbeat = Heartbeat(tmp_path / "vm.sock_9000")
    try:
        for sent, answer in ((b"\x00", b""), (b"\xb7", b"\xb7")):
            assert not heartbeat.beat.is_set()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(str(tmp_path / "vm.sock_9000"))
                connection.sendall(sent)
                assert connection.recv(1) == answer
        assert heartbeat.beat.wait(60)
        assert heartbeat.seconds is not None
    finally:
        heartbeat.close()
    assert not (tmp_path / "vm.sock_9000").exists()


# ------------------------------------------------------------------------------ keeper


def under_keeper(*command: str, parent: int | None = None, keeper: Path = KEEPER) -> subprocess.Popen[bytes]:
    """A command under the keeper."""
    arguments = [sys.executable, "-I", "-S", str(keeper), str(parent or os.getpid()), *command]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def child_of(process: subprocess.Popen[bytes]) -> int:
    """A descriptor of the process that runs under a keeper, which told its id."""
    assert process.stdout is not None
    return os.pidfd_open(int(process.stdout.readline()))


def ended(handle: int) -> bool:
    """Whether a process ends within a minute."""
    try:
        return bool(select.select([handle], [], [], 60)[0])
    finally:
        os.close(handle)


def test_the_keeper_passes_on_the_exit_code() -> None:
    """The keeper exits with the command's exit code."""
    with under_keeper("/bin/sh", "-c", "exit 7") as process:
        assert process.wait(60) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ending_the_keeper_ends_the_command(number: int) -> None:
    """Neither a terminated nor a killed keeper leaves its command behind."""
    with under_keeper("/bin/sh", "-c", "echo $$; exec sleep 600") as process:
        child = child_of(process)
        process.send_signal(number)
        assert ended(child)


def test_a_keeper_that_is_told_as_it_begins_to_wait_ends_the_command(tmp_path: Path) -> None:
    """Python has not yet looked at the signal when the wait begins."""
    script = tmp_path / "keeper.py"
    script.write_text(unnoticed_where_it_waits(KEEPER))
    with under_keeper("/bin/sleep", "600", keeper=script) as process:
        assert process.wait(60) == 128 + signal.SIGKILL


def test_the_command_ends_with_the_process_that_asked_for_it() -> None:
    """When the keeper's parent is killed, keeper and command end."""
    program = (
        "import os, subprocess, sys;"
        f"p = subprocess.Popen([sys.executable, '-I', '-S', {str(KEEPER)!r}, str(os.getpid()),"
        " '/bin/sh', '-c', 'echo $$; exec sleep 600']); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        child = child_of(parent)
        parent.kill()
        assert ended(child)


def test_the_keeper_starts_nothing_for_a_parent_that_is_gone() -> None:
    """If its parent is not the process named, the command is not run."""
    with under_keeper("/bin/sh", "-c", "echo ran", parent=1) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(60) == 1


# ------------------------------------------------------------------------------ command and tools


def test_qemus_command_line_has_no_unmeasured_boot_option(tmp_path: Path) -> None:
    """Neither -append nor -initrd; commas in values are doubled; the firmware's folders keep their order."""
    (tmp_path / "i,1.eif").write_bytes(bytes(300 * 1024 * 1024 // 1024))
    tools = QemuTools(Path("/q"), Path("/v"), (tmp_path / "a", tmp_path / "b"))
    command = qemu_command(
        tools,
        tmp_path / "i,1.eif",
        vhost=tmp_path / "v,h.sock",
        module_id=MODULE,
        role_arn="arn:aws:iam::111122223333:role/a,b",
        instance_id=INSTANCE,
        accelerator="tcg",
        machine=Machine(),
    )
    assert not {"-append", "-initrd"} & set(command)
    machine = command[command.index("-M") + 1]
    assert machine == (
        f"nitro-enclave,vsock=c,id={MODULE},parent-role=arn:aws:iam::111122223333:role/a,,b,parent-id={INSTANCE}"
    )
    assert command[command.index("-chardev") + 1].endswith("/v,,h.sock")
    assert [command[i + 1] for i, word in enumerate(command) if word == "-L"] == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    ]
    assert command[command.index("-m") + 1] == "512M"


def test_a_qemu_without_the_machine_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not list nitro-enclave counts as none, and the error names the remedy."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "qemu-system-x86_64"
    fake.write_text("#!/bin/sh\necho 'microvm   a machine for nitro-enclave fans'\n")
    fake.chmod(0o755)
    assert not has_machine(fake)
    monkeypatch.setenv("PATH", str(tmp_path))
    with raises_code(
        EnvironmentFailure, "no-qemu", match=r"nitro-enclave machine.*qemu-compiler/build\.py"
    ) as caught:
        find_tools(tmp_path)
    assert caught.value.exit_code == 3


# ------------------------------------------------------------------------------ source edits and pins


def source_tree(folder: Path) -> Path:
    """The parts of QEMU's source that the edits look at."""
    for edit in patch.EDITS:
        path = folder / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"before\n{edit.before}after\n")
    return folder


def test_the_edits_fit_once_and_only_once(tmp_path: Path) -> None:
    """Applied to their source they change it; a second time they do not fit and say so."""
    tree = source_tree(tmp_path)
    patch.apply_edits(tree)
    patched = (tree / "hw/virtio/virtio-nsm.c").read_text()
    assert patched.count("static size_t coattest_sign(") == 1
    assert "len = coattest_sign(buf, len, buf_len);" in patched
    assert f'g_getenv("{SIGNER_VARIABLE}")' in patched
    with pytest.raises(EnvironmentFailure) as caught:
        patch.apply_edits(tree)
    assert caught.value.code == "patch-does-not-fit"


def test_other_source_is_refused(tmp_path: Path) -> None:
    """A version whose file lacks the place, or lacks the file, is an error with a remedy."""
    with pytest.raises(EnvironmentFailure, match="pinned version") as caught:
        patch.apply_edits(tmp_path)
    assert caught.value.code == "patch-does-not-fit"


def packages_index(*names: str) -> str:
    """A Packages index."""
    return "\n".join(
        f"Package: {name}\nVersion: 9\nArchitecture: amd64\nSize: 5\nSHA256: {'a' * 64}\n"
        f"Filename: pool/{name}.deb\n"
        for name in names
    )


def test_the_mirrors_current_versions_are_read_from_its_indexes() -> None:
    """Source and packages come with the path, size and hash of the index."""
    sources = (
        "Package: other\nVersion: 1\nDirectory: pool/o\nChecksums-Sha256:\n bb 3 other.orig.tar.xz\n\n"
        "Package: qemu\nVersion: 1:11.0\nDirectory: pool/main/q/qemu\nChecksums-Sha256:\n"
        f" {'c' * 64} 12 qemu_11.0.dsc\n {'d' * 64} 34 qemu_11.0.orig.tar.xz\n"
    )
    pages = {
        "m/dists/trixie/main/binary-amd64/Packages.xz": packages_index("qemu-system-data", "zzz"),
        "m/dists/forky/main/binary-amd64/Packages.xz": packages_index("vhost-device-vsock"),
        "m/dists/trixie/main/source/Sources.xz": sources,
    }
    found = pins.current("m", lambda url: lzma.compress(pages[url].encode()))
    assert found.source.path == "pool/main/q/qemu/qemu_11.0.orig.tar.xz"
    assert (found.source.size, found.source.sha256) == (34, "d" * 64)
    assert [package.path for package in found.packages[1:]] == [
        "pool/qemu-system-data.deb",
        "pool/vhost-device-vsock.deb",
    ]
    with pytest.raises(EnvironmentFailure) as caught:
        pins.current("m", lambda url: lzma.compress(packages_index("zzz").encode()))
    assert caught.value.code == "not-in-index"


def test_every_pin_is_complete() -> None:
    """Hash, size and pool path of each pin have the right form, and no host is named."""
    for package in pins.PINNED.packages:
        assert len(bytes.fromhex(package.sha256)) == 32
        assert package.size > 0
        assert package.path.startswith("pool/main/")
    for wheel in pins.WHEELS:
        assert len(bytes.fromhex(wheel.sha256)) == 32


def test_a_program_of_another_protocol_is_told_what_to_use(tmp_path: Path) -> None:
    """It hangs up, or answers in its own way; the failure names the command that needs no liveness."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "other.sock"))
        server.listen()

        def answer() -> None:
            for content in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
                peer, _ = server.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(content)

        other = threading.Thread(target=answer)
        other.start()
        for _ in range(2):
            with (
                EnclaveClient(Unix(tmp_path / "other.sock")) as client,
                pytest.raises(EnclaveFailed, match="run-enclave --host qemu"),
            ):
                liveness(client, NONCE)
        other.join()


def test_each_measured_port_has_one_of_this_machine(tmp_path: Path) -> None:
    """The enclave's own number where it is free, another one where it is not; bytes go to the right port."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "vm.sock"))
    listener.listen()

    def guest(peer: socket.socket) -> None:
        asked = b""
        while not asked.endswith(b"\n"):
            asked += peer.recv(1)
        peer.sendall(b"OK 1\n" + asked)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(100):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken, free_port() as free:
        busy = taken.getsockname()[1]
        network = parse_network([f"5005:{busy}", f"6006:{free}"], [])
        with (
            serving(listener, guest),
            outside(network, f"hybrid:{tmp_path / 'vm.sock'}:5005") as ports,
        ):
            assert ports["6006"] == f"127.0.0.1:{free}"
            assert ports["5005"] != f"127.0.0.1:{busy}"
            for vsock, address in ports.items():
                place = address.partition(":")[2]
                with socket.create_connection(("127.0.0.1", int(place)), 60) as client:
                    client.shutdown(socket.SHUT_WR)
                    assert client.recv(100) == f"CONNECT {vsock}\n".encode()
