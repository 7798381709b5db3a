"""Several parents: scaled, dying and replaced; each instance has to show its own document."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure, FoundFalse
from coattest_local import records
from coattest_parent.deployment.live import judge_live
from coattest_parent.deployment.runner import LocalRunner
from coattest_parent.deployment.stack.rollout import Applied
from coattest_parent.link.enclave import NONCE_SIZE, live_document
from support.parent.deployments import now
from support.parent.stack_world import Bench, client_of, details
from support.raises import raises_code
from support.verify.fleet.worlds import fleet_toml


def scaled(bench: Bench, capacity: int) -> Applied:
    """Apply the same release with another capacity."""
    plan = dataclasses.replace(
        bench.plan, settings=dataclasses.replace(bench.plan.settings, capacity=capacity)
    )
    assert plan.parents_stack == bench.plan.parents_stack
    return bench.apply(plan)


def test_a_group_is_scaled_and_every_instance_verified(bench: Bench) -> None:
    """From one to three and back: no other stack, the first enclave goes on, each has its own document."""
    (first,) = bench.apply().parents
    three = scaled(bench, 3).parents
    assert len({parent.module_id for parent in three}) == 3
    assert (first.instance, first.module_id) in {(each.instance, each.module_id) for each in three}
    assert len(scaled(bench, 1).parents) == 1
    assert len(bench.instances()) == 1


def killed_enclave(bench: Bench, instance: str) -> None:
    """The enclave dies as often as its unit starts it again."""
    while instance in bench.instances():
        record = records.running_record(bench.enclave_of(instance))
        with contextlib.suppress(ProcessLookupError):  # the instance may end it, too
            if record is not None:
                os.kill(record["pid"], signal.SIGKILL)
        time.sleep(0.1)


def stopped(bench: Bench, instance: str) -> None:
    """Somebody stops the instance by hand."""
    client_of(bench.world.services, "ec2", "service").stop_instances(InstanceIds=[instance])


def terminated(bench: Bench, instance: str) -> None:
    """EC2 takes the instance away."""
    client_of(bench.world.services, "ec2", "service").terminate_instances(InstanceIds=[instance])


@pytest.mark.parametrize("dies", [killed_enclave, stopped, terminated])
def test_what_dies_is_replaced_and_verified(bench: Bench, dies: Callable[[Bench, str], None]) -> None:
    """An enclave that stays dead, an instance that is stopped or goes: another comes, and shows itself."""
    (before,) = bench.apply().parents
    dies(bench, before.instance)
    (after,) = bench.apply().parents
    assert after.instance != before.instance
    assert after.module_id != before.module_id
    assert bench.status()["findings"] == []


def test_status_says_who_does_not_show_itself(bench: Bench) -> None:
    """An instance without a document, and one with another's: each is a finding; nothing is waited for."""
    (parent,) = bench.apply().parents
    s3 = client_of(bench.world.services, "s3", "service")
    bench.fault(bench.plan.parents_stack, launch="debug")
    os.kill(records.running_record(bench.enclave_of(parent.instance))["pid"], signal.SIGKILL)
    key = f"live/{bench.plan.parents_stack}/{parent.instance}/document.cbor"
    place = {"Bucket": bench.results, "Key": key}
    old = s3.get_object(**place)["Body"].read()
    while s3.get_object(**place)["Body"].read() == old:
        time.sleep(0.1)
    assert "PCR0" in details(bench.status())


def test_the_fleet_command_watches_what_apply_made(bench: Bench) -> None:
    """Its instances by Auto Scaling, their documents from the bucket; a replaced one is news."""
    (parent,) = bench.apply().parents
    world, settings = bench.world, bench.plan.settings
    source = {
        "name": "parents",
        "kind": "s3-live",
        "bucket": bench.results,
        "stack": bench.plan.parents_stack,
        "region": settings.region,
        "role-arn": settings.role_arn,
        "releases": [world.first.name],
    }
    (world.folder / "FLEET.toml").write_text(fleet_toml(source))
    words = ("FLEET.toml", "--state", f"{settings.name}.json", "--endpoint-url", world.services.endpoint)

    def look(expect: int) -> Any:
        deciding = [word for word in world.first.deciding if word not in ("--release", world.first.name)]
        return world.command("verify", "fleet", *words, *deciding, "--json", expect=expect)

    (row,) = look(0)["sources"][0]["enclaves"]
    assert (row["place"], row["module_id"]) == (parent.instance, parent.module_id)
    terminated(bench, parent.instance)
    (after,) = bench.apply().parents
    found = look(3)
    assert {row["place"]: row["status"] for row in found["sources"][0]["enclaves"]} == {
        after.instance: "verified",
        parent.instance: "waiting",
    }
    assert {change["kind"] for change in found["changes"]} == {"news"}


def test_a_capacity_error_is_told_with_its_reason(bench: Bench) -> None:
    """EC2 has no instance: apply says why while it waits, and scaling ends with it in its error."""
    reason = "We currently do not have sufficient c6i.xlarge capacity in the Availability Zone you requested"
    bench.apply()
    bench.fault(bench.plan.parents_stack, capacity=reason)
    said: list[str] = []
    plan = dataclasses.replace(bench.plan, settings=dataclasses.replace(bench.plan.settings, capacity=2))

    class Enough(Exception):
        """It was told."""

    def say(text: str) -> None:
        said.append(text)
        if reason in text:
            raise Enough

    with pytest.raises(Enough):
        bench.apply(plan, say=say)
    assert any("Failed" in line and reason in line for line in said)
    bench.fault(bench.plan.parents_stack)
    assert len(bench.apply(plan).parents) == 2


def test_a_boot_that_fails_rolls_back_with_its_log(bench: Bench) -> None:
    """The image in the bucket is another: the instance says so in its last words, and apply repeats them."""
    swapped = swap_after_upload(bench, bench.world.second.image.read_bytes())
    with raises_code(EnvironmentFailure, "boot-failed", match="not the decided one"):
        bench.apply(say=swapped)
    assert bench.stack(bench.plan.parents_stack) is None
    assert bench.instances() == []


def swap_after_upload(bench: Bench, swapped: bytes) -> Callable[[str], None]:
    """Somebody with the bucket's rights puts another image right after the upload."""

    def say(text: str) -> None:
        if text.endswith("AWS::EC2::LaunchTemplate"):
            base = bench.stack(bench.plan.settings.base_stack)
            assert base
            client_of(bench.world.services, "s3", "service").put_object(
                Bucket=base.outputs["ArtifactBucket"], Key=bench.plan.artifact.key, Body=swapped
            )

    return say


def test_the_units_command_puts_documents_that_are_accepted(bench: Bench) -> None:
    """``live --put`` once: the object verifies as this instance's, as no other's, and for three minutes; one
    over a nonce of our own, for five.
    """
    (parent,) = bench.apply().parents
    record = records.running_record(bench.enclave_of(parent.instance))
    assert record
    bucket = bench.results
    place = ["--put", f"s3://{bucket}/live/by-hand/document.cbor", "--region", bench.plan.settings.region]
    live = ["live", "--address", record["address"], *place, *bench.world.place]
    assert bench.world.command("deploy-from-attestation", *live) == ""
    s3 = client_of(bench.world.services, "s3", "service")
    document = s3.get_object(Bucket=bucket, Key="live/by-hand/document.cbor")["Body"].read()
    nonce = secrets.token_bytes(NONCE_SIZE)
    enclave = LocalRunner(bench.enclave_of(parent.instance)).describe()
    assert enclave
    for instance, minutes, asked, codes in (
        (parent.instance, 0, None, set()),
        ("i-0ffffffffffffffff", 0, None, {"measurement"}),
        (parent.instance, 4, None, {"too-old"}),
        (parent.instance, 4, nonce, set()),
        (parent.instance, 6, nonce, {"too-old"}),
    ):
        judged = live_document(enclave.address, asked)[1] if asked else document
        later = now() + timedelta(minutes=minutes)
        whose = {"role_arn": bench.plan.settings.role_arn, "instance_id": instance}
        verdict = judge_live(bench.plan.decision, judged, **whose, now=later, nonce=asked)
        assert {finding.code for finding in verdict.findings} == codes


def test_a_release_with_open_jobs_is_not_retired(bench: Bench) -> None:
    """Both serve until the old release's courier, with the rights of the parents' role, has ended its jobs;
    what has ended, and what waits for the new release, keeps nothing. A job that is put for the old release
    afterwards, for one that never was, or for none, has nobody to take it: status tells.
    """
    bench.apply()
    following, old = bench.following(), bench.plan.parents_stack
    first, second = bench.plan.decision.release, following.decision.release
    bucket = bench.results
    s3 = client_of(bench.world.services, "s3", "service")
    places = (f"{first}/open/manifest.cbor", f"{first}/over/manifest.cbor", f"{first}/over/failed.json")
    for place in (*places, f"{first}/[odd]/manifest.cbor", f"{second}/later/manifest.cbor"):
        s3.put_object(Bucket=bucket, Key=f"jobs/{place}", Body=b"no manifest")
    with raises_code(FoundFalse, "open-jobs", match=f"s3://{bucket}/jobs/{first}/open/") as refused:
        bench.apply(following, retire=True)
    assert len(refused.value.findings) == 1
    assert set(bench.instances(old) + bench.instances(following.parents_stack)) <= set(bench.enclaves())
    assert bench.courier("unix:/nowhere").round(now) == 0
    assert bench.apply(following, retire=True).retired == (old,)
    assert bench.status(following)["findings"] == []
    for place in (
        f"{first}/late/manifest.cbor",
        f"{second}x/spring/manifest.cbor",
        "caf\xe9 []/a/manifest.cbor",
        "summer/manifest.cbor",
    ):
        s3.put_object(Bucket=bucket, Key=f"jobs/{place}", Body=b"no manifest")
    told = [(each["code"], each["where"]) for each in bench.status(following)["findings"]]
    assert told == [
        ("open-jobs", f"s3://{bucket}/jobs/{first}/late/"),
        ("open-jobs", f"s3://{bucket}/jobs/{second}x/spring/"),
        ("open-jobs", f"s3://{bucket}/jobs/caf\xe9 []/a/"),
        ("open-jobs", f"s3://{bucket}/jobs/summer/"),
    ]
