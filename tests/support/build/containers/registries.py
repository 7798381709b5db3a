"""Registries on loopback: Debian's real one in a process of its own, and one that a test makes hostile."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from coattest_build.containers.manifests import INDEXES
from support.build.container_images import INDEX, MANIFEST, Layout
from support.loopback import Handler, free_port

PROGRAM = "docker-registry"
START_SECONDS = 120
NAME = "team/server"
CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
log: {{level: error}}
"""


def missing() -> bool:
    """Whether this machine lacks the real one (Debian's package docker-registry)."""
    return shutil.which(PROGRAM) is None


@contextlib.contextmanager
def real_registry(folder: Path) -> Iterator[str]:
    """Debian's docker-registry with its files in ``folder``; HOST:PORT."""
    with free_port() as port, (folder / "log").open("wb") as log:
        (folder / "config.yml").write_text(CONFIG.format(folder=folder / "kept", port=port))
        process = subprocess.Popen([PROGRAM, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/"):
                    break
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def push(host: str, layout: Layout) -> None:
    """Put every blob of a layout there, then what names them, the innermost first."""

    def send(method: str, address: str, data: bytes, kind: str) -> Mapping[str, str]:
        request = urllib.request.Request(address, data=data, method=method, headers={"Content-Type": kind})
        with urllib.request.urlopen(request) as answer:
            return answer.headers  # type: ignore[no-any-return]

    base, documents = f"http://{host}/v2/{NAME}", []
    for path, data in layout.files.items():
        digest = f"sha256:{path.rpartition('/')[2]}"
        if not path.startswith("blobs/"):
            continue
        with contextlib.suppress(ValueError):
            kind = json.loads(data).get("mediaType")
            if kind in (MANIFEST, INDEX):
                documents.append((kind in INDEXES, digest, data, kind))
                continue
        place = send("POST", f"{base}/blobs/uploads/", b"", "application/octet-stream")["Location"]
        joined = f"{place}{'&' if '?' in place else '?'}digest={digest}"
        send("PUT", joined, data, "application/octet-stream")
    for _, digest, data, kind in sorted(documents, key=lambda each: each[0]):
        send("PUT", f"{base}/manifests/{digest}", data, kind)


Answer = Callable[[Handler], bool]


def registry_of(layout: Layout, hook: Answer = lambda _: False) -> type[Handler]:
    """Serves a layout's blobs; ``hook`` is asked first, and has answered when it returns True."""

    class Served(Handler):
        def do_GET(self) -> None:
            if hook(self):
                return
            data = layout.files.get(f"blobs/sha256/{self.path.rpartition(':')[2]}")
            if data is None or not self.path.startswith(f"/v2/{NAME}/"):
                self.answer(404, b"{}")
            else:
                self.answer(200, data)

    return Served
