"""Whatever KMS, proxy, NSM or parent does to a sealed auction: the same result or none, and a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coattest_enclave.protocol import wire
from support.enclave.enclave_attacks import (
    HOSTILE_KMS,
    MALFORMED,
    REFUSED_BEFORE_DECRYPTING,
    envelope_of,
    error,
    first,
)
from support.enclave.fake_kms import HOST, FakeKms, make_ca, make_leaf
from support.enclave.running_enclave import CREDENTIALS, DEMO, Auction, Enclave, refusal, running


@pytest.mark.parametrize("name", HOSTILE_KMS)
def test_whatever_kms_answers_instead_of_a_key_there_is_no_result(
    program: Enclave, demo: Auction, name: str
) -> None:
    """Refusals and odd answers end the request with a typed error that repeats nothing from outside."""
    code, program.kms.tamper = HOSTILE_KMS[name]
    answer = program.open(demo)
    assert refusal(answer) == code
    assert answer.body["detail"].startswith("buyer-1: ")
    assert b"100000" not in wire.encode_frame(answer)


@pytest.mark.parametrize(
    ("size", "code"), [(0, "kms-failed"), (31, "kms-failed"), (33, "kms-failed"), (32, "bad-bid")]
)
def test_another_data_key_is_no_key(program: Enclave, demo: Auction, size: int, code: str) -> None:
    """Anyone can encrypt to the enclave's key: another length is refused, a wrong key fails the AEAD."""
    program.kms.tamper = envelope_of(bytes(size))(program)
    assert refusal(program.open(demo)) == code


def test_one_denied_buyer_means_no_result_and_not_no_bid(program: Enclave, demo: Auction) -> None:
    """A parent that cannot use the second buyer's key gets an error, not an auction without that buyer."""
    answers = iter([None, error("AccessDeniedException")])

    def second_denied(status: int, body: dict[str, Any]) -> tuple[int, Any]:
        tamper = next(answers)
        return tamper(status, body) if tamper else (status, body)

    program.kms.tamper = second_denied
    answer = program.open(demo)
    assert (refusal(answer), answer.body["detail"]) == ("kms-denied", "buyer-2: AccessDeniedException")


def test_a_proxy_that_refuses_or_hangs_up_means_no_result(program: Enclave, demo: Auction) -> None:
    """Transport failures are kms-failed."""
    program.proxy.refuse = True
    assert refusal(program.open(demo)) == "kms-failed"
    program.proxy.refuse = False
    for cut_after in (0, 300, 2000):
        program.proxy.cut_after = cut_after
        assert refusal(program.open(demo)) == "kms-failed"


@pytest.mark.parametrize("impostor", ["another host name", "another authority"])
def test_only_kms_itself_is_spoken_to(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    sockets: Path,
    tmp_path: Path,
    impostor: str,
) -> None:
    """A proxy that leads elsewhere meets the certificate check: no document and no credential is sent."""
    certificate = (
        make_leaf(*authority, "kms.us-east-1.coattest.test", tmp_path)
        if impostor == "another host name"
        else make_leaf(*make_ca(), HOST, tmp_path)
    )
    with FakeKms(certificate) as kms, running(authority, sockets, kms) as program:
        answer = program.open(Auction.make(DEMO).encrypt(kms))
        assert refusal(answer) == "kms-failed"
        assert "certificate refused" in answer.body["detail"]
        assert kms.requests == []
        assert len(program.proxy.asked) == 1
        assert CREDENTIALS["session_token"].encode() not in program.proxy.seen


def failures_of(program: Enclave, demo: Auction) -> Iterator[tuple[str, wire.Frame]]:
    """Everything that parent, proxy and KMS can do to one sealed auction, with the last answer to each."""
    for name, (_, tamper) in HOSTILE_KMS.items():
        program.kms.tamper = tamper
        yield f"KMS: {name}", program.open(demo)
    program.kms.tamper = None
    for cut in (0, 1, 5, 100, 517, 600, 1500, 3000, 6000):
        program.proxy.cut_after = cut
        yield f"proxy: cut after {cut} bytes", program.open(demo)
    program.proxy.cut_after, program.proxy.refuse = None, True
    yield "proxy: refuses", program.open(demo)
    program.proxy.refuse = False
    for field in CREDENTIALS:
        for value in ("", "x" * 8192, "AKIA SOMEBODY ELSE'S"):
            frames = first(demo, credentials={**CREDENTIALS, field: value})
            yield f"parent: other {field}", program.converse(frames)[-1]
    for clock in (0, 1, 2**63 - 1, -1, None, "now"):
        program.nsm.timestamp = clock
        yield f"clock: {clock}", program.open(demo)
    program.nsm.timestamp = None
    for answer in (b"", b"\xff", b"\xa1eError\x00", b"\xa0"):
        program.nsm.broken = answer
        yield f"NSM: {answer!r}", program.open(demo)
    program.nsm.broken = None
    for name, (_, change) in REFUSED_BEFORE_DECRYPTING.items():
        yield f"parent: {name}", program.open(demo, **change(demo))
    for name, (_, make) in MALFORMED.items():
        yield f"frames: {name}", program.converse(make(demo))[-1]


def test_whatever_fails_there_is_the_same_result_or_none(program: Enclave, demo: Auction) -> None:
    """Credentials, time and failures are the parent's to choose: they decide whether, never what."""
    right = program.open(demo).body["result"]
    ends: dict[str, int] = {"error": 0, "result": 0}
    for what, answer in failures_of(program, demo):
        ends[answer.type] += 1
        if answer.type == "result":
            assert answer.body["result"] == right, what
            # This KMS does not look at credentials; a cut behind everything changes nothing.
            assert what.startswith(("parent: other", "proxy: cut", "clock: None")), what
        else:
            assert set(answer.body) == {"code", "detail"}, what
    assert ends["result"] >= 3 * len(CREDENTIALS)
    assert ends["error"] > 60
    assert program.open(demo).body["result"] == right


def test_an_absurd_clock_means_no_result(program: Enclave, demo: Auction) -> None:
    """Without the NSM's time nothing is decrypted: certificates could not be judged."""
    program.nsm.timestamp = 0
    assert refusal(program.open(demo)) == "clock"
    assert program.kms.requests == []


def test_a_broken_nsm_means_no_result(program: Enclave, demo: Auction) -> None:
    """No document, no receipt, no result; the error says so and no more."""
    program.nsm.broken = b"\xa1eError\x00"
    answer = program.open(demo)
    assert refusal(answer) == "internal"
    assert answer.body["detail"] == "the NSM gave no document"
