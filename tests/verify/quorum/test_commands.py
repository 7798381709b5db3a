"""The commands of a member, run as programs on real images."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import EnvironmentFailure
from coattest_build.ownwork import BUILT
from coattest_verify.cli.rebuild import rebuild_command
from support.verify.desk import Desk
from support.verify.members import claim_json

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Three members, a countersigned quorum.toml, a claim, and two agreeing rebuilds."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    (desk.folder / "attestations").mkdir()
    members = []
    for number, kind in enumerate(("ed25519", "p256", "p384"), 1):
        desk.ok("keygen", "--out", f"key-{number}", "--type", kind)
        members += ["--member", f"buyer-{number}=key-{number}.pub"]
    root = desk.json("members", "init", *members, "--threshold", "2", "--dissent", "report")["root"]
    for number in (1, 2, 3):
        desk.ok("members", "countersign", "--key", f"key-{number}", "--member", f"buyer-{number}")
    report = desk.images("out")
    (desk.folder / "attestations/releases/0.1.0").mkdir(parents=True)
    (desk.folder / "attestations/releases/0.1.0/claim.json").write_text(json.dumps(claim_json(report)))
    desk.ok("release", "publish", "--key", "key-1", "--member", "buyer-1", "--root", root)
    for number in (1, 2):
        desk.ok("sign-pcrs", "--key", f"key-{number}", "--member", f"buyer-{number}")
    desk.ok("quorum", "--root", root)
    return desk


def test_the_decision_as_a_table_and_as_json(signed: Desk) -> None:
    """People get names and whole digests, programs get one JSON document."""
    found = signed.json("quorum", "--profile", "local")
    text = signed.ok("quorum", "--profile", "local")
    assert found["decided"] is True
    assert found["agree"] == ["buyer-1", "buyer-2"]
    for digest in (*found["decision"]["pcrs"].values(), found["decision"]["digest"]):
        assert digest in text


def test_stock_in_toto_verify_gives_the_same_answer(signed: Desk, tmp_path: Path) -> None:
    """The filtered links and the layout pass in-toto's own program, with every member's key."""
    found = signed.json("release", "links", "--out", str(tmp_path / "links"))
    argv = found["command"].split()
    assert argv[0] == "in-toto-verify"
    assert found["keys"] == ["buyer-1.pub", "buyer-2.pub", "buyer-3.pub"]
    done = signed.run(*argv[1:], program="in-toto-verify")
    assert done.returncode == 0, done.stderr
    (tmp_path / "links" / found["links"][0]).unlink()
    assert signed.run(*argv[1:], program="in-toto-verify").returncode != 0


def test_the_committed_links_pass_as_they_are(signed: Desk, tmp_path: Path) -> None:
    """Where nobody is hostile, in-toto-verify takes the links as they lie in the release's folder."""
    for number in (1, 2, 3):
        assert (signed.folder / f"key-{number}.pub").exists()
    signed.ok("release", "links", "--out", str(tmp_path / "links"))
    done = signed.run(
        "--layout", f"{tmp_path}/links/root.layout", "--link-dir", "attestations/releases/0.1.0",
        "--verification-keys", "key-1.pub", "key-2.pub", "key-3.pub",
        program="in-toto-verify",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_claim_that_is_another_file_is_named(signed: Desk) -> None:
    """The report of the build is no claim: which file that was is said, and how a claim is made."""
    who = ("--key", "key-1", "--member", "buyer-1")
    done = signed.run("release", "publish", *who, "--claim", "out/rebuild.json")
    assert done.returncode == 2, done.stderr
    assert "verify: out/rebuild.json: " in done.stderr
    assert "(--claim names what eif build --claim wrote)" in done.stderr


def test_a_changed_image_is_not_signed(signed: Desk) -> None:
    """sign-pcrs measures again: a file that changed after the rebuild is refused by name and register."""
    signed.images("changed")
    image = signed.folder / "changed" / "image.eif"
    whole = bytearray(image.read_bytes())
    signed.images("other", b"evil")
    image.write_bytes((signed.folder / "other" / "image.eif").read_bytes())
    assert image.read_bytes() != whole
    done = signed.run("sign-pcrs", "--key", "key-3", "--member", "buyer-3", "--rebuild", "changed")
    assert done.returncode == 1
    assert "changed/image.eif: profile aws is not what rebuild.json says: PCR0" in done.stderr


def test_the_container_routes_report_is_signed_as_it_is(signed: Desk, tmp_path: Path) -> None:
    """The Dockerfile leaves build.json; sign-pcrs takes it when its member vouches, and states the route."""
    shutil.copytree(signed.folder, tmp_path, dirs_exist_ok=True)
    desk = Desk(tmp_path)
    report = desk.images("container")
    report["route"] = "container"
    (tmp_path / "container" / "rebuild.json").unlink()
    (tmp_path / "container" / "build.json").write_text(json.dumps(report))
    common = ("sign-pcrs", "--key", "key-3", "--member", "buyer-3", "--host", "attic")
    done = desk.run(*common, "--rebuild", "container")
    assert done.returncode == 2
    assert "no record of making it" in done.stderr
    told = desk.json(*common, "--report", "container/build.json")
    assert (told["outcome"], told["host"]) == ("agree", "attic")
    statement = json.loads(
        (tmp_path / "attestations/releases/0.1.0/rebuild.buyer-3.intoto.json").read_bytes()
    )
    parsed = json.loads(base64.b64decode(statement["payload"]))
    assert parsed["predicate"]["buildDefinition"]["externalParameters"]["route"] == "container"


def test_commit_then_reveal(tmp_path: Path) -> None:
    """Two members commit, have it logged, see the claim and reveal; who only copies is not one of the two."""
    desk = Desk(tmp_path)
    (tmp_path / "attestations").mkdir()
    members = []
    for number in (1, 2, 3):
        desk.ok("keygen", "--out", f"key-{number}")
        members += ["--member", f"buyer-{number}=key-{number}.pub"]
    rules = ("--threshold", "2", "--dissent", "report", "--commitments", "2")
    root = ("--root", desk.json("members", "init", *members, *rules)["root"])
    who = {number: ("--key", f"key-{number}", "--member", f"buyer-{number}") for number in (1, 2, 3)}
    for number in (1, 2, 3):
        desk.ok("members", "countersign", *who[number])
        report = desk.images(f"out-{number}")
    for number in (1, 2):
        desk.ok("commit", *who[number], "--rebuild", f"out-{number}", *root)
    desk.ok("log", "append", *root)
    for number in (1, 2):
        desk.ok("log", "cosign", *who[number], *root)
    assert desk.run("commit", *who[1], "--rebuild", "out-1", *root).returncode == 2
    (tmp_path / "claim.json").write_text(json.dumps(claim_json(report)))
    desk.ok("release", "publish", *who[1], "--claim", "claim.json", "--rebuild", "out-1", *root)
    desk.ok("log", "append", *root)
    for number in (1, 2):
        desk.ok("log", "cosign", *who[number], *root)
        desk.ok("sign-pcrs", *who[number], "--rebuild", f"out-{number}")
    desk.ok("commit", *who[3], "--rebuild", "out-3", *root)
    desk.ok("log", "append", *root)
    for number in (3, 1):
        desk.ok("log", "cosign", *who[number], *root)
    desk.ok("sign-pcrs", *who[3], "--rebuild", "out-3")
    outcome = desk.json("quorum", *root)
    assert outcome["agree"] == ["buyer-1", "buyer-2", "buyer-3"]
    (desk.folder / "attestations/releases/0.1.0/rebuild.buyer-1.intoto.json").unlink()
    undecided = desk.run("quorum", *root, "--json")
    assert undecided.returncode == 3
    assert [item["code"] for item in json.loads(undecided.stdout)["reasons"]] == ["too-few-commitments"]


def test_a_mismatch_is_only_signed_as_dissent(signed: Desk) -> None:
    """A rebuild that differs is refused with the first difference; --dissent signs it, quorum shows it."""
    signed.images("differs", b"evil")
    common = ("sign-pcrs", "--key", "key-3", "--member", "buyer-3", "--rebuild", "differs")
    done = signed.run(*common)
    assert done.returncode == 1
    assert "aws: PCR0" in done.stderr
    assert "--dissent" in done.stderr
    assert signed.json(*common, "--dissent")["outcome"] == "dissent"
    found = signed.json("quorum")
    assert found["decided"] is True
    assert found["dissent"][0]["member"] == "buyer-3"
    again = signed.run("sign-pcrs", "--key", "key-3", "--member", "buyer-3")
    assert again.returncode == 1
    assert "you signed another result" in again.stderr


def test_another_source_is_no_difference(signed: Desk) -> None:
    """What another commit builds to says nothing about the claim: exit 3, and no dissent without a reason."""
    report = signed.images("elsewhere", b"evil")
    report["source"]["tree_sha256"] = "ab" * 32
    content = json.dumps(report).encode()
    (signed.folder / "elsewhere/rebuild.json").write_bytes(content)
    signed.own_work.note(BUILT, hashlib.sha256(content).hexdigest())
    common = ("sign-pcrs", "--key", "key-2", "--member", "buyer-2", "--rebuild", "elsewhere")
    for words in ((), ("--dissent",)):
        done = signed.run(*common, *words, "--json")
        assert (done.returncode, json.loads(done.stdout)["code"]) == (3, "wrong-source")


def test_another_members_key_is_refused(signed: Desk) -> None:
    """A key signs for its own member only, and the error says whose it is."""
    done = signed.run("sign-pcrs", "--key", "key-1", "--member", "buyer-2")
    assert done.returncode == 2
    assert "it belongs to buyer-1" in done.stderr


def test_members_show_shows_the_rules(signed: Desk) -> None:
    """The members file is shown with its rules, keys and signatures, and checked against the pinned root."""
    found = signed.json("members", "show")
    assert found["in_force"] is True
    assert found["signed"] == ["buyer-1", "buyer-2", "buyer-3"]


def test_errors_are_one_line_and_a_code(signed: Desk, tmp_path: Path) -> None:
    """A missing folder, a bad root and an unpinned verifier are usage errors in one line each."""
    for argv, text in (
        (("quorum", "--attestations", "nowhere"), "nowhere: no such folder"),
        (("quorum", "--root", "sha256:XY"), "64 lower-case hex digits"),
        (("sign-pcrs", "--key", "nokey", "--member", "buyer-1"), "nokey: no such file"),
        (("members", "init", "--member", "buyer-1=key-1.pub"), "already exists"),
    ):
        done = signed.run(*argv)
        assert done.returncode == 2, done
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
    bare = Desk(tmp_path)
    done = bare.run("quorum", "--attestations", str(signed.folder / "attestations"))
    assert done.returncode == 2
    assert "--root sha256:HEX" in done.stderr


def test_an_undecided_release_is_exit_code_3(signed: Desk) -> None:
    """Nothing was found false, something lacks; every reason is on stderr or in the JSON."""
    done = signed.run("quorum", "--own", "buyer-3", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["reasons"] == [
        {
            "code": "own-statement-missing",
            "where": "buyer-3",
            "detail": "has no agreeing statement of its own: others' votes do not bind it",
            "expected": None,
            "found": None,
            "rule": None,
        }
    ]
    done = signed.run("quorum", "--own", "buyer-33")
    assert "buyer-33: is not a member (one of buyer-1, buyer-2, buyer-3)" in done.stderr


def test_a_bundle_decides_without_the_folder(signed: Desk, tmp_path: Path) -> None:
    """verify quorum --bundle decides on a machine that has only the bundle and the root."""
    signed.ok("release", "bundle", "--out", str(tmp_path / "proof.json"))
    root = f"sha256:{hashlib.sha256((signed.folder / 'attestations/quorum.toml').read_bytes()).hexdigest()}"
    bare = Desk(tmp_path)
    assert bare.run("quorum", "--bundle", "proof.json").returncode == 2
    for at in ((), ("--at", "bundle")):
        found = bare.json("quorum", "--bundle", "proof.json", "--root", root, *at)
        assert found["decided"] is True
        assert found["decision"] == signed.json("quorum")["decision"]
    assert bare.run("quorum", "--bundle", "proof.json", "--root", root, "--at", "x").returncode == 2
    early = bare.run("quorum", "--bundle", "proof.json", "--root", root, "--at", "2020-01-01T00:00:00Z")
    assert early.returncode != 0
    assert "--at is before this bundle was made" in early.stderr


def test_a_fourth_member_is_enrolled_by_the_others(signed: Desk, tmp_path: Path) -> None:
    """A proposal leaves the present version in force until the thresholds of both have signed it."""
    shutil.copytree(signed.folder, tmp_path / "copy")
    desk = Desk(tmp_path / "copy")
    desk.ok("keygen", "--out", "key-4")
    proposed = desk.json(
        "members", "enroll", "--member", "buyer-4=key-4.pub", "--threshold", "3", "--round", "2"
    )
    assert (proposed["version"], proposed["threshold"]) == (2, 3)
    assert desk.json("quorum")["quorum"]["version"] == 1
    for number in (1, 2):
        state = desk.json("members", "countersign", "--key", f"key-{number}", "--member", f"buyer-{number}")
        assert state["complete"] is False
        assert desk.json("quorum")["quorum"]["version"] == 1
    assert desk.run("members", "show").returncode == 1
    assert desk.json("members", "countersign", "--key", "key-4", "--member", "buyer-4")["complete"] is True
    done = desk.run("quorum", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["quorum"]["version"]) == (3, 2)
    for number in (1, 2, 4):
        desk.ok("sign-pcrs", "--key", f"key-{number}", "--member", f"buyer-{number}")
    assert desk.json("quorum")["agree"] == ["buyer-1", "buyer-2", "buyer-4"]


def test_groups_are_proposed_and_shown(signed: Desk, tmp_path: Path) -> None:
    """A proposal may bring groups; one that names strangers is refused in one line."""
    shutil.copytree(signed.folder, tmp_path / "copy")
    desk = Desk(tmp_path / "copy")
    desk.ok(
        "members",
        "enroll",
        "--group",
        "big=1:buyer-1,buyer-2",
        "--group",
        "all=2:big,buyer-3",
        "--routes",
        "2",
    )
    assert json.loads(desk.run("members", "show", "--json").stdout)["groups"] == [
        {"name": "big", "members": ["buyer-1", "buyer-2"], "threshold": 1},
        {"name": "all", "members": ["big", "buyer-3"], "threshold": 2},
    ]
    done = desk.run("members", "enroll", "--group", "big=1:nobody")
    assert done.returncode == 2
    assert "not distinct members or groups named before" in done.stderr
    assert desk.run("members", "enroll", "--group", "big").returncode == 2


def test_a_revoked_release_is_refused_by_commands(signed: Desk, tmp_path: Path) -> None:
    """verify release revoke stops verify quorum and everything that recomputes the decision."""
    shutil.copytree(signed.folder, tmp_path / "copy")
    desk = Desk(tmp_path / "copy")
    common = ("--key", "key-3", "--member", "buyer-3")
    desk.ok("release", "revoke", *common, "--reason", "known vulnerable")
    done = desk.run("quorum")
    assert done.returncode == 1
    assert "buyer-3: revoked this release: known vulnerable" in done.stderr


def test_the_log_is_signed_and_shown(signed: Desk, tmp_path: Path) -> None:
    """log append appends, cosign signs, log show lists and checks; a damaged bundle is exit code 1."""
    shutil.copytree(signed.folder, tmp_path / "copy")
    desk = Desk(tmp_path / "copy")
    done = desk.json("log", "append")
    for number in (1, 2, 3):
        cosigned = desk.json("log", "cosign", "--key", f"key-{number}", "--member", f"buyer-{number}")
    assert (done["appended"], cosigned["size"]) == (done["size"], done["size"])
    assert cosigned["cosigned"] == ["buyer-1", "buyer-2", "buyer-3"]
    found = desk.json("log", "show")
    assert (found["size"], len(found["entries"])) == (done["size"], done["size"])
    assert {entry["kind"] for entry in found["entries"]} == {"publish", "rebuild"}
    assert found["root"] in desk.ok("log", "show")
    assert desk.json("quorum")["log"] == {"size": done["size"], "root": done["root"]}
    bundle = desk.folder / "attestations" / "log" / "tile" / "entries" / "000.p" / str(done["size"])
    bundle.write_bytes(bundle.read_bytes()[:-1])
    assert desk.run("log", "show").returncode == 1


def test_cosign_appends_nothing(signed: Desk, tmp_path: Path) -> None:
    """Without a log there is nothing to cosign; what came after the log stays out of it until append."""
    shutil.copytree(signed.folder, tmp_path / "copy")
    desk = Desk(tmp_path / "copy")
    who = ("--key", "key-1", "--member", "buyer-1")
    done = desk.run("log", "cosign", *who)
    assert done.returncode == 2
    assert "verify log append starts one" in done.stderr
    size = desk.json("log", "append")["size"]
    desk.ok("release", "revoke", *who, "--reason", "known vulnerable")
    assert desk.json("log", "cosign", *who)["size"] == size
    assert desk.json("log", "append")["appended"] == 1


def test_rebuild_compares_with_the_claim(
    signed: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same build is exit 0 and can be signed; another one is exit 1 with the first differences named.

    The builder has tests of its own; here it hands over images that it made before.
    """
    shutil.copytree(signed.folder, tmp_path / "copy")
    desk = Desk(tmp_path / "copy")
    monkeypatch.chdir(desk.folder)
    monkeypatch.setenv("COATTEST_STATE", str(desk.folder / "state"))
    snapshot = SimpleNamespace(dirty=False, changed=(), tree_sha256="", lock_sha256="")
    monkeypatch.setattr("coattest_build.source.take", lambda *_: snapshot)

    def build(_source: Path, out: Path, **_options: Any) -> SimpleNamespace:
        document = desk.images(out.name, seed)
        document["source"].update(source)
        (out / "rebuild.json").unlink()
        return SimpleNamespace(to_json=lambda: document)

    monkeypatch.setattr("coattest_build.builder.build", build)
    seed = b"good"
    source: dict[str, str] = {}
    assert rebuild_command.main(["--out", "again", "--json"], standalone_mode=False) == 0
    assert desk.json("sign-pcrs", "--key", "key-1", "--member", "buyer-1", "--rebuild", "again")
    seed = b"evil"
    source["tree_sha256"] = "ab" * 32
    found = CliRunner().invoke(rebuild_command, ["--out", "other", "--json"], standalone_mode=False)
    assert (found.return_value, json.loads(found.stdout)["code"]) == (3, "wrong-source")
    assert "--dissent" not in CliRunner().invoke(rebuild_command, ["--out", "other"]).stderr
    source.clear()
    found = CliRunner().invoke(rebuild_command, ["--out", "third", "--json"], standalone_mode=False)
    assert found.return_value == 1
    assert json.loads(found.stdout)["code"] == "mismatch"
    differences = json.loads(found.stdout)["differences"]
    assert (differences[0]["code"], differences[0]["where"]) == ("mismatch", "aws")
    assert differences[0]["detail"].startswith("PCR0 ")
    assert any(item["detail"].startswith("section 4 ramdisk") for item in differences)
    assert (tmp_path / "copy" / "third" / "rebuild.json").exists()
    snapshot.dirty, snapshot.changed = True, ("enclave/a.py", "enclave/b.py")
    with pytest.raises(EnvironmentFailure, match=r"enclave/a\.py and 1 more") as caught:
        rebuild_command.main(["--out", "fourth"], standalone_mode=False)
    assert caught.value.code == "dirty-tree"
    assert not (tmp_path / "copy" / "fourth").exists()
