"""buyer-1 at a desk: ``verify policy`` with a quorum's attestations, against the local services."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from coattest_local.aws import services
from coattest_verify.cli import main
from support.local import kms_world as world
from support.verify.members import NOW, Members, report_json

BUYER = "222233334444"
ADMIN = f"arn:aws:iam::{BUYER}:user/admin"
SECOND = f"arn:aws:iam::{BUYER}:user/second"
BIDDER = f"arn:aws:iam::{BUYER}:user/bidder"


@dataclass(frozen=True)
class Buyer:
    """buyer-1 at a desk: a quorum's attestations, and credentials of an account of the local services."""

    quorum: Members
    running: services.Services
    folder: Path

    def policy(
        self,
        verb: str,
        *arguments: str,
        administrators: tuple[str, ...] = (ADMIN, SECOND),
        encrypters: tuple[str, ...] = (BIDDER,),
        profile: str = "local",
        member: str = "buyer-1",
        simulator: bool = True,
        releases: tuple[str, ...] = ("0.1.0",),
    ) -> subprocess.CompletedProcess[str]:
        """Run ``verify policy VERB`` through its entry point, in this process: exit code, stdout, stderr."""
        command = ["verify", "policy", verb, "--attestations", str(self.quorum.attestations)]
        command += ["--root", f"sha256:{self.quorum.root.hex()}", "--profile", profile, "--member", member]
        command += [argument for arn in administrators for argument in ("--administrator", arn)]
        command += [argument for arn in encrypters for argument in ("--encrypter", arn)]
        command += [argument for release in releases for argument in ("--release", release)]
        if verb != "prove":
            command += ["--account", BUYER, "--parent-role", world.PARENT]
            command += ["--simulator"] if simulator else []
        command += ["--save-previous", str(self.folder)] if verb == "apply" else []
        environment = {**self.running.environment("buyer-1"), "COATTEST_CONFIG": str(self.folder / "config")}
        environment.pop("AWS_ENDPOINT_URL")
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", [*command, *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())

    def live(self, verb: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The same against the local services."""
        return self.policy(verb, *arguments, "--endpoint-url", self.running.endpoint, "--json", **options)

    @property
    def pcrs(self) -> dict[int, str]:
        """The decided registers of the local profile."""
        return dict(self.quorum.decide(profile="local", now=datetime.now(timezone.utc)).require().pcrs)


@contextlib.contextmanager
def desk(folder: Path) -> Iterator[Buyer]:
    """Two members who agree, and the services with the principals that the policy names."""
    quorum = Members.make(folder, ["buyer-1", "buyer-2"])
    report = report_json()
    quorum.claim(report)
    for name in ("buyer-1", "buyer-2"):
        quorum.sign(name, report, age=NOW - datetime.now(timezone.utc) + timedelta(hours=1))
    with services.start(folder / "services", quiet=True) as running:
        iam = running.client("iam", "buyer-1")
        for name in ("second", "bidder"):
            iam.create_user(UserName=name)
        world.make_role(running, "service", "parent", may=world.may("kms:*"))
        yield Buyer(quorum, running, folder)
