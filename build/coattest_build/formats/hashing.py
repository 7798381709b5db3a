"""Digests of blocks; several over one pass of a file, each computed in a thread of its own.

``hashlib`` and ``zlib`` release the interpreter's lock for large blocks, so the threads keep all cores busy.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import zlib
from collections.abc import Iterable
from typing import BinaryIO, Protocol

BLOCK = 1 << 20
WAITING = 6
"""Blocks that wait for the slowest digest: 6 MiB, whatever the file's size."""


def sha256_of(blocks: Iterable[bytes]) -> str:
    """The SHA-256 of all blocks together, in hex."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


class Consumer(Protocol):
    """A hashlib object or a Crc32."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""


class Crc32:
    """zlib's CRC-32 with hashlib's ``update``."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""
        self.value = zlib.crc32(data, self.value)


def feed(file: BinaryIO, offset: int, size: int, consumers: Iterable[Consumer]) -> int:
    """Feed ``size`` bytes at ``offset`` of a file to the consumers; return how many bytes were there.

    Returns when every consumer has them all, so the caller may read their state. Raises what one raises.
    """
    file.seek(offset)
    if size <= BLOCK:  # not worth a thread
        data = file.read(max(size, 0))
        for consumer in consumers:
            consumer.update(data)
        return len(data)
    lanes: list[queue.Queue[bytes | None]] = []
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []
    for consumer in consumers:
        lanes.append(queue.Queue(WAITING))
        arguments = (lanes[-1], consumer, failures)
        # Plain threads: concurrent.futures pulls in logging, which costs a tenth of measuring a small image.
        threads.append(threading.Thread(target=_consume, args=arguments, name="digest", daemon=True))
        threads[-1].start()
    done = 0
    try:
        while done < size and not failures and (block := file.read(min(BLOCK, size - done))):
            done += len(block)
            for lane in lanes:
                lane.put(block)
    finally:
        for lane in lanes:
            lane.put(None)
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return done


def _consume(lane: queue.Queue[bytes | None], consumer: Consumer, failures: list[BaseException]) -> None:
    while (block := lane.get()) is not None:
        if not failures:
            try:
                consumer.update(block)
            except BaseException as error:  # raised by ``feed``; until then the lane is emptied
                failures.append(error)
