"""From the source to a decision, key policies and a running enclave: everything before an auction."""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coattest_local.aws.services import Services
from coattest_local.demo import cloud
from coattest_local.demo.cloud import BuyerCloud, ServiceCloud
from coattest_local.demo.sources import copy_source
from coattest_local.demo.stage import Party, Stage, demo_failed

BUYERS = ("buyer-1", "buyer-2")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo was asked for."""

    source: Path
    directory: Path
    independent: bool = False
    qemu: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """The parties, and what all of them can see."""

    stage: Stage
    options: DemoOptions
    service: Party
    buyers: dict[str, Party]
    attestations: Path

    @property
    def image(self) -> Path:
        """The service's image of the local profile."""
        return self.service.home / "out" / "image.local.eif"


@dataclass(frozen=True, slots=True)
class PinnedTrust:
    """What a party recomputes the decision from: the shared files, and the root that it got elsewhere."""

    attestations: Path
    root: str

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options of every command that needs a decision, on the one release that is there."""
        (release,) = (self.attestations / "releases").iterdir()
        place = ("--attestations", str(self.attestations), "--root", self.root, "--profile", "local")
        return (*place, "--release", release.name)


def set_the_stage(stage: Stage, options: DemoOptions) -> World:
    """Three parties, each with its own directory, time zone, locale and umask."""
    homes = {name: options.directory / name for name in ("service", *BUYERS)}
    for home in homes.values():
        home.mkdir(parents=True)
    attestations = options.directory / "attestations"
    attestations.mkdir()
    # What deploy-from-attestation starts is nitro-local; this variable tells that one which host to use.
    host = {"COATTEST_LOCAL_HOST": "qemu"} if options.qemu else {}
    service = Party("service", homes["service"], stage, environment=host)
    buyers = {
        "buyer-1": Party("buyer-1", homes["buyer-1"], stage, "Pacific/Chatham", "de_DE.UTF-8", 0o077),
        "buyer-2": Party("buyer-2", homes["buyer-2"], stage, "America/St_Johns", "C", 0o002),
    }
    return World(stage, options, service, buyers, attestations)


def publish_claim(world: World) -> None:
    """The service builds from its own copy of the source and publishes what it measured."""
    world.stage.step("The service builds the enclave image from the lock and publishes its claim")
    commit = copy_source(world.options.source, world.service.home / "source")
    world.stage.say(f"source: {f'commit {commit[:12]}' if commit else 'a folder without a repository'}")
    claim = world.service.home / "claim.json"
    report = world.service.run(
        "eif", "build", "--source", "source", "--out", "out", "--claim", claim, *_kernel(world), long=True
    )
    released = f"releases/{report['release']}"
    (world.attestations / released).mkdir(parents=True)
    shutil.copy(claim, world.attestations / released / "claim.json")
    _say_kernel(world, "the service", report)
    world.stage.say(f"PCR0 {report['profiles']['local']['pcrs']['PCR0']}")
    committed = world.options.source / "attestations" / released / "claim.json"
    if committed.exists():
        same = committed.read_bytes() == claim.read_bytes()
        world.stage.say(
            "the claim is the one that is committed in attestations/"
            if same
            else "NOTE: the claim differs from the one committed in attestations/ (the source has moved on)"
        )


def found_the_quorum(world: World) -> PinnedTrust:
    """The buyers make keys, agree on the members file and sign it; its digest is the pinned root."""
    world.stage.step("The buyers found a quorum: 2 of 2, a dissent blocks")
    for name, buyer in world.buyers.items():
        buyer.run("verify", "keygen", "--out", "quorum.key")
        world.stage.say(f"{name}'s key stays with {name}")
    first = world.buyers["buyer-1"]
    cached = [] if world.options.independent else ["--cached-kernel-counts"]
    members = [
        word
        for name, buyer in world.buyers.items()
        for word in ("--member", f"{name}={buyer.home / 'quorum.key.pub'}")
    ]
    made = first.run(
        "verify", "members", "init", *members, "--threshold", "2", *cached,
        "--attestations", world.attestations,
    )  # fmt: skip
    for name, buyer in world.buyers.items():
        buyer.run(
            "verify", "members", "countersign", "--key", "quorum.key", "--member", name,
            "--expect", made["root"], "--attestations", world.attestations,
        )  # fmt: skip
    root = str(made["root"])
    world.stage.say(f"pinned by every party, over another channel: {root}")
    if cached:
        world.stage.say("this quorum says that a kernel from the cache counts: one compile serves this demo")
        world.stage.say("(by default it does not count; --independent compiles once per party)")
    trust = PinnedTrust(world.attestations, root)
    world.stage.abbreviate("$TRUST", trust.arguments)
    return trust


def rebuild_and_sign(world: World, trust: PinnedTrust) -> None:
    """Each buyer rebuilds alone, compares with the claim and signs; the first one publishes it."""
    for name, buyer in world.buyers.items():
        world.stage.step(f"{name} rebuilds the image alone and signs what it measured")
        world.stage.say(
            f"own directory, TZ={buyer.time_zone}, LC_ALL={buyer.locale}, umask {buyer.umask:03o}"
        )
        copy_source(world.options.source, buyer.home / "source")
        report = buyer.run(
            "verify", "rebuild", "--source", "source", "--out", "out",
            "--attestations", world.attestations, *_kernel(world), long=True,
        )  # fmt: skip
        _say_kernel(world, name, report["rebuild"])
        for profile in ("image.eif", "image.local.eif"):
            ours, theirs = buyer.home / "out" / profile, world.service.home / "out" / profile
            if not filecmp.cmp(ours, theirs, shallow=False):
                raise demo_failed(f"{profile} differs from the service's", where=name)
            world.stage.say(f"{profile}: the same bytes as the service's")
        if name == next(iter(world.buyers)):
            buyer.run(
                "verify", "release", "publish", "--key", "quorum.key", "--member", name, "--rebuild", "out",
                "--attestations", world.attestations, "--root", trust.root,
            )  # fmt: skip
            world.stage.say(f"{name} publishes the claim: no other one has its name")
        buyer.run(
            "verify", "sign-pcrs", "--key", "quorum.key", "--member", name, "--rebuild", "out",
            "--attestations", world.attestations,
        )  # fmt: skip


def recompute_decision(world: World, trust: PinnedTrust) -> None:
    """Every party recomputes the decision from the signed statements against the root it pinned."""
    world.stage.step("The quorum decides, recomputed by every party")
    for party in (world.service, *world.buyers.values()):
        decided = party.run("verify", "quorum", *trust.arguments)
        agree = ", ".join(sorted(decided["agree"]))
        world.stage.say(f"{party.name}: decided, agreed by {agree}")


def refuse_without_a_decision(world: World, trust: PinnedTrust, service: ServiceCloud) -> None:
    """Before the quorum has decided, nothing is deployed."""
    world.stage.step("Without a decision nothing is deployed")
    world.service.must_fail(
        "a deployment before anybody signed",
        *_apply(world, trust, service),
        expected_code="no-decision",
        exit_code=3,
    )


def put_policies(
    world: World, trust: PinnedTrust, services: Services, service: ServiceCloud
) -> dict[str, BuyerCloud]:
    """Each buyer makes the key policy from the decision and puts it on its own key."""
    world.stage.step("Each buyer puts the key policy of the decided release on its own KMS key")
    owned = {}
    for name, buyer in world.buyers.items():
        buyer.run("auction", "keygen", "--out", "auction.key")
        owned[name] = cloud.make_buyer(services, name, service.role_arn)
        put_buyer_policy(trust, services, buyer, owned[name], parent_role=service.role_arn)
        world.stage.say(
            f"{name}: {owned[name].key_arn} decrypts for the decided enclave only, under {name}'s own seal"
        )
    return owned


def put_buyer_policy(
    trust: PinnedTrust, services: Services, buyer: Party, owned: BuyerCloud, *, parent_role: str
) -> None:
    """``verify policy apply`` by the key's owner."""
    administrator, break_glass = owned.administrators
    buyer.using(services.environment(buyer.name)).run(
        "verify", "policy", "apply", owned.key_arn, *trust.arguments, "--member", buyer.name,
        "--account", owned.account,
        "--parent-role", parent_role, "--administrator", administrator, "--break-glass", break_glass,
        "--encrypter", owned.encrypter, "--seal-key", "auction.key.pub",
        "--simulator", "--endpoint-url", services.endpoint,
        "--region", cloud.REGION, "--save-previous", "policies",
    )  # fmt: skip


def deploy(world: World, trust: PinnedTrust, service: ServiceCloud) -> dict[str, Any]:
    """The service deploys; success is reported only after the live document matched the decision."""
    world.stage.step("deploy-from-attestation starts the enclave and checks its live document")
    live: dict[str, Any] = world.service.run(*_apply(world, trust, service))
    world.stage.say(f"{live['module_id']}: its document matches the decision (PCR0-4, fresh nonce)")
    return live


def undeploy(world: World) -> None:
    """End the enclave, whatever happened before."""
    world.service.attempt("deploy-from-attestation", "destroy", "--state", "deployment", quiet=True)


def _apply(world: World, trust: PinnedTrust, service: ServiceCloud) -> tuple[str, ...]:
    return (
        "deploy-from-attestation", "apply", *trust.arguments, "--image", str(world.image),
        "--role-arn", service.role_arn, "--instance-id", cloud.INSTANCE_ID, "--state", "deployment",
    )  # fmt: skip


def _kernel(world: World) -> tuple[str, ...]:
    return ("--fresh-kernel",) if world.options.independent else ()


def _say_kernel(world: World, who: str, report: dict[str, Any]) -> None:
    here = report["kernel"]["compiled_here"]
    world.stage.say(f"kernel: {f'compiled by {who}' if here else 'from the cache'}")
