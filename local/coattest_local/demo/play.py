"""The demo from the first to the last step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from coattest_local.aws import services as local_services
from coattest_local.demo import auction as auctions
from coattest_local.demo import chain, cloud, refusals
from coattest_local.demo.auction import House
from coattest_local.demo.chain import BUYERS, DemoOptions
from coattest_local.demo.stage import Stage, demo_failed


def play(source: Path, console: Console, *, independent: bool, qemu: bool, keep: Path | None) -> Stage:
    """Run the whole chain; returns the stage with its counts. Raises FoundFalse (demo-failed) at the first
    step that fails.

    Everything happens in a temporary directory, or in ``keep`` (new or empty), which stays.
    """
    stage = Stage(console)
    with tempfile.TemporaryDirectory(prefix="coattest-demo-") as temporary:
        directory = keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        _play(stage, DemoOptions(source.resolve(), directory.resolve(), independent, qemu))
    return stage


def _play(stage: Stage, options: DemoOptions) -> None:
    stage.say("SIMULATOR: what AWS provides is simulated on this machine; nothing here protects anything")
    if options.qemu:
        stage.say("the enclave boots in QEMU's nitro-enclave machine (debug mode: the software host has it)")
    stage.short[str(options.directory)] = ".."
    world = chain.set_the_stage(stage, options)
    chain.publish_claim(world)
    trust = chain.found_the_quorum(world)
    with local_services.start(options.directory / "aws", quiet=True) as services:
        service = cloud.make_service(services, BUYERS)
        chain.refuse_without_a_decision(world, trust, service)
        stage.refusals = 0  # those that are counted come after the auction
        chain.rebuild_and_sign(world, trust)
        chain.recompute_decision(world, trust)
        owned = chain.put_policies(world, trust, services, service)
        try:
            live = chain.deploy(world, trust, service)
            house = House(world, trust, services, service, owned, live["enclave"]["address"])
            stage.abbreviate("$LOCAL", house.endpoint)
            run_auction(house)
        finally:
            chain.undeploy(world)


def run_auction(house: House) -> None:
    """One honest auction, and then every attack on it."""
    stage = house.world.stage
    stage.step("The service announces an auction of three lots; the buyers bid, each under its own key")
    auction = auctions.announce(house, auctions.FIRST)
    for buyer, amounts in auctions.AMOUNTS.items():
        auctions.place_bid(house, auction, buyer, amounts, f"{auction.name}.cose")
        stage.say(
            f"{buyer} bids {', '.join(map(str, amounts))} (told here only; what leaves it is encrypted)"
        )
    stage.step("Each buyer seals manifest, decision and bid set")
    for buyer in auctions.AMOUNTS:
        auctions.seal_bids(house, auction, buyer, f"{auction.name}.cose")
    stage.step("The enclave opens: attested decryption, winners, receipt")
    result = auctions.open_and_verify(house, auction)
    refusals.all_of_them(house, auction, result)
    if stage.refusals != refusals.EXPECTED:
        raise demo_failed(f"{stage.refusals} of {refusals.EXPECTED} attacks were refused")
    stage.step("Once more, after all the attacks: the same auction gives the same winners")
    result = auctions.open_and_verify(house, auction)
    stage.step("Each buyer audits its key: every decrypt was by the decided enclave")
    for buyer in auctions.AMOUNTS:
        auctions.audit_key(house, buyer)
    # After the audit, because it wants one enclave per manifest.
    stage.step("Another enclave of the same image, under the software host, opens the same seals")
    with refusals.running(house, house.world.image, "--host", "software") as enclave:
        auctions.open_again(house, auction, result, enclave)
