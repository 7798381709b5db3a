"""Two buyers and a service with a real quorum, their accounts at the local services, and their commands."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from coattest_parent.link.aws import parse_s3_uri
from coattest_verify.auction import messages
from coattest_verify.auction.buyers import load_manifest, load_own_key
from coattest_verify.auction.place import bids_prefix
from support.forked import own
from support.local.local_enclave import PCRS, Cloud, LocalEnclave, decision
from support.verify.members import NOW, Members, profile_json, report_json
from support.yes import the_yes_to

BIDS = {
    "buyer-1": "lot,amount\nlot-1,100000\nlot-2,200000\nlot-3,150000\n",
    "buyer-2": "lot,amount\nlot-1,120000\nlot-2,180000\nlot-3,150000\n",
}


class World:
    """Two buyers and a service with their files, accounts and commands."""

    def __init__(self, folder: Path, cloud: Cloud, running: LocalEnclave) -> None:
        self.folder, self.cloud, self.enclave = folder, cloud, running
        self.members = Members.make(folder / "quorum")
        local = profile_json("local", "image.local.eif")
        local["pcrs"] = {f"PCR{index}": value.hex() for index, value in PCRS.items()}
        self.report = report_json(profiles={"aws": profile_json("aws"), "local": local})
        self.members.claim(self.report)
        self.sign()
        for name in BIDS:
            cloud.allow(name, decision())
        for name, text in BIDS.items():
            (folder / f"{name}.csv").write_text(text)

    def sign(self) -> None:
        """Every buyer's agreeing statement under the present members file."""
        an_hour_ago = NOW - (datetime.now(timezone.utc) - timedelta(hours=1))
        for name in BIDS:
            self.members.sign(name, self.report, age=an_hour_ago)

    @property
    def deciding(self) -> list[str]:
        return [*self.members.deciding()]

    @property
    def endpoint(self) -> list[str]:
        return [
            "--endpoint-url",
            self.cloud.services.endpoint,
            "--ca-bundle",
            str(self.cloud.services.ca_bundle),
        ]

    def run(self, who: str, *command: str, expect: int = 0) -> tuple[dict[str, Any], str]:
        """Run a command as ``who``, who confirms what it signs; its JSON document and its stderr."""
        if who in self.cloud.buyers:
            access, secret = self.cloud.buyers[who].access
        else:
            account = self.cloud.services.accounts["service"]
            access, secret = account.access_key, account.secret_key
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / who),
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": self.cloud.services.region,
        }
        program, *arguments = command
        done = subprocess.run(
            [*own(program), *arguments, "--json"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if yes := the_yes_to(done.stderr):
            return self.run(who, *command, *yes, expect=expect)
        assert done.returncode == expect, done.stderr
        return json.loads(done.stdout), done.stderr

    def seal_key(self, buyer: str) -> bytes:
        """The buyer's own seal key, SPKI DER."""
        return load_own_key(self.folder / f"{buyer}.key.pub")

    def prepare(self, name: str, closes_in: int | None = None) -> None:
        """Keys, records, and last the manifest: the closing time is that many seconds from then.

        None leaves time for the bids, which are more commands than there are before them: on a busy machine
        each takes longer.
        """
        began = time.monotonic()
        for buyer in BIDS:
            if not (self.folder / f"{buyer}.key").exists():
                self.run(buyer, "auction", "keygen", "--out", f"{buyer}.key")
                self.cloud.allow(buyer, decision(), seal_key=self.seal_key(buyer))
            self.run(
                buyer,
                *("auction", "certify", "--member", buyer, "--key", str(self.members.key(buyer))),
                *("--auction-key", f"{buyer}.key.pub", "--kms-key", self.cloud.buyers[buyer].key_arn),
                *("--bids", f"s3://{self.cloud.buyers[buyer].bucket}/auctions/", "--out", f"{buyer}.json"),
            )
        if closes_in is None:
            closes_in = 12 + math.ceil(10 * (time.monotonic() - began))
        closes = int(time.time()) + closes_in
        self.run(
            "service",
            *("auction", "manifest", "--auction", name, "--currency", "EUR"),
            *("--lot", "lot-1", "--lot", "lot-2:1000", "--lot", "lot-3"),
            *("--buyer", "buyer-2.json", "--buyer", "buyer-1.json"),
            *("--closes", str(closes), "--publish-by", str(closes + 3600), "--out", f"{name}.cbor"),
        )

    def bid(
        self, buyer: str, name: str, *more: str, expect: int = 0, known: bool = True
    ) -> tuple[dict[str, Any], str]:
        return self.run(
            buyer,
            *("auction", "bid", "--manifest", f"{name}.cbor", "--buyer", buyer, "--bids", f"{buyer}.csv"),
            *("--auction-key", f"{buyer}.key.pub", "--record", f"{buyer}.json"),
            *(self.others(buyer) if known else ()),
            *("--out", f"{name}.{buyer}.cose", *self.endpoint, *self.deciding, *more),
            expect=expect,
        )

    def others(self, buyer: str) -> list[str]:
        """The buyers that this one expects beside itself."""
        return [word for other in BIDS if other != buyer for word in ("--with", other)]

    def objects(self, buyer: str, name: str) -> list[str]:
        """The bid files of a buyer for a manifest, by the names of their objects."""
        manifest = load_manifest(self.folder / f"{name}.cbor")
        bucket, key = parse_s3_uri(bids_prefix(messages.named_buyer(manifest, buyer), manifest.digest))
        listed = self.cloud.services.client("s3", buyer).list_objects_v2(Bucket=bucket, Prefix=key)
        return [item["Key"].removeprefix(key) for item in listed.get("Contents", [])]

    def seal(
        self, buyer: str, name: str, *more: str, expect: int = 0, known: bool = True
    ) -> tuple[dict[str, Any], str]:
        return self.run(
            buyer,
            *("auction", "seal", "--manifest", f"{name}.cbor", "--buyer", buyer),
            *("--auction-key", f"{buyer}.key", "--own-bid", f"{name}.{buyer}.cose"),
            *("--record", f"{buyer}.json", *(self.others(buyer) if known else ())),
            *("--out", f"{name}.{buyer}.seal", *self.endpoint, *self.deciding, *more),
            expect=expect,
        )

    def open(self, name: str, *more: str, expect: int = 0) -> tuple[dict[str, Any], str]:
        seals = [part for buyer in BIDS for part in ("--seal", f"{name}.{buyer}.seal")]
        return self.run(
            "service",
            *("auction", "open", "--manifest", f"{name}.cbor", *seals, "--enclave", self.enclave.address),
            *("--assume-role", self.cloud.role, "--out", f"{name}.result", *self.endpoint, *more),
            expect=expect,
        )

    def receipt(self, name: str, *more: str, expect: int = 0) -> tuple[dict[str, Any], str]:
        return self.run(
            "service",
            *("verify", "receipt", f"{name}.result", "--manifest", f"{name}.cbor", *self.deciding, *more),
            expect=expect,
        )
