"""What a look finds of each enclave, and what is told of two looks."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coattest.errors import EnvironmentFailure
from coattest.files import Folder
from coattest_verify.attestation import chain as chain_module
from coattest_verify.fleet.changes import LastLook, load_state, save_state
from coattest_verify.fleet.judge import STATUSES, Judged
from coattest_verify.rebuild.remeasure import binding_pcrs
from support.verify.fleet.worlds import (
    IMAGE_PCRS,
    OTHER_PCRS,
    OTHERS,
    SECOND,
    FleetWorld,
    files_toml,
    module,
    shown_by,
    statuses,
    told,
)
from support.verify.nitro_ca import NOW, NOW_MS, PCRS, document, make_chain

ROLE = "arn:aws:iam::111122223333:role/parent"


@pytest.fixture
def world(tmp_path: Path) -> FleetWorld:
    """Two enclaves of the decided release, each in a file."""
    made = FleetWorld(tmp_path)
    made.write(files_toml())
    made.renew(1, 2)
    return made


def test_a_fleet_of_the_decided_release_is_verified(world: FleetWorld) -> None:
    """Whole ids, the release, and each document's own time; a first look has nothing to tell."""
    look = world.look()
    assert (look.code, told(look)) == (0, [])
    assert [(row.module_id, row.release, row.time) for row in look.rows] == [
        (module(1), "0.1.0", NOW),
        (module(2), "0.1.0", NOW),
    ]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (shown_by(2, pcrs=OTHERS), "drifted", 1),
        (shown_by(2, pcrs={**PCRS, 0: bytes(48), 1: bytes(48), 2: bytes(48)}), "invalid", 1),
        (shown_by(2, timestamp=NOW_MS - 200_000), "silent", 3),
        (shown_by(2, timestamp=NOW_MS + 61_000), "invalid", 1),
        (document(make_chain(), module_id=module(2)), "invalid", 1),
        (shown_by(2)[:-1] + b"\x00", "invalid", 1),
        (b"no document at all", "invalid", 1),
        (b"", "invalid", 1),
        (bytes(600_000), "invalid", 1),
        (shown_by(1), "repeated", 1),
    ],
    ids=["drift", "debug", "stale", "future", "other root", "forged", "text", "empty", "large", "repeated"],
)
def test_what_is_not_well_is_named(world: FleetWorld, data: bytes, status: str, code: int) -> None:
    """Each with a finding; the other enclave is verified all the same."""
    world.keeps_state = False
    world.put("2.bin", data)
    look = world.look()
    assert (statuses(look), look.code) == ({"1.bin": "verified", "2.bin": status}, code)
    assert look.rows[1].findings
    assert told(look) == [("alarm", status, "2.bin")]


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [("revoked", "revoked", 1), ("refused", "refused", 1), ("pending", "undecided", 3)],
)
def test_a_release_that_is_not_decided_is_not_verified(
    world: FleetWorld, answer: str, status: str, code: int
) -> None:
    """Its enclaves are what the quorum says of it, and so is the release, though nobody runs it."""
    assert world.look().code == 0
    world.answers["0.1.0"] = (answer, IMAGE_PCRS)
    look = world.look()
    assert (set(statuses(look).values()), look.code) == ({status}, code)
    assert told(look) == [
        ("alarm", status, "release 0.1.0"),
        ("alarm", status, "1.bin"),
        ("alarm", status, "2.bin"),
    ]
    assert told(world.look()) == []


def test_a_revocation_goes_before_a_decision_on_the_same_bytes(world: FleetWorld) -> None:
    """Two releases with the same registers, one of them revoked."""
    world.write(files_toml(releases=["0.1.0", "0.1.1"]))
    world.answers["0.1.1"] = ("revoked", IMAGE_PCRS)
    assert set(statuses(world.look()).values()) == {"revoked"}


def test_an_upgrade_has_two_releases(world: FleetWorld) -> None:
    """Each enclave is named with its own; a third release drifts, decided or not, as it is not expected."""
    world.write(files_toml(releases=["0.1.0", "0.2.0"]))
    world.answers["0.2.0"] = ("decided", OTHER_PCRS)
    world.put("2.bin", shown_by(2, pcrs=OTHERS))
    assert [(row.status, row.release) for row in world.look().rows] == [
        ("verified", "0.1.0"),
        ("verified", "0.2.0"),
    ]
    world.write(files_toml(releases=["0.1.0"]))
    assert statuses(world.look()) == {"1.bin": "verified", "2.bin": "drifted"}


def test_the_role_and_user_data_are_compared(world: FleetWorld) -> None:
    """PCR3 of another role is drift; another user_data is no answer to this."""
    bound = {**PCRS, 3: binding_pcrs(ROLE, "")[3]}
    world.write(files_toml(**{"role-arn": ROLE, "user-data": "abcd"}))
    world.put("1.bin", shown_by(1, pcrs=bound, user_data=b"\xab\xcd"))
    world.put("2.bin", shown_by(2, user_data=b"\xab\xcd"))
    world.put("3.bin", shown_by(3, pcrs=bound))
    assert statuses(world.look()) == {"1.bin": "verified", "2.bin": "drifted", "3.bin": "invalid"}


def test_silence_is_waited_for_while_an_enclave_may_boot(world: FleetWorld) -> None:
    """News first; an alarm after the boot time, once; news again when it speaks."""
    world.write(files_toml(boot="5m"))
    assert world.look().code == 0
    world.now += timedelta(minutes=4)
    world.renew(1)
    look = world.look()
    assert (statuses(look)["2.bin"], look.code, told(look)) == ("waiting", 3, [("news", "waiting", "2.bin")])
    world.now += timedelta(minutes=5)
    world.renew(1)
    look = world.look()
    assert (statuses(look)["2.bin"], look.code, told(look)) == ("silent", 3, [("alarm", "silent", "2.bin")])
    world.now += SECOND
    assert told(world.look()) == []
    world.renew(1, 2)
    look = world.look()
    assert (look.code, told(look)) == (0, [("news", "verified", "2.bin")])


def test_one_look_alone_waits_for_nothing(world: FleetWorld) -> None:
    """Nobody would look again."""
    world.keeps_state = False
    world.drop("2.bin")
    look = world.look()
    assert (statuses(look), look.code) == ({"1.bin": "verified", "*": "silent"}, 3)
    assert [finding.code for finding in look.rows[1].findings] == ["fleet-missing"]


def test_a_replaced_enclave_is_news_and_no_alarm(world: FleetWorld) -> None:
    """In its predecessor's place, or in a place of its own; the old document may lie there and grow old."""
    world.look()
    world.put("2.bin", shown_by(3))
    look = world.look()
    assert (look.code, told(look)) == (0, [("news", "replaced", "2.bin")])
    world.now += timedelta(minutes=4)
    world.renew(1, 4)
    look = world.look()
    assert (look.code, statuses(look)) == (0, {"1.bin": "verified", "4.bin": "verified"})
    assert told(look) == [("news", "new", "4.bin"), ("news", "gone", "2.bin")]


def test_named_instances_must_be_there_and_no_others(world: FleetWorld) -> None:
    """By instance or by module id; a verified enclave that nobody named is found false."""
    world.keeps_state = False
    first, second, third = (module(number).partition("-")[2].partition("-enc")[0] for number in (1, 2, 3))
    world.write(files_toml(count=None, ids=[f"i-{first}", module(2)]))
    assert world.look().code == 0
    world.write(files_toml(count=None, ids=[f"i-{first}", f"i-{third}"]))
    look = world.look()
    assert look.code == 1
    assert statuses(look) == {"1.bin": "verified", "2.bin": "unexpected", f"i-{third}": "silent"}
    assert second in look.rows[1].module_id


def test_a_named_instance_stands_for_one_enclave_of_the_count(world: FleetWorld) -> None:
    """With two expected on it, one is not all of them."""
    world.keeps_state = False
    instance, _, enclave = module(1).partition("-enc")
    world.write(files_toml(ids=[instance]))
    world.drop("2.bin")
    look = world.look()
    assert (statuses(look), look.code) == ({"1.bin": "verified", "*": "silent"}, 3)
    world.put("2.bin", shown_by(1, module_id=f"{instance}-enc{enclave[::-1]}"))
    assert world.look().code == 0


def test_a_document_whose_certificates_ended_is_old(world: FleetWorld) -> None:
    """Silent as any old one, if it was genuine in its time; a forged one is not."""
    world.keeps_state = False
    world.put("2.bin", shown_by(2, timestamp=NOW_MS - 48 * 3600 * 1000))
    world.now += timedelta(hours=4)
    assert statuses(world.look()) == {"1.bin": "silent", "2.bin": "invalid"}


def test_an_id_with_a_line_feed_tells_no_second_change(world: FleetWorld) -> None:
    """Whoever signs documents, as anybody can under the local root, writes no line of a journal."""
    world.look()
    world.put("2.bin", shown_by(2, module_id="i-1\nalarm: parents 1.bin: is drifted"))
    (change,) = world.look().changes
    assert "\n" not in str(change)
    world.put("2.bin", shown_by(2, module_id="i-1\nalarm", pcrs=OTHERS))
    (change,) = world.look().changes
    assert change.what == "drifted"
    assert "\n" not in str(change)


def test_documents_come_in_base64_and_what_is_no_document_is_left(world: FleetWorld) -> None:
    """By their names' endings; links, pipes and other files in the folder are nobody's document."""
    world.put("2.b64", base64.b64encode(shown_by(2)))
    world.drop("2.bin")
    world.put("README", b"no document")
    assert statuses(world.look()) == {"1.bin": "verified", "2.b64": "verified"}
    (world.folder / "documents" / "3.bin").symlink_to(world.folder / "documents" / "1.bin")
    assert statuses(world.look())["3.bin"] == "invalid"


def test_a_folder_that_is_gone_is_silence(world: FleetWorld) -> None:
    """The other sources are looked at all the same."""
    world.keeps_state = False
    both = files_toml() + files_toml(name="others", path="elsewhere").partition("\n")[2]
    world.write(both)
    look = world.look()
    assert look.code == 3
    assert [(row.source, row.status) for row in look.rows] == [
        ("parents", "verified"),
        ("parents", "verified"),
        ("others", "silent"),
        ("others", "silent"),
    ]


def test_what_the_system_refuses_is_silence_of_one_source(
    world: FleetWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may not be entered, or a disk that fails, ends no look."""
    world.keeps_state = False

    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Folder, "read", failing)
    assert set(statuses(world.look()).values()) == {"silent"}
    monkeypatch.setattr(Folder, "names", failing)
    look = world.look()
    assert [(row.status, row.findings[0].detail) for row in look.rows] == [("silent", "Input/output error")]


@settings(max_examples=60, deadline=None)
@example(module_id="\\ud800", status="verified", since=None)
@given(
    module_id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    status=st.sampled_from(STATUSES),
    since=st.none() | st.datetimes(datetime(2000, 1, 1), timezones=st.just(timezone.utc)),
)
def test_what_a_look_writes_the_next_one_reads(
    module_id: str, status: str, since: datetime | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever an enclave calls itself: what a hypervisor signed is data all the same."""
    path = tmp_path_factory.mktemp("state") / "state.json"
    row = Judged("parents", "a.bin", status, module_id, since=since and since.replace(microsecond=0))
    look = LastLook.of([row], [])
    save_state(path, look)
    assert load_state(path) == look


def test_a_watcher_remembers_without_a_file(world: FleetWorld) -> None:
    """From one of its looks to the next, and each certificate that it verified."""
    world.keeps_state, world.again = False, True
    watcher = world.watcher()
    assert told(watcher.look()) == []
    world.put("2.bin", shown_by(2, pcrs=OTHERS))
    assert told(watcher.look()) == [("alarm", "drifted", "2.bin")]
    assert told(watcher.look()) == []


def test_certificates_are_verified_once_and_run_out_all_the_same(
    world: FleetWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look verifies no link; after the leaf's last moment it refuses."""
    world.write(files_toml(**{"max-age": "24h"}))
    watcher = world.watcher()
    assert watcher.look().code == 0
    monkeypatch.setattr(chain_module, "_link_findings", lambda _: pytest.fail("verified again"))
    assert watcher.look().code == 0
    world.now += timedelta(hours=3)
    look = watcher.look()
    assert {finding.code for row in look.rows for finding in row.findings} == {"certificate-dates"}
    assert look.code == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"format":"coattest-fleet-state/v1","releases":{},"sources":{"a":{"b":{"status":"fine"}}}}',
        b'{"format":"coattest-fleet-state/v1","releases":{"a":"b"},"sources":{}}',
        b'{"format":"coattest-fleet-state/v1","releases":{},"sources":{},"more":1}',
    ],
)
def test_a_damaged_state_is_no_first_look(world: FleetWorld, data: bytes) -> None:
    """It would turn off what the last look knew."""
    (world.folder / "state.json").write_bytes(data)
    with pytest.raises(EnvironmentFailure, match="first one"):
        world.look()


def test_the_figures_are_what_the_look_found(world: FleetWorld) -> None:
    """In Prometheus's text format: every line is a comment or a sample; the file is replaced as a whole."""
    world.put("2.bin", shown_by(2, pcrs=OTHERS))
    world.look()
    text = (world.folder / "fleet.prom").read_text()
    sample = re.compile(r'coattest_fleet_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[0-9.]+')
    lines = text.splitlines()
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines)
    for line in (
        'coattest_fleet_enclaves{source="parents",status="verified"} 1',
        'coattest_fleet_enclaves{source="parents",status="drifted"} 1',
        'coattest_fleet_enclaves{source="parents",status="silent"} 0',
        'coattest_fleet_expected{source="parents"} 2',
        'coattest_fleet_release_decided{release="0.1.0"} 1',
        "coattest_fleet_exit_code 1",
        f"coattest_fleet_last_look_timestamp_seconds {int(NOW.timestamp())}",
    ):
        assert line in lines


def test_json_has_every_enclave_and_change(world: FleetWorld) -> None:
    """As plain data."""
    world.put("2.bin", shown_by(2, pcrs=OTHERS))
    found: dict[str, Any] = world.look().to_json()
    assert (found["ok"], found["sources"][0]["expected"], found["sources"][0]["verified"]) == (False, 2, 1)
    assert [each["status"] for each in found["sources"][0]["enclaves"]] == ["verified", "drifted"]
    assert found["changes"][0]["what"] == "drifted"
