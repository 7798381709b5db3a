"""The auction's figures: the enclave's core, an auction end to end here, and its memory at a million lots.

python bench/bench_auction.py [--json] [--quick] [--scale] [--image FILE]

- core: manifest bytes, seals and bid files in, result bytes out (decode, verify, hash, decrypt, decide,
  encode), two buyers, in bids per second of processor time. KMS is the only part left out. The exponent is
  the slope of log time over log lots, fitted to all sizes from 1,000 to 1,000,000.
- end to end: 100,000 lots by 2 buyers on the local services, with the enclave's program as a process:
  bids under KMS data keys, upload, seals, opening, check of the receipt, in seconds of wall time.
- AWS's bidding sample asks KMS twice per lot, one call per bid, and polls every 0.5 s. Its calls are made
  here by this enclave's own KMS client, on the same KMS and NSM, for few lots, and multiplied. That is in
  its favour: the sample starts a process per call, and it may poll more than once per lot.
- scale (only with --scale): 1,000,000 lots by 10 buyers, peak resident memory (VmHWM) of the enclave's
  program, of ``auction open``, ``bid`` and ``seal``, and of ``verify receipt``, each a process of its own;
  with --image the program runs from that image under the software host.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from coattest_build.formats.measure import measure
from coattest_enclave import open_request
from coattest_enclave.decision import auction
from coattest_enclave.payload.clock import Clock
from coattest_enclave.payload.kms import RSA_BITS, Kms
from coattest_enclave.payload.nsm import Nsm
from coattest_enclave.payload.sigv4 import Credentials
from coattest_enclave.payload.trust import parse_trust
from coattest_local.aws import services
from coattest_local.host.enclave import run_enclave
from coattest_parent.auction.courier import manifest_allow_list
from coattest_parent.auction.steps import Way, open_sealed
from coattest_parent.link.channels import parse_address
from coattest_parent.link.proxy import ConnectProxy
from coattest_verify.attestation.profiles import LOCAL_SIMULATOR
from coattest_verify.auction import messages
from coattest_verify.auction.certify import certificate_check
from coattest_verify.auction.receipt import verify_receipt
from coattest_verify.quorum.authority import Authority

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.auction.big_auction import (
    BigAuction,
    accounts_of,
    agreed,
    amounts_of,
    decrypts,
    high_water,
    lots_of,
    names_of,
)
from support.enclave.running_enclave import arn_of, spki_of
from support.local.local_enclave import INSTANCE, PCRS, ROLE, Cloud, enclave

GOALS = {
    "core bids per second": 1_000_000,
    "core exponent": 1.05,
    "end to end seconds": 10,
    "MB at 1,000,000 lots": 240,
}
CORE_LOTS, CORE_LOTS_QUICK = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000)
END_TO_END_LOTS = 100_000
SAMPLE_LOTS = 25
SAMPLE_POLL = 0.5
SCALE_LOTS, SCALE_BUYERS = 1_000_000, 10


def core(sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Bids per second of processor time at each size, the best of some rounds, and the exponent."""
    rates, times = {}, {}
    for lots in sizes:
        task = core_task(lots)
        times[lots] = min(timed(task) for _ in range(rounds))
        rates[lots] = 2 * lots / times[lots]
    return {"bids per second": {str(n): round(rate) for n, rate in rates.items()}, "exponent": slope(times)}


def core_task(lots: int) -> Callable[[], bytes]:
    """Everything between an upload and the result's bytes, KMS left out."""
    keys = [ec.derive_private_key(number, ec.SECP384R1()) for number in (1, 2)]
    buyers = tuple(
        messages.Buyer(f"buyer-{i}", spki_of(key), b"{}", arn_of(i), f"s3://bids-{i}/")
        for i, key in enumerate(keys)
    )
    book = messages.Manifest("bench", "EUR", messages.FIRST_PRICE, lots_of(lots), buyers, 1, 2)
    data_keys = {buyer.kms: os.urandom(32) for buyer in buyers}
    files = [
        messages.encrypt0(
            messages.pack_bids(amounts_of(lots, seed)),
            data_keys[buyer.kms],
            wrapped_key=bytes(184),
            external_aad=messages.Binding.of(book, buyer, PCRS[0]).aad,
        )
        for seed, buyer in enumerate(buyers)
    ]
    digests = tuple((b.name, messages.bid_digest(file)) for b, file in zip(buyers, files, strict=True))
    payload = messages.Seal(book.digest, bytes(32), PCRS[0], digests).encode()
    seals = tuple(messages.sign1(payload, k, b.name.encode()) for k, b in zip(keys, buyers, strict=True))
    encoded = book.encode()
    sizes = tuple((b.name, len(file)) for b, file in zip(buyers, files, strict=True))
    announced = open_request.OpenRequest(len(encoded), sizes, seals, Credentials("", "", ""))

    def task() -> bytes:
        manifest, seal = open_request.check_manifest(announced, encoded, "aws", PCRS[0])
        keys, bids = [], {}
        bound = [messages.Binding.of(manifest, buyer, PCRS[0]) for buyer in manifest.buyers]
        for each, file, (_, digest) in zip(bound, files, seal.bids, strict=True):
            open_request.check_bid(file, digest)
            keys.append(open_request.data_key(data_key, each, file))
        for each, file, key in zip(bound, files, keys, strict=True):
            bids[each.buyer] = open_request.unpack(each, file, key)
        return auction.result(manifest, seal.digest, bids)

    def data_key(_blob: bytes, arn: str, _context: Mapping[str, str]) -> bytearray:
        return bytearray(data_keys[arn])

    return task


def timed(task: Callable[[], object]) -> float:
    """Seconds of processor time that a task takes."""
    started = time.process_time()
    task()
    return time.process_time() - started


def slope(times: Mapping[int, float]) -> float:
    """The exponent k of time = c * lots**k, by least squares over the logarithms."""
    points = [(math.log(lots), math.log(seconds)) for lots, seconds in times.items()]
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    over = sum((x - middle_x) * (y - middle_y) for x, y in points)
    return round(over / sum((x - middle_x) ** 2 for x, _ in points), 3)


def opened(party: BigAuction, address: str, seals: list[bytes]) -> messages.ResultFile:
    """The parent's part of an opening, in this process."""
    return open_sealed(
        party.manifest,
        seals,
        Way(address, None, party.cloud.as_service(), party.cloud.role),
    )


def verify(party: BigAuction, result_file: bytes) -> None:
    """The check that a buyer makes."""
    verdict = verify_receipt(
        result_file,
        party.manifest.encode(),
        party.decision,
        root=LOCAL_SIMULATOR,
        check_certificate=certificate_check(Authority(party.decision, party.members.file)),
        now=datetime.now(timezone.utc),
    )
    assert verdict.ok, verdict.findings


def end_to_end(lots: int) -> dict[str, Any]:
    """Seconds of wall time of an auction's steps, and of the sample protocol's calls on the same KMS."""
    with (
        tempfile.TemporaryDirectory(prefix="coattest-bench-") as scratch,
        services.start(Path(scratch), quiet=True) as running,
        enclave() as program,
    ):
        cloud = Cloud.make(running)
        members, decided = agreed(Path(scratch) / "quorum", tuple(sorted(cloud.buyers)))
        party = BigAuction(Path(scratch) / "auction", cloud, members, decided, lots)
        clock = [time.monotonic()]
        digests = party.bid()
        clock.append(time.monotonic())
        seals = party.seal(digests)
        clock.append(time.monotonic())
        result = opened(party, program.address, seals)
        clock.append(time.monotonic())
        verify(party, result.encode())
        clock.append(time.monotonic())
        call = sample_call(party, program.directory)
    steps = dict(
        zip(("bid", "seal", "open", "verify"), (b - a for a, b in itertools.pairwise(clock)), strict=True)
    )
    total = clock[-1] - clock[0]
    per_lot = {"calls": 2 * call, "calls and one poll": 2 * call + SAMPLE_POLL}
    return {
        "lots": lots,
        "seconds": {**{name: round(value, 2) for name, value in steps.items()}, "all": round(total, 2)},
        "sample": {
            "lots measured": SAMPLE_LOTS,
            "seconds per KMS call": round(call, 4),
            "ratio": {name: round(each * lots / total) for name, each in per_lot.items()},
        },
    }


def sample_call(party: BigAuction, directory: Path) -> float:
    """Seconds of one attested Decrypt, the mean over two per lot, as the sample makes them."""
    buyer = party.manifest.buyers[0]
    context = messages.Binding.of(party.manifest, buyer, PCRS[0]).context
    buyer_kms = party.cloud.as_buyer(buyer.name).kms(party.cloud.services.region)
    data_key = os.urandom(32)
    blob = buyer_kms.encrypt(KeyId=buyer.kms, Plaintext=data_key, EncryptionContext=context)
    trust = parse_trust((directory / "trust.json").read_bytes()).on_hardware(present=False)
    nsm = Nsm(trust.nsm[0])
    given = party.cloud.as_service().assume(party.cloud.role, party.cloud.services.region).credentials()
    credentials = Credentials(given.access_key, given.secret_key, given.session_token)
    clock = Clock.read(nsm, set_system=False)
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    kms = Kms(trust, list(trust.proxy), nsm, credentials, clock.now, key)
    allow = manifest_allow_list(party.manifest, party.cloud.endpoint.target)
    with ConnectProxy(parse_address(trust.proxy[0]), allow):
        started = time.monotonic()
        for _ in range(2 * SAMPLE_LOTS):
            assert bytes(kms.decrypt(blob["CiphertextBlob"], buyer.kms, context)) == data_key
        return (time.monotonic() - started) / (2 * SAMPLE_LOTS)


def scale(lots: int, buyers: int, image: Path | None) -> dict[str, Any]:
    """Peak resident memory of the enclave's program and of every command, all as processes."""
    names = names_of(buyers)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coattest-bench-")))
        running = stack.enter_context(
            services.start(scratch / "aws", accounts=accounts_of(names), quiet=True)
        )
        pcrs, address, pid = stack.enter_context(started_enclave(image, scratch))
        members, decided = agreed(scratch / "quorum", names, pcrs)
        party = BigAuction(scratch / "auction", Cloud.make(running, names), members, decided, lots)
        bid = party.make_bid()
        party.seal(party.bid())
        seal = party.make_seal()
        calls = decrypts(running.trail)
        peaks = {
            "parent": party.open(address, "result.cbor"),
            "parent, --json": party.open(address, "again.cbor", "--json"),
            "bid": bid,
            "seal": seal,
            "receipt": party.receipt("result.cbor"),
            "receipt, --json": party.receipt("result.cbor", "--json"),
            "receipt, --html": party.receipt("result.cbor", "--html", "page.html"),
        }
        memory = {"enclave": peak(pid), **{name: found.memory for name, found in peaks.items()}}
        return {
            "lots": lots,
            "buyers": buyers,
            "image": image.name if image else None,
            "peak MB": {name: round(value / 1e6) for name, value in memory.items()},
            "seconds": {name: round(found.seconds, 1) for name, found in peaks.items()},
            "KMS calls per opening": (decrypts(running.trail) - calls) / 2,
        }


@contextlib.contextmanager
def started_enclave(image: Path | None, scratch: Path) -> Iterator[tuple[dict[int, bytes], str, int]]:
    """The program, from an image under the software host or as it is: measurements, address, process id."""
    if image is None:
        with enclave() as program:
            yield PCRS, program.address, program.process.pid
        return
    found = measure(image)
    pcrs = {index: bytes.fromhex(value) for index, value in enumerate((found.pcr0, found.pcr1, found.pcr2))}
    with run_enclave(image, scratch / "enclave", role_arn=ROLE, instance_id=INSTANCE) as machine:
        yield pcrs, machine.address, descendant(b"coattest_enclave")


def descendant(word: bytes) -> int:
    """The process under this one whose command line has the word and that has no child with it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (entry / "cmdline").read_bytes():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])

    def below(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            with contextlib.suppress(OSError):
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                continue
            return False
        return False

    (found,) = (pid for pid in parents if below(pid) and pid not in parents.values())
    return found


def peak(pid: int) -> int:
    """Peak resident memory of a process in bytes; 0 when it has ended."""
    return high_water(Path(f"/proc/{pid}/status"))


def main() -> None:
    """Print the figures, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer lots: only to see that it runs")
    parser.add_argument("--scale", action="store_true", help="also a million lots by ten buyers")
    parser.add_argument("--image", type=Path, help="with --scale: an image of the local profile")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "auction",
        "core": core(CORE_LOTS_QUICK if options.quick else CORE_LOTS, 3),
        "end to end": end_to_end(1_000 if options.quick else END_TO_END_LOTS),
        "goal": GOALS,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    if options.scale:
        result["scale"] = scale(20_000 if options.quick else SCALE_LOTS, SCALE_BUYERS, options.image)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"Python {result['python']}, {os.cpu_count()} cores, load {result['load']:.1f}")
    for lots, rate in result["core"]["bids per second"].items():
        print(f"  core, {lots + ' lots':<22} {rate:>12,} bids/s   goal {GOALS['core bids per second']:,}")
    print(
        f"  core, exponent               {result['core']['exponent']:>12}          "
        f"goal {GOALS['core exponent']}"
    )
    whole = result["end to end"]
    for step, seconds in whole["seconds"].items():
        goal = f"goal {GOALS['end to end seconds']} (100,000 lots)" if step == "all" else ""
        print(f"  end to end, {step:<16} {seconds:>12} s        {goal}")
    for name, ratio in whole["sample"]["ratio"].items():
        print(f"  the sample's {name}, of {SAMPLE_LOTS} lots: {ratio:>8,} times as long")
    if options.scale:
        for name, megabytes in result["scale"]["peak MB"].items():
            seconds = result["scale"]["seconds"].get(name, "")
            print(
                f"  scale, {name:<21} {megabytes:>12} MB       goal {GOALS['MB at 1,000,000 lots']}   "
                f"{seconds}{' s' if seconds else ''}"
            )
        print(f"  scale, KMS calls per opening {result['scale']['KMS calls per opening']:>12g}")


if __name__ == "__main__":
    main()
