"""The optional parts of an installation: what they are called, and what the commands do without them."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from coattest.command import cli
from coattest.errors import EnvironmentFailure
from coattest.extras import EXTRAS, need_extra, need_signer
from support.command_tree import command_at, verbs

FOR_PEOPLE_WHO_WORK_ON_IT = {"dev", "test"}

HELP_OF_ALL = f"""
import sys
for module in {sorted({module for modules in EXTRAS.values() for module in modules})!r}:
    sys.modules[module] = None
from click.testing import CliRunner
from coattest.command import cli
for line in sys.stdin.read().splitlines():
    done = CliRunner().invoke(cli, [*line.split()[1:], "-h"], prog_name="coattest")
    if done.exit_code != 0 or "-h, --help" not in done.output:
        print(line, done.output, done.exception)
"""


def test_the_extras_are_those_of_the_distribution() -> None:
    """Every extra that is for a user is one that a command can ask for."""
    provided = metadata.distribution("coattest").metadata.get_all("Provides-Extra") or []
    assert set(provided) == {*EXTRAS, *FOR_PEOPLE_WHO_WORK_ON_IT}


def test_every_command_shows_its_help_without_any_extra() -> None:
    """No module of an extra is imported before a command runs."""
    paths = "\n".join(" ".join(path) for path in verbs(cli, ("coattest",)))
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL], input=paths, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


def test_a_command_asks_for_an_extra_that_there_is() -> None:
    """What ``needs_extra`` names; those that need one say so themselves."""
    asked = {vars(command_at(cli, path)).get("extra") for path in verbs(cli, ("coattest",))} - {None}
    assert asked <= set(EXTRAS)
    assert asked >= {"aws", "build", "local", "prove"}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_an_extra_is_complete_or_missing(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its modules is needed; the message names the one that is not there, and the extra."""
    need_extra(extra)
    for module in EXTRAS[extra]:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            with pytest.raises(EnvironmentFailure, match=f"{module} .* extra '{extra}'") as caught:
                need_extra(extra)
        assert caught.value.code == "missing-extra"


@pytest.mark.parametrize(
    ("uri", "module", "extra"),
    [
        ("awskms:alias/me", "boto3", "aws"),
        ("hsm:2?label=me", "pkcs11", "pkcs11"),
        ("gcpkms:key", "securesystemslib", "in-toto"),
    ],
)
def test_a_key_elsewhere_names_the_extra_of_its_signer(
    uri: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the scheme of its URI."""
    need_signer(uri)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFailure, match=f"extra '{extra}'"):
        need_signer(uri)
