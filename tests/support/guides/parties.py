"""The parties that type the guides' commands, each in directories and an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coattest_build.inputs.cache import cache_folder
from coattest_local.aws import services as local_services
from coattest_local.demo import cloud
from coattest_local.demo.chain import BUYERS
from coattest_local.demo.sources import copy_source
from coattest_parent.deployment.stack.stacks import Stacks
from support.build.python_image import make_python_image
from support.guides.blocks import ROOT, Block
from support.guides.terminal import at_a_terminal
from support.parent.deployments import SETTINGS, Release

SERVICE, CHECKOUT = "service", "checkout"
EVERYBODY = (SERVICE, *BUYERS)
WHO = {
    "buyers": BUYERS,
    "buyer-1": ("buyer-1",),
    "service": (SERVICE,),
    "everybody": EVERYBODY,
    "checkout": (CHECKOUT,),
}
AMOUNTS = {"buyer-1": (100000, 200000, 150000), "buyer-2": (120000, 180000, 150000)}
LOTS = ("harbour-12", "mill-lane-3", "station-1")


class Parties:
    """Each party's directory and environment, as separate machines would have them."""

    def __init__(self, folder: Path, running: local_services.Services) -> None:
        self.folder, self.services = folder, running
        self.shared = folder / "shared"
        (self.shared / "attestations").mkdir(parents=True)
        self.role = cloud.make_service(running, BUYERS).role_arn
        self.environments = {name: self._common(name) for name in (*EVERYBODY, CHECKOUT)}
        self.environments[SERVICE].update(running.environment(SERVICE))
        self.environments[SERVICE]["ACCOUNT"] = running.accounts[SERVICE].account
        self.bidders = {name: self._buyer(name) for name in BUYERS}
        make_environment_of_make(folder / CHECKOUT / "source")

    def _buyer(self, name: str) -> dict[str, str]:
        """A buyer's account, credentials, amounts and variables; the credentials of its user that bids."""
        owned = cloud.make_buyer(self.services, name, self.role)
        profiles = {"admin": self.services.environment(name), "bidder": owned.environment}
        credentials = self.folder / name / "credentials"
        credentials.write_text(
            "".join(
                f"[{profile}]\naws_access_key_id = {values['AWS_ACCESS_KEY_ID']}\n"
                f"aws_secret_access_key = {values['AWS_SECRET_ACCESS_KEY']}\n"
                for profile, values in profiles.items()
            )
        )
        rows = zip(LOTS, AMOUNTS[name], strict=True)
        (self.folder / name / "bids.csv").write_text(
            "lot,amount\n" + "".join(f"{lot},{amount}\n" for lot, amount in rows)
        )
        self.environments[name].update(
            {
                "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
                "AWS_CA_BUNDLE": str(self.services.ca_bundle),
                "AWS_REGION": cloud.REGION,
                "ACCOUNT": owned.account,
                "KMS_KEY": owned.key_arn,
                "BIDS": owned.bids_uri,
                "LOCAL_KMS": f"--endpoint-url {self.services.endpoint} --region {cloud.REGION}",
                "SIMULATOR": "--simulator",
                "TRAIL": str(self.services.trail),
            }
        )
        return owned.environment

    def _common(self, name: str) -> dict[str, str]:
        home = self.folder / name
        home.mkdir()
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
            "MANPAGER": "cat",
            "ME": name,
            "OTHER": next((other for other in BUYERS if other != name), ""),
            "SHARED": str(self.shared),
            "SOURCE": str(home / "source"),
            "PARENT_ROLE": self.role,
            "INSTANCE": cloud.INSTANCE_ID,
            "LOCAL": f"--endpoint-url {self.services.endpoint} --ca-bundle {self.services.ca_bundle}",
        }

    @property
    def root(self) -> str:
        """The root of the tutorials' quorum, as the buyers gave it to the service."""
        written = self.folder / "buyer-1" / "root"
        return written.read_text().strip() if written.exists() else ""

    @property
    def enclave(self) -> str:
        """The address of the tutorials' enclave while it runs."""
        record = self.folder / SERVICE / "deployment" / "enclave" / "enclave.json"
        return str(json.loads(record.read_text())["address"]) if record.exists() else ""

    @property
    def image(self) -> Path:
        """The tutorials' image of the local profile."""
        return self.folder / SERVICE / "out" / "image.local.eif"

    def step(self, name: str, block: Block) -> None:
        """Run a block of a tutorial, in the party's home."""
        environment = dict(self.environments[name])
        if name == SERVICE:
            environment.update({"ROOT": self.root, "ENCLAVE": self.enclave})
        run(name, block, self.folder / name, environment)


def make_environment_of_make(source: Path) -> None:
    """Give a checkout the .venv that `make` would set up: this interpreter's environment, seen from there."""
    folder = source / ".venv"
    folder.mkdir()
    shutil.copyfile(Path(sys.prefix) / "pyvenv.cfg", folder / "pyvenv.cfg")
    for name in ("bin", "lib"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".ready-test").touch()


def run(
    name: str, block: Block, folder: Path, environment: dict[str, str], before: Sequence[str] = ()
) -> None:
    """Run a block's commands in one shell, each with its expected exit code, after those of ``before``.

    The party sits at a terminal, and says yes whenever it is asked.
    """
    script = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n" + "".join(f"{line}\n" for line in before)
    script += "".join(
        f"{command.text}\ncode=$?; [ $code = {command.code} ] || {{ echo "
        f'"exit $code, not {command.code}" >&2; exit 99; }}\n'
        for command in block.commands
    )
    done = at_a_terminal(script, folder, environment)
    first = block.commands[0].text.partition("\n")[0]
    assert done.returncode == 0, f"{block.page}, {name}, from `{first}`: {done.shown[-3000:]}"


@dataclass
class Page:
    """A page that is no tutorial, while it is run: new directories, variables that last to its end."""

    parties: Parties
    stem: str
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    set_before: dict[str, list[str]] = field(default_factory=dict)
    origin: Path | None = None

    def __post_init__(self) -> None:
        folder, shared = self.parties.folder, self.parties.folder / "pages" / self.stem
        shared.mkdir(parents=True)
        for name in EVERYBODY:
            home = self.home(name)
            home.mkdir(parents=True)
            for file in (folder / name).glob("quorum.key*"):
                shutil.copy(file, home)
            self.variables[name] = {
                **self.parties.environments[name],
                "COATTEST_CONFIG": str(home / "config"),
                "SHARED": str(shared),
                "TRUST": f"--root {self.parties.root} --profile local --release 0.1.0",
                "ENCLAVE": self.parties.enclave,
                "IMAGE": str(self.parties.image),
            }
        self.variables[CHECKOUT] = dict(self.parties.environments[CHECKOUT])
        self.shared = shared

    def home(self, name: str) -> Path:
        """Where a party types the page's commands."""
        home = self.parties.folder / name
        return home / "source" if name == CHECKOUT else home / "pages" / self.stem

    def attestations(self, folder: Path) -> None:
        """Give every party a clone of that folder: before its blocks it pulls, after them it pushes."""
        self.origin = folder
        for name in EVERYBODY:
            mirror(folder, self.home(name) / "attestations")

    def set(self, names: Sequence[str], **values: str) -> None:
        """Set variables of parties."""
        for name in names:
            self.variables[name].update(values)

    def run(self, block: Block) -> None:
        """Run a block by whom it names."""
        for name in WHO[block.who]:
            origin = self.origin if name in EVERYBODY else None
            if origin:
                mirror(origin, self.home(name) / "attestations")
            if (policy := self.home(name) / "attestations" / "quorum.toml").exists():
                self.variables[name].setdefault("ROOT", f"sha256:{sha256(policy)}")
            before = self.set_before.setdefault(name, [])
            run(name, block, self.home(name), self.variables[name], before)
            before += [command.text for command in block.commands if command.sets_variables]
            if origin:
                mirror(self.home(name) / "attestations", origin)


def mirror(source: Path, target: Path) -> None:
    """Give ``target`` the files of ``source`` and no others; a file that is the same is left alone."""
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for path in list(target.rglob("*")):
        if path.is_file() and path.relative_to(target) not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = target / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def sha256(path: Path) -> str:
    """A file's SHA-256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepare_auction(page: Page) -> None:
    """The tutorials' quorum and enclave; who bids is the buyer's user for it; the service has a bucket."""
    services = page.parties.services
    page.attestations(page.parties.shared / "attestations")
    page.set(BUYERS, AWS_PROFILE="bidder", SIMULATOR="--simulator")
    for name in BUYERS:  # the tutorials' keys serve the tutorials' seal keys
        key = services.client("kms", name).create_key(Description="bids")["KeyMetadata"]
        page.set([name], KMS_KEY=key["Arn"])
    services.client("s3", SERVICE).create_bucket(
        Bucket="results-of-service", CreateBucketConfiguration={"LocationConstraint": cloud.REGION}
    )
    rights = {
        "Effect": "Allow",
        "Action": ["s3:PutObject", "s3:GetObject"],
        "Resource": "arn:aws:s3:::results-of-service/*",
    }
    services.client("iam", SERVICE).put_role_policy(
        RoleName=cloud.PARENT_ROLE,
        PolicyName="results",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [rights]}),
    )
    page.set([SERVICE], RESULTS="s3://results-of-service")


def prepare_deployment(page: Page) -> None:
    """The tutorials' decision; a network, and the role's name that the plan's name gives."""
    page.attestations(page.parties.shared / "attestations")
    page.set(BUYERS, AWS_PROFILE="admin", SIMULATOR="--simulator")
    subnet = page.parties.services.client("ec2", SERVICE).describe_subnets()["Subnets"][0]
    page.set([SERVICE], VPC=subnet["VpcId"], SUBNET=subnet["SubnetId"], AMI=SETTINGS.ami)
    page.set([SERVICE], LOCAL=f"{page.variables[SERVICE]['LOCAL']} --state state")
    page.set(BUYERS, PARENT_ROLE=SETTINGS.role_arn)


def create_buyers_stacks(page: Page) -> None:
    """What `aws cloudformation deploy` does with stack.json, by each buyer, and its outputs."""
    for name in BUYERS:
        template = json.loads((page.home(name) / "stack.json").read_text())
        stacks = Stacks(page.parties.services.client("cloudformation", name), lambda _: None)
        canonical = json.dumps(template, sort_keys=True, separators=(",", ":"))
        outputs = stacks.put("coattest-buyer", canonical, {})[0].outputs
        page.set([name], KMS_KEY=outputs["KeyArn"], BIDS=outputs["Bids"])


def prepare_key_policies(page: Page) -> None:
    """Two decided releases of another quorum of the same buyers, and a new key."""
    images = [
        make_python_image(page.shared / f"{name}.eif", marker=name.encode()) for name in ("now", "next")
    ]
    now = Release.make(page.shared / "one", images[0])
    following = Release.make(page.shared / "two", images[1], "0.2.0", now.members)
    mirror(following.members.attestations, page.home("buyer-1") / "attestations")
    key = page.parties.services.client("kms", "buyer-1").create_key(Description="bids")["KeyMetadata"]["Arn"]
    root = f"--root sha256:{now.members.root.hex()} --profile local"
    page.set(["buyer-1"], AWS_PROFILE="admin", TRUST=root, KMS_KEY=key)


def prepare_quorum(page: Page) -> None:
    """A folder that all share, with the publisher's claim."""
    folder = page.shared / "attestations"
    released = folder / "releases" / "0.1.0"
    released.mkdir(parents=True)
    shutil.copy(page.parties.shared / "attestations" / "releases" / "0.1.0" / "claim.json", released)
    page.attestations(folder)


def prepare_operations(page: Page) -> None:
    """What the tutorials' parties exchanged: their auction is opened once more."""
    page.attestations(page.parties.shared / "attestations")
    page.set([SERVICE], SHARED=str(page.parties.shared))


PREPARE: dict[str, Callable[[Page], None]] = {
    "auction": prepare_auction,
    "deployment": prepare_deployment,
    "key-policies": prepare_key_policies,
    "operations": prepare_operations,
    "quorum": prepare_quorum,
}
STAND_INS = {"aws cloudformation deploy ": create_buyers_stacks}
"""What the test does itself where a page has a command that it cannot run, by how the command begins."""
