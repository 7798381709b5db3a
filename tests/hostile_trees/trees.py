"""Makes a hostile checkout from a seed: an honest one, in which a few things are not what they should be."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from coattest_build.sandbox.leftovers import remove_tree
from support.hostile.traps import plant

IMAGE, LOCK, CODE = "build/image.toml", "build/image.lock", "enclave/coattest_enclave/__init__.py"
PATHS = (
    IMAGE, IMAGE, LOCK, LOCK, CODE, "enclave", "enclave/requirements.lock", "enclave/profiles/aws.json",
    "build", "build/kernel", "build/kernel/x86_64.config", "build/init/init.c", "pyproject.toml",
    ".git", ".git/HEAD", ".git/config", ".git/packed-refs", ".git/refs/heads/main", ".git/objects",
    ".git/objects/pack", ".git/objects/info", ".git/refs",
    "attestations", "attestations/quorum.toml", "attestations/quorum.toml", "attestations/releases",
    "attestations/releases/0.1.0", "attestations/releases/0.1.0/claim.json",
    "attestations/releases/0.1.0/claim.json", "attestations/layout.1.project-native.json", "attestations/log",
    "attestations/log/checkpoint", "attestations/releases/0.1.0/rebuild.project-native.intoto.json",
    "attestations/quorum.1.project-native.dsse.json", "attestations/project-native.pub",
    "attestations/releases/0.1.0/rebuild.540b9f04.link",
    "out", "out/rebuild.json", "out/build.json", "out/inputs.json", "out/commitment.json", "out/image.eif",
    "files", "files/image.eif", "files/document.bin", "files/documents", "files/documents/INDEX.tsv",
    "files/documents/a.cose", "files/FLEET.toml", "files/measurements.json", "files/bundle.json",
    "files/policy.json",
    "files/trail", "files/trail/a.json.gz", "files/trail/CloudTrail-Digest/d.json.gz", "files/keys.json",
    "files/key.pem", "files/certificate.pem", "files/manifest.cbor", "files/result.cbor", "files/seal.cbor",
    "files/bid.cose", "files/bids.csv", "files/lots.csv", "files/buyer.json", "files/spool",
    "files/spool/job", "files/spool/job/manifest.cbor", "files/spool/job/a.seal", "files/plan",
    "files/plan/settings.json", "files/plan/reports", "files/plan/main.json", "files/state",
    "files/state/deployment.json", "files/wheelhouse", "files/program.whl", "files/mirror",
    "files/mirror/dists/bookworm/InRelease", "files/compiled/out/isolation", "files/compiled/image",
    "files/passphrase", "files/image.tar", "files/image", "files/image/index.json", "files/blobs",
    "files/blobs/bzImage",
)  # fmt: skip
"""What is replaced, below the checkout; what hostile files are tried with is in ``files``."""

SPECIAL = ("/dev/zero", "/dev/urandom", "/dev/full", "/proc/self/environ", "/proc/self/fd/0", "/nowhere", ".")


class Maker:
    """One tree, from one seed. ``canaries`` are files and folders outside that nothing may touch."""

    def __init__(self, tree: Path, seed: str, canaries: list[Path]) -> None:
        self.tree, self.canaries = tree, canaries
        self.dice = random.Random(seed)
        self.done: list[str] = []

    def make(self, template: Path) -> list[str]:
        """Copy the template and spoil it; returns what was done."""
        shutil.copytree(template, self.tree, symlinks=True)
        for _ in range(self.dice.choice((1, 2, 3, 5, 8))):
            path = self.dice.choice(PATHS)
            act = self.dice.choice(ACTS)
            try:
                act(self, self.tree / path)
            except (OSError, ValueError) as error:  # something else is in the way already
                self.done.append(f"{act.__name__} {path}: {type(error).__name__}")
            else:
                self.done.append(f"{act.__name__} {path}")
        return self.done

    def clear(self, path: Path) -> None:
        """Make room at ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)

    def put(self, path: Path, content: bytes) -> None:
        """A file with these bytes."""
        self.clear(path)
        path.write_bytes(content)


def link_out(maker: Maker, path: Path) -> None:
    """A link to a canary, or to a folder that has one."""
    maker.clear(path)
    path.symlink_to(maker.dice.choice(maker.canaries))


def link_special(maker: Maker, path: Path) -> None:
    """A link to a device, to nothing, to itself."""
    maker.clear(path)
    path.symlink_to(maker.dice.choice((*SPECIAL, path.name)))


def fifo(maker: Maker, path: Path) -> None:
    """A pipe that nobody writes to."""
    maker.clear(path)
    os.mkfifo(path)


def folder(maker: Maker, path: Path) -> None:
    """A folder, full or empty."""
    maker.clear(path)
    path.mkdir()
    for number in range(maker.dice.choice((0, 1, 300))):
        (path / f"{number}.json").write_bytes(b"{}")


def nothing(maker: Maker, path: Path) -> None:
    """Nothing."""
    maker.clear(path)


def empty(maker: Maker, path: Path) -> None:
    """An empty file."""
    maker.put(path, b"")


def huge(maker: Maker, path: Path) -> None:
    """A terabyte of zeros that takes no space, or what is there followed by them."""
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    maker.put(path, maker.dice.choice((b"", content)))
    with path.open("ab") as file:
        file.truncate(maker.dice.choice((1 << 40, 1 << 31, 300 << 20)))


def noise(maker: Maker, path: Path) -> None:
    """Random bytes."""
    maker.put(path, maker.dice.randbytes(maker.dice.choice((1, 100, 10_000, 3_000_000))))


def changed(maker: Maker, path: Path) -> None:
    """What is there with a few bytes changed, cut or repeated."""
    content = bytearray(path.read_bytes() if path.is_file() and not path.is_symlink() else b"{}")
    for _ in range(maker.dice.choice((1, 3, 30))):
        if content:
            content[maker.dice.randrange(len(content))] = maker.dice.randrange(256)
    if maker.dice.random() < 0.3:
        del content[maker.dice.randrange(len(content) + 1) :]
    maker.put(path, bytes(content) * maker.dice.choice((1, 1, 1, 2, 50)))


def unreadable(maker: Maker, path: Path) -> None:
    """No rights at all."""
    if path.is_symlink() or not path.exists():
        maker.put(path, b"x")
    path.chmod(0)


def toml_bomb(maker: Maker, path: Path) -> None:
    """Keys of many parts, deep brackets, long integers, dates that do not exist, strings without end."""
    bomb = maker.dice.choice(
        (
            ".".join(["a"] * 500_000) + "=1",
            "[" + ".".join(["a"] * 100_000) + "]",
            "x=" + "[" * 5_000 + "]" * 5_000,
            "x=" + "{a=" * 5_000,
            "x=" + "9" * 10_000,
            "x=0x" + "f" * 200_000,
            "x=9999-99-99T99:99:99Z",
            "x=1e999999",
            "x='''" + "a" * 3_000_000,
            "\n".join(f"{'.'.join(f'k{n}' for _ in range(60))}{n}=1" for n in range(3_000)),
            "\n".join(f"[[a]]\n[a.b{n}]" for n in range(100_000)),
            'x="\\ud800"',
            "\x00",
        )
    ).encode()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    maker.put(path, maker.dice.choice((bomb, bomb + b"\n" + content, content + b"\n" + bomb)))


def json_bomb(maker: Maker, path: Path) -> None:
    """Deep and wide documents, long numbers, names twice, surrogates, NaN."""
    bomb = maker.dice.choice(
        (
            b"[" * 100_000,
            b'{"a":' * 900 + b"1" + b"}" * 900,
            b"9" * 10_000,
            b'{"version": ' + b"9" * 10_000 + b"}",
            b"[" + b"[]," * 1_300_000 + b"[]]",
            b'{"a":1,"a":2}',
            b'"\\ud800"',
            b"NaN",
            b"1e999",
            b"\xef\xbb\xbf{}",
            b'{"payloadType":"x","payload":"' + b"A" * 3_000_000 + b'","signatures":[]}',
            b"{" + b",".join(b'"%d":{}' % n for n in range(200_000)) + b"}",
        )
    )
    if path.suffix == ".gz":
        bomb = gzip.compress(maker.dice.choice((bomb, bytes(300 << 20))), 1)
    maker.put(path, bomb)


def cbor_bomb(maker: Maker, path: Path) -> None:
    """Arrays that claim to be huge, nesting, tags, indefinite lengths."""
    bomb = maker.dice.choice(
        (
            b"\x9b" + b"\xff" * 8,
            b"\x5b" + b"\x7f" * 8,
            b"\x81" * 100_000,
            b"\xc1" * 50_000,
            b"\x9f" * 1_000,
            b"\xd8\x12\x84\x5b\x00\x00\x00\x00\xff\xff\xff\xff",
            b"\xc2\x5a\x00\x10\x00\x00" + b"\xff" * (1 << 20),
            b"\xba\x00\x10\x00\x00" + b"\x00\x00" * 1_000,
        )
    )
    maker.put(path, bomb)


def image_bomb(maker: Maker, path: Path) -> None:
    """An image whose header and sections claim more than there is, in all kinds of ways."""
    header = struct.pack(
        ">4sHHQQHH", b".eif", 4, 0, 1 << 40, 1 << 40, 0, maker.dice.choice((0, 5, 32, 65535))
    )
    offsets = b"".join(struct.pack(">Q", maker.dice.choice((0, 548, 1 << 62))) for _ in range(32))
    sizes = b"".join(struct.pack(">Q", maker.dice.choice((0, 1, 1 << 20, 1 << 62))) for _ in range(32))
    maker.put(path, header + offsets + sizes + bytes(8) + maker.dice.randbytes(2_000))
    if maker.dice.random() < 0.3:  # one section, which is there: a terabyte, as a hole
        header = struct.pack(">4sHHQQHH", b".eif", 4, 0, 1 << 40, 2, 0, 1)
        table = struct.pack(">32Q", 548, *[0] * 31) + struct.pack(">32Q", 1 << 40, *[0] * 31)
        maker.put(path, header + table + bytes(8) + struct.pack(">HHQ", 1, 0, 1 << 40))
        os.truncate(path, 560 + (1 << 40))


def odd_names(maker: Maker, path: Path) -> None:
    """Names with control characters, of other encodings, long, like options, and thousands of them."""
    base = path if path.is_dir() and not path.is_symlink() else path.parent
    base.mkdir(parents=True, exist_ok=True)
    for name in maker.dice.sample(
        [
            b"a\nb",
            b"\x1b[2J",
            b"\xff\xfe",
            b"-rf",
            b"--help",
            b"a" * 255,
            b" ",
            b"...",
            b"*",
            b"$(id)",
            b"\xe2\x80\xae.py",
        ],
        4,
    ):
        target = os.fsencode(base) + b"/" + name + maker.dice.choice((b"", b"", b".py", b".json"))
        if len(target.rpartition(b"/")[2]) < 256 and not os.path.lexists(target):
            with open(target, "wb") as file:  # noqa: PTH123 - bytes
                file.write(b"{}")
    if maker.dice.random() < 0.2:
        released = base / "releases/0.1.0" if (base / "releases/0.1.0").is_dir() else base
        for number in range(20_000):
            (released / f"rebuild.m{number}.intoto.json").write_bytes(b"")


def deep(maker: Maker, path: Path) -> None:
    """Folders inside each other, deeper than Python recurses."""
    maker.clear(path)
    path.mkdir()
    at = os.open(path, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def many_statements(maker: Maker, path: Path) -> None:
    """Two hundred files that look like signed ones, each large."""
    del path
    base = maker.tree / "attestations"
    payload = "A" * (1 << 20)
    for number in range(200):
        kind = maker.dice.choice(
            (
                "quorum.1.project-native.x{}.dsse.json",
                "releases/0.1.0/rebuild.project-native.x{}.intoto.json",
            )
        )
        document = {
            "payloadType": "application/vnd.coattest.quorum+toml",
            "payload": f"{payload}{number:04d}",
            "signatures": [{"sig": "AAAA"}],
        }
        (base / kind.format(number)).write_text(json.dumps(document))


def git_trick(maker: Maker, path: Path) -> None:
    """Refs in a circle or out of the repository, bombs, other repositories, other objects under a name."""
    del path
    git = maker.tree / ".git"
    canary = next(found for found in maker.canaries if found.name == "private")
    trick = maker.dice.randrange(10)
    if trick == 0:
        (git / "HEAD").write_text(
            "ref: " + maker.dice.choice(("refs/heads/main/../../../../x", "/etc/passwd", "refs/x"))
        )
    elif trick == 1:
        (git / "refs/heads/main").write_text("ref: refs/heads/main")
    elif trick == 2:
        maker.clear(git)
        git.write_text(f"gitdir: {maker.dice.choice((canary / '.git', '.', '/dev/zero', 'x/worktrees/y'))}\n")
    elif trick == 3:
        (git / "objects/info").mkdir(parents=True, exist_ok=True)
        (git / "objects/info/alternates").write_text(f"{canary}/.git/objects\n")
        maker.clear(git / "objects/pack")
    elif trick == 4:
        (git / "commondir").write_text(f"{canary}/.git\n")
        maker.clear(git / "objects")
    elif trick in (5, 6):
        place = git / "objects/cd" / ("cd" * 19)
        place.parent.mkdir(parents=True, exist_ok=True)
        stream = zlib.compressobj(9)
        pieces = [stream.compress(b"commit %d\0" % (1 << 30))]
        pieces += [stream.compress(bytes(1 << 20)) for _ in range(1 << 7)]
        place.write_bytes(b"".join([*pieces, stream.flush()]))
        (git / "HEAD").write_text("cd" * 20 + "\n")
    elif trick == 7:
        for name in (git / "objects").rglob("*"):
            if name.is_file() and maker.dice.random() < 0.5:
                name.chmod(0o600)
                name.write_bytes(maker.dice.randbytes(200))
    elif trick == 8:
        (git / "packed-refs").write_bytes(b"# pack-refs\n" + b"a" * 30_000_000)
        (git / "refs/heads/main").unlink()
    else:
        (git / "config").write_text("[core]\n fsmonitor = touch pwned\n[include]\n path = /dev/zero\n")


def traps(maker: Maker, path: Path) -> None:
    """A module or a program, for each name that anything might import or start from here."""
    del path
    others = next(found.parent for found in maker.canaries if found.name == "secret.json")
    plant(maker.tree, others / "ran")


ACTS: tuple[Callable[[Maker, Path], None], ...] = (
    link_out, link_out, link_out, link_special, link_special, fifo, fifo, folder, nothing, empty, huge, huge,
    noise, changed, changed, changed, unreadable, toml_bomb, toml_bomb, json_bomb, json_bomb, cbor_bomb,
    cbor_bomb, image_bomb, odd_names, deep, many_statements, git_trick, git_trick, traps,
)  # fmt: skip
