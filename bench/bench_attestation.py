"""How fast attestation documents are verified, as ratios against raw P-384 verification in the same run.

python bench/bench_attestation.py [--json] [--rounds N]

Cold (no cache) is held against a fifth of the raw rate, because a document needs five signatures with the
root pinned; warm (chain cached) against the raw rate itself. The raw message is 32 bytes long: hashing a
document's 4 kB is part of what is measured. One-thread rates are over CPU time of the thread, so that
other programs do not show; rates over two threads are over wall time. Rounds of all candidates alternate: a
ratio is taken within each round, whose halves met the same machine, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from coattest_verify.attestation import (
    AWS_NITRO,
    ChainCache,
    Root,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    parse_unverified,
    verify_document,
)

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared/vectors/attestation/2026-02-06_prod_Epsilon-Data_nitro-verify_1ad417fa.bin"
ANY = (UnsafeAnyMeasurement(), UnsafeAllowDebug())
GOALS = {"cold": 0.85, "warm": 0.85, "two threads": 1.8}
SIGNATURES_COLD = 5
PACKAGES = ("cryptography", "pycose", "cbor2", "evervault-attestation-bindings")
Task = Callable[[], object]


def subject() -> tuple[bytes, Root, datetime, str]:
    """A real document where the vectors are there, a generated one of the same shape otherwise."""
    if REAL.is_file():
        data, root, name = REAL.read_bytes(), AWS_NITRO, REAL.name
    else:
        sys.path.insert(0, str(ROOT / "tests"))
        from support.verify.nitro_ca import document, usual_chain  # noqa: PLC0415

        data, root, name = document(), usual_chain().root, "generated"
    return data, root, parse_unverified(data).timestamp, name


def raw_task() -> Task:
    """One P-384 verification by cryptography over 32 bytes."""
    key = ec.generate_private_key(ec.SECP384R1())
    algorithm = ec.ECDSA(hashes.SHA384())
    message = os.urandom(32)
    signature, public = key.sign(message, algorithm), key.public_key()
    return lambda: public.verify(signature, message, algorithm)


def own_task(data: bytes, root: Root, now: datetime, cache: ChainCache | None) -> Task:
    """One verification here, cold without a cache and warm with one."""

    def task() -> None:
        assert verify_document(data, ANY, now=now, root=root, cache=cache).ok

    return task


def pycose_task(data: bytes) -> Task | None:
    """A plain pycose verifier of the document's own signature only; its ES384 is pure Python."""
    try:
        import cbor2  # noqa: PLC0415 - only where it is there
        from pycose.keys import EC2Key  # noqa: PLC0415
        from pycose.keys.curves import P384  # noqa: PLC0415
        from pycose.messages import CoseMessage  # noqa: PLC0415
    except ImportError:
        return None

    def task() -> None:
        message: Any = CoseMessage.decode(b"\xd2" + data)
        leaf = x509.load_der_x509_certificate(cbor2.loads(message.payload)["certificate"])
        key: Any = leaf.public_key()
        numbers = key.public_numbers()
        message.key = EC2Key(crv=P384, x=numbers.x.to_bytes(48, "big"), y=numbers.y.to_bytes(48, "big"))
        assert message.verify_signature()

    return _working(task)


def evervault_rate(data: bytes, now: datetime, seconds: float) -> float | None:
    """Evervault's Rust bindings over the whole document, in a process that is shown the document's time.

    They take no time as an argument, and go on to compare public_key with a TLS certificate, which fails
    here, after everything that is measured. None where they, a C compiler, or a document of AWS's are not
    there.
    """
    compiler = shutil.which("cc")
    if compiler is None or importlib.util.find_spec("evervault_attestation_bindings") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        clock = Path(folder) / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", clock, ROOT / "bench/clock.c"], check=True)
        done = subprocess.run(
            [sys.executable, "-c", EVERVAULT, tls_certificate(now).hex(), data.hex(), str(seconds)],
            env={**os.environ, "LD_PRELOAD": str(clock), "CLOCK_AT": str(int(now.timestamp()) + 1)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        print(f"evervault left out: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(done.stdout)


EVERVAULT = """
import sys, time
import evervault_attestation_bindings as bindings
certificate, document, seconds = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]), float(sys.argv[3])
count, start = 0, time.thread_time()
while (spent := time.thread_time() - start) < seconds:
    try:
        bindings.attest_enclave(certificate, [], document)
    except ValueError as error:
        assert "public key" in str(error), error
    count += 1
print(count / spent)
"""


def tls_certificate(now: datetime) -> bytes:
    """Any certificate of a TLS server, in date at ``now``, for bindings that want to see one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench.test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _working(task: Task) -> Task | None:
    try:
        task()
    except Exception as error:
        print(f"left out: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return task


def rate(task: Task, seconds: float) -> float:
    """Runs per second of the thread's CPU time."""
    count, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < seconds:
        for _ in range(10):
            task()
        count += 10
    return count / spent


def rate_threads(task: Task, threads: int, seconds: float) -> float:
    """Runs per second of wall time over several threads together."""
    counts = [0] * threads
    start = threading.Barrier(threads + 1)
    stop = threading.Event()

    def work(index: int) -> None:
        start.wait()
        while not stop.is_set():
            task()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begun = time.perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - begun)


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Every figure; medians of the rounds."""
    data, root, now, name = subject()
    cache = ChainCache()
    tasks: dict[str, Task | None] = {
        "raw": raw_task(),
        "cold": own_task(data, root, now, None),
        "warm": own_task(data, root, now, cache),
        "pycose (signature only)": pycose_task(data),
    }
    present = {label: task for label, task in tasks.items() if task is not None}
    rates: dict[str, list[float]] = {label: [] for label in present}
    walls: dict[str, list[float]] = {}
    for _ in range(rounds):
        for label, task in present.items():
            rates[label].append(rate(task, seconds))
        for prefix, task in (("", present["warm"]), ("raw, ", present["raw"])):
            for label, threads in (("one thread", 1), ("two threads", 2)):
                walls.setdefault(prefix + label, []).append(rate_threads(task, threads, seconds))
        if (theirs := evervault_rate(data, now, seconds)) is not None:
            rates.setdefault("evervault", []).append(theirs)
    ratios = {
        "cold": SIGNATURES_COLD * paired(rates["cold"], rates["raw"]),
        "warm": paired(rates["warm"], rates["raw"]),
        "two threads": paired(walls["two threads"], walls["one thread"]),
        "raw two threads": paired(walls["raw, two threads"], walls["raw, one thread"]),
    }
    return {
        "benchmark": "attestation",
        "document": name,
        "per_second": {label: round(value, 1) for label, value in medians(rates).items()},
        "per_second_wall": {label: round(value, 1) for label, value in medians(walls).items()},
        "ratio": {label: round(value, 3) for label, value in ratios.items()},
        "goal": GOALS,
        "load": os.getloadavg()[0],
        "machine": machine(),
    }


def paired(ours: list[float], theirs: list[float]) -> float:
    """The median of the ratios that each round gave."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    """Each candidate's median."""
    return {label: statistics.median(values) for label, values in rates.items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if installed(name)},
    }


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Print the table, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2)
    options = parser.parse_args()
    result = measure(options.rounds, options.seconds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    host = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    print(f"{host['cpu']}, {host['cores']} cores, Python {host['python']}, {versions}")
    print(f"load {result['load']:.1f}, document {result['document']}")
    for label, value in {**result["per_second"], **result["per_second_wall"]}.items():
        print(f"  {label:<28} {value:>9.1f} /s")
    for label, value in result["ratio"].items():
        goal = f"goal {GOALS[label]}" if label in GOALS else ""
        print(f"  {label:<28} {value:>9.3f}    {goal}")


if __name__ == "__main__":
    main()
