"""A signal in the moment that Python does not look: after its last look and before a call that waits."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def while_unnoticed(number: int, work: Callable[[], Any]) -> Any:
    """What ``work`` returns, called when the signal has come and its handler has not run.

    Python runs handlers by number: the work is that of SIGUSR1 (10), and a later number waits for its turn.
    It runs when the work is over, or when another signal comes.
    """
    results = []
    signals = {number, signal.SIGUSR1}
    before = signal.signal(signal.SIGUSR1, lambda *_: results.append(work()))
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for each in signals:
            signal.raise_signal(each)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return results[0]


def unnoticed_where_it_waits(program: Path) -> str:
    """The source of a program that does what ``program`` does, and is told to end as it begins to wait.

    SIGTERM comes, unnoticed, when it first calls ``select`` or the ``poll`` of a poll.
    """
    return f"""
import runpy, select, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.unnoticed import while_unnoticed
select_now, poll_now = select.select, select.poll

def late(wait, *arguments):
    select.select, select.poll = select_now, poll_now
    return while_unnoticed(signal.SIGTERM, lambda: wait(*arguments))

class Poll:
    def __init__(self):
        poll = poll_now()
        self.register, self.poll = poll.register, lambda *arguments: late(poll.poll, *arguments)

select.select, select.poll = lambda *arguments: late(select_now, *arguments), Poll
runpy.run_path({str(program)!r}, run_name="__main__")
"""
