"""The transparency log: what was answered once cannot disappear unnoticed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest.files import Folder
from coattest_verify.quorum.bundle import make_bundle, read_bundle
from coattest_verify.quorum.cosigning import append_log
from coattest_verify.quorum.decision import decide_from
from coattest_verify.quorum.log.checkpoint import log_key
from coattest_verify.quorum.log.entries import statement_entry
from coattest_verify.quorum.log.examine import Log, read_quorum_log
from coattest_verify.quorum.log.merkle import (
    bundle_paths,
    leaf_hash,
    pack_entries,
    tile_path,
    tiles,
    tree_root,
    unpack_entries,
)
from coattest_verify.quorum.members.chain import Seen
from coattest_verify.quorum.releases import ReleaseFiles
from coattest_verify.quorum.statements.signed import read_statements
from support.raises import raises_code
from support.verify.logs import sign_log, sign_log_as, write_log
from support.verify.members import NOW, Members, report_json, sentences

# The leaves and roots of the reference implementation's tests (certificate-transparency, merkle_tree_test).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_roots_are_those_of_certificate_transparency() -> None:
    """Eight leaves give the roots of the reference implementation, at every size."""
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    assert [tree_root(hashes[:size]).hex() for size in range(9)] == ROOTS


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word by word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + recursive_root(leaves[:split]) + recursive_root(leaves[split:])).digest()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 600))
def test_the_root_is_the_recursion_of_the_rfc(size: int) -> None:
    """The iterative root equals the RFC's definition, and every tile holds what tlog-tiles says."""
    leaves = [leaf_hash(str(index).encode()) for index in range(size)]
    assert tree_root(leaves) == recursive_root(leaves)
    found = tiles(leaves)
    for path, content in found.items():
        level, name = path.split("/")[1:3]
        index, start = int(name.removesuffix(".p")), 256 ** int(level)
        for offset in range(len(content) // 32):
            first = (index * 256 + offset) * start
            expected = recursive_root(leaves[first : first + start])
            assert content[32 * offset : 32 * offset + 32] == expected


def test_paths_are_those_of_the_specification() -> None:
    """Index 1234067 is x001/x234/067; a log of 70,000 has 273 full bundles and one of 112."""
    assert tile_path("0", 1234067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 0, 5) == "tile/entries/000.p/5"
    paths = bundle_paths(70_000)
    assert (len(paths), paths[272], paths[273]) == (274, "tile/entries/272", "tile/entries/273.p/112")
    assert set(tiles([bytes(32)] * 256)) == {"tile/0/000", "tile/1/000.p/1"}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=300))
def test_bundles_unpack_to_what_was_packed(entries: list[bytes]) -> None:
    """Entries survive their bundles, and a bundle that is cut is refused."""
    found = pack_entries(entries)
    assert [entry for path in bundle_paths(len(entries)) for entry in unpack_entries(found[path])] == entries
    for content in found.values():
        with pytest.raises(ValueError, match="cut short"):
            unpack_entries(content[:-1] if content[-1:] and len(content) > 2 else content[:1])


# --- the log of a quorum ----------------------------------------------------------------------------------


def cosign(quorum: Members, *names: str, hours: int = 0) -> Log:
    """Members append and cosign one after another."""
    done = None
    for name in names:
        done = sign_log_as(quorum, name, now=NOW - timedelta(hours=hours))
    assert done is not None
    return done


@pytest.fixture
def silent(blocking: Members) -> Members:
    """Under "block": buyer-1 and buyer-2 agree, buyer-3 has not answered."""
    (blocking.released / "rebuild.buyer-3.intoto.json").unlink()
    return blocking


def test_a_bundle_of_empty_entries_is_not_unpacked() -> None:
    """16 MB of zeros, which git packs into 16 kB, were eight million entries to hash, in 900 MB."""
    assert unpack_entries(bytes(2 * 256)) == [b""] * 256
    with pytest.raises(ValueError, match="more entries than a bundle has"):
        unpack_entries(bytes(2 * 257))


def test_a_checkpoint_is_what_the_specification_says(silent: Members) -> None:
    """An Ed25519 cosignature verifies by the words of C2SP's tlog-cosignature alone."""
    cosign(silent, "buyer-1")
    folder = silent.attestations / "log"
    text = (folder / "cosignature.buyer-1").read_text()
    body, _, line = text.partition("\n\n")
    assert (folder / "checkpoint").read_text().partition("\n\n")[0] == body
    origin, size, root = body.split("\n")
    dash, name, data = line.rstrip("\n").split(" ")
    signature = base64.b64decode(data)
    public = silent.signers["buyer-1"]._key.public_key()
    key_id = hashlib.sha256(b"buyer-1\n\x04" + public.public_bytes_raw()).digest()[:4]
    assert (dash, name, origin) == ("\u2014", "buyer-1", f"coattest/{silent.root.hex()}")
    assert signature[:4] == key_id
    seconds = int.from_bytes(signature[4:12], "big")
    assert seconds == int(NOW.timestamp())
    public.verify(signature[12:], f"cosignature/v1\ntime {seconds}\n{origin}\n{size}\n{root}\n".encode())
    bundle = silent.attestations / "log" / "tile" / "entries" / "000.p" / size
    leaves = [leaf_hash(entry) for entry in unpack_entries(bundle.read_bytes())]
    assert (silent.attestations / "log" / "tile" / "0" / "000.p" / size).read_bytes() == b"".join(leaves)
    assert base64.b64decode(root) == recursive_root(leaves)


def test_a_cosigned_log_without_dissent_excuses_silence(silent: Members) -> None:
    """Under "block" a silent member is excused when it cosigned a log that holds the counted statements."""
    cosign(silent, "buyer-1", "buyer-2")
    assert sentences(silent.decide().reasons) == ("buyer-3: has not answered, and silence is not agreement",)
    done = cosign(silent, "buyer-3")
    assert set(done.times) | {"buyer-3"} == {"buyer-1", "buyer-2", "buyer-3"}
    outcome = silent.decide()
    assert outcome.require().agreed == ("buyer-1", "buyer-2")
    assert outcome.log is not None
    assert outcome.log.size == done.checkpoint.size


def test_a_cosignature_excuses_for_what_was_logged_only(silent: Members) -> None:
    """buyer-3 cosigned before buyer-2 answered: that says nothing about buyer-2's statement."""
    path = silent.released / "rebuild.buyer-2.intoto.json"
    content = path.read_bytes()
    path.unlink()
    cosign(silent, "buyer-3")
    path.write_bytes(content)
    assert silent.decide().decision is None


def test_an_old_cosignature_does_not_excuse(silent: Members) -> None:
    """A cosignature ages like a statement."""
    cosign(silent, "buyer-3", hours=24 * 91)
    assert silent.decide().decision is None
    cosign(silent, "buyer-3", hours=1)
    assert silent.decide().decision is not None


def test_a_removed_dissent_cannot_make_a_yes(silent: Members) -> None:
    """Under "block" a dissent that was logged and then removed is named, and no decision comes of it."""
    path = silent.sign("buyer-3", report_json("other"), outcome="dissent")
    cosign(silent, "buyer-3")
    assert "buyer-3: dissents" in sentences(silent.decide().reasons)[0]
    path.unlink()
    reasons = sentences(silent.decide().reasons)
    assert any("buyer-3's dissent (log entry" in reason and "was removed" in reason for reason in reasons)
    silent.sign("buyer-3", report_json())
    assert silent.decide().decision is None


def test_who_signs_next_notices_the_removal(silent: Members) -> None:
    """A member does not cosign a log that names a dissent whose file is gone."""
    path = silent.sign("buyer-3", report_json("other"), outcome="dissent")
    cosign(silent, "buyer-3")
    path.unlink()
    with pytest.raises(FoundFalse, match=r"buyer-3: dissent\) has no file here") as caught:
        cosign(silent, "buyer-1")
    assert caught.value.code == "removed-entry"


def test_could_not_build_is_replaced_by_a_result(silent: Members) -> None:
    """The file of "could not build" may be overwritten by a later agreement, in the log too."""
    silent.sign("buyer-3", None, outcome="could-not-build", age=timedelta(hours=5))
    cosign(silent, "buyer-3")
    assert silent.decide().decision is None
    silent.sign("buyer-3", report_json(), age=timedelta(hours=6))
    assert "log/checkpoint: buyer-3's could-not-build (log entry 3) was removed" in sentences(
        silent.decide().reasons
    )
    silent.sign("buyer-3", report_json())
    assert silent.decide().decision is not None
    cosign(silent, "buyer-1")
    assert silent.decide().decision is not None


def test_a_shortened_log_is_noticed_by_who_saw_it(silent: Members) -> None:
    """Truncating the log together with the dissent is caught by what a verifier remembers."""
    cosign(silent, "buyer-3")
    short = {path: path.read_bytes() for path in (silent.attestations / "log").rglob("*") if path.is_file()}
    silent.decide()
    path = silent.sign("buyer-3", report_json("other"), outcome="dissent")
    cosign(silent, "buyer-1", "buyer-3")
    silent.decide()
    path.unlink()
    for path, content in short.items():
        path.write_bytes(content)
    reasons = sentences(silent.decide().reasons)
    assert any("entries were removed" in reason for reason in reasons)


def test_a_fork_is_noticed_by_who_saw_the_other(silent: Members) -> None:
    """Another log of the same length is no extension, and nobody cosigns two heads of one size."""
    for name in ("buyer-3", "buyer-1"):
        cosign(silent, name)
    first = silent.decide()
    assert first.log is not None
    for path in sorted((silent.attestations / "log").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    for name in ("buyer-1", "buyer-2"):
        silent.sign(name, report_json(), age=timedelta(hours=2))
    with raises_code(FoundFalse, "already-signed"):
        cosign(silent, "buyer-3")
    cosign(silent, "buyer-2")
    assert any("a fork" in reason for reason in sentences(silent.decide().reasons))
    with pytest.raises(FoundFalse, match="a fork") as caught:
        sign_log(
            silent.attestations,
            silent.root,
            "buyer-1",
            silent.signers["buyer-1"],
            seen=Seen(1, silent.file.sha256, first.log),
            now=NOW,
        )
    assert caught.value.code == "log-fork"


def test_a_log_that_vanished_is_noticed(silent: Members) -> None:
    """Removing the log altogether is caught by what a verifier remembers."""
    for name in ("buyer-3", "buyer-1"):
        cosign(silent, name)
    assert silent.decide().decision is not None
    (silent.attestations / "log" / "checkpoint").unlink()
    assert "log/checkpoint: the log that was seen before is gone" in sentences(silent.decide().reasons)


def test_under_report_the_log_warns(three: Members) -> None:
    """Where dissent does not block, neither does what the log finds."""
    path = three.sign("buyer-3", report_json("other"), outcome="dissent")
    cosign(three, "buyer-3")
    path.unlink()
    outcome = three.decide()
    assert outcome.decision is not None
    assert "was removed" in sentences(outcome.warnings)[0]


def test_changed_entries_do_not_fit_the_checkpoint(silent: Members) -> None:
    """An entry that was changed, or a bundle that was cut, is found by the tree."""
    cosign(silent, "buyer-3")
    (bundle,) = (
        path for path in (silent.attestations / "log" / "tile" / "entries").rglob("*") if path.is_file()
    )
    content = bundle.read_bytes()
    for changed in (content.replace(b"agree", b"agrea", 1), content[:-1], b"", content + b"\0\0"):
        bundle.write_bytes(changed)
        assert any(reason.startswith("log/checkpoint: ") for reason in sentences(silent.decide().reasons))


def test_an_invented_cosignature_is_worth_nothing(silent: Members) -> None:
    """A wrong line of a known key spoils the note, a line of an unknown key is ignored."""
    cosign(silent, "buyer-1")
    path = silent.attestations / "log" / "cosignature.buyer-1"
    text = path.read_text()
    line = text.splitlines()[-1]
    path.write_text(text + line.replace("buyer-1", "buyer-3") + "\n")
    assert set(read(silent).cosignatures) == {"buyer-1"}
    path.with_name("cosignature.buyer-3").write_text(text.replace("buyer-1", "buyer-3"))
    assert set(read(silent).cosignatures) == {"buyer-1"}
    data = bytearray(line.encode())
    data[-8] = ord("A" if data[-8] != ord("A") else "B")
    path.write_bytes(text.replace(line, data.decode()).encode())
    found = read(silent)
    assert found.cosignatures == {}
    assert {(each.where, each.code) for each in found.refused} == {
        ("log/cosignature.buyer-1", "bad-signature"),
        ("log/cosignature.buyer-3", "bad-signature"),
    }


def test_a_hostile_cosignature_stops_nobody(silent: Members) -> None:
    """One member's file, or what a host puts in its place, is that member's matter: the others' count."""
    cosign(silent, "buyer-1", "buyer-3")
    note = silent.attestations / "log" / "cosignature.buyer-1"
    for content in (b"", b"\xff", b"x" * 100_000, note.read_bytes().replace(b"\n3\n", b"\n9\n")):
        note.write_bytes(content)
        outcome = silent.decide()
        assert outcome.decision is not None
        assert [warning.where for warning in outcome.warnings] == ["log/cosignature.buyer-1"]


def test_each_member_cosigns_in_a_file_of_its_own(silent: Members) -> None:
    """Two notes on different sizes of one log both hold; after an append the earlier one still does."""
    cosign(silent, "buyer-1")
    before = {path.name: path.read_bytes() for path in (silent.attestations / "log").glob("cosignature.*")}
    silent.sign("buyer-3", report_json())
    cosign(silent, "buyer-3")
    found = read(silent)
    assert {name: note.checkpoint.size for name, note in found.cosignatures.items()} == {
        "buyer-1": 3,
        "buyer-3": 4,
    }
    assert set(found.times) == {"buyer-3"}
    assert found.refused == ()
    assert (silent.attestations / "log/cosignature.buyer-1").read_bytes() == before["cosignature.buyer-1"]


def test_a_note_on_more_than_is_here_or_on_another_log_is_named(silent: Members) -> None:
    """The log was cut, or was another one, when its cosigner is remembered by its own file only."""
    cosign(silent, "buyer-1")
    entries = read(silent).entries
    write_log(silent, entries[:1])
    assert [(each.where, each.code) for each in read(silent).refused] == [
        ("log/cosignature.buyer-1", "log-shrunk")
    ]
    with raises_code(EnvironmentFailure, "log-shrunk"):
        sign_log_as(silent, "buyer-1", append=False)
    write_log(silent, entries[::-1])
    assert [each.code for each in read(silent).refused] == ["log-fork"]
    with raises_code(FoundFalse, "log-fork"):
        cosign(silent, "buyer-1")


def test_an_append_signs_nothing_and_is_the_same_for_everybody(silent: Members, tmp_path: Path) -> None:
    """Two clones with the same files write the same bytes; a partial tile that a larger one replaces goes."""
    shutil.copytree(silent.attestations, tmp_path / "clone")
    other = tmp_path / "clone"
    for folder in (silent.attestations, other):
        done = append_log(folder, silent.root, seen=None)
        assert len(done.fresh) == 3
    logs = [
        {path.relative_to(folder): path.read_bytes() for path in folder.glob("log/**/*") if path.is_file()}
        for folder in (silent.attestations, other)
    ]
    assert logs[0] == logs[1]
    silent.sign("buyer-3", report_json())
    append_log(silent.attestations, silent.root, seen=None)
    assert sorted(
        path.relative_to(silent.attestations).as_posix()
        for path in silent.attestations.glob("log/**/*")
        if path.is_file()
    ) == ["log/checkpoint", "log/tile/0/000.p/4", "log/tile/entries/000.p/4"]


def test_the_logs_own_signature_is_what_signed_note_says(silent: Members) -> None:
    """Type 0x01 under the origin's name; any other line makes the checkpoint bad."""
    cosign(silent, "buyer-1")
    path = silent.attestations / "log" / "checkpoint"
    text = path.read_text()
    body, _, line = text.partition("\n\n")
    origin = body.split("\n")[0]
    data = base64.b64decode(line.split(" ")[2])
    public = log_key(origin).public_key()
    key_id = hashlib.sha256(f"{origin}\n".encode() + b"\x01" + public.public_bytes_raw()).digest()[:4]
    assert data[:4] == key_id
    public.verify(data[4:], f"{body}\n".encode())
    path.write_text(text + "\u2014 mallory AAAAAAAA\n")
    assert "log/checkpoint: not signed by the log" in sentences(silent.decide().reasons)[0]


def read(quorum: Members) -> Log:
    with Folder(quorum.attestations) as folder:
        found = read_quorum_log(folder, quorum.root, quorum.file)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"coattest/x\n1\nAAAA\n\n",
        b"a\n\n\n\n",
        b"{}",
        b"\n" * 1000,
        b"x" * 2_000_000,
        b"coattest/00\n99999999999\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 buyer-1 AAAA\n",
    ],
)
def test_a_hostile_checkpoint_is_a_problem_and_not_a_crash(silent: Members, content: bytes) -> None:
    """Whatever stands in log/checkpoint, the decision gets a reason."""
    (silent.attestations / "log").mkdir()
    (silent.attestations / "log" / "checkpoint").write_bytes(content)
    assert any(reason.startswith("log/checkpoint: ") for reason in sentences(silent.decide().reasons))


def test_links_in_the_log_are_not_followed(silent: Members, tmp_path: Path) -> None:
    """A log folder that is a symbolic link is refused."""
    cosign(silent, "buyer-3")
    (silent.attestations / "log").rename(tmp_path / "elsewhere")
    (silent.attestations / "log").symlink_to(tmp_path / "elsewhere")
    assert any(
        reason.startswith("log/checkpoint: not a plain file") for reason in sentences(silent.decide().reasons)
    )


def test_a_bundle_carries_the_log(silent: Members) -> None:
    """A third party gets the same outcome from the bundle, excuses included."""
    cosign(silent, "buyer-3")
    with Folder(silent.attestations) as folder:
        bundle = read_bundle(make_bundle(folder, now=NOW))
    outcome = decide_from(bundle.files, root=silent.root, seen=None, profile="aws", now=bundle.made)
    assert outcome.decision is not None
    assert outcome.to_json() == silent.decide().to_json()


def test_the_log_names_each_statement_once(silent: Members) -> None:
    """Each statement is appended once, whoever signs how often, and no decision is."""
    cosign(silent, "buyer-3")
    silent.decide()
    cosign(silent, "buyer-1", "buyer-3")
    assert append_log(silent.attestations, silent.root, seen=None).fresh == ()
    done = cosign(silent, "buyer-2")
    with Folder(silent.attestations) as folder:
        signed, _ = read_statements(ReleaseFiles(folder, "0.1.0"), silent.file)
    path = silent.attestations / "log" / bundle_paths(done.checkpoint.size)[0]
    entries = unpack_entries(path.read_bytes())
    assert set(map(statement_entry, signed)) <= set(entries)
    kinds = [json.loads(entry)["kind"] for entry in entries]
    assert kinds == ["rebuild", "rebuild", "publish"]
