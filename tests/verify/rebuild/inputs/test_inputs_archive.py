"""Pins against a signed archive that is served over HTTP, and every way in which it may lie."""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pysequoia import Tsk

from coattest.progress import Quiet
from coattest_build import image
from coattest_build.image import ImageSpec
from coattest_build.inputs.lock import Lock, LockedPackage
from coattest_verify.rebuild.inputs import gather
from coattest_verify.rebuild.inputs.check import LockVerdict
from coattest_verify.rebuild.inputs.gather import MAX_RELEASE, check_lock
from coattest_verify.rebuild.inputs.packages import read_packages
from coattest_verify.rebuild.inputs.release import Listed
from support.build.signed_archive import INDEX, NOW, SignedArchive, pin, served, stanza

REPOSITORY = Path(__file__).parents[4]
BASH, ZLIB = pin("bash", "5.2-1"), pin("zlib1g", "1:1.2-3")


@pytest.fixture
def spec() -> ImageSpec:
    return dataclasses.replace(image.load_spec(REPOSITORY), suites=("bookworm", "bookworm-backports"))


@pytest.fixture
def archive(tmp_path: Path) -> SignedArchive:
    """bash in bookworm, zlib1g in backports."""
    archive = SignedArchive(tmp_path / "archive")
    archive.publish("bookworm", BASH, pin("unrelated"), valid_until=None)
    archive.publish("bookworm-backports", ZLIB)
    return archive


@pytest.fixture
def mirror(archive: SignedArchive) -> Iterator[str]:
    with served(archive.folder) as address:
        yield address


def verdict(
    archive: SignedArchive,
    spec: ImageSpec,
    *mirrors: str,
    pins: tuple[LockedPackage, ...] = (BASH, ZLIB),
) -> LockVerdict:
    """The verdict on a lock of these pins, the archive's own key being the pinned one."""
    lock = Lock("x86_64", 0, pins, ())
    return check_lock(lock, "0" * 64, spec, mirrors, [archive.certificate], now=NOW, reporter=Quiet())


def codes(found: LockVerdict) -> set[tuple[str, str]]:
    return {(finding.where, finding.code) for finding in found.findings}


def test_pins_that_the_signed_indexes_have_are_confirmed(archive, mirror, spec):
    """Each pin is confirmed by the suite that has it, under the key that signed it."""
    found = verdict(archive, spec, mirror)
    assert found.confirmed
    assert found.exit_code == 0
    assert [(item.name, item.suite) for item in found.pins] == [
        ("bash", "bookworm"),
        ("zlib1g", "bookworm-backports"),
    ]
    assert {suite.signers for suite in found.suites} == {(archive.certificate.fingerprint,)}


def test_index_is_found_by_its_digest(archive, mirror, spec):
    """An archive that offers by-hash paths is asked for them, so a plain index may be missing or newer."""
    archive.publish("bookworm", BASH, by_hash=True)
    assert not archive.path("bookworm", INDEX).exists()
    assert verdict(archive, spec, mirror).confirmed


def test_index_signed_by_an_unknown_key(archive, mirror, spec):
    """A sound archive under another key confirms nothing, and contradicts."""
    archive.publish("bookworm", BASH, key=Tsk.generate("Mallory <mallory@example.test>"))
    found = verdict(archive, spec, mirror)
    assert codes(found) == {("bookworm", "no-pinned-signer"), ("bash", "not-asked")}
    assert found.exit_code == 1


def test_changed_signed_text(archive, mirror, spec):
    """A later date under the old signature is no signature."""
    path = archive.path("bookworm")
    path.write_bytes(path.read_bytes().replace(b"Aug 2026", b"Jul 2026"))
    assert ("bookworm", "no-pinned-signer") in codes(verdict(archive, spec, mirror))


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda good, evil: evil + good, id="before"),
        pytest.param(lambda good, evil: b"\n" + evil + b"\n" + good, id="before-after-a-line"),
        pytest.param(lambda good, evil: good + evil, id="after"),
        pytest.param(lambda good, evil: good + good, id="twice"),
        pytest.param(lambda good, evil: good.replace(b"\n\n", b"\n" + evil + b"\n", 1), id="as-a-header"),
    ],
)
def test_text_outside_the_signature(attack, archive, mirror, spec):
    """Unsigned text anywhere in the file refuses the whole file, though its signature is sound."""
    path = archive.path("bookworm")
    path.write_bytes(attack(path.read_bytes(), b"SHA256:\n"))
    found = verdict(archive, spec, mirror)
    assert codes(found) == {("bookworm", "text-outside-signature"), ("bash", "not-asked")}


@pytest.mark.parametrize("data", [b"", b"Suite: bookworm\n", b"\0" * 99], ids=["empty", "unsigned", "zeros"])
def test_release_that_is_not_signed(data, archive, mirror, spec):
    """A file without a signature is not read."""
    archive.path("bookworm").write_bytes(data)
    assert ("bookworm", "not-clear-signed") in codes(verdict(archive, spec, mirror))


def test_signature_cut_short(archive, mirror, spec):
    """A signature block without its end is not a signature."""
    path = archive.path("bookworm")
    path.write_bytes(path.read_bytes()[:-40])
    assert ("bookworm", "not-clear-signed") in codes(verdict(archive, spec, mirror))


def test_another_suites_signed_file(archive, mirror, spec):
    """The same key signs every suite: one suite's file under another's name is refused."""
    archive.publish("bookworm", BASH, fields={"Codename": "sid", "Suite": "unstable"})
    assert codes(verdict(archive, spec, mirror)) == {("bookworm", "wrong-suite"), ("bash", "not-asked")}


def test_package_on_one_mirror_only(archive, mirror, spec):
    """A package that a mirror serves but no signed index names is not an input."""
    local = pin("backdoor")
    (archive.folder / local.path).parent.mkdir(parents=True, exist_ok=True)
    (archive.folder / local.path).write_bytes(b"backdoor 1.0-1")
    found = verdict(archive, spec, mirror, pins=(BASH, local))
    assert codes(found) == {("backdoor", "not-in-index")}
    assert found.exit_code == 1


def test_superseded_version_is_named(archive, mirror, spec):
    """A pinned version that the indexes do not have is reported with those that they do have."""
    found = verdict(archive, spec, mirror, pins=(pin("bash", "5.2-0"),))
    assert codes(found) == {("bash", "wrong-version")}
    assert "5.2-1 (bookworm)" in found.findings[0].detail


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sha256": "ab" * 32}, "wrong-hash"),
        ({"size": 12345}, "wrong-size"),
        ({"architecture": "all"}, "wrong-architecture"),
        ({"path": "pool/main/elsewhere_5.2-1_amd64.deb"}, "wrong-path"),
    ],
)
def test_pin_that_differs_in_one_field(change, code, archive, mirror, spec):
    """Each field of a pin is compared on its own."""
    found = verdict(archive, spec, mirror, pins=(dataclasses.replace(BASH, **change),))
    assert codes(found) == {("bash", code)}
    assert found.exit_code == 1


def test_all_problems_are_reported_at_once(archive, mirror, spec):
    """Two fields of one pin, another pin and a suite are four problems in one verdict."""
    archive.publish("bookworm-backports", ZLIB, valid_until=NOW - timedelta(seconds=1))
    wrong = dataclasses.replace(BASH, sha256="ab" * 32, size=1)
    assert codes(verdict(archive, spec, mirror, pins=(wrong, ZLIB))) == {
        ("bash", "wrong-hash"),
        ("bash", "wrong-size"),
        ("bookworm-backports", "expired"),
        ("zlib1g", "not-asked"),
    }


def test_same_version_with_other_content_in_another_suite(archive, mirror, spec):
    """A pin is confirmed by the one suite that has exactly it, whatever another has under its version."""
    archive.publish("bookworm-backports", ZLIB, dataclasses.replace(BASH, sha256="ab" * 32))
    assert verdict(archive, spec, mirror).confirmed


def test_expired_release(archive, mirror, spec):
    """Valid-Until ends at its second: what is still valid then is expired one second later."""
    archive.publish("bookworm", BASH, valid_until=NOW)
    assert verdict(archive, spec, mirror).confirmed
    archive.publish("bookworm", BASH, valid_until=NOW - timedelta(seconds=1))
    found = verdict(archive, spec, mirror)
    assert codes(found) == {("bookworm", "expired"), ("bash", "not-asked")}


def test_release_from_the_future(archive, mirror, spec):
    """A Release file dated a day ahead means that a clock is wrong."""
    archive.publish("bookworm", BASH, date=NOW + timedelta(days=1))
    assert ("bookworm", "from-the-future") in codes(verdict(archive, spec, mirror))


def test_suite_without_an_end_is_told(archive, mirror, spec):
    """Where the archive sets no Valid-Until the verdict says so, and does not fail."""
    found = verdict(archive, spec, mirror)
    assert [suite.release.valid_until is None for suite in found.suites] == [True, False]


@pytest.mark.parametrize("change", [lambda data: data[:-7], lambda data: data + b"\0", lambda _data: b""])
def test_packages_truncated_or_longer(change, archive, mirror, spec):
    """An index of another length than the signed one is not read."""
    path = archive.path("bookworm", INDEX)
    path.write_bytes(change(path.read_bytes()))
    assert codes(verdict(archive, spec, mirror)) == {("bookworm", "wrong-index"), ("bash", "not-asked")}


def test_packages_replaced_at_the_same_length(archive, mirror, spec):
    """An index of the signed length with another byte is not read."""
    path = archive.path("bookworm", INDEX)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert ("bookworm", "wrong-index") in codes(verdict(archive, spec, mirror))


@pytest.mark.parametrize(
    "index",
    [
        lzma.compress(stanza(BASH).encode())[:-9],
        lzma.compress(stanza(BASH).encode()) + b"more",
        b"not xz at all",
        lzma.compress(b"Version: 1\n"),
        lzma.compress(b"Package: bash\nVersion: 5.2-1\n"),
        lzma.compress(stanza(BASH).replace("pool/", "../pool/").encode()),
    ],
    ids=["cut", "trailing", "no-xz", "no-name", "no-digest", "path-upwards"],
)
def test_signed_index_that_is_no_index(index, archive, mirror, spec):
    """What was signed and still does not unpack or parse confirms nothing."""
    archive.publish("bookworm", index=index)
    assert codes(verdict(archive, spec, mirror)) == {("bookworm", "bad-index"), ("bash", "not-asked")}


def test_release_bomb(archive, mirror, spec):
    """An InRelease file beyond its limit is refused while it arrives."""
    with archive.path("bookworm").open("wb") as file:
        file.truncate(MAX_RELEASE + 1)
    assert ("bookworm", "too-large") in codes(verdict(archive, spec, mirror))


def test_packages_bomb_that_was_not_signed(archive, mirror, spec):
    """Of an index that is longer than signed little more than the signed size is read."""
    archive.path("bookworm", INDEX).write_bytes(lzma.compress(bytes(20_000_000), preset=0))
    assert codes(verdict(archive, spec, mirror)) == {("bookworm", "too-large"), ("bash", "not-asked")}


def test_packages_bomb_that_was_signed():
    """Unpacking stops at its limit even for an index that is exactly the signed one."""
    packed = lzma.compress(bytes(5_000_000))
    listed = Listed(hashlib.sha256(packed).hexdigest(), len(packed))
    problem = read_packages(packed, listed, {"bash"}, "bookworm", limit=1_000_000)
    assert getattr(problem, "code", None) == "too-large"


def test_listed_size_beyond_reason(archive, mirror, spec):
    """An index that the Release file says has a terabyte is not asked for."""
    text = (
        f"Suite: bookworm\nDate: Mon, 31 Aug 2026 12:00:00 UTC\nSHA256:\n {'0' * 64} {10**12 - 1} {INDEX}\n"
    )
    archive.sign("bookworm", text.encode())
    assert ("bookworm", "bad-release") in codes(verdict(archive, spec, mirror))


@pytest.mark.parametrize(
    "text",
    [
        b"Suite: bookworm\n",
        b"Suite: bookworm\nDate: yesterday\nSHA256:\n",
        b"Suite: bookworm\nDate: Mon, 31 Aug 2026 12:00:00 UTC\nSHA256:\n zz 1 x\n",
        b"Suite: bookworm\n\nSuite: bookworm\n",
        b"Date: Mon, 31 Aug 2026 12:00:00 UTC\nDate: Mon, 31 Aug 2026 12:00:00 UTC\n",
        b"\xff\xfe\n",
    ],
    ids=["bare", "no-date", "no-digest", "two-stanzas", "field-twice", "not-utf-8"],
)
def test_signed_text_that_is_no_release(text, archive, mirror, spec):
    """A signed text that is no Release file confirms nothing and ends nothing."""
    archive.sign("bookworm", text)
    assert ("bookworm", "bad-release") in codes(verdict(archive, spec, mirror))


def test_mirror_that_is_down(archive, spec, tmp_path):
    """When nothing answers, nothing is contradicted: exit 3."""
    with served(tmp_path) as address:
        pass
    found = verdict(archive, spec, address)
    assert found.exit_code == 3
    assert {code for _, code in codes(found)} == {"index-unreachable", "not-asked"}


def test_second_mirror_answers_for_the_first(archive, mirror, spec, tmp_path):
    """A mirror without the suite is passed over."""
    (tmp_path / "empty").mkdir()
    with served(tmp_path / "empty") as address:
        assert verdict(archive, spec, address, mirror).confirmed


def test_contradiction_outweighs_what_could_not_be_asked(archive, mirror, spec):
    """One suite gone and one pin wrong: exit 1, with both told."""
    archive.path("bookworm-backports").unlink()
    found = verdict(archive, spec, mirror, pins=(dataclasses.replace(BASH, size=1), ZLIB))
    assert found.exit_code == 1
    assert codes(found) == {
        ("bash", "wrong-size"),
        ("bookworm-backports", "index-unreachable"),
        ("zlib1g", "not-asked"),
    }


def test_limit_holds_for_any_mirror(archive, mirror):
    """`fetch` gives what fits its limit exactly and refuses one byte more."""
    archive.path("bookworm", "Exact").write_bytes(b"12345")
    assert gather.fetch([mirror], ["dists/bookworm/Exact"], 5, "x") == b"12345"
    refused = gather.fetch([mirror], ["dists/bookworm/Exact"], 4, "x")
    assert getattr(refused, "code", None) == "too-large"
