"""Every text of a lock, image.toml, requirements file, members file, claim and plan has a grammar."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

from coattest.errors import CoattestError, FoundFalse, Rejected, UsageError
from coattest_build.image import load_spec, parse_spec
from coattest_build.inputs import names
from coattest_build.inputs.debian import compare_versions, parse_packages
from coattest_build.inputs.lock import BadLock, parse_lock
from coattest_build.inputs.package_index import WantedWheel, index_settings
from coattest_build.inputs.wheels import parse_requirements
from coattest_parent.deployment.stack.settings import Settings
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport
from support.raises import raises_code
from support.verify.members import report_json

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[2]
LOCK = tomllib.loads((REPOSITORY / "build/image.lock").read_text())
IMAGE = tomllib.loads((REPOSITORY / "build/image.toml").read_text())
CLAIM = json.loads((REPOSITORY / "attestations/releases/0.1.0/claim.json").read_text())
MEMBERS = tomllib.loads((REPOSITORY / "attestations/quorum.toml").read_text())
SHA = "0" * 64

HIDDEN = ["\n", "\r", "\t", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff"]
"""What no text of any file may have: another line, a terminal's commands, what hides or reorders."""

NEVER = [
    *(f"{{}}{hidden}x" for hidden in HIDDEN),
    *("{}\n--no-binary=:all:", "{} --hash=sha256:" + SHA, "{} ; python_version > '3'", "{}[extra]", "{}#x"),
    *("-e {}", "--index-url=http://127.0.0.1", "-r{}", "./docs/{}.tar.gz", "{} @ http://127.0.0.1/x"),
    *("file:///etc/passwd", "http://127.0.0.1/{}", "git+ssh://127.0.0.1/{}", "../{}", "/etc/{}", "~/{}"),
    *("$(touch x)", "`touch x`", "${{HOME}}", "{};touch x", "{}|x", "{}&x", "{}'", '{}"', "{}\\x", "%s{}"),
    *("", " ", "{} ", " {}", "\u0661\u0662", "\u00b2", "\uff11", "x" * 5000),
]
"""What a name, version, file or digest may not be; {} is the value that stands there."""


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all texts in a document."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            yield from leaves(item, (*path, index))


def changed(document: Any, path: tuple[str | int, ...], text: str) -> Any:
    """The document with another text at a path; {} in the text stands for what was there."""
    made = copy.deepcopy(document)
    place = made
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = text.replace("{}", place[path[-1]])
    return made


def small(lock: dict[str, Any]) -> dict[str, Any]:
    """The lock with two packages and two wheels: parsing all of it each time would show nothing more."""
    return {**lock, "package": lock["package"][:2], "wheel": lock["wheel"][:2]}


@pytest.mark.parametrize("path", list(leaves(small(LOCK))), ids=lambda path: ".".join(map(str, path)))
def test_no_text_of_a_lock_is_free(path: tuple[str | int, ...]) -> None:
    """Format, architecture, and each field of each pin."""
    parse_lock(tomli_w.dumps(small(LOCK)))
    for text in NEVER:
        with raises_code(BadLock, "bad-lock"):
            parse_lock(tomli_w.dumps(changed(small(LOCK), path, text)))


PATHS = {
    "files",
    "prune",
    "directories",
    "links",
    "target",
    "sourceless",
    "profiles",
    "interpreter",
    "tarball",
}
PATHS |= {"config", "init", "requirements"}
"""Fields of image.toml that are paths, which may have any letter."""

FREE = {"command", "environment", "cmdline"}
"""Fields whose words are the image's own business."""

NO_PATH = ["", ".", "..", "/{}", "../{}", "{}/../x", "./{}", "{}/", "a//{}", "x" * 256, "x/" * 2500 + "x"]


def not_allowed(path: tuple[str | int, ...]) -> list[str]:
    """What a field of image.toml may not be."""
    hidden = [f"{{}}{each}x" for each in HIDDEN]
    if PATHS & set(path):
        return [*hidden, *NO_PATH]
    return hidden if FREE & set(path) else NEVER


@pytest.mark.parametrize("path", list(leaves(IMAGE)), ids=lambda path: ".".join(map(str, path)))
def test_no_text_of_image_toml_is_free(path: tuple[str | int, ...]) -> None:
    """Where spaces and quotes are allowed, what hides or ends a line is not."""
    for text in not_allowed(path):
        with raises_code(UsageError, "bad-image-toml"):
            parse_spec(tomli_w.dumps(changed(IMAGE, path, text)))


@pytest.mark.parametrize("name", ["A=B", "A B", "1A", "A-B", "", "A\n", "\u00c4"])
def test_a_variable_has_a_name(name: str) -> None:
    """The environment's names are POSIX's."""
    made = copy.deepcopy(IMAGE)
    made["run"]["environment"] = {name: "x"}
    with raises_code(UsageError, "bad-image-toml"):
        parse_spec(tomli_w.dumps(made))


@pytest.mark.parametrize("path", list(leaves(CLAIM)), ids=lambda path: ".".join(map(str, path)))
def test_no_text_of_a_claim_is_free(path: tuple[str | int, ...]) -> None:
    """Names, digests, registers, the architecture."""
    Claimed.decode(json.dumps(CLAIM).encode())
    for text in NEVER:
        with pytest.raises(Rejected):
            Claimed.decode(json.dumps(changed(CLAIM, path, text)).encode())


@pytest.mark.parametrize(
    "path",
    [path for path in leaves(report_json()) if "isolation" not in path],
    ids=lambda path: ".".join(map(str, path)),
)
def test_no_text_of_a_rebuild_is_free(path: tuple[str | int, ...]) -> None:
    """What rebuild.json says goes into a statement: inputs, route and tool too."""
    RebuildReport.read(report_json())
    for text in NEVER:
        with pytest.raises(Rejected):
            RebuildReport.read(changed(report_json(), path, text))


@pytest.mark.parametrize("path", list(leaves(MEMBERS)), ids=lambda path: ".".join(map(str, path)))
def test_no_text_of_a_members_file_is_free(path: tuple[str | int, ...]) -> None:
    """Names, rounds, keys."""
    MembersFile.decode(tomli_w.dumps(MEMBERS).encode())
    for text in NEVER:
        with pytest.raises(Rejected):
            MembersFile.decode(tomli_w.dumps(changed(MEMBERS, path, text)).encode())


SETTINGS: dict[str, Any] = {
    "name": "auction",
    "account": "111122223333",
    "region": "eu-west-1",
    "vpc": "vpc-01234567",
    "subnets": ["subnet-01234567", "subnet-01234568"],
    "ami": "ami-01234567",
    "instance_type": "c6i.2xlarge",
    "programs": SHA,
}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_text_of_a_plan_is_free(name: str) -> None:
    """They become templates, units and user data."""
    settings_of(SETTINGS)
    for text in NEVER:
        with pytest.raises(UsageError):
            settings_of(changed(SETTINGS, (name, 0) if name == "subnets" else (name,), text))


def settings_of(document: dict[str, Any]) -> Settings:
    """Settings, whose subnets are a tuple."""
    return Settings(**{**document, "subnets": tuple(document["subnets"])})


@pytest.mark.parametrize("text", NEVER)
def test_a_requirements_file_has_names_versions_and_hashes(text: str) -> None:
    """As a name and as a version; a line that pip would read otherwise is refused."""
    good = f"tinypkg==1.0 --hash=sha256:{SHA}\n"
    assert len(parse_requirements(good, "x")) == 1
    for old in ("tinypkg", "1.0"):
        made = good.replace(old, text.replace("{}", old))
        for wheel in parse_or_none(made) or ():
            assert (wheel.name, wheel.version, set(wheel.hashes)) == ("tinypkg", "1.0", {SHA}), "spaces only"


def parse_or_none(text: str) -> tuple[WantedWheel, ...] | None:
    """The requirements, or None when they are refused."""
    try:
        return parse_requirements(text, "x")
    except UsageError:
        return None


def allowed(grammar: re.Pattern[str]) -> st.SearchStrategy[str]:
    """Texts of a grammar, without its look ahead for the length, which is slow to generate."""
    endless = re.compile(re.sub(r"^\(\?=.*?\)", "", grammar.pattern), grammar.flags)
    return st.from_regex(endless, fullmatch=True).filter(grammar.fullmatch)


@given(allowed(names.PYTHON_NAME), allowed(names.PYTHON_VERSION))
def test_a_pin_is_one_requirement_for_pip(name: str, version: str) -> None:
    """Whatever the grammars allow, pip's own parser reads as that name and that version and nothing more."""
    read = Requirement(f"{name}=={version}")
    assert (read.name, read.url, read.extras, read.marker) == (name, None, set(), None)
    assert str(read.specifier) == f"=={version}"
    assert len(WantedWheel(name, version, (SHA,)).line.split()) == 2
    assert names.normal_name(name) == canonicalize_name(name)


@given(st.text())
def test_what_is_plain_is_one_line(text: str) -> None:
    """By every way that Python knows to end one."""
    if names.is_plain(text):
        assert text.splitlines() == [text]


@given(allowed(names.POOL_PATH))
def test_a_pool_path_stays_in_the_pool(path: str) -> None:
    """No part is a dot, empty or an option, and the whole is no address."""
    assert not {"", ".", ".."} & set(path.split("/"))
    assert not any(part.startswith(("-", ".")) for part in path.split("/"))
    assert names.is_relative_path(path)


@given(allowed(names.DEBIAN_VERSION), allowed(names.DEBIAN_VERSION))
def test_every_version_has_a_place(left: str, right: str) -> None:
    """Comparing never fails, however many digits there are."""
    assert compare_versions(left, right) == -compare_versions(right, left)


@pytest.mark.parametrize(
    "change",
    [
        ("name", "other"),
        ("file", "other-1.0-py3-none-any.whl"),
    ],
)
def test_a_wheels_file_is_that_wheels(change: tuple[str, str]) -> None:
    """A pin that names one distribution and pins another is refused."""
    made = small(copy.deepcopy(LOCK))
    made["wheel"][0][change[0]] = change[1]
    with raises_code(BadLock, "bad-lock", match="its file is another package's wheel"):
        parse_lock(tomli_w.dumps(made))


def test_one_distribution_is_pinned_once() -> None:
    """Also when it is spelled in two ways (PEP 503)."""
    made = small(copy.deepcopy(LOCK))
    first = made["wheel"][0]
    made["wheel"] = [first, {**first, "name": first["name"].upper()}]
    with raises_code(BadLock, "bad-lock", match="pinned twice"):
        parse_lock(tomli_w.dumps(made))


@pytest.mark.parametrize("use", [["kernel", "kernel"], [1], [["kernel"]], [], ["all"], "kernel"])
def test_a_use_is_one_of_three_and_named_once(use: object) -> None:
    """And a value of another kind is an error of the lock, not a traceback."""
    made = small(copy.deepcopy(LOCK))
    made["package"][0]["use"] = use
    with raises_code(BadLock, "bad-lock"):
        parse_lock(tomli_w.dumps(made))


def test_a_package_is_for_the_locks_architecture() -> None:
    """Or for all."""
    made = small(copy.deepcopy(LOCK))
    made["package"][0]["architecture"] = "arm64"
    with raises_code(BadLock, "bad-lock", match="different architecture"):
        parse_lock(tomli_w.dumps(made))


STANZA = f"Package: p1\nVersion: 1\nArchitecture: all\nSize: 5\nSHA256: {SHA}\nFilename: pool/p_1_all.deb\n"


@pytest.mark.parametrize(
    "size", ["+5", "-5", "1_0", " 5 x", "\u0665", "\u00b2", "0x5", "5.0", "1" * 5000, ""]
)
def test_a_size_in_an_index_is_digits(size: str) -> None:
    """int() would take half of these, and raise an error of its own for others."""
    stanza = STANZA.replace("Size: 5", f"Size: {size}")
    with pytest.raises(FoundFalse):
        list(parse_packages(stanza))


@pytest.mark.parametrize("version", ["1" * 5000, "\u0661", "1\u00b2"])
def test_a_relation_has_a_version_that_can_be_compared(version: str) -> None:
    """Thousands of digits, or those of other scripts, end in an error of the index."""
    stanza = f"{STANZA}Depends: p2 (>= {version})\n"
    with pytest.raises(FoundFalse):
        list(parse_packages(stanza))


PIP_SETTINGS = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "TRUSTED_HOST", "CERT")


@pytest.mark.parametrize("name", PIP_SETTINGS)
@pytest.mark.parametrize(
    "value",
    [
        *(
            "relative/folder",
            "-r/etc/passwd",
            "--no-binary=:all:",
            "git+https://host/x",
            "http://host/${HOME}",
        ),
        *(
            "http://host/'x",
            'http://host/"x',
            "http://host/\\x",
            "ftp://host/",
            "javascript:x",
            "http://h\u00f6st/",
        ),
    ],
)
def test_a_setting_of_pip_that_is_passed_on_has_a_grammar(name: str, value: str) -> None:
    """It becomes a line of a requirements file, which pip takes apart like a shell."""
    with raises_code(UsageError, "bad-pip-setting", match=name):
        index_settings({"PIP_CONFIG_FILE": "/dev/null", f"PIP_{name}": value})


def test_only_settings_of_the_index_are_passed_on() -> None:
    """Which interpreter, which requirements, whether to build: pip is not told what the environment says."""
    kept = index_settings(
        {
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_INDEX_URL": "https://user:word@host/simple",
            "PIP_FIND_LINKS": "/wheels file:///more",
            "PIP_CERT": "/etc/ca.pem",
            "PIP_PYTHON": "/evil",
            "PIP_NO_BINARY": ":all:",
            "PIP_CONSTRAINT": "/evil",
            "PIP_TARGET": "/evil",
        }
    )
    assert kept.lines == (
        "--index-url https://user:word@host/simple",
        "--find-links /wheels",
        "--find-links file:///more",
    )
    assert kept.certificates == "/etc/ca.pem"


def test_pips_files_are_read_in_pips_order(tmp_path: Path) -> None:
    """The system's, the user's, the one that is named, then variables; [download] after [global]."""
    for name, text in {
        "system/pip/pip.conf": "[global]\nindex-url = https://system/\ncert = /system.pem\n",
        "home/.config/pip/pip.conf": "[global]\nindex-url = https://user/\ntrusted_host = user\n",
        "named.conf": "[download]\nindex-url = https://named/\n[global]\nindex-url = https://no/\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    variables = {"XDG_CONFIG_DIRS": str(tmp_path / "system"), "HOME": str(tmp_path / "home")}
    assert "--index-url https://user/" in index_settings(variables).lines
    named = {**variables, "PIP_CONFIG_FILE": str(tmp_path / "named.conf")}
    assert index_settings(named).lines[:1] == ("--index-url https://named/",)
    assert "--trusted-host user" in index_settings(named).lines
    last = index_settings({**named, "PIP_INDEX_URL": "https://variable/"})
    assert last.lines[:1] == ("--index-url https://variable/",)
    (tmp_path / "named.conf").write_text("not a file of settings")
    with raises_code(UsageError, "bad-pip-setting", match=r"named\.conf"):
        index_settings(named)


def test_the_projects_own_files_follow_the_grammars() -> None:
    """Else the tests above would refuse for another reason."""
    try:
        parse_lock((REPOSITORY / "build/image.lock").read_text()).check_against(load_spec(REPOSITORY))
    except CoattestError as error:
        pytest.fail(str(error))
