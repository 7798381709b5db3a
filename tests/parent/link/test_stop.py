"""A stop at any moment: nothing escapes, nothing is begun and not ended, and a service says so once.

The moments are counted, not timed: a trace function sends the signal at the n-th step, for every n.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coattest_parent.link.stop import Stop, Stopped
from support.only_in import runs_in
from support.parent import stop_sweep
from support.parent.stop_sweep import signal_at
from support.unnoticed import while_unnoticed

SWEEP = Path(stop_sweep.__file__)
EVENTS = {
    "serve": ("enclave-down", "service-started", "spool-seen", "service-stopped"),
    "proxy": ("proxy-started", "service-started", "service-stopped", "proxy-stopped"),
}
AUCTION = (sys.executable, "-c", "from coattest_parent.cli.auction import main; main()")


@pytest.fixture
def outside() -> Iterator[list[int]]:
    """SIGTERM outside of what is tested does nothing but be noted."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


class Counted:
    """A context manager that counts how often it was entered and left."""

    def __init__(self) -> None:
        self.entered = self.left = 0

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        for _number in range(3):
            pass
        self.left += 1


def test_a_stop_at_any_instruction_is_a_stop_or_too_late(outside: list[int]) -> None:
    """At every opcode of entering, working, waiting and leaving: Stopped or the result, and nothing else."""

    def work() -> int:
        total = 0
        with contextlib.suppress(KeyError):
            for number in range(3):
                total += len(str(number))
            raise KeyError
        return total

    def whole() -> str:
        with Stop("again") as stop:
            try:
                assert stop.cut(work) == 3
            except Stopped:
                assert stop.told
                assert stop.wait(600)
                return "stopped"
            stop.wait(0)
            return "told" if stop.told else "done"

    seen: dict[str, int] = {}
    for moment in range(1, 100_000):
        outside.clear()
        handler = signal.getsignal(signal.SIGTERM)
        with signal_at(moment, "opcode") as reached:
            outcome = whole()
        seen[outcome] = seen.get(outcome, 0) + 1
        assert signal.getsignal(signal.SIGTERM) is handler
        if reached.left > 0:
            break
        # Before it began and after it ended the signal is the other handler's.
        assert outcome == "done" or outside == [], moment
    else:
        pytest.fail("the sweep did not reach the end")
    assert seen["stopped"] > 100
    assert seen["told"] > 10


def test_an_error_of_the_work_is_itself_at_any_instruction(outside: list[int]) -> None:
    """What the work raises comes out, unless the stop does; never the exception that cuts."""

    def work() -> None:
        raise ValueError("of the work")

    def whole() -> str:
        with Stop() as stop:
            try:
                stop.cut(work)
            except Stopped:
                return "stopped"
            except ValueError:
                return "error"
        return "nothing"

    seen = []
    for moment in range(1, 100_000):
        with signal_at(moment, "opcode") as reached:
            seen.append(whole())
        if reached.left > 0:
            break
    assert {*seen} == {"stopped", "error"}
    assert len(seen) > 100


@pytest.mark.parametrize("place", ["__enter__", "__exit__", "__del__", "generator"])
def test_what_enters_leaves_or_is_collected_is_not_cut(outside: list[int], place: str) -> None:
    """A signal in there waits until that is over, and then cuts the work that goes on."""
    steps: list[str] = []

    def told() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)
        steps.append("over")

    class Thing:
        def __enter__(self) -> None:
            if place == "__enter__":
                told()

        def __exit__(self, *_: object) -> None:
            if place == "__exit__":
                told()

        def __del__(self) -> None:
            if place == "__del__":
                told()

    @contextlib.contextmanager
    def generator() -> Iterator[None]:
        yield
        if place == "generator":
            told()

    def work() -> None:
        with generator(), Thing():
            pass
        steps.append("work goes on")
        while True:
            time.sleep(0.001)

    with Stop() as stop, pytest.raises(Stopped):
        stop.cut(work)
    # "over" first: it was whole. Its end may be the end of the work too, if the time was up by then.
    assert steps[0] == "over"
    assert outside == []


def test_every_context_that_was_entered_is_left(outside: list[int]) -> None:
    """With real signals from a second thread, at whatever moments they come."""
    dice = random.Random(12)
    main = threading.get_ident()
    for _ in range(150):
        counted = Counted()

        def work(counted: Counted = counted) -> None:
            while True:
                with counted:
                    pass

        timer = threading.Timer(dice.random() * 0.004, signal.pthread_kill, (main, signal.SIGTERM))
        with Stop() as stop:
            timer.start()
            with pytest.raises(Stopped):
                stop.cut(work)
            timer.join()
        assert counted.entered == counted.left
    assert outside == []


def test_a_signal_that_nobody_noticed_ends_a_wait_and_cuts_work(outside: list[int]) -> None:
    """It came after Python looked for signals, and before a call that waits."""
    with Stop() as stop:
        assert while_unnoticed(signal.SIGTERM, lambda: stop.wait(600)) is True
    with Stop() as stop, pytest.raises(Stopped, match="stopped by SIGTERM"):
        stop.cut(while_unnoticed, signal.SIGTERM, lambda: time.sleep(600))
    assert outside == []


def test_another_signal_with_a_handler_is_no_stop(outside: list[int]) -> None:
    """Python notes it in the same place; work goes on and a wait lasts."""
    got: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: got.append(number))
    with Stop() as stop:
        signal.raise_signal(signal.SIGUSR2)
        assert stop.cut(lambda: stop.wait(0.1)) is False
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(600) is True
    signal.signal(signal.SIGUSR2, before)
    assert (got, outside) == ([signal.SIGUSR2], [])


def test_another_thread_can_tell_and_a_descriptor_ends_the_wait() -> None:
    """``wait`` returns for either, and says which."""
    reader, writer = os.pipe()
    with Stop() as stop:
        os.write(writer, b"x")
        assert stop.wait(readable=reader) is False
        thread = threading.Thread(target=stop.tell)
        thread.start()
        assert stop.wait() is True
        thread.join()
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(Stopped):
            stop.cut(pytest.fail, "work begins after a stop")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("last", "before", "code"),
    [(True, signal.SIG_DFL, 0), (False, signal.SIG_IGN, 0), (False, signal.SIG_DFL, -15)],
)
def test_a_stop_while_the_signals_are_handed_over_is_no_error(last: bool, before: int, code: int) -> None:
    """Python drops a signal that comes there, and calls it an error. It is ignored, or ends the process."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, before)
        reports: list[object] = []
        sys.unraisablehook = reports.append
        with _told_while(signal.signal) as told, Stop(last=last):
            pass
        os._exit(0 if told and not reports else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code


@contextlib.contextmanager
def _told_while(real: Callable[..., Any]) -> Iterator[list[int]]:
    """SIGTERM comes after Python looked for signals and before it is ignored or has its default."""
    told = []

    def signal_told(number: int, handler: Any) -> Any:
        if number != signal.SIGTERM or callable(handler):
            return real(number, handler)
        told.append(number)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(signal, "signal", real)
            return while_unnoticed(number, lambda: real(number, handler))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", signal_told)
        yield told


# ------------------------------------------------------------------------------------- the services


STEP = 1 if runs_in("faults") else 20
"""Every line in ``tox -e faults``, every twentieth elsewhere: each is a process of its own."""


@pytest.mark.parametrize("verb", ["serve", "proxy"])
def test_a_service_that_is_stopped_at_any_line_ends_with_one_event(verb: str, tmp_path: Path) -> None:
    """Exit 0, started and stopped once, every line an event of its own, no socket left."""
    sweep = [sys.executable, str(SWEEP), verb, str(tmp_path), "1", str(STEP)]
    done = subprocess.run(sweep, stdout=subprocess.PIPE, text=True, check=True)
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) > 100 / STEP
    for run in runs:
        events = [json.loads(line)["event"] for line in run["said"].splitlines()]
        assert events.count("service-started") == events.count("service-stopped") == 1, run
        assert {*events} <= {*EVENTS[verb]}, run
        assert events[-1] == EVENTS[verb][-1], run
        assert run["left"] == [], run
    assert [run["code"] for run in runs] == [0] * (len(runs) - 1) + [100]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_real_service_ends_whenever_it_is_told(number: int, tmp_path: Path) -> None:
    """A process, told at seeded moments after its first event, some of them twice."""
    dice = random.Random(number)
    (tmp_path / "spool").mkdir()
    words = ("serve", "--spool", str(tmp_path / "spool"), "--every", "0.1")
    for _ in range(4):
        with subprocess.Popen(
            [*AUCTION, *words, "--enclave", f"unix:{tmp_path / 'none'}"], stderr=subprocess.PIPE, text=True
        ) as service:
            assert service.stderr
            first = service.stderr.readline()
            time.sleep(dice.random() / 5)
            for _ in range(dice.randint(1, 2)):
                service.send_signal(number)
            said = first + service.stderr.read()
        assert service.returncode == 0, said
        events = [json.loads(line)["event"] for line in said.splitlines()]
        assert events.count("service-stopped") == 1


def test_a_service_that_cannot_start_says_so_in_an_event(tmp_path: Path) -> None:
    """Exit 2 or 3 with the reason, and no other line."""
    (tmp_path / "spool").mkdir()
    words = ("serve", "--spool", str(tmp_path / "spool"), "--enclave", f"unix:{tmp_path / 'none'}")
    holder = os.open(tmp_path / "spool", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    done = subprocess.run([*AUCTION, *words], capture_output=True, text=True, check=False)
    os.close(holder)
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (done.returncode, told["event"], told["code"], told["exit"]) == (
        *(3, "service-failed"),
        *("spool-in-use", 3),
    )
    assert done.stdout == ""
