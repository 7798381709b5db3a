"""An option that would do nothing is refused: whoever gives it believes that it does something."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from coattest_parent.cli.deploy import command as deploy

PROGRAMS = {
    "verify": "coattest_verify.cli",
    "auction": "coattest_parent.cli.auction",
    "deploy-from-attestation": "coattest_parent.cli.deploy",
}


def run(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a program here: exit code and stderr."""
    argv = words.split()
    main = importlib.import_module(PROGRAMS[argv[0]]).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("verify quorum --bundle FILE --attestations . --root ROOT", "--attestations"),
        ("verify sign-pcrs --key FILE --member a --could-not-build --rebuild .", "--rebuild"),
        ("verify release review --note fine", "--note"),
        ("deploy-from-attestation destroy --state . --plan . --delete-data", "--plan, --delete-data"),
        ("deploy-from-attestation status --release 1 --state . --image FILE", "--image"),
        ("deploy-from-attestation status --state . --region eu-west-1", "No such option"),
        ("deploy-from-attestation plan --release 1 --image FILE --state . --cpus 4 --out x", "--cpus, --out"),
        ("deploy-from-attestation plan --release 1 --target aws --image FILE --role-arn arn:x", "--role-arn"),
        ("deploy-from-attestation smoke --measurements FILE --address vsock:5:5 --memory 64", "--memory"),
    ],
)
def test_an_option_that_does_nothing_is_named(
    words: str,
    names: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 2, before anything is done."""
    file = tmp_path / "file"
    file.write_text("{}")
    monkeypatch.chdir(tmp_path)
    code, said = run(words.replace("FILE", str(file)).replace("ROOT", f"sha256:{'0' * 64}"), capsys)
    assert code == 2
    assert names in said


def test_every_option_of_deployment_is_of_a_target() -> None:
    """A new option is put into one of the sets, or into the ones that both targets have."""
    both = {
        "target",
        "image",
        "state",
        "bundle",
        "release",
        "attestations",
        "root",
        "profile",
        "fresh",
        "as_json",
    }
    for name in ("plan_command", "apply_command", "status_command", "destroy_command"):
        found = {parameter.name for parameter in getattr(deploy, name).params}
        assert found <= both | deploy.OF_AWS | {*deploy.OF_LOCAL}, name
