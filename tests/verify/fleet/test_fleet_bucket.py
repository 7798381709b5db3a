"""``s3-live``: Auto Scaling says who must answer, and who can write to the bucket makes nobody verified."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coattest_verify.fleet.judge import MANY, STRANGE, STRAYS_MAX
from coattest_verify.fleet.live import LISTED_MAX
from support.verify.fleet.bucket import (
    LATER,
    Cloud,
    instance,
    live_document,
    live_toml,
    running_cloud,
)
from support.verify.fleet.worlds import OTHER_PCRS, FleetWorld, module, statuses, told
from support.verify.nitro_ca import NOW, PCRS

ONE, TWO, THREE = instance(1), instance(2), instance(3)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """Two instances in service, each with a fresh document."""
    world = FleetWorld(tmp_path)
    world.write(live_toml())
    with running_cloud(world) as made:
        made.renew(1, 2)
        yield made


def placed(number: int) -> str:
    """Where the document of an instance lies."""
    return f"{instance(number)}/document.cbor"


def test_every_instance_in_service_shows_its_own_enclave(cloud: Cloud) -> None:
    """Nobody else is asked for; the count is Auto Scaling's."""
    cloud.instances |= {THREE: "Pending", instance(4): "Terminating"}
    look = cloud.world.look()
    assert (look.code, statuses(look)) == (0, {ONE: "verified", TWO: "verified"})
    assert [row.module_id for row in look.rows] == [module(1), module(2)]
    assert (look.to_json()["sources"][0]["kind"], look.to_json()["sources"][0]["expected"]) == ("s3-live", 2)
    assert sorted(cloud.asked) == ["get", "get", "group", "list"]
    assert 'coattest_fleet_expected{source="parents"} 2' in (cloud.world.folder / "fleet.prom").read_text()


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (live_document(1), "drifted", 1),
        (live_document(2, on=1), "drifted", 1),
        (live_document(1, on=2, module_id=module(2)[:-1] + "f"), "verified", 0),
        (live_document(2, NOW - LATER), "silent", 3),
        (live_document(1, NOW - LATER), "silent", 3),
        (live_document(2, NOW + LATER), "invalid", 1),
        (live_document(2, pcrs={**PCRS, **OTHER_PCRS}), "drifted", 1),
        (live_document(2, pcrs=PCRS), "drifted", 1),
        (live_document(2, user_data=None), "invalid", 1),
        (live_document(2, user_data=b"\x81\x60"), "invalid", 1),
        (live_document(2, public_key=b"\x01" * 32), "invalid", 1),
        (live_document(2)[:-1] + b"\x00", "invalid", 1),
        (b"", "invalid", 1),
        (b"\xd2" * 16_384, "invalid", 1),
        (live_document(2) + bytes(20_000), "invalid", 1),
    ],
    ids=[
        "another's",
        "another's binding",
        "restarted enclave",
        "old",
        "another's old one",
        "future",
        "other image",
        "other role",
        "no purpose",
        "other purpose",
        "with a key",
        "forged",
        "empty",
        "nonsense",
        "document and more",
    ],
)
def test_what_a_writer_puts_for_an_instance_is_not_accepted(
    cloud: Cloud, data: bytes, status: str, code: int
) -> None:
    """Unless it is that instance's own fresh document; the other instance is verified all the same."""
    cloud.world.keeps_state = False
    cloud.put(placed(2), data)
    look = cloud.world.look()
    assert (statuses(look), look.code) == ({ONE: "verified", TWO: status}, code)
    assert bool(look.rows[1].findings) == (status != "verified")


def test_a_huge_object_is_not_read(cloud: Cloud) -> None:
    """Of five gigabytes the first are looked at, and the connection ends."""
    cloud.put(placed(2), bytes(Cloud.huge // 1024))
    look = cloud.world.look()
    assert statuses(look)[TWO] == "invalid"
    assert [finding.code for finding in look.rows[1].findings] == ["too-large"]


def test_an_object_that_changes_between_list_and_get_is_what_was_got(cloud: Cloud) -> None:
    """The listing says when something was put, never what; one that goes meanwhile is silence."""
    cloud.world.keeps_state = False

    def replaced() -> bytes:
        assert "list" in cloud.asked
        return live_document(1)

    cloud.put(placed(2), replaced)
    assert statuses(cloud.world.look())[TWO] == "drifted"
    del cloud.objects[next(key for key in cloud.objects if TWO in key)]
    look = cloud.world.look()
    assert (statuses(look)[TWO], [finding.code for finding in look.rows[1].findings]) == (
        "silent",
        ["fleet-missing"],
    )


def test_a_replaced_instance_is_news_and_no_alarm(cloud: Cloud) -> None:
    """Its last document lies there, and grows old; the new one boots."""
    assert cloud.world.look().code == 0
    del cloud.instances[TWO]
    cloud.instances[THREE] = "InService"
    cloud.world.now += timedelta(seconds=50)
    cloud.renew(1)
    look = cloud.world.look()
    assert (look.code, statuses(look)) == (3, {ONE: "verified", TWO: "waiting", THREE: "waiting"})
    assert {change.kind for change in look.changes} == {"news"}
    cloud.world.now += timedelta(minutes=2)
    cloud.renew(1, 3)
    look = cloud.world.look()
    assert (statuses(look)[TWO], told(look)) == ("waiting", [("news", "verified", THREE)])
    cloud.world.now += timedelta(minutes=1)
    cloud.renew(1, 3)
    look = cloud.world.look()
    assert (look.code, statuses(look), told(look)) == (0, {ONE: "verified", THREE: "verified"}, [])


def test_an_instance_that_goes_on_outside_its_group_is_unexpected(cloud: Cloud) -> None:
    """At once for who looks once; by a second document for who remembers, and then it is an alarm."""
    cloud.renew(3)
    del cloud.instances[THREE]
    cloud.wanted = 2
    cloud.world.keeps_state = False
    look = cloud.world.look()
    assert (statuses(look)[THREE], look.code) == ("unexpected", 1)
    cloud.world.keeps_state = True
    assert (statuses(cloud.world.look())[THREE], cloud.world.look().code) == ("waiting", 3)
    cloud.world.now += LATER
    cloud.renew(1, 2)
    cloud.put(placed(3), b"anything")
    look = cloud.world.look()
    assert (statuses(look)[THREE], look.code, told(look)) == (
        "unexpected",
        1,
        [("alarm", "unexpected", THREE)],
    )


def test_documents_of_an_instance_that_was_never_there_are_an_alarm_at_once(cloud: Cloud) -> None:
    """Whoever can write to the bucket invents a new one for each look, and none grows old."""
    assert cloud.world.look().code == 0
    for number in range(3):
        cloud.world.now += timedelta(minutes=2)
        cloud.renew(1, 2)
        invented = f"i-{number + 4096:017x}"
        cloud.put(f"{invented}/document.cbor", b"anything")
        look = cloud.world.look()
        assert (look.code, statuses(look)[invented]) == (1, "unexpected")
        assert ("alarm", "unexpected", invented) in told(look)
    assert cloud.world.look().code == 1
    assert told(cloud.world.look()) == []


def test_missing_instances_are_waited_for_and_then_silent(cloud: Cloud) -> None:
    """One that Auto Scaling has no instance for yet, and one without a document; a log says why."""
    cloud.instances[THREE] = "InService"
    cloud.wanted = 4
    look = cloud.world.look()
    assert statuses(look) == {ONE: "verified", TWO: "verified", THREE: "waiting", "*": "waiting"}
    assert look.rows[3].findings[0].detail == "3 of 4 instances are in service"
    cloud.world.now += timedelta(minutes=11)
    cloud.renew(1, 2)
    cloud.wanted = 4
    cloud.put(f"{THREE}/failed.log", b"first\n\x1b[31mno allocator\n\n")
    look = cloud.world.look()
    assert (look.code, statuses(look)[THREE], statuses(look)["*"]) == (3, "silent", "silent")
    assert ("alarm", "silent", THREE) in told(look)
    (finding,) = next(row.findings for row in look.rows if row.place == THREE)
    assert (finding.code, finding.detail.isprintable()) == ("boot-failed", True)
    assert "no allocator" in finding.detail


def test_names_that_no_instance_has_are_unexpected_and_text(cloud: Cloud) -> None:
    """Control characters, other suffixes, ids of another form: counted, and one is shown, in one line."""
    names = (
        f"{ONE}/document.cbor/more",
        f"{ONE}/document.cbor\n",
        "i-1\nalarm: parents: is drifted/document.cbor",
        "\x1b[2Jx",
        "../../other/document.cbor",
        "i-0123456789ABCDEF0/document.cbor",
        "\u202eevil",
        "a" * 900,
    )
    for name in names:
        cloud.put(name, live_document(1))
    look = cloud.world.look()
    assert (look.code, statuses(look)[STRANGE]) == (1, "unexpected")
    assert told(look) == [("alarm", "unexpected", STRANGE)]
    (finding,) = next(row.findings for row in look.rows if row.place == STRANGE)
    assert f"{len(names)} object(s)" in finding.detail
    assert (str(finding).isprintable(), len(str(finding)) < 300) == (True, True)
    assert str(look.changes[0]).isprintable()


@pytest.mark.slow
def test_a_hundred_thousand_keys_are_not_all_listed(cloud: Cloud) -> None:
    """The instances are judged all the same, and that there is more is found false."""
    at = NOW - timedelta(days=1)
    for number in range(10, 100_010):
        cloud.put(placed(number), b"", at)
    look = cloud.world.look()
    assert (look.code, statuses(look)) == (1, {ONE: "verified", TWO: "verified", MANY: "unexpected"})
    assert cloud.asked.count("list") == LISTED_MAX // 1000


def test_fresh_objects_of_many_instances_fill_no_state(cloud: Cloud) -> None:
    """A thousand have rows of their own: with more, a state would become too large to be read again."""
    for number in range(10, 5_010):
        cloud.put(placed(number), b"")
    look = cloud.world.look()
    assert (look.code, len(look.rows)) == (1, 2 + STRAYS_MAX + 1)
    assert (statuses(look)[ONE], statuses(look)[MANY]) == ("verified", "unexpected")
    assert told(look)[-1] == ("alarm", "unexpected", MANY)
    assert told(cloud.world.look()) == []


@pytest.mark.parametrize("refused", ["group", "list", "get"])
def test_what_aws_refuses_is_silence(cloud: Cloud, refused: str) -> None:
    """With the right that is missing; a whole source that cannot be asked is no news of each instance."""
    cloud.world.look()
    cloud.refuses = {refused}
    cloud.world.now += timedelta(seconds=60)
    look = cloud.world.look()
    assert (look.code, set(statuses(look).values())) == (3, {"waiting"})
    assert "AccessDenied" in str(look.rows[0].findings[0])
    assert told(look) == [("news", "waiting", row.key) for row in look.rows]
    cloud.refuses = set()
    again = cloud.world.look()
    assert {what for _, what, _ in told(again)} <= {"verified"}
    assert again.code == 0


def test_a_bucket_of_another_account_is_silence(cloud: Cloud) -> None:
    """The role's account owns it: S3 refuses the name elsewhere."""
    cloud.owner = "999999999999"
    look = cloud.world.look()
    assert (look.code, statuses(look)) == (3, {"*": "waiting"})


def test_a_group_of_nobody_is_not_well(cloud: Cloud) -> None:
    """A look that looked at nothing is no success; nor is one at fewer than FLEET.toml asks for."""
    cloud.world.keeps_state = False
    cloud.world.write(live_toml(count=3))
    look = cloud.world.look()
    assert (look.code, statuses(look)["*"]) == (3, "silent")
    cloud.world.write(live_toml())
    cloud.instances, cloud.wanted, cloud.objects = {}, 0, {}
    look = cloud.world.look()
    assert (look.code, statuses(look)) == (3, {"*": "silent"})


@pytest.mark.parametrize(
    ("answer", "status", "code"), [("revoked", "revoked", 1), ("pending", "undecided", 3)]
)
def test_a_release_that_is_no_longer_decided_is_an_alarm(
    cloud: Cloud, answer: str, status: str, code: int
) -> None:
    """For the release and each instance."""
    assert cloud.world.look().code == 0
    cloud.world.answers["0.1.0"] = (answer, cloud.world.answers["0.1.0"][1])
    look = cloud.world.look()
    assert (look.code, {(change.kind, change.what) for change in look.changes}) == (code, {("alarm", status)})
    assert len(look.changes) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"role-arn": None},
        {"ids": [ONE]},
        {"bucket": "a/b"},
        {"bucket": "A"},
        {"stack": "a/b"},
        {"stack": ".."},
        {"region": "eu"},
        {"region": None},
        {"count": 0},
        {"user-data": "00"},
        {"hosts": ["a"]},
    ],
)
def test_a_source_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Documents in a bucket prove themselves by the role, and Auto Scaling knows the ids."""
    from support.verify.usage_errors import usage_error

    world = FleetWorld(tmp_path)
    world.write(live_toml(**changes))
    with usage_error("malformed"):
        world.watcher()
