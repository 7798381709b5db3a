"""A listening socket served by one event loop in a thread of its own, however many connections there are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType

from coattest.errors import EnvironmentFailure
from coattest_parent.link.channels import Address, Unix, listen_on

CANCEL_AGAIN = 0.1
"""Seconds until a connection that did not end is told again."""

CLOSE_TIMEOUT = 5.0
"""Seconds in which a peer can take what was sent before its connection ended."""

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0

BACKLOG = 100
"""Connections that wait to be accepted; as many are accepted between two looks at the others."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class LoopServer:
    """Calls ``serve`` for every connection; a context manager that listens on entry and stops on exit.

    A connection ends when ``serve`` returns, or fails: OSError, a time-out and more than ``head_max`` bytes
    without the wanted end are nobody's business. With ``most``, the oldest of so many connections is dropped
    when another one comes.
    """

    def __init__(
        self,
        address: Address | tuple[str, int],
        serve: Serve,
        *,
        name: str,
        head_max: int,
        most: int | None = None,
    ) -> None:
        self.address = address
        self._serve, self._name, self._head_max, self._most = serve, name, head_max, most
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __enter__(self) -> LoopServer:
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
        server = await asyncio.start_server(
            self._accept, sock=self._listener, limit=self._head_max, backlog=BACKLOG
        )
        self._ready.set()
        await self._stop.wait()
        server.close()
        # Every task, so also that of a connection which asyncio is still accepting. More than once: before
        # Python 3.12 wait_for can swallow a cancellation that comes as it finishes.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN)
        await asyncio.sleep(0)  # what was closed last is let go in the loop's next round

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._make_room()
        self._tasks[task] = writer
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # The peer sees a closed connection; there is nobody else to tell.
        finally:
            await close(writer)
            self._tasks.pop(task, None)

    def _make_room(self) -> None:
        while self._most is not None and len(self._tasks) >= self._most:
            oldest = next(iter(self._tasks))
            self._tasks.pop(oldest).transport.abort()
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
