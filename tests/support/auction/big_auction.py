"""An auction of any size on the local services, all its parties in one place; what a command on it costs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from coattest_parent.auction.courier import upload_bid
from coattest_verify.auction import messages
from coattest_verify.auction.bids import Bids, make_bid_file
from coattest_verify.auction.buyers import buyer_json
from coattest_verify.auction.certify import Own, certify_buyer_key
from coattest_verify.auction.journal import SealJournal
from coattest_verify.quorum.decision import Decision
from support.auction.auctions import LIFE, opening, own
from support.auction.auctions import manifest as small_manifest
from support.enclave.running_enclave import spki_of
from support.local.local_enclave import PCRS, Cloud
from support.verify.members import NOW, Members, profile_json, report_json

PROGRAMS = {"auction": "coattest_parent.cli.auction", "verify": "coattest_verify.cli"}
PROGRAM = """
import atexit, os, sys
from pathlib import Path

def tell():
    Path(os.environ["TELL"]).write_bytes(Path("/proc/self/status").read_bytes())

atexit.register(tell)
from {module} import main
main()
"""


def names_of(count: int) -> tuple[str, ...]:
    """So many buyers."""
    return tuple(f"buyer-{number:02}" for number in range(count))


def accounts_of(names: Sequence[str]) -> list[str]:
    """Accounts for the local services: the service's and each buyer's."""
    return [
        "service=111122223333",
        *(f"{name}={222200000000 + number}" for number, name in enumerate(names)),
    ]


def amounts_of(lots: int, seed: int) -> list[int]:
    """Amounts that look like bids: 0 to 999,999, some lots without."""
    return [(index * 7919 + seed * 104729) % 1_000_003 % 1_000_000 for index in range(lots)]


def lots_of(count: int) -> messages.Lots:
    """Lots with ids of 11 characters and no reserve."""
    return messages.make_lots((f"lot-{index:07}", 0) for index in range(count))


def agreed(folder: Path, names: Sequence[str], pcrs: Mapping[int, bytes] = PCRS) -> tuple[Members, Decision]:
    """The buyers as members who all rebuilt and signed an image with these measurements, an hour ago."""
    members = Members.make(folder, names)
    local = profile_json("local", "image.local.eif")
    local["pcrs"] = {f"PCR{index}": value.hex() for index, value in pcrs.items()}
    report = report_json(profiles={"aws": profile_json("aws"), "local": local})
    members.claim(report)
    now = datetime.now(timezone.utc)
    for name in names:
        members.sign(name, report, age=NOW - (now - timedelta(hours=1)))
    return members, members.decide(profile="local", now=now).require()


@dataclass(frozen=True, slots=True)
class Peak:
    """How a command ended: its peak resident memory in bytes, and its seconds of wall time."""

    memory: int
    seconds: float


class BigAuction:
    """An auction whose bids are closed; its buyers' keys and CSV files are in ``folder``."""

    def __init__(self, folder: Path, cloud: Cloud, members: Members, decided: Decision, lots: int) -> None:
        self.folder, self.cloud, self.members, self.decision = folder, cloud, members, decided
        self.names = tuple(sorted(cloud.buyers))
        self.payload = b""
        self.keys = {name: ec.generate_private_key(ec.SECP384R1()) for name in self.names}
        now = int(time.time())
        plain = small_manifest(f"big-{lots}", closes=now, publish_by=now + 3600)
        self.manifest = dataclasses.replace(
            plain, lots=lots_of(lots), buyers=tuple(map(self._buyer, self.names))
        )
        for name in self.names:
            cloud.allow(name, decided)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.cbor").write_bytes(self.manifest.encode())

    def _buyer(self, name: str) -> messages.Buyer:
        key, account = spki_of(self.keys[name]), self.cloud.buyers[name]
        part = Own(name, key, account.key_arn, f"s3://{account.bucket}/")
        certificate = certify_buyer_key(self.members.signers[name], part, LIFE)
        return messages.Buyer(name, key, certificate, account.key_arn, part.bids)

    def bid(self) -> dict[str, bytes]:
        """Every buyer encrypts under a data key of its own and uploads; the files' digests."""
        digests = {}
        for seed, buyer in enumerate(self.manifest.buyers):
            aws = self.cloud.as_buyer(buyer.name)
            bids = Bids(tuple(amounts_of(len(self.manifest.lots), seed)), ())
            kms = aws.kms(self.cloud.services.region)
            mine = own(self.manifest, buyer.name)
            file = make_bid_file(self.manifest, mine, opening(self.decision).image, bids, kms)
            upload_bid(aws, buyer, self.manifest.digest, file)
            (self.folder / f"{buyer.name}.cose").write_bytes(file)
            digests[buyer.name] = messages.bid_digest(file)
        return digests

    def seal(self, digests: Mapping[str, bytes]) -> list[bytes]:
        """Every buyer's signature."""
        bids = tuple(sorted(digests.items()))
        may = opening(self.decision)
        self.payload = messages.Seal(self.manifest.digest, may.release, may.image, bids).encode()
        seals = [messages.sign1(self.payload, self.keys[name], name.encode()) for name in sorted(digests)]
        for name, seal in zip(sorted(digests), seals, strict=True):
            (self.folder / f"{name}.seal").write_bytes(seal)
        return seals

    def run(self, who: str, program: str, *arguments: str) -> Peak:
        """Run a command as one of the parties, which must end well; its standard output is thrown away."""
        told = self.folder / "peak"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / f"home-{who}"),
            "TELL": str(told),
            "AWS_DEFAULT_REGION": self.cloud.services.region,
        }
        if who in self.names:
            key, secret = self.cloud.buyers[who].access
        else:
            account = self.cloud.services.accounts["service"]
            key, secret = account.access_key, account.secret_key
        environment |= {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(module=PROGRAMS[program]), *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return Peak(high_water(told), time.monotonic() - began)

    def make_bid(self, *more: str) -> Peak:
        """``auction bid`` of the first buyer for the same lots, from a CSV file, while bids are open."""
        name, now = self.names[0], int(time.time())
        open_for_bids = dataclasses.replace(self.manifest, closes=now + 600, publish_by=now + 1200)
        (self.folder / "open.cbor").write_bytes(open_for_bids.encode())
        with (self.folder / "bids.csv").open("w") as file:
            file.write("lot,amount\n")
            for lot, amount in zip(
                messages.LotList(self.manifest.lots), amounts_of(len(self.manifest.lots), 1), strict=True
            ):
                file.write(f"{lot.id},{amount or ''}\n")
        words = ("--manifest", "open.cbor", "--bids", "bids.csv", "--out", "own.cose")
        words += ("--expect", f"sha256:{hashlib.sha256(open_for_bids.encode()).hexdigest()}")
        return self.run(
            name, "auction", "bid", *words, *self._own(name), *self.endpoint, *self.deciding, *more
        )

    def _own(self, name: str) -> tuple[str, ...]:
        """Options of everything that binds a buyer: who it is by its own files, and who the others are."""
        pem = self.keys[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "auction.key").write_bytes(pem)
        record = buyer_json(messages.named_buyer(self.manifest, name))
        (self.folder / "own.json").write_text(json.dumps(record))
        others = [word for other in self.names if other != name for word in ("--with", other)]
        return ("--buyer", name, "--auction-key", "auction.key", "--record", "own.json", *others)

    def make_seal(self, *more: str) -> Peak:
        """``auction seal`` of the first buyer, which fetches every bid file."""
        name = self.names[0]
        words = ("--manifest", "manifest.cbor", *self._own(name))
        words += ("--own-bid", f"{name}.cose", "--out", "own.seal")
        # Its bid file was made without the tool, for which this record stands.
        own = messages.bid_digest((self.folder / f"{name}.cose").read_bytes())
        home = self.folder / f"home-{name}"
        SealJournal(home / ".local/share/coattest/seals").record_bid(own, self.manifest.digest)
        words += ("--expect", f"sha256:{hashlib.sha256(self.payload).hexdigest()}")
        return self.run(name, "auction", "seal", *words, *self.endpoint, *self.deciding, *more)

    def open(self, enclave: str, out: str, *more: str) -> Peak:
        """``auction open``."""
        words = ["--manifest", "manifest.cbor", "--enclave", enclave, "--assume-role", self.cloud.role]
        words += [word for name in self.names for word in ("--seal", f"{name}.seal")]
        return self.run("service", "auction", "open", *words, "--out", out, *self.endpoint, *more)

    def receipt(self, result: str, *more: str) -> Peak:
        """``verify receipt``."""
        words = (result, "--manifest", "manifest.cbor")
        return self.run("service", "verify", "receipt", *words, *self.deciding, *more)

    @property
    def deciding(self) -> tuple[str, ...]:
        """Options of everything that relies on a decision."""
        return self.members.deciding()

    @property
    def endpoint(self) -> tuple[str, ...]:
        """Options of everything that asks AWS."""
        services = self.cloud.services
        return ("--endpoint-url", services.endpoint, "--ca-bundle", str(services.ca_bundle))


def high_water(status: Path) -> int:
    """Peak resident memory in bytes that a status file says (proc(5), VmHWM); 0 when there is none."""
    with contextlib.suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def decrypts(trail: Path) -> int:
    """How many Decrypt calls the log of the local KMS has; a call across accounts appears twice."""
    events = map(json.loads, trail.read_text().splitlines() if trail.exists() else [])
    calls = {e.get("sharedEventID", e["eventID"]) for e in events if e.get("eventName") == "Decrypt"}
    return len(calls)
