"""A listening socket served by one event loop in a thread of its own, however many connections there are."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from coattest.errors import EnvironmentFailure
from coattest.shell import from_os_error
from coattest_parent.link.channels import Address, Unix, listen_on
from coattest_parent.link.telemetry import Telemetry

CANCEL_AGAIN = 0.1
"""Seconds until a connection that did not end is cancelled again."""

CLOSE_TIMEOUT = 5.0
"""Seconds in which a peer can take what was sent before its connection ended."""

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0

ACCEPTED_AT_ONCE = 16
"""Connections accepted before the loop serves the others."""

ACCEPT_PAUSE = 1.0
"""Seconds without accepting when the system has no file descriptor or no memory for a connection."""

_Server = TypeVar("_Server", bound="LoopServer")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class _Peer:
    """A connection, and its writer once it has one: from then on that closes it."""

    connection: socket.socket
    writer: asyncio.StreamWriter | None = None


class LoopServer:
    """Calls ``serve`` for every connection; a context manager that listens on entry and stops on exit.

    A connection ends when ``serve`` returns, or fails: OSError, a time-out and more than ``head_max`` bytes
    without the wanted end are ignored. With ``most``, the oldest of so many connections is dropped
    when another one comes; they count from when they are accepted, so that this bounds the descriptors too.
    """

    def __init__(
        self,
        address: Address | tuple[str, int],
        serve: Serve,
        *,
        name: str,
        head_max: int,
        most: int | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.address = address
        self._telemetry = telemetry or Telemetry()
        self._serve, self._name, self._head_max, self._most = serve, name, head_max, most
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._tasks: dict[asyncio.Task[None], _Peer] = {}

    def __enter__(self: _Server) -> _Server:
        self._listener = listen_on(self.address)
        self._listener.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            raise EnvironmentFailure(f"{self._name} did not start", where=str(self.address))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread:
            self._thread.join(STOP_TIMEOUT)
        if isinstance(self.address, Unix):
            self.address.path.unlink(missing_ok=True)

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 on another kind of socket."""
        if self._listener is None or not isinstance(self.address, tuple):
            return 0
        return int(self._listener.getsockname()[1])

    def serving(self) -> bool:
        """Whether its thread runs."""
        return bool(self._thread and self._thread.is_alive())

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._listen())
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        assert self._listener is not None
        self._accepting(True)
        self._ready.set()
        await self._stop.wait()
        self._accepting(False)
        self._listener.close()
        # More than once: before Python 3.12 wait_for can swallow a cancellation that comes as it finishes.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN)
        await asyncio.sleep(0)  # lets the loop drop what was closed last

    def _accepting(self, wanted: bool) -> None:
        assert self._listener is not None
        if wanted and not self._stop.is_set():
            self._loop.add_reader(self._listener, self._accept)
        elif not wanted:
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        """Accept here: asyncio's server counts no connection until several of its rounds later, and when it
        runs out of descriptors it only logs.
        """
        assert self._listener is not None
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                code = from_os_error(error).code
                self._telemetry.event("accept-failed", address=str(self.address), code=code)
                self._accepting(False)
                self._loop.call_later(ACCEPT_PAUSE, self._accepting, True)
                return
            connection.setblocking(False)
            self._make_room()
            peer = _Peer(connection)
            task = self._loop.create_task(self._attend(peer))
            self._tasks[task] = peer
            task.add_done_callback(functools.partial(self._done, peer))

    async def _attend(self, peer: _Peer) -> None:
        try:
            reader, peer.writer = await asyncio.open_connection(sock=peer.connection, limit=self._head_max)
            try:
                await self._serve(reader, peer.writer)
            finally:
                await close(peer.writer)
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # The peer sees a closed connection; there is nobody else to tell.

    def _done(self, peer: _Peer, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if peer.writer is None:
            peer.connection.close()

    def _make_room(self) -> None:
        while self._most is not None and len(self._tasks) >= self._most:
            oldest = next(iter(self._tasks))
            peer = self._tasks.pop(oldest)
            if peer.writer:
                peer.writer.transport.abort()
            oldest.cancel()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close, and after CLOSE_TIMEOUT drop what the peer has not taken: it could hold the socket for ever."""
    writer.close()
    late = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, writer.transport.abort)
    try:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()
    finally:
        late.cancel()
