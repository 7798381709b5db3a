"""A signal in the moment that Python does not look: after its last look and before a call that waits."""

from __future__ import annotations

import signal
from collections.abc import Callable
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
