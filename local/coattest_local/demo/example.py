"""What the tutorials need: each party's account, folder and shell variables, for people at a terminal."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import write_atomic
from coattest.programs.apart import require_apart
from coattest_local.aws.services import Services
from coattest_local.demo import cloud
from coattest_local.demo.auction import AMOUNTS, LOTS
from coattest_local.demo.chain import BUYERS
from coattest_local.demo.cloud import BuyerCloud

SERVICE = "service"
RESULTS = "results-of-service"

FOREIGN = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Variables that would put a person's real AWS credentials before the example's."""


def check_places(directory: Path, source: Path) -> None:
    """Raise where the example cannot work, before anything is started.

    UsageError: ``directory`` is not new or empty, has a space in its path, or lies in the checkout;
    ``source`` is no checkout.
    EnvironmentFailure (``not-apart``): coattest lies in the checkout, which the tutorials judge.
    """
    if not (source / "build" / "image.toml").is_file():
        raise UsageError("no build/image.toml here", where=str(source), hint="name a checkout with --source")
    if directory.exists() and any(directory.iterdir()):
        raise UsageError("the folder is not empty", where=str(directory), hint="name a new one: --directory")
    if directory.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            "the folder lies in the checkout", where=str(directory), hint="--directory elsewhere"
        )
    if any(letter.isspace() for letter in str(directory)):  # $LOCAL is several words to a shell
        raise UsageError(
            "the folder's path has a space", where=str(directory), hint="name another: --directory"
        )
    try:
        require_apart([source])
    except EnvironmentFailure as failure:
        raise EnvironmentFailure(
            f"{failure.findings[0].detail}, which the tutorials judge",
            where=failure.findings[0].where,
            hint="install coattest apart from the checkout (README, Install)",
            code="not-apart",
        ) from None


def make_example(services: Services, directory: Path, source: Path) -> dict[str, Path]:
    """Make every party's account, folder and file of variables; returns the files by party.

    Each party's folder is ``directory/NAME``, its variables are in ``directory/env.NAME``, and its AWS
    credentials in ``directory/NAME/aws-credentials`` (mode 0600).
    """
    role = cloud.make_service(services, BUYERS).role_arn
    owned = {name: cloud.make_buyer(services, name, role) for name in BUYERS}
    _make_results(services)
    (directory / "shared" / "attestations").mkdir(parents=True)
    subnets = services.client("ec2", SERVICE).describe_subnets()["Subnets"][:2]
    variables = {
        SERVICE: {
            "RESULTS": f"s3://{RESULTS}",
            "VPC": subnets[0]["VpcId"],
            "SUBNETS": " ".join(f"--subnet {each['SubnetId']}" for each in subnets),
        },
        **{name: _of_buyer(name, owned[name]) for name in BUYERS},
    }
    written = {}
    for name, own in variables.items():
        home = directory / name
        home.mkdir()
        _write_credentials(home / "aws-credentials", services, name, owned.get(name))
        if name in BUYERS:
            _write_bids(home / "bids.csv", AMOUNTS[name])
        common = _of_everybody(services, directory, name)
        common |= {"SOURCE": str(source.resolve()), "PARENT_ROLE": role}
        written[name] = directory / f"env.{name}"
        write_atomic(written[name], _script(name, common | own).encode())
    return written


def _of_everybody(services: Services, directory: Path, name: str) -> dict[str, str]:
    home = directory / name
    settings = services.environment(name)
    settings.pop("AWS_ACCESS_KEY_ID")
    settings.pop("AWS_SECRET_ACCESS_KEY")
    return {
        "ME": name,
        "SHARED": str(directory / "shared"),
        "ACCOUNT": services.accounts[name].account,
        "SERVICE_ACCOUNT": services.accounts[SERVICE].account,
        "INSTANCE": cloud.INSTANCE_ID,
        "LOCAL": f"--endpoint-url {services.endpoint} --ca-bundle {services.ca_bundle}",
        "LOCAL_KMS": f"--endpoint-url {services.endpoint} --region {cloud.REGION}",
        "SIMULATOR": "--simulator",
        "TRAIL": str(services.trail),
        "COATTEST_CONFIG": str(home / "config"),
        "COATTEST_STATE": str(home / "state"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws-credentials"),
        "AWS_CONFIG_FILE": os.devnull,
        **settings,
    }


def _of_buyer(name: str, owned: BuyerCloud) -> dict[str, str]:
    (other,) = (buyer for buyer in BUYERS if buyer != name)
    return {"OTHER": other, "KMS_KEY": owned.key_arn, "BIDS": owned.bids_uri}


def _make_results(services: Services) -> None:
    """The service's bucket for results; the parent's role may put and read there."""
    services.client("s3", SERVICE).create_bucket(
        Bucket=RESULTS, CreateBucketConfiguration={"LocationConstraint": cloud.REGION}
    )
    rights = cloud.statement_of(None, ["s3:PutObject", "s3:GetObject"], f"arn:aws:s3:::{RESULTS}/*")
    services.client("iam", SERVICE).put_role_policy(
        RoleName=cloud.PARENT_ROLE, PolicyName="results", PolicyDocument=cloud.access_policy(rights)
    )


def _write_credentials(path: Path, services: Services, name: str, owned: BuyerCloud | None) -> None:
    """A party's profiles: a buyer's administrator and its user that bids; the service's administrator."""
    profiles = {"admin" if owned else "default": services.environment(name)}
    if owned:
        profiles["bidder"] = owned.environment
    text = "".join(
        f"[{profile}]\naws_access_key_id = {values['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {values['AWS_SECRET_ACCESS_KEY']}\n"
        for profile, values in profiles.items()
    )
    write_atomic(path, text.encode(), mode=0o600)


def _write_bids(path: Path, amounts: tuple[int, ...]) -> None:
    rows = "".join(f"{lot},{amount}\n" for lot, amount in zip(LOTS, amounts, strict=True))
    write_atomic(path, f"lot,amount\n{rows}".encode())


def _script(name: str, variables: dict[str, str]) -> str:
    lines = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    programs = shlex.quote(str(Path(sys.executable).parent))
    return (
        f"# {name} of coattest's example, for bash: . env.{name}\n"
        f'unset {" ".join(FOREIGN)}\nexport PATH={programs}:"$PATH"\n{lines}'
    )
