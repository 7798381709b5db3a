"""Headless Chromium over its debugging pipe: the DevTools protocol without a library and without a port.

``--remote-debugging-pipe`` reads commands from descriptor 3 and writes answers and events to descriptor 4,
each one JSON document followed by a zero byte (Chromium, content/browser/devtools).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 60.0
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
]


def find() -> str | None:
    """The browser's program, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(slots=True)
class Browser:
    """One tab. ``events`` are what the browser told since the page was opened."""

    commands: int
    answers: int
    session: str = ""
    count: int = 0
    pending: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def read(self) -> dict[str, Any]:
        """The next message; fails when none comes."""
        while b"\0" not in self.pending:
            ready, _, _ = select.select([self.answers], [], [], SECONDS)
            assert ready, "the browser says nothing"
            chunk = os.read(self.answers, 1 << 16)
            assert chunk, "the browser ended"
            self.pending += chunk
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path) -> None:
        """Open a page in a fresh tab, and wait until its script has said what it found."""
        self.session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + SECONDS
        while not self.evaluate(
            "document.readyState === 'complete' && (document.body.dataset.browser || "
            "(document.getElementById('data') ? '' : 'none'))"
        ):
            assert time.monotonic() < deadline, self.evaluate("document.documentElement.outerHTML")[-2000:]
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def requests(self) -> list[str]:
        """Every URL that the page asked for, itself included."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """What the browser's log and the page's exceptions say, such as a breach of its policy."""
        told = []
        for event in self.events:
            if event.get("method") == "Log.entryAdded":
                told.append(event["params"]["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                told.append(json.dumps(event["params"]["exceptionDetails"]))
        return told

    def screenshot(self, path: Path, *, dark: bool = False, width: int = 1000) -> None:
        """Write the whole page as a PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        path.write_bytes(base64.b64decode(self.send("Page.printToPDF")["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with an empty profile, for the length of the block."""
    program = find()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        from_us, commands = os.pipe()
        answers, to_us = os.pipe()
        # The program wants its ends at 3 and 4; the shell puts them there.
        process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{from_us} 4>&{to_us}',
                "chromium",
                program,
                *FLAGS,
                f"--user-data-dir={profile}",
            ],
            pass_fds=(from_us, to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        try:
            yield Browser(commands, answers)
        finally:
            os.close(commands)
            process.terminate()
            process.wait()
            os.close(answers)
