"""Time tells nothing: the work of a decision does not depend on amounts, and its answer leaves at a tick."""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import pytest

from coattest_enclave import session
from coattest_enclave.decision import auction, lanes
from coattest_enclave.payload import turns
from coattest_enclave.payload.trust import parse_trust
from coattest_enclave.protocol import wire
from coattest_enclave.protocol.errors import MessageError
from coattest_verify.auction import messages
from support.auction import deciding
from support.enclave.fake_nsm import fields_of
from support.enclave.manifests import by_definition, manifest
from support.enclave.running_enclave import Auction, Enclave

LOTS = 2 * lanes.LANES + 5
DIGIT = sys.int_info.bits_per_digit
MOST = messages.AMOUNT_MAX
Trace = list[tuple[object, ...]]


class Traced(int):
    """An integer that records every operation on it, with the sizes of operands and result in bits.

    They are what CPython's work depends on, once no subtraction has to look below the top digit.
    """

    trace: Trace

    def over(self, what: str, left: int, right: int) -> Traced:
        """The result of an operation, which is recorded."""
        value = int(getattr(int, f"__{what}__")(int(left), int(right)))
        self.trace.append((what, left.bit_length(), right.bit_length(), value.bit_length()))
        if what == "sub":
            assert left > right, "the result is negative"
            sizes = [-(-each.bit_length() // DIGIT) for each in (left, right)]
            tops = [int(each) >> DIGIT * (size - 1) for each, size in zip((left, right), sizes, strict=True)]
            assert sizes[0] > sizes[1] or tops[0] > tops[1], "where operands first differ is seen"
        return self.made(value, self.trace)

    @classmethod
    def made(cls, value: int, trace: Trace) -> Traced:
        """A number that writes into this trace."""
        made = cls(value)
        made.trace = trace
        return made

    def to_bytes(self, *given: Any, **named: Any) -> bytes:
        self.trace.append(("to_bytes", self.bit_length()))
        return int(self).to_bytes(*given, **named)


def recorded(what: str, swapped: bool) -> Callable[[Traced, int], Traced]:
    """The operator of that name."""

    def operator(self: Traced, other: int) -> Traced:
        return self.over(what, other, self) if swapped else self.over(what, self, other)

    return operator


for operation in ("and", "or", "xor", "sub", "add", "mul", "lshift", "rshift", "floordiv", "mod"):
    setattr(Traced, f"__{operation}__", recorded(operation, swapped=False))
    setattr(Traced, f"__r{operation}__", recorded(operation, swapped=True))


def traced(rule: str, plaintexts: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Every operation on amounts and every line of a decision, in order."""
    trace: Trace = []
    read = lanes.ColumnReader.read

    def reading(self: lanes.ColumnReader, column: memoryview, start: int) -> int:
        return Traced.made(read(self, column, start), trace)

    files = {auction.__file__, lanes.__file__}

    def line(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        trace.append((event, frame.f_code.co_name, frame.f_lineno))
        return line

    book = manifest(len(plaintexts), [index % 3 for index in range(LOTS)], rule)
    before = sys.gettrace()
    with monkeypatch.context() as patched:
        patched.setattr(lanes.ColumnReader, "read", reading)
        sys.settrace(line)
        try:
            auction.columns_of_result(book, plaintexts)
        finally:
            sys.settrace(before)
    return trace


def tables(buyers: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """What a parent would like to tell apart: the same auction with other amounts."""
    rnd = random.Random(5)
    names = [f"buyer-{index}" for index in range(buyers)]
    rising = [[1_000_000 * (index + 1)] * LOTS for index in range(buyers)]
    columns = [rnd.sample([row[0] for row in rising], buyers) for _ in range(LOTS)]
    for what, rows in {
        "nobody bids": [[0] * LOTS] * buyers,
        "everybody bids the most": [[MOST] * LOTS] * buyers,
        "one bids on all lots": [[MOST] * LOTS, *[[0] * LOTS] * (buyers - 1)],
        "one bids on the last lot": [[0] * (LOTS - 1) + [1], *[[0] * LOTS] * (buyers - 1)],
        "amounts rise with the buyers": rising,
        "amounts fall with the buyers": rising[::-1],
        "amounts in any order": [list(row) for row in zip(*columns, strict=True)],
        "any amounts": [[rnd.randrange(MOST + 1) >> rnd.randrange(54) for _ in range(LOTS)] for _ in names],
    }.items():
        yield what, deciding.plaintexts(dict(zip(names, rows, strict=True)))
    most = struct.pack(">Q", MOST) * LOTS
    for what, wrong in {"out of range": b"\xff" * 8 * LOTS, "of no length": b"", "zeros": bytes(8)}.items():
        yield f"a plaintext {what}", {name: wrong if name == "buyer-0" else most for name in names}


@pytest.mark.parametrize("rule", [messages.FIRST_PRICE, messages.SECOND_PRICE])
@pytest.mark.parametrize("buyers", [1, 2, 7])
def test_the_work_does_not_depend_on_amounts(rule: str, buyers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines run, and the same operations on integers of the same sizes, whatever was bid."""
    traces = {what: traced(rule, table, monkeypatch) for what, table in tables(buyers)}
    first, *others = traces.values()
    assert sum(entry[0] == "sub" for entry in first) > 10
    assert [what for what, trace in zip(list(traces)[1:], others, strict=True) if trace != first] == []


def test_the_trace_shows_amounts_where_nothing_is_on_top() -> None:
    """Without the lane on top sizes differ, and a subtraction looks below: the check sees what it is for."""
    trace: Trace = []
    for amount in (1, MOST):
        lanes.kept(Traced.made(amount, trace), MOST)
    assert trace[0] != trace[1]
    with pytest.raises(AssertionError, match="operands first differ"):
        Traced.made((1 << 90) + 2, trace) - ((1 << 90) + 1)


@pytest.mark.parametrize("rule", [messages.FIRST_PRICE, messages.SECOND_PRICE])
@pytest.mark.parametrize("buyers", [1, 2, 7, messages.BUYERS_MAX])
def test_lanes_decide_as_the_rules_say(rule: str, buyers: int) -> None:
    """Over several pieces and up to the last bit of a lane, every lot's outcome is the defined one."""
    rnd = random.Random(buyers)

    def row() -> list[int]:
        return [rnd.choice((0, 1, 2, MOST - 1, MOST, rnd.randrange(MOST + 1))) for _ in range(LOTS)]

    reserves = [rnd.choice((0, 1, 2, MOST)) for _ in range(LOTS)]
    rows: dict[str, Sequence[int]] = {f"buyer-{index:02}": row() for index in range(buyers)}
    book = manifest(buyers, reserves, rule, wide=True)
    decided = deciding.outcomes(book, rows)
    for lot, (_, outcome) in enumerate(decided):
        amounts = {name: amounts[lot] for name, amounts in rows.items()}
        assert outcome == by_definition(amounts, reserves[lot], rule)


def test_a_tick_depends_on_numbers_of_lots_and_buyers() -> None:
    """The quantum grows with both, and is never shorter than its least."""
    assert auction.quantum(1, 1) >= auction.QUANTUM_MIN
    assert auction.quantum(100_000, 8) < auction.quantum(100_000, 9) < auction.quantum(200_000, 9)


class Clock:
    """A clock that only its sleep moves, and the work that a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        """Sleep."""
        assert seconds > 0
        self.now += seconds


@pytest.mark.parametrize(("work", "count"), [(0.0, 1), (0.25, 1), (0.999, 1), (1.0, 2), (1.5, 2), (7.25, 8)])
@pytest.mark.parametrize("fails", [False, True])
def test_a_decision_ends_at_a_tick(work: float, count: int, fails: bool) -> None:
    """Also when it fails, and one that took longer than a tick says how many."""
    clock = Clock()
    taken = turns.Turns(lambda: clock.now, clock.sleep)
    try:
        with taken.alone(1.0) as tick:
            clock.now += work
            if fails:
                raise MessageError("no")
    except MessageError:
        assert fails
    assert (clock.now, tick.count) == (100.0 + count, count)


def test_a_parent_that_is_slow_to_hear_of_a_decision_moves_no_tick() -> None:
    """Otherwise it could choose how much of a tick is left, and see in the next one how long the work was."""
    clock = Clock()
    taken = turns.Turns(lambda: clock.now, clock.sleep)
    with taken.alone(1.0, lambda: clock.sleep(0.9)) as tick:
        clock.now += 0.25
    assert (clock.now, tick.count) == (pytest.approx(101.9), 1)


def test_work_alone_that_nobody_hears_of_lets_others_be_served_again() -> None:
    """Its connection broke as it was to be told."""
    taken = turns.Turns()
    ours, theirs = socket.socketpair()

    def tell() -> None:
        raise BrokenPipeError

    with ours, theirs:
        with pytest.raises(BrokenPipeError), taken.alone(3600.0, tell):
            pytest.fail("it began")
        with taken.served(ours):
            pass


def test_nothing_is_served_during_a_decision() -> None:
    """A request that comes during a decision is not even read until the tick."""
    events: list[str] = []
    arrived = threading.Event()

    def sleep(_: float) -> None:
        assert arrived.wait(60)
        time.sleep(0.05)
        events.append("tick")

    taken = turns.Turns(sleep=sleep)
    ours, theirs = socket.socketpair()

    def ask() -> None:
        arrived.set()
        with taken.served(ours):
            events.append("served")

    with ours, theirs:
        thread = threading.Thread(target=ask)
        with taken.alone(3600.0):
            thread.start()
            events.append("decided")
        thread.join(60)
    assert events == ["decided", "tick", "served"]


def test_an_answer_that_nobody_reads_is_cut_before_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose answer has begun and does not end could watch a decision; it is closed."""
    monkeypatch.setattr(turns, "GRACE", 0.05)
    taken = turns.Turns(sleep=lambda _: None)
    ours, theirs = socket.socketpair()
    begun = threading.Event()

    def answer() -> None:
        with taken.served(ours):
            begun.set()
            try:
                ours.sendall(bytes(1 << 26))
            except OSError:
                events.append("cut")

    events: list[str] = []
    with ours, theirs:
        thread = threading.Thread(target=answer)
        thread.start()
        assert begun.wait(60)
        with taken.alone(1.0):
            events.append("alone")
        thread.join(60)
    assert events == ["cut", "alone"]


def test_liveness_waits_for_the_tick(program: Enclave) -> None:
    """Who asks "alive" from "deciding" on hears nothing before a whole quantum has passed."""
    book = Auction.make({"buyer-1": [5] * 3, "buyer-2": [0] * 3}).encrypt(program.kms)
    with program.connect() as opening, program.connect() as other:
        *before, last = book.open_frames()
        for frame in before:
            wire.write_frame(opening, frame)
        began = time.monotonic()
        wire.write_frame(opening, last)
        while (answer := wire.read_frame(opening)) and answer.body.get("stage") != "deciding":
            assert answer.type == "progress"
        wire.write_frame(other, wire.Frame(1, "alive", {"nonce": bytes(16)}))
        document = wire.read_frame(other)
        assert document is not None
        assert document.type == "document"
        assert time.monotonic() - began >= auction.quantum(3, 2)


def test_a_receipts_own_time_is_after_the_tick(program: Enclave) -> None:
    """A document says in milliseconds when it was made: not when the decision was."""
    book = Auction.make({"buyer-1": [5] * 3, "buyer-2": [0] * 3}).encrypt(program.kms)
    with program.connect() as opening:
        for frame in book.open_frames():
            wire.write_frame(opening, frame)
        while (answer := wire.read_frame(opening)) and answer.body.get("stage") != "deciding":
            assert answer.type == "progress"
        told = time.time()
        while (answer := wire.read_frame(opening)) and answer.type == "progress":
            pass
    assert answer is not None
    made = fields_of(answer.body["receipt"])["timestamp"] / 1000
    assert made - told >= auction.quantum(3, 2) - 0.1


def test_nothing_is_written_between_the_start_of_a_decision_and_its_tick(
    program: Enclave, demo: Auction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the parent or to the NSM: no part of that time is anybody else's."""
    events: list[str] = []

    def noted(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any, **named: Any) -> Any:
            events.append(what)
            return call(*given, **named)

        return noting

    monkeypatch.setattr(session.wire, "write_frame", noted("frame", wire.write_frame))
    monkeypatch.setattr(session.Nsm, "attest", noted("document", session.Nsm.attest))
    trust = parse_trust((program.directory / "trust.json").read_bytes()).on_hardware(present=False)
    taken = turns.Turns(noted("clock", time.monotonic), noted("tick", lambda _: None))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first, *rest = demo.open_frames()
        for frame in rest:
            theirs.sendall(wire.encode_frame(frame))
        session.open_auction(ours, first, trust, list(trust.proxy), taken)
    start = events.index("clock")
    assert events[start - 1 :] == ["frame", "clock", "clock", "tick", "document", "frame"]
