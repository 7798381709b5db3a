"""image.toml, image.lock, dependencies and mirrors."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import CoattestError, UsageError
from coattest.text import parse_toml
from coattest_build import image
from coattest_build.inputs import apt, debian, lock, locker, wheels
from coattest_build.inputs.debian import Archive, IndexMalformed, Package
from coattest_build.inputs.lock import BadLock
from coattest_build.inputs.package_index import WantedWheel
from support.raises import raises_code

REPOSITORY = Path(__file__).parents[3]
SHA = "0" * 64


def package(name: str, version: str = "1", depends: str = "", provides: str = "") -> Package:
    return Package(
        name,
        version,
        "amd64",
        1,
        SHA,
        f"pool/{name}.deb",
        debian.parse_relations(depends),
        tuple(group[0] for group in debian.parse_relations(provides)),
    )


def names(packages: tuple[Package, ...]) -> list[str]:
    return [found.name for found in packages]


# deb-version(7) and dpkg's own test suite (lib/dpkg/t/t-version.c).
ORDERED = [
    ("1.0~rc1", "1.0"),
    ("1.0~~", "1.0~"),
    ("1.0", "1.0-1"),
    ("1.0-1", "1.0-1+b1"),
    ("1.0-1", "1.0-1.1"),
    ("1.0-9", "1.0-10"),
    ("9", "1:1"),
    ("0", "0a"),
    ("1a", "1+"),
    ("1-0a", "1-0b"),
    ("6.12.9-1~bpo12+1", "6.12.9-1"),
    ("2.36-9+deb12u9", "2.36-9+deb12u14"),
]


@pytest.mark.parametrize(("older", "newer"), ORDERED)
def test_versions_are_ordered_as_dpkg_orders_them(older: str, newer: str) -> None:
    """Tildes before the end, letters before signs, digits by value, epochs first."""
    assert debian.compare_versions(older, newer) == -1
    assert debian.compare_versions(newer, older) == 1
    assert debian.compare_versions(older, older) == 0


@given(st.text("019a~+.-:", max_size=8), st.text("019a~+.-:", max_size=8))
def test_comparison_is_antisymmetric(left: str, right: str) -> None:
    """Swapping two versions swaps the answer."""
    assert debian.compare_versions(left, right) == -debian.compare_versions(right, left)


def test_dependencies_are_closed_over() -> None:
    """Pre-Depends and Depends are followed to the end, each package once."""
    archive = Archive([[package("a", depends="b (>= 1), c"), package("b", depends="c"), package("c")]])
    assert names(archive.closure(["a"])) == ["a", "b", "c"]
    assert names(archive.closure(["a"], dependencies=False)) == ["a"]


def test_the_first_alternative_that_exists_is_taken() -> None:
    """Alternatives are tried in order; versions that do not fit are passed over."""
    archive = Archive([[package("a", depends="missing | b (>> 1) | c | d"), package("b"), package("c")]])
    assert names(archive.closure(["a"])) == ["a", "c"]


def test_an_alternative_that_is_wanted_anyway_satisfies() -> None:
    """No second package comes in for a dependency that a named one already satisfies."""
    archive = Archive([[package("a", depends="x | y"), package("x"), package("y")]])
    assert names(archive.closure(["a", "y"])) == ["a", "y"]


def test_a_provided_name_satisfies_and_a_real_one_wins() -> None:
    """Provides counts, with its version when one is asked for."""
    virtual = [package("m", provides="awk, thing (= 2)"), package("a", depends="awk, thing (>= 2)")]
    assert names(Archive([virtual]).closure(["a"])) == ["a", "m"]
    assert names(Archive([[*virtual, package("awk")]]).closure(["a"])) == ["a", "awk", "m"]
    with raises_code(UsageError, "unsatisfiable"):
        Archive([[package("m", provides="thing"), package("a", depends="thing (>= 2)")]]).closure(["a"])


def test_the_first_suite_wins_unless_it_cannot_satisfy() -> None:
    """Backports give what stable lacks, and nothing else."""
    stable, backports = [package("a", "1"), package("a", "2")], [package("a", "9"), package("b", "9")]
    archive = Archive([stable, backports])
    assert [(p.name, p.version) for p in archive.closure(["a", "b"])] == [("a", "2"), ("b", "9")]
    newer = [*stable, package("c", depends="a (>= 9)")]
    assert [p.version for p in Archive([newer, backports]).closure(["c"])] == ["9", "1"]


def test_a_missing_dependency_names_who_wants_it() -> None:
    """The error says what is missing and for which package."""
    with raises_code(UsageError, "unsatisfiable", match=r"a: nothing satisfies b >=2 \| c"):
        Archive([[package("a", depends="b (>= 2) | c"), package("b")]]).closure(["a"])


def test_an_index_that_would_lead_outside_a_mirror_is_refused() -> None:
    """Names, versions, digests and paths of an index end up in paths and addresses."""
    fields = {
        "Package": "a",
        "Version": "1",
        "Architecture": "all",
        "Size": "1",
        "SHA256": SHA,
        "Filename": "pool/aa.deb",
    }
    good = {**fields, "Package": "aa"}

    def text(changes: dict[str, str]) -> str:
        return "\n".join(f"{key}: {value}" for key, value in {**good, **changes}.items())

    assert [p.name for p in debian.parse_packages(text({}))] == ["aa"]
    bad = [
        {"Filename": "../../etc/passwd"},
        {"Filename": "pool/../../x.deb"},
        {"Filename": "http://elsewhere/x.deb"},
        {"Package": "../x"},
        {"SHA256": "0" * 63},
        {"Version": "1/../2"},
        {"Size": "many"},
    ]
    for changes in bad:
        with pytest.raises(IndexMalformed):
            list(debian.parse_packages(text(changes)))


def committed() -> tuple[image.ImageSpec, lock.Lock]:
    return image.load_spec(REPOSITORY), lock.load_lock(REPOSITORY)[0]


def test_the_committed_lock_belongs_to_the_committed_image_file() -> None:
    """image.lock pins what image.toml names, for every use."""
    spec, locked = committed()
    locked.check_against(spec)
    assert len(locked.used_for("kernel")) == 1
    wheels.check_pins(locked, REPOSITORY, spec.wheels)
    assert {wheel.name for wheel in locked.wheels} >= {"cbor2", "cryptography"}


def test_the_committed_lock_names_no_host() -> None:
    """Where inputs come from is the builder's business: there is no address in the lock."""
    text = (REPOSITORY / image.LOCK_FILE).read_text()
    assert "://" not in text
    assert not re.search(r"\b(debian\.org|pypi|pythonhosted)\b", text)


def test_a_lock_survives_the_round_trip() -> None:
    """Parsing what was rendered gives the same lock, byte for byte the same file."""
    _, locked = committed()
    assert lock.parse_lock(locked.render()) == locked
    assert locked.render() == (REPOSITORY / image.LOCK_FILE).read_text()


def changed(**changes: object) -> str:
    """The committed lock with the fields of its first package changed."""
    import tomli_w

    document = parse_toml((REPOSITORY / image.LOCK_FILE).read_bytes(), max_size=1 << 20)
    first: dict[str, Any] = copy.deepcopy(document["package"][0])
    for key, value in changes.items():
        if value is None:
            del first[key]
        else:
            first[key] = value
    document["package"][0] = first
    return tomli_w.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not toml [",
        'format = "coattest-lock/v2"',
        changed(sha256=None),
        changed(extra="x"),
        changed(size=0),
        changed(size=-1),
        changed(size="1"),
        changed(size=2**60),
        changed(sha256="ABC"),
        changed(path="/etc/passwd"),
        changed(path="pool/../../x.deb"),
        changed(path="https://elsewhere/pool/x.deb"),
        changed(use=[]),
        changed(use=["mischief"]),
        changed(name="libc6"),
    ],
)
def test_a_lock_that_does_not_parse_is_one_line_and_exit_2(text: str) -> None:
    """Missing, unknown, malformed and doubled fields are usage errors that say what to run."""
    with pytest.raises(BadLock) as caught:
        lock.parse_lock(text)
    assert caught.value.exit_code == 2
    assert "eif lock" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lock_for_another_image_file_is_refused() -> None:
    """A package that image.toml adds or drops asks for a new lock, by name."""
    spec, locked = committed()
    import dataclasses

    for more in ({"runtime": (*spec.runtime, "sl")}, {"runtime": spec.runtime[1:]}, {"toolchain": ("sl",)}):
        with pytest.raises(BadLock, match="does not agree with"):
            locked.check_against(dataclasses.replace(spec, **more))


def test_what_moved_is_listed() -> None:
    """New, gone and changed pins are told apart, and other bytes under one version count as a change."""
    _, locked = committed()
    import dataclasses

    first, *rest = locked.packages
    assert locker.moves_between(locked, locked) == ()
    moved = dataclasses.replace(locked, packages=(dataclasses.replace(first, sha256=SHA), *rest[1:]))
    assert locker.moves_between(locked, moved) == (
        locker.Move(first.name, first.version, first.version),
        locker.Move(rest[0].name, rest[0].version, None),
    )


IMAGE = (REPOSITORY / image.IMAGE_FILE).read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('format = "coattest-image/v1"', 'format = "other"'),
        ('name = "coattest-auction"', 'nome = "coattest-auction"'),
        ('config = "build/kernel', 'config = "../kernel'),
        ('config = "build/kernel', 'config = "/build/kernel'),
        ('default_profile = "aws"', 'default_profile = "none"'),
        ('architecture = "x86_64"', 'architecture = "vax"'),
        ("[kernel]", "[kernel]\nmore = 1"),
        ('target = "etc/coattest', 'target = "../etc/coattest'),
        ("[run]", "[run"),
        ('"usr/lib/coattest/coattest_enclave" =', '"../coattest_enclave" ='),
    ],
)
def test_an_image_file_with_a_fault_is_refused(before: str, after: str) -> None:
    """Unknown, missing and escaping values in image.toml are usage errors."""
    assert before in IMAGE
    with pytest.raises(UsageError):
        image.parse_spec(IMAGE.replace(before, after, 1))


def test_requirements_are_read_with_their_hashes() -> None:
    """Comments and continued lines are understood; a requirement without a hash is refused."""
    text = f"# comment\na.b==1.0 \\\n    --hash=sha256:{SHA} \\\n    --hash=sha256:{'1' * 64}  # why\n"
    assert wheels.parse_requirements(text, "x") == (WantedWheel("a.b", "1.0", (SHA, "1" * 64)),)
    for bad in ("a==1", f"a>=1 --hash=sha256:{SHA}", "-r other.txt", f"a==1 --hash=md5:{SHA}"):
        with pytest.raises(UsageError):
            wheels.parse_requirements(bad, "x")


DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://disabled.test/debian
Suites: bookworm
Components: main
"""


def test_mirrors_come_from_apt_in_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One-line and deb822 files are read; a mirror of the wanted suites comes first; others are left out."""
    monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "deb [arch=amd64 signed-by=/k] https://other.test/debian trixie main # comment\n"
        "deb-src https://source.test/debian bookworm main\n"
        "# deb https://comment.test/debian bookworm main\n"
        "deb https://vendor.test/apt stable-vendor main\n"
        "deb cdrom:[Debian]/ bookworm main\n"
    )
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/garbage.sources").write_text("no colon\n")
    found = apt.mirrors(["bookworm"], "main", folder=tmp_path)
    assert found == ("http://mirror.test/debian", "https://other.test/debian")


def test_a_named_mirror_overrides_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--mirror comes before the environment, the environment before apt; neither may be another scheme."""
    monkeypatch.setenv(apt.MIRROR_VARIABLE, "http://environment.test/debian/")
    assert apt.mirrors(["bookworm"], "main", folder=tmp_path) == ("http://environment.test/debian",)
    named = apt.mirrors(["bookworm"], "main", mirror="file:///srv/debian", folder=tmp_path)
    assert named == ("file:///srv/debian",)
    with pytest.raises(UsageError):
        apt.mirrors(["bookworm"], "main", mirror="ftp://x/debian", folder=tmp_path)


def test_no_mirror_is_an_environment_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without Debian in its apt, or without apt, is told which option to use."""
    monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)
    with pytest.raises(CoattestError, match="--mirror or COATTEST_DEBIAN_MIRROR") as caught:
        apt.mirrors(["bookworm"], "main", folder=tmp_path)
    assert caught.value.exit_code == 3
