"""What the demo says when one of its commands fails."""

from __future__ import annotations

from pathlib import Path

from coattest.shell import err
from coattest_local.demo.stage import CommandResult, Party, Stage, step_failed

LACKS = {
    "code": "no-sandbox",
    "error": "this machine has no user namespaces",
    "hint": "sysctl user.max_user_namespaces",
    "where": None,
}


def test_what_a_machine_lacks_stays_exit_code_3() -> None:
    """One line in the command's own words, with its remedy, whether its errors were shown before or not."""
    failure = step_failed(CommandResult(3, LACKS, ""), where="service: eif build")
    assert (failure.exit_code, failure.code) == (3, "no-sandbox")
    assert str(failure) == (
        "service: eif build: this machine has no user namespaces (sysctl user.max_user_namespaces)"
    )


def test_what_is_false_is_exit_code_1(tmp_path: Path) -> None:
    """A command that is refused ends the demo with what it said, and no dict."""
    party = Party("buyer-1", tmp_path, Stage(err()))
    done = party.attempt("eif", "describe", "absent", quiet=True)
    failure = step_failed(done, where="buyer-1: eif describe")
    assert (failure.exit_code, failure.code) == (1, "demo-failed")
    assert "absent" in str(failure)
    assert "{" not in str(failure)
    assert "\n" not in str(failure)
