"""Every command that takes a checkout or attestations, or signs, with a line that gets past its parser."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from coattest.command import cli
from coattest.parser import adopted
from support.command_tree import verbs

ROOT_DIGEST = hashlib.sha256(Path(__file__).parents[3].joinpath("attestations/quorum.toml").read_bytes())
ROOT = f"sha256:{ROOT_DIGEST.hexdigest()}"
ACCOUNT = "111122223333"
KMS = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/parent"
MEMBER = "project-native"

SIGNING = ("--key", "KEY", "--member", MEMBER)
DECIDED = ("--root", ROOT)
NAMED = (*DECIDED, "--release", "0.1.0")
POLICY = ("--member", MEMBER, "--account", ACCOUNT, "--parent-role", ROLE, *NAMED)
MANAGED = ("--administrator", f"arn:aws:iam::{ACCOUNT}:user/admin", "--endpoint-url", "http://127.0.0.1:9")
BUYER = ("--kms-key", KMS, "--bids", "s3://bucket/prefix/")

LINES: dict[str, tuple[str, ...]] = {
    "auction bid": (
        *("--manifest", "FILE", "--buyer", MEMBER, "--bids", "FILE", "--auction-key", "KEY.pub"),
        *("--record", "FILE", *NAMED),
    ),
    "auction certify": (
        "--key",
        "KEY",
        "--member",
        MEMBER,
        "--auction-key",
        "KEY.pub",
        *BUYER,
        "--out",
        "NEW",
    ),
    "auction seal": (
        *("--manifest", "FILE", "--buyer", MEMBER, "--auction-key", "KEY", "--own-bid", "FILE"),
        *("--record", "FILE", "--out", "NEW", *NAMED),
    ),
    "auction withdraw": (*SIGNING, "--record", "FILE"),
    "deploy-from-attestation apply": ("--image", "FILE", *NAMED),
    "deploy-from-attestation plan": ("--image", "FILE", *NAMED),
    "deploy-from-attestation smoke": (
        *("--measurements", "MEASURED", "--image", "FILE", "--report", "NEW", "--key", "KEY"),
    ),
    "deploy-from-attestation status": NAMED,
    "eif build": ("--mirror", "MIRROR", "--out", "OUT"),
    "eif lock": ("--mirror", "MIRROR", "--check"),
    "eif sbom": (),
    "eif sign": ("FILE", "--key", "KEY", "--certificate", "FILE"),
    "eif stage assemble": ("--stage", "OUT", "--compiled", "OUT", "--out", "NEW", "--mirror", "MIRROR"),
    "eif stage prepare": ("--stage", "NEW", "--mirror", "MIRROR"),
    "nitro-local demo": ("--keep", "NEW"),
    "verify audit": ("FILE", "--key", KMS, "--parent-role", ROLE, *DECIDED),
    "verify commit": (*SIGNING, "--rebuild", "OUT", *DECIDED),
    "verify fleet": ("FILE", *DECIDED),
    "verify inputs": ("--mirror", "MIRROR"),
    "verify lint-change": ("HEAD", *DECIDED),
    "verify log append": DECIDED,
    "verify log cosign": (*SIGNING, *DECIDED),
    "verify log show": DECIDED,
    "verify members countersign": SIGNING,
    "verify members enroll": ("--member", "new=KEY.pub"),
    "verify members init": ("--member", "new=KEY.pub"),
    "verify members show": (),
    "verify policy apply": (KMS, *POLICY, *MANAGED),
    "verify policy check": (KMS, *POLICY, *MANAGED),
    "verify policy explain": POLICY,
    "verify policy make": (*POLICY, "--administrator", f"arn:aws:iam::{ACCOUNT}:user/admin"),
    "verify policy prove": ("FILE", *DECIDED),
    "verify quorum": DECIDED,
    "verify rebuild": ("--mirror", "MIRROR", "--out", "OUT"),
    "verify receipt": ("FILE", "--manifest", "FILE", *DECIDED),
    "verify release archive": (*SIGNING, "--out", "NEW", *NAMED),
    "verify release bundle": ("--out", "NEW", *DECIDED),
    "verify release excuse": (*SIGNING, "--whom", "buyer-1", "--reason", "why", *NAMED),
    "verify release links": ("--out", "NEW", *DECIDED),
    "verify release publish": (*SIGNING, "--rebuild", "OUT", "--claim", "FILE"),
    "verify release review": (*SIGNING, *NAMED),
    "verify release revoke": (*SIGNING, "--reason", "why", *DECIDED),
    "verify release unrevoke": (*SIGNING, "--reason", "why", *DECIDED),
    "verify release which": ("MEASURED", *DECIDED),
    "verify release withdraw": (*SIGNING, "--reason", "why", *NAMED),
    "verify report": (*SIGNING, *BUYER, "--policy", "FILE", "--parent-role", ROLE, "--out", "NEW", *NAMED),
    "verify sign-pcrs": (*SIGNING, "--rebuild", "OUT"),
    "verify turn": (*SIGNING, "--rebuild", "OUT", *DECIDED),
}
"""A line for every command that takes a checkout or attestations, or signs. Words in capitals are paths."""

STARTING: dict[str, tuple[str, ...]] = {
    "nitro-local boot": ("FILE",),
    "nitro-local run-enclave": (
        *(
            "FILE",
            "--directory",
            "NEW",
            "--role-arn",
            ROLE,
            "--instance-id",
            "i-0123456789abcdef0",
            "--detach",
        ),
    ),
    "nitro-local terminate-enclave": ("--directory", "OUT"),
}
"""The other commands that start programs."""


def find_command(command: str) -> click.Command:
    """The command of a line."""
    found: click.Command = adopted(cli)
    for name in command.split():
        assert isinstance(found, click.Group)
        below = found.get_command(click.Context(found), name)
        assert below is not None
        found = below
    return found


def kept_apart() -> set[str]:
    """Every command with an option that names somebody else's folder, or a key to sign with."""
    paths = [" ".join(path[1:]) for path in verbs(adopted(cli), ("coattest",)) if len(path) > 2]
    return {path for path in paths if any("apart" in vars(each) for each in find_command(path).params)}
