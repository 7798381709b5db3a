"""An auction's parties with all their secrets, and the enclave program as a running process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coattest_enclave.protocol import wire
from coattest_verify.auction import messages
from support.enclave.fake_kms import FakeKms, FakeProxy
from support.enclave.fake_nsm import PCR0, FakeNsm

ROOT = Path(__file__).resolve().parents[3]
CREDENTIALS = {
    "access_key": "ASIATESTTESTTESTTEST",
    "secret_key": "secret-SECRET-secret-SECRET-secret",
    "session_token": "token-TOKEN-token",
}
DEMO = {"buyer-1": [100000, 200000, 150000], "buyer-2": [120000, 180000, 150000]}
"""The demo's bids: the lots go to buyer-2, buyer-1 and a tie."""

START = """
import sys
from pathlib import Path
from coattest_enclave.payload import kms
from coattest_enclave.__main__ import main
kms.PAUSES = (0.01, 0.02, 0.03)
sys.exit(main(Path(sys.argv[1])))
"""


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """SPKI DER of a key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def arn_of(number: int) -> str:
    """A key ARN per buyer."""
    return f"arn:aws:kms:eu-central-1:{111122223333 + number}:key/00000000-0000-4000-8000-{number:012d}"


@dataclass
class Auction:
    """An auction with all its secrets, as the buyers together know them."""

    manifest: messages.Manifest
    keys: dict[str, ec.EllipticCurvePrivateKey]
    plaintexts: dict[str, bytes]
    release: bytes = bytes(range(32))
    image: bytes = PCR0
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        amounts: Mapping[str, Sequence[int]],
        *,
        rule: str = messages.FIRST_PRICE,
        reserves: Sequence[int] | None = None,
        auction: str = "auction-1",
        image: bytes = PCR0,
    ) -> Auction:
        """An auction in which each buyer bids these amounts, for the image with that PCR0."""
        names = sorted(amounts)
        keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in names}
        count = len(amounts[names[0]])
        lots = messages.make_lots(
            (f"lot-{i + 1}", reserve) for i, reserve in enumerate(reserves or [0] * count)
        )
        buyers = tuple(
            messages.Buyer(name, spki_of(keys[name]), b"{}", arn_of(i), f"s3://bids-{name}/")
            for i, name in enumerate(names)
        )
        manifest = messages.Manifest(auction, "EUR", rule, lots, buyers, 1_800_000_000, 1_800_086_400)
        plaintexts = {name: messages.pack_bids(amounts[name]) for name in names}
        return cls(manifest, keys, plaintexts, image=image)

    def encrypt(self, kms: FakeKms) -> Auction:
        """Make every bid file."""
        for buyer in self.manifest.buyers:
            data_key = os.urandom(32)
            bound = messages.Binding.of(self.manifest, buyer, self.image)
            self.files[buyer.name] = messages.encrypt0(
                self.plaintexts[buyer.name],
                data_key,
                wrapped_key=kms.wrap(data_key, buyer.kms, bound.context),
                external_aad=bound.aad,
            )
        return self

    @property
    def seal(self) -> messages.Seal:
        """What the buyers sign."""
        bids = tuple((b.name, messages.bid_digest(self.files[b.name])) for b in self.manifest.buyers)
        return messages.Seal(self.manifest.digest, self.release, self.image, bids)

    def seals(self, seal: messages.Seal | None = None) -> list[bytes]:
        """Every buyer's signature over the seal."""
        payload = (seal or self.seal).encode()
        return [messages.sign1(payload, self.keys[b.name], b.name.encode()) for b in self.manifest.buyers]

    def open_frames(
        self, *, seals: Sequence[bytes] | None = None, files: Mapping[str, bytes] | None = None
    ) -> Iterator[wire.Frame]:
        """The frames of an open request, number 7."""
        files = files or self.files
        body = {
            "manifest_size": len(self.manifest.encode()),
            "bids": [[b.name, len(files[b.name])] for b in self.manifest.buyers],
            "seals": list(self.seals() if seals is None else seals),
            "credentials": CREDENTIALS,
        }
        yield wire.Frame(7, "open", body)
        yield from wire.chunks(7, "manifest", self.manifest.encode())
        for buyer in self.manifest.buyers:
            yield from wire.chunks(7, f"bid:{buyer.name}", files[buyer.name])


@dataclass
class Enclave:
    """A running enclave program with its surroundings; ``received`` is every byte it sent the parent."""

    directory: Path
    process: subprocess.Popen[bytes]
    nsm: FakeNsm
    kms: FakeKms
    proxy: FakeProxy
    received: bytearray = field(default_factory=bytearray)

    def connect(self) -> socket.socket:
        """A connection as the parent's."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(60)
        stream.connect(str(self.directory / "in_5005.sock"))
        return stream

    def converse(self, frames: Iterator[wire.Frame] | Sequence[wire.Frame]) -> list[wire.Frame]:
        """Send frames and return every answer up to the last one (result, document or error)."""
        with self.connect() as stream:
            sender = threading.Thread(target=self._send, args=(stream, list(frames)), daemon=True)
            sender.start()
            answers = []
            while not answers or answers[-1].type in ("progress", "data"):
                frame = wire.read_frame(stream)
                assert frame is not None, "the enclave hung up without an answer"
                self.received += wire.encode_frame(frame)
                answers.append(frame)
            sender.join()
        return answers

    def open(self, auction: Auction, **changes: Any) -> wire.Frame:
        """Open an auction; the last answer."""
        return self.converse(auction.open_frames(**changes))[-1]

    def output(self) -> bytes:
        """End the program and return all of its stdout and stderr."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=60)
        return out + err

    @staticmethod
    def _send(stream: socket.socket, frames: list[wire.Frame]) -> None:
        with contextlib.suppress(OSError):
            for frame in frames:
                wire.write_frame(stream, frame)


def trust_for(authority: Any, sockets: Path) -> dict[str, Any]:
    """The local profile's trust file with this test's CA and sockets."""
    trust: dict[str, Any] = json.loads((ROOT / "enclave" / "profiles" / "local.json").read_text())
    trust["ca_pem"] = authority[0].public_bytes(Encoding.PEM).decode()
    for name in ("nsm", "listen", "proxy"):
        trust[name] = [address.replace("/run/coattest", str(sockets)) for address in trust[name]]
    return trust


@contextlib.contextmanager
def running(authority: Any, sockets: Path, kms: FakeKms) -> Iterator[Enclave]:
    """The enclave program as a process of its own, listening."""
    trust_file = sockets / "trust.json"
    trust_file.write_text(json.dumps(trust_for(authority, sockets)))
    with FakeNsm(sockets / "nsm.sock") as nsm, FakeProxy(sockets / "out_8000.sock", kms.address) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(trust_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert b"serving" in line, line
            yield Enclave(sockets, process, nsm, kms, proxy)
        finally:
            process.kill()
            process.communicate()


def outcomes(answer: wire.Frame) -> list[messages.Outcome]:
    """The outcomes in a result frame."""
    assert answer.type == "result", answer
    return [outcome for _, outcome in messages.Result.decode(answer.body["result"]).lots]


def untimed(answers: Sequence[wire.Frame]) -> list[wire.Frame]:
    """The answers without the one that says how many ticks it took: how busy this machine is."""
    return [each for each in answers if not str(each.body.get("stage")).startswith("the decision took ")]


def refusal(answer: wire.Frame) -> str:
    """The code of an error frame, which has nothing else in it than a code and a text."""
    assert answer.type == "error", answer
    assert set(answer.body) == {"code", "detail"}
    return str(answer.body["code"])
