"""Files from elsewhere: whatever is in a file's place, reading it ends soon, within limits, in one line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from coattest.errors import CoattestError, EnvironmentFailure, Rejected, UsageError
from coattest.files import (
    MAX_PATH_PARTS,
    Folder,
    make_folder,
    open_plain,
    read_bounded,
    read_whole,
    write_atomic,
)
from coattest.text import MAX_DOTS, parse_toml
from coattest_build import image
from coattest_build.containers.layertar import read_layer
from coattest_build.containers.sources import FilePart
from coattest_build.explain import describe
from coattest_build.formats.measure import measure
from coattest_build.inputs import fetch, lock, transfer, wheels
from coattest_verify.quorum.members import chain
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.rebuild.claimed_images import save_claimed_images
from support.build.checkouts import make_checkout
from support.raises import raises_code

REPOSITORY = Path(__file__).parents[2]
VERIFY = Path(sysconfig.get_path("scripts")) / "verify"

PLACES: Mapping[str, Callable[[Path, Path], object]] = {
    "fifo": lambda path, _: os.mkfifo(path),
    "device": lambda path, _: path.symlink_to("/dev/zero"),
    "link": lambda path, secret: path.symlink_to(secret),
    "loop": lambda path, _: path.symlink_to(path.name),
    "folder": lambda path, _: path.mkdir(),
}
"""What may stand in the place of a file."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the reader's own."""
    path = tmp_path / "secret"
    path.write_bytes(b"PRIVATE")
    return path


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(
    "read", [read_whole, lambda path: read_bounded(path, 10), measure], ids=["whole", "bounded", "measure"]
)
def test_only_a_plain_file_is_opened(
    tmp_path: Path, secret: Path, kind: str, read: Callable[[Path], object]
) -> None:
    """A pipe does not hang, a device does not fill memory, a link is not followed: exit code 2."""
    path = tmp_path / "file"
    PLACES[kind](path, secret)
    with raises_code(UsageError, "not-a-file", match=str(path)) as caught:
        read(path)
    assert caught.value.hint


def test_a_file_that_is_absent_or_too_large_says_so(tmp_path: Path) -> None:
    """Absent is the caller's to report; too large is read no further than the limit."""
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        read_whole(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with raises_code(UsageError, "too-large"):
        read_whole(path, 1000)
    assert len(read_bounded(path, 1000)) == 1001
    with open_plain(path) as file:
        assert file.name == str(path)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(
    "name", ["build/image.toml", "build/image.lock", "build", "enclave/requirements.lock", "enclave"]
)
def test_nothing_else_in_place_of_a_checkouts_files_is_read(
    tmp_path: Path, secret: Path, kind: str, name: str
) -> None:
    """Also above the file: a link in place of ``build`` leads out of the checkout as well."""
    tree = tmp_path / "tree"
    for file in ("build/image.toml", "build/image.lock", "enclave/requirements.lock"):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_bytes((REPOSITORY / file).read_bytes())
    outside = tmp_path / "outside"
    for file in ("image.toml", "image.lock", "requirements.lock"):
        outside.mkdir(exist_ok=True)
        (outside / file).write_bytes((REPOSITORY / "build/image.toml").read_bytes())
    path = tree / name
    if path.is_dir():
        path.rename(tree / "away")
        secret = outside
    else:
        path.unlink()
    PLACES[kind](path, secret)
    read: dict[str, Callable[[], object]] = {
        "image.toml": lambda: image.load_spec(tree),
        "image.lock": lambda: lock.load_lock(tree),
        "build": lambda: (image.load_spec(tree), lock.load_lock(tree)),
    }
    spec = image.Wheels("enclave/requirements.lock", "usr/lib")
    with pytest.raises(UsageError) as caught:
        read.get(path.name, lambda: wheels.read_requirements(tree, spec))()
    assert "PRIVATE" not in str(caught.value)


BOMBS: Mapping[str, bytes] = {
    "a key of 500,000 parts": b".".join([b"a"] * 500_000) + b"=1",
    "a table of 500,000 parts": b"[" + b".".join([b"a"] * 500_000) + b"]",
    "an inline key of 500,000 parts": b"x={" + b".".join([b"a"] * 500_000) + b"=1}",
    "a quoted key of 500,000 parts": b'"a"' + b' . "a"' * 500_000 + b"=1",
    "keys of 60 parts on each of 3,000 lines": b"\n".join(
        b".".join(b"k%d" % (line * 60 + part) for part in range(60)) + b"=1" for line in range(3_000)
    ),
    "5,000 brackets": b"x=" + b"[" * 5_000 + b"]" * 5_000,
    "5,000 inline tables": b"x=" + b"{a=" * 5_000 + b"1" + b"}" * 5_000,
    "an integer of 10,000 digits": b"x=" + b"9" * 10_000,
    "a hexadecimal integer of 100,000 digits": b"x=0x" + b"f" * 100_000,
    "a date that does not exist": b"x=2026-99-99",
    "a time zone that does not exist": b"x=2026-01-01T00:00:00+99:99",
    "a string without end": b"x='''" + b"a" * 900_000,
    "not UTF-8": b"x='\xff'",
    "a zero byte": b"\0",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_toml_bomb_is_refused_wherever_toml_is_read(bomb: str) -> None:
    """image.toml, image.lock and quorum.toml alike: an error of the tool's own, never what tomllib raises."""
    data = BOMBS[bomb]
    if (
        bomb != "a hexadecimal integer of 100,000 digits"
    ):  # a power of two needs no conversion: it is a number
        with pytest.raises(Rejected):
            parse_toml(data, max_size=8 << 20)
    with pytest.raises(CoattestError):
        MembersFile.decode(data)
    text = data.decode("latin-1")
    for parse in (image.parse_spec, lock.parse_lock):
        with pytest.raises(UsageError):
            parse(text)


def test_dots_up_to_the_limit_are_read() -> None:
    """A round's name may have 64 of them."""
    assert parse_toml(b'x = "' + b"." * MAX_DOTS + b'"', max_size=1000)
    with raises_code(Rejected, "too-deep"):
        parse_toml(b'x = "' + b"." * (MAX_DOTS + 1) + b'"', max_size=1000)


@pytest.mark.parametrize(
    ("file", "bomb"),
    [
        ("image.toml", "5,000 brackets"),
        pytest.param("image.lock", "an integer of 10,000 digits", marks=pytest.mark.slow),
        pytest.param("image.toml", "a key of 500,000 parts", marks=pytest.mark.slow),
        pytest.param("image.lock", "a key of 500,000 parts", marks=pytest.mark.slow),
        pytest.param("image.toml", "a date that does not exist", marks=pytest.mark.slow),
    ],
)
def test_a_checkout_with_a_toml_bomb_ends_a_rebuild_in_one_line(tmp_path: Path, file: str, bomb: str) -> None:
    """``verify rebuild`` and ``verify inputs``: exit code 2, no traceback; nothing was judged false."""
    checkout = tmp_path / "checkout"
    for name in ("build", "enclave", "attestations/releases/0.1.0"):
        (checkout / name).mkdir(parents=True)
    for name in (
        "build/image.toml",
        "build/image.lock",
        "attestations/releases/0.1.0/claim.json",
        "attestations/quorum.toml",
    ):
        (checkout / name).parent.mkdir(exist_ok=True, parents=True)
        (checkout / name).write_bytes((REPOSITORY / name).read_bytes())
    path = checkout / "build" / file
    path.write_bytes(BOMBS[bomb] + b"\n" + path.read_bytes())
    for words in (
        ["rebuild", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")],
        ["inputs"],
    ):
        done = subprocess.run(
            [VERIFY, *words, "--source", "."], cwd=checkout, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("verify: ")] == [
            done.stderr.splitlines()[-1]
        ]
        assert f"build/{file}" in done.stderr, "it ends at the bomb, not before"


def test_globs_that_would_take_hours_are_refused() -> None:
    """4,096 globs with two stars took a minute for 5,000 paths."""
    text = (REPOSITORY / "build/image.toml").read_text()
    assert text.count("prune = [") == 1
    image.parse_spec(text)
    for globs in (["*a*b"] * 501, ["?" * 200] * 6, ["[a]" * 80] * 13):
        written = text.replace("prune = [", "prune = [" + "".join(f'"{glob}",' for glob in globs))
        with raises_code(UsageError, "bad-image-toml", match="wildcards"):
            image.parse_spec(written)


@pytest.mark.parametrize("key", ["directories", "prune"])
def test_a_path_of_a_thousand_folders_is_refused(key: str) -> None:
    """Making it recursed until Python gave up, which is reported as a bug of ours."""
    text = (REPOSITORY / "build/image.toml").read_text()
    for parts, refused in ((MAX_PATH_PARTS, False), (MAX_PATH_PARTS + 1, True), (1_900, True)):
        written = text.replace(f"\n{key} = [", f'\n{key} = ["' + "/".join(["a"] * parts) + '",', 1)
        assert written != text
        if refused:
            with raises_code(UsageError, "bad-image-toml", match="not a plain relative path"):
                image.parse_spec(written)
        else:
            image.parse_spec(written)


def test_all_files_of_a_folder_together_have_a_limit(tmp_path: Path) -> None:
    """Each below its own limit; one that is read again does not count twice."""
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes(1000))
    with Folder(tmp_path, total=3500) as folder:
        for number in (0, 1, 2, 0, 1, 2):
            folder.read(str(number))
        with raises_code(Rejected, "too-large", match="together"):
            folder.read("3")


def test_signatures_that_nobody_made_are_not_held(tmp_path: Path) -> None:
    """200 files of a megabyte each: at most 32 MB are kept before one is verified; the rest is named."""
    payload = b"A" * (1 << 20)
    for number in range(200):
        (tmp_path / f"quorum.1.member.x{number}.dsse.json").write_bytes(
            b'{"payloadType":"%b","payload":"%b%04d","signatures":[{"sig":"AAAA"}]}'
            % (chain.MEMBERS_TYPE.encode(), payload, number)
        )
    (tmp_path / "quorum.1.member.dsse.json").write_bytes(
        b'{"payloadType":"%b","payload":"AAAA","signatures":[{"sig":"AAAA"}]}' % chain.MEMBERS_TYPE.encode()
    )
    with Folder(tmp_path) as folder:
        held, refused = chain._signatures(folder)
    assert sum(map(len, held)) <= chain.MAX_UNVERIFIED
    assert b"\0\0\0" in held  # the member's own name comes first, whatever lies beside it
    assert {finding.code for finding in refused} == {"too-large"}
    assert len(held) + len(refused) == 201


def test_a_walk_follows_no_link_and_ends(tmp_path: Path, secret: Path) -> None:
    """Links are named as links; depth and number have limits."""
    base = tmp_path / "base"
    (base / "a/b").mkdir(parents=True)
    (base / "a/b/file").write_bytes(b"x")
    (base / "a/up").symlink_to("..")
    (base / "out").symlink_to(secret.parent)
    with Folder(base) as folder:
        assert [name for name, _ in folder.walk()] == ["a", "out", "a/b", "a/up", "a/b/file"]
        with raises_code(Rejected, "too-many-files"):
            list(folder.walk(most=3))
        with raises_code(Rejected, "not-a-file"):
            folder.read("out/secret")
        at = base
        for _ in range(MAX_PATH_PARTS + 1):
            at /= "d"
        at.mkdir(parents=True)
        with raises_code(Rejected, "too-deep"):
            list(folder.walk())


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """``attestations``, ``out`` and a checkout are what is named, not where a link leads; exit code 2."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with raises_code(UsageError, "not-a-folder", match="symbolic link"):
        Folder(tmp_path / "link")
    with raises_code(UsageError, "not-a-folder", match="symbolic link"):
        make_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    with raises_code(UsageError, "not-a-folder"):
        make_folder(tmp_path / "file")
    make_folder(tmp_path / "new/folder")
    assert (tmp_path / "new/folder").is_dir()


@pytest.mark.parametrize("name", ["link/out", "link/a/b", "./link/out", "../here/link/out"])
def test_a_folder_behind_a_link_is_refused_and_nothing_is_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """``--out out/today`` in a checkout whose ``out`` leads to the member's home."""
    (tmp_path / "home/a/b").mkdir(parents=True)
    (tmp_path / "home/out").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "home")
    monkeypatch.chdir(tmp_path / "here")
    ways: tuple[Callable[[Path], object], ...] = (Folder, make_folder, lambda path: make_folder(path / "new"))
    for refused in ways:
        with raises_code(UsageError, "not-a-folder", match="symbolic link"):
            refused(Path(name))
    with raises_code(UsageError, "not-a-folder", match="symbolic link"):
        write_atomic(Path(name) / "image.eif", b"x")
    assert {path.name for path in (tmp_path / "home").rglob("*")} == {"a", "b", "out"}


def test_folders_that_are_no_links_are_made_by_relative_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also above the current folder, and the current folder itself."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "a", "a/b/c", "../beside/d"):
        make_folder(Path(name))
    write_atomic(Path("a/b/c/file"), b"x")
    assert (tmp_path / "here/a/b/c/file").read_bytes() == b"x"
    assert (tmp_path / "beside/d").is_dir()
    with Folder(Path("a/b")) as folder:
        assert folder.read("c/file") == b"x"


def test_an_output_folder_that_the_checkout_brought_as_a_link_gets_nothing(tmp_path: Path) -> None:
    """``verify rebuild`` in a checkout whose ``out`` leads to the member's home."""
    checkout, home = make_checkout(tmp_path / "checkout"), tmp_path / "home"
    home.mkdir()
    (checkout / "out").symlink_to(home)
    done = subprocess.run(
        [VERIFY, "rebuild", "--source", "."], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "symbolic link" in done.stderr
    assert not list(home.iterdir())


@pytest.mark.parametrize("kind", [*PLACES, "huge"])
def test_a_mirror_in_a_folder_cannot_hang_or_fill_memory(tmp_path: Path, secret: Path, kind: str) -> None:
    """An InRelease that is a pipe, a device, a link or a terabyte: exit code 3, whatever asks for it."""
    path = tmp_path / "InRelease"
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        PLACES[kind](path, secret)
    with pytest.raises(EnvironmentFailure) as caught:
        fetch.fetch_index(f"file://{path}", 1 << 20)
    assert caught.value.code == ("too-large" if kind == "huge" else "mirror-unreachable")


def test_a_transfer_ends_although_something_always_arrives() -> None:
    """A server that sends a little before each time-out would never end otherwise."""
    assert transfer.read_response(io.BytesIO(b"x" * 10), 7) == b"x" * 7
    with pytest.raises(TimeoutError):
        transfer.read_response(io.BytesIO(b"x" * 10), 7, seconds=-1)


@pytest.mark.parametrize("kind", ["fifo", "link", "device", "folder"])
def test_an_image_that_the_checkout_brought_is_copied_only_if_it_is_the_claimed_one(
    tmp_path: Path, secret: Path, kind: str
) -> None:
    """``out/image.eif`` may be anything; nothing is linked to or read through a link."""
    claim = Claimed.decode((REPOSITORY / "attestations/releases/0.1.0/claim.json").read_bytes())
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    for result in claim.profiles.values():
        PLACES[kind](out / result.name, secret)
    assert save_claimed_images(claim, [out, tmp_path / "absent"], scratch) == {}
    assert not list(scratch.iterdir())


def test_claimed_images_of_a_terabyte_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of holes in ``out/`` would fill the disk of whoever rebuilds."""
    claim = Claimed.decode((REPOSITORY / "attestations/releases/0.1.0/claim.json").read_bytes())
    large = {name: replace(result, size=1 << 40) for name, result in claim.profiles.items()}
    for result in large.values():
        with (tmp_path / result.name).open("wb") as file:
            file.truncate(result.size)
    monkeypatch.setattr(shutil, "copyfileobj", pytest.fail)
    assert save_claimed_images(replace(claim, profiles=large), [tmp_path], tmp_path / "scratch") == {}


def test_two_profiles_of_a_claim_may_name_one_file(tmp_path: Path) -> None:
    """The second one's takes no first one's copy away."""
    claim = Claimed.decode((REPOSITORY / "attestations/releases/0.1.0/claim.json").read_bytes())
    made = replace(claim.profiles["aws"], size=1, sha256=hashlib.sha256(b"x").hexdigest())
    profiles = {"aws": made, "local": replace(made, sha256="0" * 64)}
    (tmp_path / made.name).write_bytes(b"x")
    (tmp_path / "scratch").mkdir()
    saved = save_claimed_images(replace(claim, profiles=profiles), [tmp_path], tmp_path / "scratch")
    assert {name: path.read_bytes() for name, path in saved.items()} == {"aws": b"x"}


def test_a_terabyte_that_is_no_image_is_refused(tmp_path: Path) -> None:
    """From its first bytes."""
    path = tmp_path / "image.eif"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CoattestError):
        describe.describe_image(path, now=datetime(2026, 11, 29, tzinfo=timezone.utc), files=True)


def test_an_image_that_claims_a_terabyte_is_not_hashed(tmp_path: Path) -> None:
    """The file has it too, as a hole: hashing would take hours."""
    path = tmp_path / "image.eif"
    size = 1 << 40
    header = struct.pack(">4sHHQQHH", b".eif", 4, 0, 1 << 30, 2, 0, 1)
    header += struct.pack(">32Q", 548, *[0] * 31) + struct.pack(">32Q", size, *[0] * 31)
    with path.open("wb") as file:
        file.write(header + bytes(8) + struct.pack(">HHQ", 1, 0, size))
        file.truncate(548 + 12 + size)
    with raises_code(CoattestError, "eif-limit"):
        measure(path)
    with raises_code(CoattestError, "eif-limit"):
        describe.describe_image(path, now=datetime(2026, 11, 29, tzinfo=timezone.utc), files=True)


def test_zeros_without_end_after_an_archive_are_not_read(tmp_path: Path) -> None:
    """A writer fills a record with them, not a terabyte."""
    path = tmp_path / "image.tar"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with path.open("rb") as file, raises_code(CoattestError, "container-limit"):
        list(read_layer(FilePart(file, 0, 1 << 40), most=10))
    with path.open("rb") as file:
        assert list(read_layer(FilePart(file, 0, 10_240), most=10)) == []


def test_metadata_that_nests_is_described_as_malformed() -> None:
    """900 levels can be read, but printing them would be more than Python recurses."""
    value, finding = describe._metadata(b'{"a":' * 900 + b"1" + b"}" * 900)
    assert value is None
    assert finding
    assert finding.code == "metadata-malformed"


def test_json_with_long_numbers_is_refused_not_a_bug(tmp_path: Path) -> None:
    """Python's limit on digits is a ValueError of its own: each command that reads JSON ends with 2."""
    numbers = tmp_path / "numbers.json"
    numbers.write_text(json.dumps({"version": 1})[:-2] + "9" * 10_000 + "}")
    for words in (
        ["attestation", str(numbers), "--expect", str(numbers)],
        ["policy", "prove", str(numbers), "--account", "111122223333"],
        ["quorum", "--bundle", str(numbers), "--root", "sha256:" + "0" * 64],
    ):
        done = subprocess.run([VERIFY, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode in (1, 2, 3), (words, done.stderr)
        assert "Traceback" not in done.stderr
