"""``--fresh``: every command that relies on a decision can want a log that was cosigned lately."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest.command import cli
from coattest.errors import EnvironmentFailure
from coattest.files import Folder
from coattest_verify.quorum.authority import authority_from
from coattest_verify.quorum.bundle import make_bundle
from coattest_verify.quorum.members.file import utc
from support.command_tree import command_at, verbs
from support.raises import raises_code
from support.verify.desk import Desk
from support.verify.logs import sign_log_as
from support.verify.members import NOW, Members, report_json
from support.verify.signing_world import SigningWorld

TWO = ("ann", "ben")
WEEK = timedelta(days=7)
ADMINISTRATORS = ("--administrator", "arn:aws:iam::111122223333:role/admin")


@pytest.fixture
def quorum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Members:
    """Two members who agree, and whose log was cosigned a month ago."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("COATTEST_STATE", str(tmp_path / "state"))
    made = Members.make(tmp_path / "desk", TWO, kinds=("ed25519",))
    made.claim(report_json())
    for name in TWO:
        made.sign(name, report_json())
    for name in TWO:
        sign_log_as(made, name, now=NOW - timedelta(days=30))
    return made


def given(quorum: Members, **more: Any) -> dict[str, Any]:
    """What the options of a decision lead to."""
    names = {"attestations": quorum.attestations, "root": quorum.root, "profile": "aws", "release": "0.1.0"}
    return {**names, "bundle": None, "fresh": None, **more}


def test_every_command_that_decides_has_the_option() -> None:
    """A decision comes from a folder or a bundle under a root; who asks for one can ask for a fresh one."""
    options = {
        " ".join(path): {parameter.name for parameter in command_at(cli, path).params}
        for path in verbs(cli, ("coattest",))
    }
    deciding = {path for path, names in options.items() if {"bundle", "profile", "root"} <= names}
    assert {path for path in deciding if "fresh" not in options[path]} == set()
    assert deciding >= {
        "coattest verify quorum",
        "coattest verify policy make",
        "coattest verify policy apply",
        "coattest verify policy check",
        "coattest auction bid",
        "coattest auction seal",
        "coattest deploy-from-attestation plan",
        "coattest deploy-from-attestation apply",
    }
    assert "fresh" in options["coattest verify release review"]


def test_an_old_log_decides_for_nobody_who_wants_a_fresh_one(quorum: Members) -> None:
    """Until enough members for a change cosign again; and the decision ends with their cosignatures."""
    ends = authority_from(given(quorum), NOW).decision.expires
    for _ in TWO:
        with raises_code(EnvironmentFailure, "no-decision") as caught:
            authority_from(given(quorum, fresh=WEEK), NOW)
        assert [finding.code for finding in caught.value.findings] == ["log-not-fresh"]
        sign_log_as(quorum, TWO[0], now=NOW - timedelta(days=1), append=False)
    sign_log_as(quorum, TWO[1], now=NOW - timedelta(days=2), append=False)
    assert authority_from(given(quorum, fresh=WEEK), NOW).decision.expires == NOW + timedelta(days=5)
    assert authority_from(given(quorum), NOW).decision.expires == ends


def test_a_bundle_has_to_be_fresh_too(quorum: Members, tmp_path: Path) -> None:
    """It is as old as the cosignatures in it, whenever it says it was made."""
    with Folder(quorum.attestations) as folder:
        (tmp_path / "proof.json").write_bytes(make_bundle(folder, now=NOW))
    bundle = {"bundle": tmp_path / "proof.json"}
    assert authority_from(given(quorum, **bundle), NOW).decision.release == "0.1.0"
    with raises_code(EnvironmentFailure, "no-decision"):
        authority_from(given(quorum, fresh=WEEK, **bundle), NOW)


@pytest.mark.parametrize(
    "argv",
    [
        ("quorum",),
        ("policy", "make", "--member", "ann", "--account", "111122223333", *ADMINISTRATORS),
        ("release", "links", "--out", "links"),
    ],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_a_command_says_that_the_log_is_old(quorum: Members, tmp_path: Path, argv: tuple[str, ...]) -> None:
    """Exit code 3, and nothing is written: this may be an old copy."""
    for name in TWO:
        quorum.sign(name, report_json(), time=datetime.now(timezone.utc).replace(microsecond=0))
        sign_log_as(quorum, name, now=datetime.now(timezone.utc) - timedelta(days=30))
    desk = Desk(tmp_path / "desk", silent=True)
    asked = (*argv, *quorum.deciding())
    done = desk.run(*asked, "--fresh", "7")
    assert done.returncode == 3, done.stderr
    assert "this may be an old copy" in done.stderr
    assert not (desk.folder / "links").exists()


@pytest.mark.parametrize(("days", "words"), [(10, "expires at "), (-2, "expired at ")])
def test_a_command_that_signs_says_that_the_members_file_ends(tmp_path: Path, days: int, words: str) -> None:
    """Two weeks before, and when it has: then members sign a new version, which works all the same."""
    end = (datetime.now(timezone.utc) + timedelta(days=days)).replace(microsecond=0)
    world = SigningWorld(tmp_path / "world", expires=end)
    world.claim()
    world.quorum.sign("buyer-1", world.report)
    desk = Desk(world.desk.folder)
    folder = ("--attestations", str(world.attestations))
    desk.ok("log", "append", *folder, *world.root)
    done = desk.run("log", "cosign", *world.who("buyer-1"), *world.root)
    assert done.returncode == 0
    shown = desk.run("members", "show", *folder, *world.root)
    for told in (done.stderr, shown.stderr):
        assert f"warning: quorum.toml: {words}{utc(end)}" in told


def test_nothing_is_said_of_an_end_that_is_far(tmp_path: Path) -> None:
    """A month is far."""
    end = (datetime.now(timezone.utc) + timedelta(days=30)).replace(microsecond=0)
    world = SigningWorld(tmp_path / "world", expires=end)
    shown = world.desk.run("members", "show", "--attestations", str(world.attestations), *world.root)
    assert "warning" not in shown.stderr
