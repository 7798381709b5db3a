"""``python -m hostile_trees``: 500 hostile checkouts against every command that takes a folder or a file.

Each runs as an ordinary user in namespaces of its own, with canaries in HOME, TMPDIR and elsewhere: nothing
outside the output folder changes, no canary is opened, a command takes at most 60 s and 1 GB, ends with 0
to 3, and says in one line what is wrong. ``--tree N`` replays one tree and shows every command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coattest_build import sandbox, source
from coattest_build.sandbox.isolate import Bind
from hostile_trees.inside import Summary

ROOT = Path(__file__).resolve().parents[2]
SEED = "20261129"
USER = 1000
ROOMS = ("tests", "common", "build", "enclave", "verify", "parent", "local")


def main() -> int:
    """Exit code: 0 when no command did anything wrong on any tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first tree's number")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth of them")
    parser.add_argument("--seed", default=SEED)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--tree", type=int, help="only this one; every command is shown")
    parser.add_argument("--only", help="only commands that begin so")
    chosen = parser.parse_args()
    numbers = list(range(chosen.first, chosen.first + chosen.trees, chosen.every))
    more = [f"--seed={chosen.seed}", *([f"--only={chosen.only}"] if chosen.only else [])]
    if chosen.tree is not None:
        numbers, more = [chosen.tree], [*more, "--verbose"]
    begun, scratch = time.monotonic(), Path(tempfile.mkdtemp(prefix="hostile-trees-"))
    try:
        make_template(scratch / "template")
        parts = [part for number in range(chosen.jobs) if (part := numbers[number :: chosen.jobs])]
        with ThreadPoolExecutor(len(parts)) as pool:
            codes = list(pool.map(lambda part: run(scratch / str(part[0]), part, more), parts))
        summary = Summary()
        for part in parts:
            saved = scratch / str(part[0]) / "work/summary.json"
            summary.add(Summary(**json.loads(saved.read_text())) if saved.exists() else Summary())
    finally:
        sandbox.remove_tree(scratch)
    print("\n".join(summary.lines()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{time.monotonic() - begun:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor time")
    return 0 if not any(codes) and summary.trees == len(numbers) and not summary.wrong else 1


def run(folder: Path, numbers: list[int], more: list[str]) -> int:
    """The exit code of one process that goes through the trees in ``folder``, beside the template."""
    root, work, template = folder / "root", folder / "work", folder.parent / "template"
    root.mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    work.mkdir()
    quorum = hashlib.sha256((ROOT / "attestations/quorum.toml").read_bytes()).hexdigest()
    tool = [Path("/usr"), *dict.fromkeys((Path(sys.base_prefix), Path(sys.prefix), ROOT))]
    words = ["-B", "-m", "hostile_trees.inside", "--work=/work", "--template=/template"]
    return sandbox.run_isolated(
        root,
        [
            sys.executable,
            *words,
            f"--root=sha256:{quorum}",
            *more,
            f"--numbers={','.join(map(str, numbers))}",
        ],
        env={
            "PYTHONPATH": ":".join(str(ROOT / room) for room in ROOMS),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": "/work",
        },
        binds=[
            *(Bind(path, str(path)) for path in tool),
            Bind(template, "/template"),
            Bind(work, "/work", writable=True),
        ],
        uid=USER,
    )


def make_template(folder: Path) -> None:
    """An honest checkout of what the image is made of, with a commit, and a file of each kind beside it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in (*source.ROOTS, source.LOCK_FILE, "attestations"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, target)
    # Without wheels: pip's retries without a network take half a minute each time.
    for name, table in ((source.IMAGE_FILE, "wheels"), (source.LOCK_FILE, "wheel")):
        text = (folder / name).read_text()
        text = re.sub(rf"(?ms)^\[+{table}\]+$.*?(?=^\[|\Z)", "", text)
        (folder / name).write_text("wheel = []\n" + text if table == "wheel" else text)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    author = ("-c", "user.name=n", "-c", "user.email=n@example.invalid")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), (*author, "commit", "-qm", "all")):
        subprocess.run(["git", *words], cwd=folder, env=environment, check=True)
    files = folder / "files"
    for name, content in {
        "documents/INDEX.tsv": b"filename\tsha256\na.cose\t" + b"0" * 64 + b"\n",
        "documents/a.cose": b"\x84\x43\xa1\x01\x26\xa0\x40\x40",
        "document.bin": b"\x84\x43\xa1\x01\x26\xa0\x40\x40",
        "measurements.json": b'{"Measurements": {"PCR0": "%s"}}' % (b"ab" * 48),
        "FLEET.toml": b'format = "coattest-fleet/v1"\n[[source]]\nname = "a"\nkind = "file"\n'
        b'path = "documents"\ncount = 1\nreleases = ["0.1.0"]\n',
        "bids.csv": b"lot,amount\nA,100\n",
        "lots.csv": b"lot,reserve\nA,10\n",
        "policy.json": b'{"Version": "2012-10-17", "Statement": []}',
        "trail/a.json.gz": b'{"Records": []}',
        "trail/CloudTrail-Digest/d.json.gz": b"{}",
        "spool/job/manifest.cbor": b"\xa0",
        "image/oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "image/index.json": b'{"schemaVersion": 2, "manifests": []}',
        "image.tar": b"\0" * 1024,
        "blobs/bzImage": b"",
        "plan/settings.json": b"{}",
        "state/deployment.json": b"{}",
        "mirror/dists/bookworm/InRelease": b"-----BEGIN PGP SIGNED MESSAGE-----\n",
    }.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_bytes(content)
    for name in ("wheelhouse", "plan/reports", "compiled/out", "compiled/image"):
        (files / name).mkdir(parents=True, exist_ok=True)
    for name in (
        "image.eif",
        "bundle.json",
        "keys.json",
        "key.pem",
        "certificate.pem",
        "manifest.cbor",
        "result.cbor",
        "seal.cbor",
        "bid.cose",
        "buyer.json",
        "program.whl",
    ):
        (files / name).write_bytes(b"{}")


if __name__ == "__main__":
    sys.exit(main())
