"""Several digests over one pass of a file, computed on two threads.

``hashlib`` and ``zlib`` release the interpreter's lock for large blocks, so two threads keep two cores busy.
Every consumer gets its blocks in order; a buffer is used again only when all consumers are done with it.
"""

from __future__ import annotations

import queue
import threading
import zlib
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Protocol

BLOCK = 1 << 20
BUFFERS = 6
"""Blocks in flight: 6 MiB, whatever the file's size."""
THREADS = 2


class Consumer(Protocol):
    """A hashlib object or a Crc32."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""


class Crc32:
    """zlib's CRC-32 with hashlib's ``update``."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: memoryview | bytes, /) -> None:
        """Take the next bytes."""
        self.value = zlib.crc32(data, self.value)


class _Lane:
    """One consumer and the blocks that wait for it."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.waiting: deque[_Block] = deque()
        self.active = False


class _Block:
    """A filled buffer, and the number of consumers that are not done with it."""

    def __init__(self, buffer: bytearray, length: int, readers: int) -> None:
        self.buffer = buffer
        self.view = memoryview(buffer)[:length]
        self.readers = readers


class Feeder:
    """Reads ranges of a file once and feeds each to several consumers."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # Plain threads: concurrent.futures pulls in logging, which costs a tenth of measuring a small image.
        self._ready: queue.SimpleQueue[_Lane | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name="digest", daemon=True) for _ in range(THREADS)
        ]
        self._lock = threading.Condition()
        self._free = [bytearray(BLOCK) for _ in range(BUFFERS)]
        self._failure: BaseException | None = None

    def __enter__(self) -> Feeder:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join()

    def feed(self, offset: int, size: int, consumers: Iterable[Consumer]) -> int:
        """Feed ``size`` bytes at ``offset`` to the consumers; return how many bytes were there.

        Returns when every consumer is done, so the caller may read their state.
        """
        lanes = [_Lane(consumer) for consumer in consumers]
        self._file.seek(offset)
        done = 0
        while done < size:
            buffer = self._take()
            length = self._file.readinto(memoryview(buffer)[: min(BLOCK, size - done)])  # type: ignore[attr-defined]
            if not length:
                self._give(buffer)
                break
            done += length
            self._dispatch(_Block(buffer, length, len(lanes)), lanes)
        with self._lock:
            self._lock.wait_for(lambda: len(self._free) == BUFFERS or self._failure)
        self._raise()
        return done

    def _dispatch(self, block: _Block, lanes: list[_Lane]) -> None:
        if not lanes:
            self._give(block.buffer)
            return
        with self._lock:
            for lane in lanes:
                lane.waiting.append(block)
                if not lane.active:
                    lane.active = True
                    self._ready.put(lane)

    def _work(self) -> None:
        while (lane := self._ready.get()) is not None:
            self._step(lane)

    def _step(self, lane: _Lane) -> None:
        """Feed one block, then queue again behind the other lanes, which keeps both threads busy."""
        block = lane.waiting[0]
        try:
            lane.consumer.update(block.view)
        except BaseException as error:  # handed to the thread that called feed
            with self._lock:
                self._failure = error
                self._lock.notify_all()
            return
        with self._lock:
            lane.waiting.popleft()
            block.readers -= 1
            if not block.readers:
                self._free.append(block.buffer)
                self._lock.notify_all()
            if lane.waiting:
                self._ready.put(lane)
            else:
                lane.active = False

    def _take(self) -> bytearray:
        with self._lock:
            self._lock.wait_for(lambda: self._free or self._failure)
            self._raise()
            return self._free.pop()

    def _give(self, buffer: bytearray) -> None:
        with self._lock:
            self._free.append(buffer)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure
