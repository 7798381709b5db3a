"""One auction on the software host under a schedule, and what must hold after it whatever happened."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from coattest_enclave.protocol.binding import AUCTION, BUYER
from coattest_parent.auction.courier import bid_digests, upload_bid
from coattest_parent.auction.publish import Sealed
from coattest_parent.auction.steps import make_bid
from coattest_verify.auction import messages
from coattest_verify.auction.bids import read_bids
from coattest_verify.auction.certify import Own, certificate_check, certify_buyer_key
from coattest_verify.auction.journal import AlreadySealed, SealJournal
from coattest_verify.auction.place import bid_uri
from coattest_verify.auction.sealing import plan_seal, sign_seal
from coattest_verify.quorum.authority import Authority
from faults import invariants
from faults.host import BIN, BUYERS, ENVIRONMENT, RESULTS, World
from faults.invariants import (
    Broken,
    Outcome,
    broken_by,
    documented,
    events_only,
    losing_amounts,
    no_secret,
    nothing_half_written,
    one_right_result,
    require,
    result_in,
    right_outcomes,
)
from faults.schedule import HostSchedule, Kill
from faults.steps import VARIABLE
from support.auction.auctions import KEYS, LIFE, opening, spki

TIMEOUT = 90.0
"""Seconds that any one opening may take here."""

OPEN_HOURS = 2
RETRY = 30.0
"""Hours until the publication deadline; seconds in which an opening without faults may try again."""


class HostRun:
    """One auction under one schedule: its bids are made and sealed, by the buyers' own tools, before it."""

    def __init__(self, world: World, schedule: HostSchedule) -> None:
        self.world, self.schedule = world, schedule
        self.name = f"host-{schedule.seed}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"run{schedule.seed}-", dir=world.directory))
        self.job = self.directory / "spool" / self.name
        self.job.mkdir(parents=True)
        self.out = self.job / "result.cbor"
        self.uri = f"s3://{RESULTS}/{self.name}/" if schedule.publish else None
        # Amounts that are looked for in everything that is written: long, and different everywhere.
        base = 7_000_000_000_000 + schedule.seed * 1_000_003
        self.amounts = {
            name: [base + 7919 * lot + 13 * ((number + lot) % 3) for lot in range(schedule.lots)]
            for number, name in enumerate(BUYERS)
        }
        self.journals = {name: SealJournal(self.directory / "journals" / name) for name in BUYERS}
        self.own: dict[str, Own] = {}
        self.manifest = self._manifest()
        self.files = {name: self._bid(name) for name in BUYERS}
        self.sealed = Sealed(self.manifest, tuple(self._seals()))
        (self.job / "manifest.cbor").write_bytes(self.manifest.encode())
        for name, seal in zip(BUYERS, self.sealed.seals, strict=True):
            (self.job / f"{name}.seal").write_bytes(seal)
        self.outcomes: list[Outcome] = []
        self.results: list[bytes] = []
        self.fired: list[Kill] = []
        self.attempts = self.decrypts = 0
        self.served: list[bytes] = []
        self.published: set[bytes] = set()
        self._trail = world.cloud.services.trail.stat().st_size

    def go(self) -> None:
        """Faults, an opening under them, one without them, what must hold after each; raises Broken."""
        schedule, steps = self.schedule, self.world.steps
        self.world.at_once = schedule.at_once
        if schedule.own_proxy:
            self.world.kill("proxy")
        else:
            self.world.start("proxy")
        skewed, throttled = (
            schedule.other == "skew",
            zip(self.manifest.buyers, schedule.throttled, strict=True),
        )
        steps.begin(
            schedule.kills,
            throttled={buyer.kms: count for buyer, count in throttled},
            skew=schedule.skew if skewed else 0.0,
            skew_of_kms=schedule.skew_of_kms,
        )
        if schedule.command == "serve":
            self._serve()
        else:
            self._open(self.out, schedule.seconds, limit=schedule.limit if schedule.other == "disk" else None)
        self.fired = list(steps.fired)
        steps.clear()
        self._mend()
        self._check()
        there = self.out.exists()
        again = self._open(self.out, RETRY)
        require(again.code == 0, f"the retry did not finish the job: {again.code} {again.answer}")
        require(again.answer["resumed"] == there, "a result was decided again")
        self._check()
        if schedule.seed % 3 == 0:
            fresh = self._open(self.directory / "fresh.cbor", RETRY)
            require(fresh.code == 0, f"a fresh opening failed: {fresh.answer}")
            self.results.append(result_in(self.sealed, (self.directory / "fresh.cbor").read_bytes()))
        one_right_result(self.results, right_outcomes(self.amounts, schedule.rule))
        self._verify()
        self._journals()
        self._keys()

    def _manifest(self) -> messages.Manifest:
        now, owned = int(time.time()), self.world.accounts.buyers
        buyers = []
        for name in BUYERS:
            key, arn = spki(KEYS[name].public_key()), owned[name].key_arn
            own = Own(name, key, arn, f"s3://{owned[name].bucket}/{self.name}/")
            self.own[name] = own
            certificate = certify_buyer_key(self.world.quorum.signers[name], own, LIFE)
            buyers.append(messages.Buyer(name, key, certificate, arn, own.bids))
        lots = messages.make_lots((f"lot-{number + 1}", 0) for number in range(self.schedule.lots))
        return messages.Manifest(
            self.name, "EUR", self.schedule.rule, lots, tuple(buyers), now, now + OPEN_HOURS * 3600
        )

    def _bid(self, name: str) -> bytes:
        aws = self.world.accounts.as_buyer(name)
        lines = (f"lot-{number + 1},{amount}" for number, amount in enumerate(self.amounts[name]))
        bids = read_bids("\n".join(("lot,amount", *lines, "")).encode(), messages.LotList(self.manifest.lots))
        before = datetime.fromtimestamp(self.manifest.closes - 1, timezone.utc)
        authority = self._authority()
        content = make_bid(
            self.manifest,
            self.own[name],
            opening(authority.decision),
            bids,
            aws,
            check_certificate=certificate_check(authority),
            journal=self.journals[name],
            when=before,
        )
        upload_bid(aws, messages.named_buyer(self.manifest, name), self.manifest.digest, content)
        return content

    def _authority(self) -> Authority:
        outcome = self.world.quorum.decide(profile="local", now=datetime.now(timezone.utc))
        assert outcome.members
        return Authority(outcome.require(), outcome.members, outcome.answers)

    def _seals(self) -> Iterator[bytes]:
        authority = self._authority()
        for name in BUYERS:
            plan = plan_seal(
                self.manifest,
                self.own[name],
                opening(authority.decision),
                bids=bid_digests(self.manifest, self.world.accounts.as_buyer(name)),
                own_bid=self.files[name],
                check_certificate=certificate_check(authority),
                journal=self.journals[name],
                now=int(time.time()),
            )
            yield sign_seal(plan, KEYS[name], self.journals[name])

    def _command(self, verb: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``auction``: the console script, or where files are counted the same program with a hook."""
        world = self.world
        proxy = f"unix:{world.current / 'out_8000.sock'}" if self.schedule.own_proxy else "none"
        counted = any(kill.kind == "file" for kill in self.schedule.kills)
        program = [sys.executable, "-m", "faults.steps", str(self.job)] if counted else [str(BIN / "auction")]
        command = [*program, verb, "--enclave", f"unix:{world.directory / 'link.sock'}", "--proxy", proxy]
        command += ["--assume-role", world.accounts.role, "--endpoint-url", world.cloud.services.endpoint]
        command += ["--ca-bundle", str(world.cloud.services.ca_bundle), *arguments]
        admin = world.cloud.services.accounts["service"]
        keys = {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        more = {**keys, "AWS_DEFAULT_REGION": "eu-central-1", VARIABLE: str(world.directory / "steps.sock")}
        world.parent = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **more},
        )
        return world.parent

    def _open(self, out: Path, seconds: float, *, limit: int | None = None) -> Outcome:
        """``auction open``, which may write ``limit`` bytes to a file."""
        seals = (word for name in BUYERS for word in ("--seal", str(self.job / f"{name}.seal")))
        words = ["--manifest", str(self.job / "manifest.cbor"), *seals, "--out", str(out), "--json"]
        words += ["--log", str(self.directory / "log.jsonl"), *(["--publish", self.uri] if self.uri else [])]
        started = time.monotonic()
        process = self._command("open", "--retry-for", str(seconds), *words)
        if limit is not None:
            _limit(process, limit)
        with _watched(process):
            said, errors = process.communicate()
        self.world.parent = None
        answer = json.loads(said) if said.strip() else {"error": errors.decode(errors="replace")}
        answer.pop("lots", None)  # of a second price it has amounts
        no_secret(errors, {*self.world.secrets, *losing_amounts(self.amounts)}, "what 'auction open' says")
        no_secret(said, self.world.secrets, "the answer of 'auction open'")
        self.outcomes.append(Outcome(process.returncode, answer, time.monotonic() - started))
        return self.outcomes[-1]

    def _serve(self) -> None:
        """``auction serve`` as a unit that is restarted always, until the result is where it has to be."""
        limit = self.schedule.limit if self.schedule.other == "disk" else None
        done = {"published", "published-before"} if self.uri else {"open-finished", "open-resumed"}
        words = ["--spool", str(self.directory / "spool"), "--every", "0.1"]
        words += ["--publish", f"s3://{RESULTS}/"] if self.uri else []
        code: int | None = -signal.SIGKILL
        while code == -signal.SIGKILL:
            started = time.monotonic()
            process = self._command("serve", *words)
            if limit is not None:
                _limit(process, limit)
            with _watched(process):
                assert process.stderr
                for line in process.stderr:
                    self.served.append(line)
                    event = json.loads(line) if line.startswith(b"{") else {"event": ""}
                    if event["event"] in done:
                        process.terminate()
                    if event["event"] in {"open-failed", "job-failed"}:
                        named = event.get("service_code", event["code"])
                        answer = {"code": named, "error": named}
                        self.outcomes.append(Outcome(event["exit"], answer, time.monotonic() - started))
                        documented(self.outcomes[-1])
                        limit = None
                        self._mend(process if event["event"] == "job-failed" else None)
                        _limit(process, None)
                code = process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe
                pipe.close()
        self.world.parent = None
        self.outcomes.append(Outcome(code or 0, {}, time.monotonic() - started))
        require(code == 0, f"'auction serve' ended with {code}: {self.served[-3:]}")

    def _mend(self, failed: subprocess.Popen[bytes] | None = None) -> None:
        """What a member does: clocks, disk, what is down; and ``failed.json`` of a service goes away."""
        self.world.steps.mend()
        self.world.settle()
        path = self.job / "failed.json"
        while failed and failed.poll() is None and not path.exists():
            time.sleep(0.01)
        path.unlink(missing_ok=True)

    def _check(self) -> None:
        """What must hold after each opening."""
        outcome = self.outcomes[-1]
        if outcome.code != -signal.SIGKILL:
            documented(outcome)
            if not any(kill.victim == "parent" for kill in self.fired):
                nothing_half_written(self.out)
        for buyer in self.manifest.buyers:
            own = messages.bid_digest(self.files[buyer.name])
            kept = self._object(buyer.name, bid_uri(buyer, self.manifest.digest, own))
            require(kept == self.files[buyer.name], "a bid was lost or changed")
        if self.out.exists():
            self.results.append(result_in(self.sealed, self.out.read_bytes()))
        if self.uri:
            there = self._objects("service", self.uri)
            require(self.published <= there, "what was published was replaced")
            self.published = there
            self.results += [result_in(self.sealed, content) for content in there]
        require(not self.published or self.out.exists(), "published without a file")
        if outcome.code == 0:
            require(self.out.exists(), "success without a result file")
            require(self.published or not self.uri, "success without the object")
        log = b"".join(self.served) + self._log()
        no_secret(log, {*self.world.secrets, *losing_amounts(self.amounts)}, "the log")
        if self.schedule.other != "disk":  # a full disk cuts lines too
            events_only(log)
        self.world.check_consoles()

    def _log(self) -> bytes:
        path = self.directory / "log.jsonl"
        return path.read_bytes() if path.exists() else b""

    def _objects(self, account: str, prefix: str) -> set[bytes]:
        """Everything that S3 has under a prefix."""
        bucket, _, key = prefix.removeprefix("s3://").partition("/")
        listed = self.world.cloud.services.client("s3", account).list_objects_v2(Bucket=bucket, Prefix=key)
        names = [item["Key"] for item in listed.get("Contents", ())]
        return {self._object(account, f"s3://{bucket}/{name}") for name in names}

    def _object(self, account: str, uri: str) -> bytes:
        """What S3 has there; empty for nothing."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client = self.world.s3(account)
        try:
            content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return b""
        return content

    def _verify(self) -> None:
        """The receipt, by the command that anybody would run, with the attestations and the pinned root."""
        root = f"sha256:{self.world.quorum.root.hex()}"
        done = subprocess.run(
            [
                *(str(BIN / "verify"), "receipt", str(self.out), "--json", "--profile", "local"),
                *("--manifest", str(self.job / "manifest.cbor"), "--root", root),
                *("--attestations", str(self.world.quorum.attestations)),
            ],
            env={**ENVIRONMENT, "COATTEST_CONFIG": str(self.directory / "config")},
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        require(done.returncode == 0, f"the receipt does not verify: {done.stdout!r} {done.stderr!r}")
        found = json.loads(done.stdout)
        require(found["verified"] and found["module_id"] in self.world.modules, f"by whom? {found}")
        require(found["sealed_by"] == list(BUYERS), "not sealed by all")
        require(not self.uri or self.out.read_bytes() in self.published, "the file is not what was published")

    def _journals(self) -> None:
        """The result is of the one seal that every buyer has on its disk, over the bids that are in S3."""
        result = messages.Result.decode(self.results[0])
        for name, journal in self.journals.items():
            payload = journal.sealed(self.manifest.digest)
            require(payload, f"{name}'s record of its seal is gone")
            assert payload
            require(hashlib.sha384(payload).digest() == result.seal, f"not what {name} sealed")
            bids = dict(messages.Seal.decode(payload).bids)
            require(bids == {other: messages.bid_digest(self.files[other]) for other in BUYERS}, "other bids")
            another = messages.Seal(
                self.manifest.digest, bytes(32), self.world.pcr0, tuple(bids.items())
            ).encode()
            try:
                journal.record(self.manifest.encode(), another)
            except AlreadySealed:
                continue
            raise Broken(f"{name} would seal something else")

    def _keys(self) -> None:
        """KMS gave each bid's key to the decided enclave only, and at most once in an attempt.

        An answer that a kill lost may have been asked for again within the attempt.
        """
        with self.world.cloud.services.trail.open("rb") as trail:
            trail.seek(self._trail)
            events = [json.loads(line) for line in trail]
        given: Counter[str] = Counter()
        for event in events:
            context = (event["requestParameters"] or {}).get("encryptionContext", {})
            for buyer in self.manifest.buyers:
                if event["eventName"] != "Decrypt" or "errorCode" in event:
                    continue
                bound = messages.Binding.of(self.manifest, buyer, self.world.pcr0).context
                if any(context.get(part) != bound[part] for part in (AUCTION, BUYER)):
                    continue
                attested = event["additionalEventData"]["recipient"]
                digest = base64.b64decode(attested["attestationDocumentEnclaveImageDigest"])
                require(digest == self.world.pcr0, "a key for another image")
                require(context == bound, "a key under another context than the bid's")
                require(attested["attestationDocumentModuleId"] in self.world.modules, "a key for whom?")
                given[buyer.name] += event["recipientAccountId"] == buyer.kms.split(":")[4]
        log, started = self._log(), b'"event": "open-started"'
        # The service begins each attempt anew, the command begins once and goes on.
        attempts = (b"".join(self.served) + log).count(started) + log.count(b'"event": "open-retry"')
        self.decrypts, self.attempts = sum(given.values()), attempts
        for name in BUYERS:
            require(given[name] >= 1, f"a result without {name}'s key")
            most = attempts + len(self.fired)
            require(given[name] <= most or self.schedule.other == "disk", f"{given[name]} keys in {attempts}")


def _limit(process: subprocess.Popen[bytes], size: int | None) -> None:
    """How many bytes a running process may write to a file: its disk is full, or no longer."""
    with contextlib.suppress(ProcessLookupError):
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most if size is None else size, most))


@contextlib.contextmanager
def _watched(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A process that takes too long ends as one that crashed."""
    watchdog = threading.Timer(TIMEOUT, process.send_signal, (signal.SIGABRT,))
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def attempt(here: World, seed: int) -> tuple[HostRun, str]:
    """A run and what broke in it, "" for nothing."""
    run = HostRun(here, HostSchedule.of(seed))
    return run, broken_by(run)


def describe(run: HostRun) -> str:
    """The same, and who was killed."""
    return f"{invariants.describe(run)}\n  {run.attempts} attempts, {run.decrypts} keys; {run.fired}"
