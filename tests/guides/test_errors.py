"""A person's first mistakes: one line that names the likely cause and what to do, and its exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import botocore.exceptions as aws
import click
import pytest

from coattest.aws import aws_errors
from coattest.command import PROGRAMS, cli
from coattest.errors import CoattestError, EnvironmentFailure, UsageError
from coattest.files import Folder
from coattest.parser import NewPath
from coattest.shell import report_error
from coattest_local.cli import demo
from coattest_local.demo.sources import copy_source
from coattest_local.demo.stage import CommandResult, Party, Stage, step_failed
from coattest_verify.auction import messages
from coattest_verify.cli.options import SigningKey
from coattest_verify.signatures.keys import generate_key
from support.auction.auctions import manifest
from support.command_tree import verbs

ROOT = Path(__file__).resolve().parents[2]
Said = tuple[int, str, str]
Program = Callable[..., Said]

ONLY_READ = {"verify release archive"}
"""Its ``--out`` may be there already, another member's: then it is read and not written."""

AUCTION = (
    *("--manifest", "manifest.cbor", "--buyer", "buyer-1", "--record", "manifest.cbor", "--release", "1"),
    *("--auction-key", "auction.key"),
)


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Program:
    """Run a program in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("COATTEST_STATE", "COATTEST_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("COATTEST_PASSPHRASE_FILE", raising=False)

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", list(words))
        main = import_module(PROGRAMS[words[0]].partition(":")[0]).main
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return call


def one_line(said: str) -> str:
    """The only line on stderr."""
    (line,) = said.splitlines()
    return line


def options() -> Iterator[tuple[str, click.Parameter]]:
    """Every command's name with each of its parameters."""
    for path in verbs(cli, ()):
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        for option in command.params:
            yield " ".join(path), option


def test_every_output_is_looked_at_before_the_work() -> None:
    """Each ``--out`` of each command, and the page of a receipt."""
    late = {
        name
        for name, option in options()
        if {"--out", "--html"} & set(option.opts) and not isinstance(option.type, NewPath)
    }
    assert late == ONLY_READ


def test_no_file_or_folder_has_an_empty_name() -> None:
    """``--out "$OUT"`` without OUT is not the folder where the command runs."""
    paths = [(name, option) for name, option in options() if isinstance(option.type, click.Path)]
    assert len(paths) > 100
    for _name, option in paths:
        with pytest.raises(click.BadParameter, match=r"empty name|does not exist"):
            option.type.convert("", option, None)


def test_a_file_called_dash_is_not_written_by_mistake() -> None:
    """Where stdout makes no sense the error says so; another place of that name is fine."""
    written = NewPath(dir_okay=False, path_type=Path)
    with pytest.raises(click.BadParameter, match="not stdout"):
        written.convert("-", None, None)
    assert written.convert("./-", None, None) == Path("-")


@pytest.mark.parametrize(
    "words",
    [
        "eif build --out {}/new",
        "eif build --out out --claim {}/claim.json",
        "eif sbom --out {}/sbom.json",
        "verify rebuild --out {}",
        "verify keygen --out {}/key",
        "verify inputs --out {}/inputs.json",
        "verify receipt --html {}/page.html",
        "verify release bundle --out {}/bundle.json",
        "verify release links --out {}/new/links",
        "auction bid --out {}/bid.cose",
        "auction seal --out {}/seal",
        "deploy-from-attestation plan --out {}/plan",
        "nitro-local demo --keep {}/demo",
    ],
)
def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    words: str, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 before anything is read, with the place; where a file is in the way, exit 2."""
    place = tmp_path / "theirs"
    place.mkdir()
    can = os.access
    monkeypatch.setattr(  # for root everything may be written
        os, "access", lambda path, mode: (Path(path) != place or not mode & os.W_OK) and can(path, mode)
    )
    code, _, said = program(*words.format(place).split())
    assert code == 3
    assert f"the folder {place} may not be written by this user (name another place" in one_line(said)
    assert list(place.iterdir()) == []
    assert json.loads(program(*words.format(place).split(), "--json")[1])["code"] == "eacces"
    (tmp_path / "file").write_text("")
    code, _, said = program(*words.format(tmp_path / "file" / "x").split())
    assert (code, "not a folder" in one_line(said)) == (2, True)


def test_an_encrypted_auction_key_names_what_seal_has(program: Program, tmp_path: Path) -> None:
    """``auction seal`` has no ``--passphrase-file``, so nobody is sent to it."""
    generate_key(tmp_path / "auction.key", "p384", b"open sesame")
    content = manifest()
    (tmp_path / "manifest.cbor").write_bytes(content.encode())
    bids = [word for buyer in content.buyers for word in ("--bid-digest", f"{buyer.name}={'ab' * 48}")]
    code, _, said = program("auction", "seal", *AUCTION, "--own-bid", "manifest.cbor", *bids, "--out", "seal")
    assert code == 2
    assert one_line(said) == (
        "auction: auction.key: the key is encrypted "
        "(set COATTEST_PASSPHRASE_FILE to a file whose first line is the passphrase)"
    )


def test_an_encrypted_members_key_names_the_option(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal, commands that have ``--passphrase-file`` name it."""
    (tmp_path / "pass").write_text("open sesame\n")
    assert program("verify", "keygen", "--out", "key", "--passphrase-file", "pass")[0] == 0
    with pytest.raises(UsageError) as caught, Folder(tmp_path) as evidence:
        SigningKey("buyer-1", Path("key"), None).signer(evidence)
    assert report_error(caught.value, "verify") == 2
    assert one_line(capsys.readouterr().err) == (
        "verify: key: the key is encrypted (set COATTEST_PASSPHRASE_FILE to a file whose first line is the "
        "passphrase, or use --passphrase-file)"
    )


def test_an_error_in_a_bids_file_names_the_file(program: Program, tmp_path: Path) -> None:
    """One finding is one line: the file, its line, what is wrong; never an amount."""
    content = manifest()
    (tmp_path / "manifest.cbor").write_bytes(content.encode())
    generate_key(tmp_path / "auction.key", "p384")
    lots = list(messages.LotList(content.lots))
    amounts = ["77123.5", *[""] * (len(lots) - 1)]
    rows = [f"{lot.id},{amount}\n" for lot, amount in zip(lots, amounts, strict=True)]
    (tmp_path / "bids.csv").write_text("lot,amount\n" + "".join(rows))
    code, _, said = program("auction", "bid", *AUCTION, "--bids", "bids.csv", "--preview")
    assert code == 2
    assert one_line(said).startswith("auction: bids.csv: line 2: ")
    assert "77123" not in said


@pytest.mark.parametrize(
    "error",
    [
        aws.NoCredentialsError(),
        aws.EndpointConnectionError(endpoint_url="https://kms.eu-central-1.amazonaws.com/"),
        aws.ClientError({"Error": {"Code": "UnrecognizedClientException", "Message": "no"}}, "Encrypt"),
        aws.ClientError({"Error": {"Code": "InvalidAccessKeyId", "Message": "no"}}, "GetObject"),
    ],
)
def test_who_forgot_the_endpoint_is_told(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """No credentials, the example's at AWS itself, no network: the env file and --endpoint-url are named."""
    with pytest.raises(EnvironmentFailure) as caught, aws_errors("the key"):
        raise error
    assert report_error(caught.value, "auction") == 3
    line = one_line(capsys.readouterr().err)
    assert "source the party's env file of nitro-local up, and give --endpoint-url" in line


LACKS = {"code": "no-sandbox", "error": "no user namespaces", "hint": "sysctl", "where": None}


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (step_failed(CommandResult(3, LACKS, ""), where="service: eif build"), "no-sandbox"),
        (OSError(28, "No space left on device", "/tmp/x"), "enospc"),
    ],
)
def test_a_demo_that_the_machine_cannot_run_ends_with_3(
    failure: Exception, code: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and with ``--json`` one document, which has the code."""

    def fails(*_: object, **__: object) -> Stage:
        raise failure

    monkeypatch.setattr(demo, "play", fails)
    words = ("nitro-local", "demo", "--this-checkout-is-mine")
    ended, _, said = program(*words)
    assert (ended, len(said.splitlines())) == (3, 1), said
    ended, document, said = program(*words, "--json")
    assert (ended, json.loads(document)["code"], len(said.splitlines())) == (3, code, 1)


def test_a_demo_that_ends_well_prints_one_document(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prose goes to stderr."""

    def plays(_: Path, console: object, **__: object) -> Stage:
        stage = Stage(console)  # type: ignore[arg-type]
        stage.step("one")
        stage.refused("an attack", "it is one")
        return stage

    monkeypatch.setattr(demo, "play", plays)
    ended, document, said = program("nitro-local", "demo", "--this-checkout-is-mine", "--json")
    assert (ended, json.loads(document)["refused"]) == (0, 1)
    assert "refused an attack" in said


def test_a_source_that_cannot_be_copied_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full TMPDIR while the parties get their copies, where there is no repository to clone."""
    for name in ("build/image.toml", "build/one", "enclave/two"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text("")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/full")

    monkeypatch.setattr(shutil, "copystat", full)
    with pytest.raises(EnvironmentFailure, match=r"cannot be copied: .*No space left") as caught:
        copy_source(tmp_path / "source", tmp_path / "copy")
    assert "set TMPDIR" in str(caught.value)
    assert "[(" not in str(caught.value)


def test_an_attack_that_the_machine_could_not_try_is_no_false_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk in the middle of a refusal is exit code 3 too, not "was not refused"."""
    from coattest.shell import err

    party = Party("buyer-1", tmp_path, Stage(err()))
    monkeypatch.setattr(Party, "attempt", lambda *_, **__: CommandResult(3, LACKS, "said"))
    with pytest.raises(CoattestError) as caught:
        party.must_fail("an attack", "auction", "open", expected_code="kms-denied")
    assert (caught.value.exit_code, caught.value.code) == (3, "no-sandbox")
    with pytest.raises(CoattestError) as caught:
        party.must_fail("an attack", "auction", "open", expected_code="kms-denied", exit_code=3)
    assert caught.value.code == "demo-failed"
    assert capsys.readouterr().out == ""


def test_make_demo_says_the_demos_exit_code(tmp_path: Path) -> None:
    """make itself ends with 2, as for every recipe; its last line has the program's code."""
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / "pyproject.toml").write_text("")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text("")
    demo_program = programs / "nitro-local"
    demo_program.write_text("#!/bin/sh\necho 'nitro-local: no user namespaces' >&2\nexit 3\n")
    demo_program.chmod(0o755)
    (tmp_path / ".venv" / ".ready-local").write_text("")
    made = subprocess.run(
        ["make", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert made.returncode == 2
    first, last = made.stderr.splitlines()
    assert first == "nitro-local: no user namespaces"
    assert last.endswith("demo] Error 3")
