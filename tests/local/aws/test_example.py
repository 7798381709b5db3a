"""`nitro-local up --example`: what the tutorials need, made for a person at a terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

UP = (str(Path(sys.executable).with_name("nitro-local")), "up")
WHO = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
KEY = (
    "import boto3, os; key = os.environ['KMS_KEY']; "
    "print(boto3.client('kms').describe_key(KeyId=key)['KeyMetadata']['Arn'] == key)"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "build").mkdir()
    (folder / "build" / "image.toml").write_text("")
    return folder


@contextmanager
def started(*words: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """The command while it runs, with the document that it prints."""
    with subprocess.Popen(
        [*UP, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        try:
            text = ""
            for line in running.stdout:
                text += line
                if line == "}\n":
                    break
            yield json.loads(text), running
        finally:
            running.terminate()


def in_a_shell(file: Path, script: str) -> str:
    """What a party's shell prints for a script, with the variables of its file and nothing else's."""
    done = subprocess.run(
        ["bash", "-c", f'. "$1"; {script}', "bash", str(file)],
        env={
            "PATH": "/usr/bin:/bin",
            "AWS_PROFILE": "mine",
            "AWS_ACCESS_KEY_ID": "AKIAMINE",
            "WHO": WHO,
            "KEY": KEY,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_each_party_has_a_file_to_source_and_an_account_that_answers(checkout: Path, tmp_path: Path) -> None:
    """A person's own AWS settings do not get in; secrets are in files that only the person reads."""
    folder = tmp_path / "it's"
    with started("--example", "--source", str(checkout), "--directory", str(folder), "--json") as (made, _):
        files = {name: Path(path) for name, path in made["example"].items()}
        assert set(files) == {"service", "buyer-1", "buyer-2"}
        for name in ("buyer-1", "buyer-2"):
            account = made["accounts"][name]["account"]
            for profile in ("admin", "bidder"):
                said = in_a_shell(files[name], f'AWS_PROFILE={profile} {sys.executable} -c "$WHO"')
                assert said.strip() == f"arn:aws:iam::{account}:user/{profile}"
            assert in_a_shell(files[name], f'AWS_PROFILE=admin {sys.executable} -c "$KEY"') == "True\n"
            assert (folder / name / "bids.csv").read_text().startswith("lot,amount\nharbour-12,")
        shown = in_a_shell(files["service"], 'echo "$ME|$SOURCE|$SHARED|$RESULTS|$VPC"').strip().split("|")
        assert shown[:4] == ["service", str(checkout), str(folder / "shared"), "s3://results-of-service"]
        assert shown[4].startswith("vpc-")
        for name, path in files.items():
            assert made["accounts"][name]["secret_key"] not in path.read_text()
            assert (folder / name / "aws-credentials").stat().st_mode & 0o077 == 0
        assert (folder / "shared" / "attestations").is_dir()


@pytest.mark.slow
def test_it_says_what_to_type_next(checkout: Path, tmp_path: Path) -> None:
    """One line for each party, whole at 80 columns, and the page to go on with."""
    folder = tmp_path / ("a-long-name-of-a-folder-" * 4)
    command = [*UP, "--example", "--source", str(checkout), "--directory", str(folder)]
    said = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        for line in running.stderr:
            said += line
            if line.startswith("Ctrl-C"):
                break
        running.terminate()
    for name in ("service", "buyer-1", "buyer-2"):
        assert f"cd {folder / name} && . ../env.{name}\n" in said
    assert "docs/tutorial-buyer.md" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--example", "--account", "a=111122223333"), 2, "--account"),
        (("--example", "--region", "eu-west-1"), 2, "--region"),
        (("--source", "CHECKOUT"), 2, "--source"),
        (("--example", "--source", "EMPTY"), 2, "no build/image.toml"),
        (("--example", "--source", "CHECKOUT", "--directory", "FULL"), 2, "not empty"),
        (("--example", "--source", "CHECKOUT", "--directory", "CHECKOUT/example"), 2, "lies in the checkout"),
        (("--example", "--source", "CHECKOUT", "--directory", "my example"), 2, "a space"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    words: tuple[str, ...], code: int, says: str, checkout: Path, tmp_path: Path
) -> None:
    """In one line; nothing was made."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {"CHECKOUT": checkout, "EMPTY": tmp_path / "empty", "FULL": tmp_path / "full"}
    given = list(words)
    for name, path in places.items():
        given = [word.replace(name, str(path)) for word in given]
    done = subprocess.run(
        [*UP, *given], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert says in done.stderr
    assert not (checkout / "example").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_a_coattest_out_of_the_checkout_is_told_at_the_first_command(tmp_path: Path) -> None:
    """The tutorials would refuse it only after a quarter of an hour."""
    checkout = tmp_path / "checkout"
    (checkout / "build").mkdir(parents=True)
    (checkout / "build" / "image.toml").write_text("")
    shutil.copyfile(UP[0], checkout / "nitro-local")
    done = subprocess.run(
        [sys.executable, str(checkout / "nitro-local"), "up", "--example", "--source", str(checkout)],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "which the tutorials judge" in done.stderr
    assert not (tmp_path / "coattest-example").exists()
