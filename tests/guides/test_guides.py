"""The tutorials, run as they stand: every command, in the order of the steps, against local services."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coattest_build.cache import cache_folder
from coattest_local import services as local_services
from coattest_local.demo import cloud
from coattest_local.demo.chain import ACCOUNTS, BUYERS
from coattest_local.demo.sources import copy_source

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GUIDES = {"tutorial-buyer.md": BUYERS, "tutorial-service.md": ("service",)}
PROGRAMS = ("eif ", "verify ", "auction ", "deploy-from-attestation ", "nitro-local ")
AMOUNTS = {"buyer-1": (100000, 200000, 150000), "buyer-2": (120000, 180000, 150000)}
LOTS = ("harbour-12", "mill-lane-3", "station-1")


@dataclass(frozen=True)
class Command:
    """One command of a block, and the exit code that the block expects of it."""

    text: str
    code: int


@dataclass(frozen=True)
class Block:
    """A fenced block of commands: its guide, the number of its step, and what it says."""

    guide: str
    step: int
    commands: tuple[Command, ...]


def commands_in(lines: list[str]) -> tuple[Command, ...]:
    """The commands of a block: `$ ` starts one, a backslash continues it, `# exit N` precedes it."""
    found, code, text = [], 0, ""
    for line in lines:
        if text:
            text += "\n" + line
        elif match := re.fullmatch(r"# exit (\d)", line):
            code = int(match[1])
            continue
        else:
            assert line.startswith("$ "), line
            text = line[2:]
        if not text.endswith("\\"):
            found.append(Command(text, code))
            text, code = "", 0
    assert not text
    return tuple(found)


def blocks_in(guide: str) -> list[Block]:
    """Every block of a guide. A command of ours anywhere else in a fence is an error of the guide."""
    blocks, step, fence, lines = [], 0, None, []
    for line in (DOCS / guide).read_text().splitlines():
        if fence is None and (heading := re.match(r"## Step (\d+)", line)):
            step = int(heading[1])
        elif fence is None and line.startswith("```"):
            fence, lines = line[3:], []
        elif line == "```" and fence is not None:
            if fence == "console":
                assert step
                blocks.append(Block(guide, step, commands_in(lines)))
            else:
                assert not any(each.removeprefix("$ ").startswith(PROGRAMS) for each in lines), lines
            fence = None
        else:
            lines.append(line)
    return blocks


BLOCKS = sorted((block for guide in GUIDES for block in blocks_in(guide)), key=lambda block: block.step)


def test_steps_are_one_sequence() -> None:
    """No step is missing between the two tutorials, and none is in both."""
    owners: dict[int, set[str]] = {}
    for block in BLOCKS:
        owners.setdefault(block.step, set()).add(block.guide)
    assert list(owners) == list(range(1, len(owners) + 1))
    assert all(len(guides) == 1 for guides in owners.values())


def test_the_reader_notices_what_it_must() -> None:
    """Expected codes belong to one command; a line that is no command is refused."""
    assert commands_in(["# exit 1", "$ a \\", "  b", "$ c"]) == (Command("a \\\n  b", 1), Command("c", 0))
    with pytest.raises(AssertionError):
        commands_in(["verify receipt"])


class Parties:
    """Each party's directory and environment, as separate machines would have them."""

    def __init__(self, folder: Path, running: local_services.Services) -> None:
        self.folder, self.services = folder, running
        self.shared = folder / "shared"
        (self.shared / "attestations").mkdir(parents=True)
        service = cloud.make_service(running, BUYERS)
        self.role = service.role_arn
        self.environments = {name: self._common(name) for name in ("service", *BUYERS)}
        self.environments["service"].update(running.environment("service"))
        for name in BUYERS:
            owned = cloud.make_buyer(running, name, self.role)
            admin = running.environment(name)
            profiles = {"admin": admin, "bidder": owned.environment}
            credentials = folder / name / "credentials"
            credentials.write_text(
                "".join(
                    f"[{profile}]\naws_access_key_id = {values['AWS_ACCESS_KEY_ID']}\n"
                    f"aws_secret_access_key = {values['AWS_SECRET_ACCESS_KEY']}\n"
                    for profile, values in profiles.items()
                )
            )
            rows = zip(LOTS, AMOUNTS[name], strict=True)
            (folder / name / "bids.csv").write_text(
                "lot,amount\n" + "".join(f"{lot},{amount}\n" for lot, amount in rows)
            )
            self.environments[name].update(
                {
                    "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
                    "AWS_CA_BUNDLE": str(running.ca_bundle),
                    "AWS_REGION": cloud.REGION,
                    "ACCOUNT": owned.account,
                    "KMS_KEY": owned.key_arn,
                    "BIDS": f"{owned.bids_uri}/spring.cose",
                    "LOCAL_KMS": f"--simulator --endpoint-url {running.endpoint} --region {cloud.REGION}",
                    "TRAIL": str(running.trail),
                }
            )

    def _common(self, name: str) -> dict[str, str]:
        home = self.folder / name
        copy_source(ROOT, home / "source")
        kept = {
            key: value
            for key, value in os.environ.items()
            if key.startswith(("PIP_", "SSL_CERT_", "COATTEST_DEBIAN"))
        }
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "COATTEST_CACHE": str(cache_folder().resolve()),
            "COATTEST_CONFIG": str(home / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "ME": name,
            "SHARED": str(self.shared),
            "SOURCE": str(home / "source"),
            "PARENT_ROLE": self.role,
            "INSTANCE": cloud.INSTANCE_ID,
            "LOCAL": f"--endpoint-url {self.services.endpoint} --ca-bundle {self.services.ca_bundle}",
        }

    def run(self, name: str, block: Block) -> None:
        """Run a block's commands in one shell, each with its expected exit code."""
        environment = dict(self.environments[name])
        if name == "service" and (root := self.folder / "buyer-1" / "root").exists():
            environment["ROOT"] = root.read_text().strip()
        record = self.folder / "service" / "deployment" / "enclave" / "enclave.json"
        if name == "service" and record.exists():
            environment["ENCLAVE"] = json.loads(record.read_text())["address"]
        script = "".join(
            f'{command.text}\ncode=$?; [ $code = {command.code} ] || {{ echo "exit $code" >&2; exit 99; }}\n'
            for command in block.commands
        )
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder / name,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.guide}, step {block.step}, {name}: {done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    """Three accounts at the local services; whatever enclave the service left running is ended."""
    folder = tmp_path_factory.mktemp("guides")
    for name in ("service", *BUYERS):
        (folder / name).mkdir()
    with local_services.start(folder / "aws", accounts=ACCOUNTS, region=cloud.REGION, quiet=True) as running:
        made = Parties(folder, running)
        yield made
        left = folder / "service" / "deployment"
        if left.exists():
            program = str(Path(sys.executable).with_name("deploy-from-attestation"))
            subprocess.run([program, "destroy", "--state", str(left)], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_both_tutorials_run_as_they_stand(parties: Parties) -> None:
    """Every step by whom it concerns; at the end each buyer has a verified page with the expected winners."""
    for block in BLOCKS:
        for name in GUIDES[block.guide]:
            parties.run(name, block)
    for name in BUYERS:
        page = (parties.folder / name / "receipt.html").read_text()
        assert "<span>Receipt verified</span>" in page
        assert "<td>harbour-12</td><td>buyer-2</td>" in page
        assert "<td>mill-lane-3</td><td>buyer-1</td>" in page
        assert "<td>station-1</td><td>tie: buyer-1, buyer-2</td>" in page
