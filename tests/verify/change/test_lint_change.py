"""``verify lint-change``: what a member's own branch may do to the attestations, and what it may not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dulwich.objects import Blob, Tree

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import Folder
from coattest_verify.quorum.links import sign_layout
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import MEMBERS_TYPE, Member
from coattest_verify.quorum.releases import ATTRIBUTES_TEXT
from coattest_verify.quorum.statements.votes import REVIEW, REVOKE, make_vote, sign_vote, vote_name
from coattest_verify.signatures import dsse, keys
from support.raises import raises_code
from support.verify.history.commits import LINK, PROGRAM, SUBMODULE
from support.verify.history.shared import NEXT, SharedHistory, codes
from support.verify.logs import made_log
from support.verify.members import NOW, claim_json, report_json

A = "attestations/"
CURRENT = f"{A}releases/0.1.0/"
UPCOMING = f"{A}releases/{NEXT}/"


def test_a_member_hands_in_its_own_files(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """Its statement with its link, and the log with its entry and its cosignature."""
    shared.rebuilt("buyer-3", upcoming)
    shared.log("buyer-3")
    code, found = shared.lint()
    assert (code, found["mergeable"], found["members"]) == (0, True, ["buyer-3"]), found["findings"]
    what = {each["name"]: (each["what"], each["member"]) for each in found["changes"]}
    assert what[f"releases/{NEXT}/rebuild.buyer-3.intoto.json"] == ("adds", "buyer-3")
    assert what["log/checkpoint"] == ("replaces", None)


def test_a_claim_is_added_and_never_replaced(shared: SharedHistory) -> None:
    """It comes with a member's signature that publishes it, and a claim that is there stays what it is."""
    other = json.dumps(claim_json(report_json(release="0.3.0", source="third"))).encode()
    code, found = shared.lint({f"{A}releases/0.3.0/claim.json": other})
    assert (code, codes(found)) == (1, ["claim-unsigned"])
    shared.quorum.claim(report_json(release="0.3.0", source="third"), by="buyer-1")
    code, found = shared.lint()
    assert (code, found["members"]) == (0, ["buyer-1"])
    shared.again()
    merged = shared.files
    shared.quorum.publish("buyer-2")
    assert shared.lint()[0] == 0
    shared.quorum.claim(report_json("evil", release="0.3.0", source="third"), by="buyer-2")
    rival = {name: content for name, content in shared.files.items() if "/publish.buyer-2" in name}
    shared.history.commit({**merged, **rival}, shared.base)
    assert codes(shared.judge(shared.base)[1]) == ["name-taken"]
    shared.quorum.claim(report_json(release="0.3.0", source="third"), by="buyer-1")
    changed = json.dumps(claim_json(report_json("evil", release=NEXT))).encode()
    code, found = shared.lint({f"{UPCOMING}claim.json": changed})
    assert (code, codes(found)) == (1, ["claim-unsigned"])
    spaced = shared.files[f"{UPCOMING}claim.json"] + b"\n"
    code, found = shared.lint({f"{UPCOMING}claim.json": spaced})
    assert (code, codes(found)) == (1, ["file-replaced"])
    code, found = shared.lint({f"{A}releases/0.3.0/claim.json": changed})
    assert (code, codes(found)) == (1, ["wrong-release"])


def test_more_releases_than_anybody_reads_are_not_merged(
    shared: SharedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims are nobody's: whoever hands in a thousand would stop every decision."""
    shared.quorum.claim(report_json(release="0.3.0", source="third"))
    for most, expected in ((3, []), (2, ["too-many-files"])):
        monkeypatch.setattr("coattest_verify.quorum.releases.MAX_RELEASES", most)
        assert codes(shared.lint()[1]) == expected


@pytest.mark.parametrize(
    "name",
    [
        f"{CURRENT}claim.json",
        f"{CURRENT}rebuild.buyer-1.intoto.json",
        f"{A}quorum.1.buyer-1.dsse.json",
        f"{A}log/tile/entries/000.p/3",
        f"{A}log/tile/0/000.p/3",
    ],
)
def test_nothing_is_removed(shared: SharedHistory, name: str) -> None:
    """Neither by its owner nor by anybody."""
    code, found = shared.lint({name: None})
    assert code == 1
    assert set(codes(found)) & {"file-removed", "members-unsigned", "bad-log"}


def test_the_log_that_was_there_stays(shared: SharedHistory) -> None:
    """Without its checkpoint, or shorter, it is refused."""
    assert codes(shared.lint({f"{A}log/checkpoint": None})[1]) == ["log-gone"]


def test_files_of_two_members_come_apart(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """One branch is one member's; --member says which it must be."""
    shared.rebuilt("buyer-3", upcoming)
    assert shared.lint({}, "--member", "buyer-3")[0] == 0
    code, found = shared.lint({}, "--member", "buyer-1")
    assert (code, set(codes(found))) == (1, {"wrong-member"})
    shared.rebuilt("buyer-1", upcoming)
    code, found = shared.lint()
    assert (code, codes(found), found["members"]) == (1, ["several-members"], ["buyer-1", "buyer-3"])


def test_a_file_under_anothers_name_is_refused(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """It would keep that member from ever handing in its own."""
    shared.quorum.sign("buyer-3", upcoming, key_of="buyer-1")
    assert codes(shared.lint()[1]) == ["bad-signature"]
    assert codes(shared.lint({f"{UPCOMING}rebuild.buyer-3.intoto.json": b"{}"})[1]) == ["malformed"]
    assert codes(
        shared.lint(
            {f"{UPCOMING}rebuild.buyer-3.intoto.json": None, f"{UPCOMING}review.nobody.dsse.json": b"{}"}
        )[1]
    ) == ["not-a-member"]


def test_a_statement_is_not_carried_into_another_release(shared: SharedHistory) -> None:
    """A genuine file of one release in the folder of another would block its member there."""
    statement = shared.files[f"{CURRENT}rebuild.buyer-1.intoto.json"]
    code, found = shared.lint({f"{UPCOMING}rebuild.buyer-1.intoto.json": statement})
    assert (code, codes(found)) == (1, ["wrong-release"])


def test_a_link_says_what_the_statement_says(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """A genuine link of another release, or one without its statement, is refused."""
    name = next(name for name in shared.files if name.startswith(CURRENT) and name.endswith(".link"))
    moved = {name.replace("0.1.0", NEXT): shared.files[name]}
    assert codes(shared.lint(moved)[1]) == ["mismatch"]
    assert codes(shared.lint({f"{UPCOMING}rebuild.00000000.link": shared.files[name]})[1]) == [
        "bad-signature"
    ]


def test_a_dissent_is_not_replaced(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """A new round replaces its agreement; a dissent that was merged stays."""
    shared.rebuilt("buyer-1", upcoming, age=timedelta(hours=3))
    shared.again()
    shared.rebuilt("buyer-1", upcoming, outcome="dissent", reason="a back door", age=timedelta(hours=2))
    assert shared.lint()[0] == 0
    shared.again()
    shared.rebuilt("buyer-1", upcoming, age=timedelta(hours=1))
    assert codes(shared.lint()[1]) == ["file-replaced"]


def test_an_older_file_does_not_come_back(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """Anybody can take it out of the history; in the place of the later one it would take that back."""
    statement = f"{UPCOMING}rebuild.buyer-1.intoto.json"
    shared.rebuilt("buyer-1", upcoming, age=timedelta(hours=3))
    old = shared.files[statement]
    shared.rebuilt("buyer-1", upcoming, age=timedelta(hours=2))
    shared.again()
    assert codes(shared.lint({statement: old})[1]) == ["file-replaced"]
    quorum = shared.quorum
    assert quorum.claimed is not None
    made = [
        make_vote(REVIEW, "buyer-2", root=quorum.root, claim=quorum.claimed, note="ok", now=NOW + later)
        for later in (timedelta(0), timedelta(hours=1))
    ]
    first, second = (sign_vote(vote, quorum.signers["buyer-2"]) for vote in made)
    name = UPCOMING + vote_name(made[0])
    assert shared.lint({name: first})[0] == 0
    quorum.write(vote_name(made[1]), second)
    shared.again()
    assert codes(shared.lint({name: first})[1]) == ["file-replaced"]


def test_a_signature_is_given_up_by_its_member_only(shared: SharedHistory) -> None:
    """Of two proposals that it signed, who merges does not choose for it; a second key may join the first."""
    quorum = shared.quorum
    first, second = quorum.file.successor(round="2"), quorum.file.successor(round="another")
    quorum.countersign(first, "buyer-1")
    shared.again()
    quorum.countersign(second, "buyer-1")
    code, found = shared.lint()
    assert (code, codes(found)) == (1, ["file-replaced"])
    assert shared.lint({}, "--member", "buyer-1")[0] == 0
    envelope = dsse.sign_envelope(quorum.signers["buyer-1"], MEMBERS_TYPE, first.raw)
    with raises_code(EnvironmentFailure, "no-change"):  # Ed25519 signs the same bytes alike
        shared.lint({f"{A}quorum.2.buyer-1.dsse.json": envelope.encode()})


def test_many_large_files_of_a_member_are_refused(shared: SharedHistory) -> None:
    """Each within its limit, they would fill what all files of the folder may have together."""
    junk = b" " * (4 * 1024 * 1024)
    names = [f"{UPCOMING}rebuild.buyer-1.word-{number}.intoto.json" for number in range(9)]
    code, found = shared.lint(dict.fromkeys(names, junk))
    assert (code, codes(found)) == (1, ["too-large"])


def test_a_revocation_is_added_and_stays(shared: SharedHistory) -> None:
    """Its file is its signer's; a vote about another release's folder or quorum is refused."""
    quorum = shared.quorum
    assert quorum.claimed is not None
    vote = make_vote(REVOKE, "buyer-2", root=quorum.root, claim=quorum.claimed, note="bad", now=NOW)
    signed = sign_vote(vote, quorum.signers["buyer-2"])
    name = vote_name(vote)
    assert shared.lint({UPCOMING + name: signed})[0] == 0
    assert codes(shared.lint({CURRENT + name: signed})[1]) == ["wrong-release"]
    foreign = make_vote(REVIEW, "buyer-2", root=bytes(32), claim=quorum.claimed, note="ok", now=NOW)
    data = sign_vote(foreign, quorum.signers["buyer-2"])
    assert codes(shared.lint({UPCOMING + vote_name(foreign): data})[1]) == ["members-wrong-root"]
    quorum.write(name, signed)
    shared.again()
    assert codes(shared.lint({UPCOMING + name: None})[1]) == ["file-removed"]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        (f"{UPCOMING}rebuild.buyer-3.intoto.json", (LINK, b"../../../../etc/passwd"), "not-a-file"),
        (f"{UPCOMING}rebuild.buyer-3.intoto.json", (PROGRAM, b"{}"), "not-a-file"),
        (f"{UPCOMING}rebuild.buyer-3.intoto.json", (SUBMODULE, b"x"), "not-a-file"),
        (f"{UPCOMING}.gitattributes", b"* filter=evil", "bad-name"),
        (f"{A}.gitattributes", b"* text", "malformed"),
        (f"{A}releases/.gitmodules", b"", "bad-name"),
        (f"{A}rebuild.buyer-3.intoto.json", b"{}", "bad-name"),
        (f"{UPCOMING}Claim.json", b"{}", "bad-name"),
        (f"{UPCOMING}deeper/claim.json", b"{}", "bad-name"),
        (f"{A}releases/a\nb/claim.json", b"{}", "bad-name"),
        (f"{A}log/tile/entries/000.p/../x", b"", None),
        (f"{A}log/evil", b"", "bad-name"),
        (f"{A}log/tile/9/000", b"x", "bad-log"),
        (f"{A}quorum.1.buyer-1.dsse.json.bak", b"", "bad-name"),
        (f"{UPCOMING}review.buyer-3.dsse.json", b" " * 20_000, "too-large"),
        (f"{A}withdraw-buyer-key.buyer-1.{'0' * 16}.dsse.json", b"{}", "malformed"),
    ],
)
def test_odd_files_are_refused(shared: SharedHistory, name: str, content: Any, code: str) -> None:
    """What a checkout would follow, run or hide, and what no command would ever read."""
    if code is None:
        with raises_code(EnvironmentFailure, "bad-repository"):
            shared.lint({name: content})
        return
    result, found = shared.lint({name: content})
    assert result == 1
    assert code in codes(found), found["findings"]


def test_names_that_differ_in_case_only_are_refused(shared: SharedHistory) -> None:
    """On a file system without upper and lower case one would take the other's place."""
    first = json.dumps(claim_json(report_json(release="0.3.0-rc", source="3"))).encode()
    second = json.dumps(claim_json(report_json(release="0.3.0-RC", source="3"))).encode()
    code, found = shared.lint(
        {f"{A}releases/0.3.0-rc/claim.json": first, f"{A}releases/0.3.0-RC/claim.json": second}
    )
    assert (code, codes(found)) == (1, ["bad-name", "bad-name", "claim-unsigned", "claim-unsigned"])


def test_a_change_outside_comes_by_itself(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """A green light on the attestations must not carry anything else along."""
    shared.rebuilt("buyer-3", upcoming)
    code, found = shared.lint({".gitattributes": b"attestations/** filter=evil"})
    assert (code, codes(found)) == (1, ["outside-attestations"])
    code, found = shared.lint({"README.md": b"other"})
    assert (code, codes(found)) == (1, ["outside-attestations"])


def test_the_folder_itself_may_not_become_a_link(shared: SharedHistory) -> None:
    """Everything in it would be gone, and what it leads to would stand there."""
    files = {"attestations": (LINK, b"elsewhere"), "README.md": b"hello"}
    shared.history.commit(files, shared.base)
    code, found = shared.judge(shared.base)
    assert code == 1
    assert {"outside-attestations", "file-removed"} <= set(codes(found))


def test_nothing_looked_at_is_not_a_yes(shared: SharedHistory) -> None:
    """Without a change in the folder, exit code 3."""
    with raises_code(EnvironmentFailure, "no-change"):
        shared.lint()
    with raises_code(EnvironmentFailure, "no-change"):
        shared.lint({"README.md": b"other"})


def test_the_change_is_seen_as_it_would_be_merged(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """A branch without what was merged meanwhile would seem to remove it; a merge shows it right."""
    shared.rebuilt("buyer-3", upcoming)
    branch = shared.history.commit(shared.files, shared.base)
    (shared.quorum.released / "rebuild.buyer-3.intoto.json").unlink()
    others = [path for path in shared.quorum.released.iterdir() if path.suffix == ".link"]
    for path in others:
        path.unlink()
    shared.rebuilt("buyer-1", upcoming)
    merged = shared.history.commit(shared.files, shared.base)
    with raises_code(EnvironmentFailure, "not-merged"):
        shared.judge(merged, "--head", branch)
    shared.rebuilt("buyer-3", upcoming)
    shared.history.commit(shared.files, merged, branch)
    code, found = shared.judge(merged)
    assert (code, found["members"]) == (0, ["buyer-3"])


def rewritten(shared: SharedHistory, change: Callable[[list[bytes]], list[bytes]]) -> dict[str, bytes]:
    """The log with other entries, which nobody cosigned."""
    with Folder(shared.quorum.attestations) as folder:
        log = read_quorum_log(folder, shared.quorum.root, shared.quorum.file)
    assert log is not None
    content = made_log(change(list(log.entries)), shared.quorum.root)
    return {f"{A}{name}": data for name, data in content.items()}


def test_an_invented_entry_is_refused(shared: SharedHistory) -> None:
    """Also one about a release that is not there yet: each new entry is what its file here says."""
    entry = json.dumps(
        {
            "facts": {"architecture": "x86_64", "outcome": "dissent", "release": "0.9.0"},
            "kind": "rebuild",
            "member": "buyer-1",
            "sha256": "0" * 64,
        },
        separators=(",", ":"),
        sort_keys=True,
    ).encode()
    code, found = shared.lint(rewritten(shared, lambda entries: [*entries, entry]))
    assert code == 1
    assert "removed-entry" in codes(found)


def test_a_forked_log_is_refused(shared: SharedHistory) -> None:
    """Another log of the same quorum does not take the place of the one that was merged."""
    code, found = shared.lint(rewritten(shared, lambda entries: [*reversed(entries), entries[0]]))
    assert code == 1
    assert "log-fork" in codes(found)
    code, found = shared.lint(rewritten(shared, lambda entries: entries[:1]))
    assert code == 1
    assert "log-shrunk" in codes(found)


def test_a_cosignature_is_its_members(shared: SharedHistory) -> None:
    """It comes without the log or with it, alone, whole, and never goes back to an earlier one."""
    shared.log("buyer-3", append=False)
    code, found = shared.lint()
    assert (code, found["members"]) == (0, ["buyer-3"])
    mine, theirs = f"{A}log/cosignature.buyer-3", f"{A}log/cosignature.buyer-2"
    note = (shared.quorum.attestations / "log/cosignature.buyer-3").read_bytes()
    added = note + "\u2014 mallory AAAAAAAA\n".encode()
    assert codes(shared.lint({mine: added})[1]) == ["bad-log"]
    assert codes(shared.lint({mine: note.replace(b"buyer-3", b"buyer-2")})[1]) == ["bad-signature"]
    assert codes(shared.lint({theirs: None})[1]) == ["file-removed"]
    assert codes(shared.lint({f"{A}log/cosignature.mallory": note})[1]) == ["bad-signature"]


def test_a_cosignature_grows_with_the_log(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """A note on more entries takes the place of its member's earlier one, which does not return."""
    shared.log("buyer-3", append=False)
    shared.again()
    name = f"{A}log/cosignature.buyer-3"
    earlier = shared.files[name]
    shared.rebuilt("buyer-3", upcoming)
    shared.log("buyer-3")
    assert shared.lint()[0] == 0
    shared.again()
    assert shared.files[name] != earlier
    assert codes(shared.lint({name: earlier})[1]) == ["file-replaced"]


def test_a_new_version_is_signed_by_one_member_a_change(shared: SharedHistory) -> None:
    """A proposal with its proposer's signature; the next one completes it, and installs it."""
    quorum = shared.quorum
    proposal = quorum.file.successor(round="2")
    quorum.write("quorum.next.toml", proposal.raw)
    quorum.countersign(proposal, "buyer-1")
    code, found = shared.lint()
    assert (code, found["members"]) == (0, ["buyer-1"]), found["findings"]
    shared.again()
    quorum.countersign(proposal, "buyer-2")
    (quorum.attestations / "quorum.next.toml").unlink()
    quorum.write("quorum.toml", proposal.raw)
    signed = sign_layout(proposal, "buyer-2", quorum.signers["buyer-2"])
    assert signed is not None
    quorum.write("layout.2.buyer-2.json", signed)
    code, found = shared.lint()
    assert (code, found["members"]) == (0, ["buyer-2"]), found["findings"]


def test_a_signed_proposal_is_not_replaced(shared: SharedHistory) -> None:
    """Who hosts or merges cannot put another one under members' signatures."""
    quorum = shared.quorum
    quorum.write("quorum.next.toml", quorum.file.successor(round="2").raw)
    shared.again()
    other = quorum.file.successor(round="evil").raw
    assert shared.lint({f"{A}quorum.next.toml": other})[0] == 0
    quorum.countersign(quorum.file.successor(round="2"), "buyer-1")
    shared.again()
    assert codes(shared.lint({f"{A}quorum.next.toml": other})[1]) == ["file-replaced"]
    assert codes(shared.lint({f"{A}quorum.next.toml": None})[1]) == ["file-replaced"]


def test_a_version_in_force_stays_in_force(shared: SharedHistory) -> None:
    """Its signatures cannot be exchanged for others of the same members, nor the older file put back."""
    quorum = shared.quorum
    first, second = quorum.file, quorum.file.successor(round="2")
    quorum.install(second, ["buyer-1", "buyer-2"])
    shared.again()
    assert codes(shared.lint({f"{A}quorum.toml": first.raw})[1]) == ["members-rollback"]
    third = first.successor(round="another")
    exchanged = dsse.sign_envelope(quorum.signers["buyer-1"], MEMBERS_TYPE, third.raw).encode()
    code, found = shared.lint({f"{A}quorum.2.buyer-1.dsse.json": exchanged, f"{A}quorum.toml": first.raw})
    assert code == 1
    assert "members-rollback" in codes(found)


def test_a_stranger_proposes_itself_in_vain(shared: SharedHistory, tmp_path: Path) -> None:
    """Whom no member named has no file among the signatures."""
    quorum = shared.quorum
    public = keys.generate_key(tmp_path / "mallory", "ed25519")
    proposal = quorum.file.successor(members=(*quorum.file.members, Member("mallory", (public,))))
    signer = keys.load_signer(tmp_path / "mallory")
    signed = dsse.sign_envelope(signer, MEMBERS_TYPE, proposal.raw).encode()
    assert codes(shared.lint({f"{A}quorum.2.mallory.dsse.json": signed})[1]) == ["bad-signature"]


def test_a_layout_signature_is_its_members(shared: SharedHistory) -> None:
    """It is what the signed members file gives, with that member's signature and nobody else's."""
    quorum = shared.quorum
    mine = sign_layout(quorum.file, "buyer-1", quorum.signers["buyer-1"])
    theirs = sign_layout(quorum.file, "buyer-2", quorum.signers["buyer-2"])
    assert mine is not None
    assert theirs is not None
    name = f"{A}layout.1.buyer-1.json"
    code, found = shared.lint({name: mine})
    assert (code, found["members"]) == (0, ["buyer-1"])
    assert codes(shared.lint({name: theirs})[1]) == ["malformed"]
    hostile = mine.replace(b'"inspect": []', b'"inspect": [{"run": ["sh"]}]')
    assert hostile != mine
    assert codes(shared.lint({name: hostile})[1]) == ["malformed"]
    assert codes(shared.lint({f"{A}layout.2.buyer-1.json": mine})[1]) == ["bad-signature"]
    assert codes(shared.lint({f"{A}root.layout": mine})[1]) == ["bad-name"]


def test_gits_attributes_are_those_of_members_init(shared: SharedHistory) -> None:
    """They may come, as they are written there; no others, and none in another folder."""
    assert shared.lint({f"{A}.gitattributes": ATTRIBUTES_TEXT})[0] == 0
    assert codes(shared.lint({f"{A}.gitattributes": b"* text\n"})[1]) == ["malformed"]
    assert codes(shared.lint({f"{A}log/.gitattributes": ATTRIBUTES_TEXT})[1]) == ["bad-name"]


def test_a_base_that_does_not_hold_is_no_answer(shared: SharedHistory) -> None:
    """Before version 1 has every signature nobody's files can be told apart: exit code 3."""
    files = shared.files
    del files[f"{A}quorum.1.buyer-1.dsse.json"]
    base = shared.history.commit(files)
    shared.history.commit(shared.files, base)
    with raises_code(EnvironmentFailure, "members-unsigned"):
        shared.judge(base)


def test_a_bare_repository_and_names_of_commits(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """The base is a commit's id, a branch or a tag; only objects are read, so a checkout is not needed."""
    repository = shared.history.repository
    repository.refs[b"refs/remotes/origin/main"] = shared.base.encode()
    repository.refs[b"refs/tags/v1"] = shared.base.encode()
    shared.rebuilt("buyer-3", upcoming)
    assert shared.lint()[0] == 0
    for name in ("origin/main", "v1", "refs/tags/v1", shared.base):
        assert shared.judge(name)[0] == 0
    for name in ("nothing", "../main", "main..v1", "0" * 39):
        with pytest.raises(UsageError):
            shared.judge(name)
    bare = shared.history.folder / ".git"
    assert shared.judge("v1", "--head", "main", "--repository", str(bare))[0] == 0
    repository.refs[b"refs/heads/v1"] = repository.refs[b"refs/heads/main"]
    with raises_code(EnvironmentFailure, "bad-repository", match="several commits"):
        shared.judge("v1")


def test_a_shallow_clone_is_said_as_such(shared: SharedHistory, upcoming: dict[str, Any]) -> None:
    """A commit whose parent is not there cannot be compared."""
    shared.rebuilt("buyer-3", upcoming)
    gone = "12" * 20
    shared.history.commit(shared.files, gone)
    with raises_code(EnvironmentFailure, "bad-repository") as caught:
        shared.judge(shared.base)
    assert "shallow" in str(caught.value)


def test_packed_repositories_and_annotated_tags_are_read(
    shared: SharedHistory, upcoming: dict[str, Any]
) -> None:
    """What git's own program stores: packs, packed refs, and a tag that is an object of its own."""
    shared.rebuilt("buyer-3", upcoming)
    assert shared.lint()[0] == 0
    settings = {"user.name": "T", "user.email": "t@example.invalid", "gc.auto": "0"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    for words in (
        ("tag", "-a", "-m", "merged", "v1", shared.base),
        ("gc", "--quiet"),
        ("pack-refs", "--all"),
    ):
        subprocess.run(
            ["git", *options, *words],
            cwd=shared.history.folder,
            env={"PATH": "/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
            check=True,
        )
    assert not (shared.history.folder / ".git/refs/tags/v1").exists()
    assert shared.judge("v1") == shared.judge(shared.base)
    assert shared.judge("v1")[0] == 0


def test_a_name_with_a_slash_in_a_tree_is_refused(shared: SharedHistory) -> None:
    """One entry that poses as a file two folders below would stand beside the real one."""
    store = shared.history.repository.object_store
    blob, tree = Blob.from_string(b"{}"), Tree()
    tree.add(b"releases/0.1.0/claim.json", 0o100644, blob.id)
    top = Tree()
    top.add(b"attestations", 0o040000, tree.id)
    made = shared.history.commit(shared.files, shared.base)
    commit = shared.history.repository[made.encode()]
    commit.tree = top.id
    for each in (blob, tree, top, commit):
        store.add_object(each)
    with raises_code(EnvironmentFailure, "bad-repository", match="does not parse"):
        shared.judge(shared.base, "--head", commit.id.decode())
