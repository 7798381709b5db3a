"""The policy: separate demands, none empty by accident, all of them reported."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from coattest.errors import UsageError
from coattest_verify.attestation import (
    ExpectAnyPcrs,
    Expectation,
    ExpectDocument,
    ExpectModule,
    ExpectNonce,
    ExpectPcrs,
    ExpectPublicKey,
    ExpectUserData,
    MaxAge,
    UnsafeAllowDebug,
    UnsafeAnyMeasurement,
    UnsafeExpectDebug,
    verify_document,
    verify_many,
)
from support.verify.nitro_ca import (
    IMAGE,
    MODULE,
    NOW,
    NOW_MS,
    PCRS,
    check,
    codes,
    document,
    failed,
)
from support.verify.usage_errors import usage_error

OTHER = b"\xee" * 48
DEBUG = {**PCRS, 0: bytes(48), 1: bytes(48), 2: bytes(48), 8: bytes(48)}

EMPTY: dict[str, list[Expectation]] = {
    "nothing": [],
    "a nonce only": [ExpectNonce(b"nonce")],
    "everything but measurements": [
        ExpectNonce(b"nonce"),
        ExpectUserData(None),
        ExpectPublicKey(None),
        ExpectModule(MODULE),
        MaxAge(1000),
    ],
    "debug allowed and nothing else": [UnsafeAllowDebug()],
    "debug expected and nothing else": [UnsafeExpectDebug()],
    "the role's register only": [ExpectPcrs({3: PCRS[3]})],
    "the boot part only": [ExpectPcrs({1: PCRS[1]})],
    "the application part only": [ExpectPcrs({2: PCRS[2]})],
}


@pytest.mark.parametrize("expectations", EMPTY.values(), ids=EMPTY)
def test_expectations_that_pin_no_code_are_an_error(expectations: list[Expectation]) -> None:
    """No verdict is given, not even a failing one, until the caller says which code may pass."""
    with pytest.raises(UsageError) as caught:
        verify_document(document(), expectations, now=NOW)
    assert (caught.value.exit_code, caught.value.code) == (2, "empty-expectations")
    with pytest.raises(UsageError, match="any enclave would pass"):
        verify_many([], expectations, now=NOW)


PINNED: dict[str, list[Expectation]] = {
    "PCR0": [ExpectPcrs({0: PCRS[0]})],
    "PCR1 and PCR2": [ExpectPcrs({1: PCRS[1], 2: PCRS[2]})],
    "PCR1 and PCR2 from two places": [ExpectPcrs({1: PCRS[1]}), ExpectPcrs({2: PCRS[2]})],
    "the image's three": [IMAGE],
    "any, said so": [UnsafeAnyMeasurement()],
}


@pytest.mark.parametrize("expectations", PINNED.values(), ids=PINNED)
def test_expectations_that_pin_code_are_a_policy(expectations: list[Expectation]) -> None:
    """The whole image, or both of its parts, or the parameter that names the danger."""
    assert check(document(), *expectations).ok


def test_the_signing_key_pins_code() -> None:
    """PCR8, the image's signing certificate, is a policy of its own: any image that its owner signed."""
    data = document(pcrs={**PCRS, 8: OTHER})
    assert check(data, ExpectPcrs({8: OTHER})).ok
    assert failed(check(document(), ExpectPcrs({8: OTHER}))) == {("measurement", "PCR8")}


@pytest.mark.parametrize(
    "pcrs",
    [
        {},
        {32: OTHER},
        {-1: OTHER},
        {True: OTHER},
        {"0": OTHER},
        {0: OTHER.hex()},
        {0: OTHER[:32]},
        {0: OTHER + b"\x00"},
        {0: None},
        {0: bytes(48)},
        {1: bytes(48), 0: OTHER},
        {2: bytes(48), 0: OTHER},
        {8: bytes(48), 0: OTHER},
    ],
)
def test_measurements_that_pin_nothing_are_an_error(pcrs: Any) -> None:
    """None, of the wrong shape, or zeros (what a debug enclave and an unsigned image report)."""
    with usage_error("bad-expectation"):
        ExpectPcrs(pcrs)


def test_zeros_may_be_expected_where_they_mean_something() -> None:
    """PCR3 is zeros without a role: that is a fact one can ask for."""
    data = document(pcrs={**PCRS, 3: bytes(48)})
    assert check(data, IMAGE, ExpectPcrs({3: bytes(48)})).ok
    assert failed(check(document(), IMAGE, ExpectPcrs({3: bytes(48)}))) == {("measurement", "PCR3")}


def test_expected_measurements_cannot_be_changed_afterwards() -> None:
    """The expectation keeps its own copy and hands out no way to write to it."""
    given = {0: PCRS[0]}
    expectation = ExpectPcrs(given)
    given[0] = OTHER
    assert expectation.pcrs[0] == PCRS[0]
    with pytest.raises(TypeError):
        expectation.pcrs[0] = OTHER  # type: ignore[index]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_register_is_compared(index: int) -> None:
    """One register that differs is named with both values; the others are not."""
    verdict = check(document(pcrs={**PCRS, index: OTHER}))
    assert failed(verdict) == {("measurement", f"PCR{index}")}
    (finding,) = verdict.findings
    assert (finding.expected, finding.found) == (PCRS[index].hex(), OTHER.hex())


def test_an_absent_register_is_not_equal_to_anything() -> None:
    """A document that leaves an expected register out is refused, for that register."""
    without = {index: value for index, value in PCRS.items() if index != 3}
    verdict = check(document(pcrs=without), IMAGE, ExpectPcrs({3: PCRS[3]}))
    assert [(f.code, f.where, f.found) for f in verdict.findings] == [("measurement", "PCR3", "absent")]


def test_a_register_of_another_size_is_not_equal() -> None:
    """32 bytes that are the beginning of the expected 48 are not the expected 48."""
    assert failed(check(document(pcrs={**PCRS, 0: PCRS[0][:32]}))) == {("measurement", "PCR0")}


BINDING: dict[str, tuple[dict[str, Any], Expectation, str]] = {
    "another nonce": ({"nonce": b"b"}, ExpectNonce(b"a"), "nonce"),
    "a longer nonce": ({"nonce": b"ab"}, ExpectNonce(b"a"), "nonce"),
    "an empty nonce for a null one": ({"nonce": b""}, ExpectNonce(None), "nonce"),
    "a null nonce for an empty one": ({"nonce": None}, ExpectNonce(b""), "nonce"),
    "no nonce": ({"nonce": None}, ExpectNonce(b"a"), "nonce"),
    "the nonce in user_data": ({"nonce": None, "user_data": b"a"}, ExpectNonce(b"a"), "nonce"),
    "other user_data": ({"user_data": b"b"}, ExpectUserData(b"a"), "user-data"),
    "user_data for null": ({"user_data": b""}, ExpectUserData(None), "user-data"),
    "user_data in the nonce": ({"nonce": b"a"}, ExpectUserData(b"a"), "user-data"),
    "another public_key": ({"public_key": b"b"}, ExpectPublicKey(b"a"), "public-key"),
    "a public_key for null": ({"public_key": b"b"}, ExpectPublicKey(None), "public-key"),
    "no public_key": ({}, ExpectPublicKey(b"a"), "public-key"),
    "another module": ({}, ExpectModule(MODULE + "0"), "module-id"),
    "the same module in another case": ({}, ExpectModule(MODULE.upper()), "module-id"),
}


@pytest.mark.parametrize(("changes", "expectation", "code"), BINDING.values(), ids=BINDING)
def test_a_field_that_is_not_as_expected_fails(
    changes: dict[str, Any], expectation: Expectation, code: str
) -> None:
    """Byte for byte, null and empty are different, and one field does not stand in for another."""
    assert codes(check(document(**changes), IMAGE, expectation)) == {code}


def test_fields_that_are_as_expected_pass() -> None:
    """Values and nulls that are equal pass, all together."""
    data = document(nonce=b"n", user_data=b"u", public_key=b"k")
    assert check(
        data, IMAGE, ExpectNonce(b"n"), ExpectUserData(b"u"), ExpectPublicKey(b"k"), ExpectModule(MODULE)
    ).ok
    bare = document(nonce=None)
    assert check(bare, IMAGE, ExpectNonce(None), ExpectUserData(None), ExpectPublicKey(None)).ok


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExpectNonce("00"),  # type: ignore[arg-type]
        lambda: ExpectUserData(bytearray(b"x")),  # type: ignore[arg-type]
        lambda: ExpectPublicKey(0),  # type: ignore[arg-type]
        lambda: ExpectPublicKey(b""),
        lambda: ExpectDocument(b"x" * 31),
        lambda: ExpectDocument(b"x" * 33),
        lambda: ExpectDocument("x" * 32),  # type: ignore[arg-type]
        lambda: ExpectModule(""),
        lambda: ExpectModule(b"i"),  # type: ignore[arg-type]
        lambda: MaxAge(-1),
        lambda: MaxAge(1.5),  # type: ignore[arg-type]
        lambda: MaxAge(True),
        lambda: MaxAge(1, skew_ms=-1),
        lambda: MaxAge(1, skew_ms=300_001),
        lambda: MaxAge(1, skew_ms=True),
    ],
)
def test_an_expectation_of_the_wrong_kind_is_an_error(make: Any) -> None:
    """Text for bytes, a float for milliseconds, an empty name: refused where they are made."""
    with usage_error("bad-expectation"):
        make()


@pytest.mark.parametrize("expectation", [None, "PCR0", PCRS, ExpectNonce, b"nonce"])
def test_what_is_no_expectation_is_an_error(expectation: Any) -> None:
    """An argument that is no expectation is never passed over."""
    with usage_error("bad-expectation"):
        check(document(), IMAGE, expectation)


def test_contradicting_expectations_fail() -> None:
    """Every expectation counts, also two of one kind."""
    assert codes(check(document(), IMAGE, ExpectNonce(b"nonce"), ExpectNonce(b"other"))) == {"nonce"}
    assert codes(check(document(), IMAGE, ExpectPcrs({0: OTHER}))) == {"measurement"}
    old = document(timestamp=NOW_MS - 1000)
    assert codes(check(old, IMAGE, MaxAge(5000), MaxAge(999))) == {"too-old"}
    assert codes(check(old, IMAGE, MaxAge(999), MaxAge(5000))) == {"too-old"}


# --- debug mode --------------------------------------------------------------------------------------------


def test_a_debug_document_is_refused_whatever_is_expected() -> None:
    """Zeros in PCR0, PCR1 and PCR2 are debug mode, though PCR3 and PCR4 are set: any measurement is not any
    mode.
    """
    data = document(pcrs=DEBUG)
    expected = {("debug-mode", f"PCR{index}") for index in (0, 1, 2)}
    assert failed(check(data, UnsafeAnyMeasurement())) == expected
    assert failed(check(data)) >= expected
    assert check(data, UnsafeAnyMeasurement(), UnsafeAllowDebug()).ok


def test_allowing_debug_does_not_allow_other_measurements() -> None:
    """The parameter opens one door only."""
    assert codes(check(document(pcrs=DEBUG), IMAGE, UnsafeAllowDebug())) == {"measurement"}
    assert check(document(), IMAGE, UnsafeAllowDebug()).ok


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("value", [bytes(48), None], ids=["zeros", "absent"])
def test_a_document_must_show_that_it_is_not_of_a_debug_enclave(index: int, value: bytes | None) -> None:
    """One of the three registers in zeros, or left out, is enough to refuse."""
    pcrs = {i: v for i, v in {**PCRS, index: value}.items() if v is not None}
    data = document(pcrs=pcrs)
    assert failed(check(data, UnsafeAnyMeasurement())) == {("debug-mode", f"PCR{index}")}
    assert check(data, UnsafeAnyMeasurement(), UnsafeAllowDebug()).ok


# --- time --------------------------------------------------------------------------------------------------


def test_expecting_debug_allows_it_and_nothing_else() -> None:
    """A debug enclave passes; one that has a single register of its image does not, and is named for it."""
    expected = [UnsafeAnyMeasurement(), UnsafeExpectDebug()]
    assert check(document(pcrs=DEBUG), *expected).document.debug
    assert failed(check(document(), *expected)) == {("not-debug-mode", f"PCR{index}") for index in (0, 1, 2)}
    for index in (0, 1, 2):
        assert failed(check(document(pcrs={**DEBUG, index: OTHER}), *expected)) == {
            ("not-debug-mode", f"PCR{index}")
        }
        absent = {register: value for register, value in DEBUG.items() if register != index}
        assert failed(check(document(pcrs=absent), *expected)) == {("not-debug-mode", f"PCR{index}")}


def test_a_document_says_whether_it_shows_another_mode_than_debug() -> None:
    """PCR0, PCR1 and PCR2 all there and not zeros: no debug mode; otherwise it is called debug."""
    assert not check(document()).document.debug
    for index in (0, 1, 2):
        for pcrs in ({**PCRS, index: bytes(48)}, {i: v for i, v in PCRS.items() if i != index}):
            verdict = check(document(pcrs=pcrs), UnsafeAnyMeasurement(), UnsafeAllowDebug())
            assert verdict.document.debug
            assert verdict.to_json()["document"]["debug"] is True


def test_the_exact_document_is_a_policy() -> None:
    """Its SHA-256 pins every byte; another document of the same enclave fails, and so does the tagged one."""
    data = document()
    expected = ExpectDocument(hashlib.sha256(data).digest())
    verdict = check(data, expected)
    assert verdict.ok
    assert verify_many([data, document(nonce=b"other")], [expected], now=NOW, root=verdict.root)[0].ok
    for other in (document(nonce=b"other"), b"\xd2" + data):
        assert failed(check(other, expected)) == {("document-digest", "document")}
    assert codes(check(b"", expected)) == {"document-digest", "envelope"}


def test_the_exact_document_is_still_judged() -> None:
    """Naming a document allows neither debug mode, nor another time, nor another root."""
    debug = document(pcrs=DEBUG)
    expected = ExpectDocument(hashlib.sha256(debug).digest())
    assert codes(check(debug, expected)) == {"debug-mode"}
    assert check(debug, expected, UnsafeExpectDebug()).ok
    late = check(debug, expected, UnsafeExpectDebug(), now=NOW + timedelta(days=1))
    assert codes(late) == {"certificate-dates"}
    assert "root" in codes(verify_document(debug, [expected], now=NOW))


def test_a_timestamp_in_the_future_fails_with_and_without_an_age() -> None:
    """One millisecond after now is the future; a negative age does not pass an age check."""
    data = document(timestamp=NOW_MS + 1)
    assert codes(check(data)) == {"future-timestamp"}
    assert codes(check(data, IMAGE, MaxAge(60_000))) == {"future-timestamp"}
    assert check(document(timestamp=NOW_MS), IMAGE, MaxAge(0)).ok
    assert codes(check(document(timestamp=NOW_MS + 3_600_000))) == {"future-timestamp"}


def test_skew_is_tolerated_as_far_as_it_was_asked_for() -> None:
    """A clock ahead by the given milliseconds passes, by one more fails; the smallest of several skews
    counts.
    """
    ahead = document(timestamp=NOW_MS + 500)
    assert check(ahead, IMAGE, MaxAge(0, skew_ms=500)).ok
    assert codes(check(ahead, IMAGE, MaxAge(0, skew_ms=499))) == {"future-timestamp"}
    assert codes(check(ahead, IMAGE, MaxAge(0, skew_ms=500), MaxAge(0))) == {"future-timestamp"}
    assert MaxAge(0, skew_ms=300_000).skew_ms == 300_000


def test_skew_without_an_age_is_of_any_age() -> None:
    """None as age: as old as the certificates allow, and ahead by no more than the skew."""
    assert check(document(timestamp=NOW_MS + 500), IMAGE, MaxAge(None, skew_ms=500)).ok
    assert check(document(timestamp=NOW_MS - 60_000), IMAGE, MaxAge(None)).ok
    assert codes(check(document(timestamp=NOW_MS - 60_000), IMAGE, MaxAge(None), MaxAge(5))) == {"too-old"}
    (finding,) = check(document(timestamp=NOW_MS + 500), IMAGE, MaxAge(None, skew_ms=499)).findings
    assert finding.found == f"500 ms ahead ({NOW_MS + 500} ms)"


def test_one_of_several_sets_has_to_match_as_a_whole() -> None:
    """Registers of two sets are never mixed, and every set has to pin code by itself."""
    ours = {index: PCRS[index] for index in (0, 1, 2)}
    other = dict.fromkeys((0, 1, 2), OTHER)
    assert check(document(), ExpectAnyPcrs([ExpectPcrs(other), ExpectPcrs(ours)])).ok
    mixed = [ExpectPcrs(other | {0: PCRS[0]}), ExpectPcrs(ours | {2: OTHER})]
    verdict = check(document(), ExpectAnyPcrs(mixed))
    assert [(finding.code, finding.where) for finding in verdict.findings] == [("measurement", "PCR2")]
    with usage_error("bad-expectation"):
        ExpectAnyPcrs([])
    with usage_error("empty-expectations"):
        check(document(), ExpectAnyPcrs([ExpectPcrs(ours), ExpectPcrs({4: PCRS[4]})]))


def test_the_age_is_in_milliseconds_and_its_end_counts() -> None:
    """5000 ms old passes 5000 and fails 4999; 5 is five milliseconds and not five seconds."""
    old = document(timestamp=NOW_MS - 5000)
    assert check(old, IMAGE, MaxAge(5000)).ok
    verdict = check(old, IMAGE, MaxAge(4999))
    assert [(f.code, f.expected, f.found) for f in verdict.findings] == [
        ("too-old", "at most 4999 ms old", "5000 ms old")
    ]
    assert codes(check(old, IMAGE, MaxAge(5))) == {"too-old"}


@pytest.mark.parametrize("offset", [-300_001, 10_500_001])
def test_the_timestamp_lies_in_the_leafs_life(offset: int) -> None:
    """A document from before its certificate, or from after it, is refused; both ends are in."""
    late = NOW + timedelta(hours=2, minutes=55)
    now = NOW if offset < 0 else late + timedelta(seconds=1)
    assert "timestamp-outside-certificate" in codes(check(document(timestamp=NOW_MS + offset), now=now))
    edge = NOW_MS + (offset + 1 if offset < 0 else offset - 1)
    assert check(document(timestamp=edge), now=NOW if offset < 0 else late).ok


@pytest.mark.parametrize("now", [NOW.replace(tzinfo=None), NOW_MS, NOW.isoformat(), None])
def test_the_time_is_an_aware_datetime(now: Any) -> None:
    """A naive time could be any zone's; a number could be seconds: both are the caller's error."""
    with usage_error("bad-expectation"):
        check(document(), now=now)


def test_the_zone_of_the_time_does_not_matter() -> None:
    """The same moment in another zone gives the same verdict."""
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    assert check(document(), IMAGE, MaxAge(0), now=elsewhere).ok
    assert not check(document(), now=datetime(2026, 1, 15, 12, 0, tzinfo=timezone(timedelta(hours=1)))).ok


# --- the verdict -------------------------------------------------------------------------------------------


def test_a_verdict_has_every_reason() -> None:
    """Wrong root, expired chain, a bad signature, debug mode, and five unmet expectations: all at once."""
    data = bytearray(document(pcrs=DEBUG, timestamp=NOW_MS - 7_000_000))
    data[-1] ^= 1
    other = ExpectPcrs({0: OTHER, 1: OTHER, 2: OTHER})
    verdict = verify_document(
        bytes(data),
        [other, ExpectNonce(b"x"), ExpectUserData(b"x"), ExpectPublicKey(b"x"), ExpectModule("x"), MaxAge(1)],
        now=NOW + timedelta(days=30),
    )
    assert codes(verdict) == {
        "root",
        "certificate-dates",
        "signature",
        "timestamp-outside-certificate",
        "debug-mode",
        "measurement",
        "nonce",
        "user-data",
        "public-key",
        "module-id",
        "too-old",
    }


@pytest.mark.parametrize("document_type", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_read(document_type: Any) -> None:
    """What holds bytes is copied once and read."""
    assert check(document_type(document())).ok


@pytest.mark.parametrize("data", [None, "8444", 5, ["84"]])
def test_what_is_not_bytes_is_the_callers_error(data: Any) -> None:
    """Text is not guessed at."""
    with usage_error("bad-expectation"):
        check(data)
