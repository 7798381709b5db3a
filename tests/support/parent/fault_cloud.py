"""S3, STS and KMS on one loopback port, over TLS, failing as told: what a schedule of faults needs of AWS.

KMS's answers are FakeKms's (unsigned documents); S3 has PUT (also If-None-Match and If-Match), HEAD, GET and
listings of one page, and a clock of its own, which is ``ahead`` of this machine's by some seconds. Session
tokens are counted, and one can be declared expired. Its faults are taken one by one, in the order in which
requests come, those of ``results`` by puts of results only; objects in ``refused`` (by path) are denied until
they are taken out, and a key in ``throttled`` is refused so many Decrypts.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import http.server
import io
import json
import os
import socket
import ssl
import threading
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from support.enclave.fake_kms import HOST, FakeKms, make_ca, make_leaf
from support.loopback import Handler, Loopback

STS_REPLY = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>ASIAFAULTFAULTFAULT0</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>
<SessionToken>{token}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleResult></AssumeRoleResponse>"""
KMS_ERRORS = {
    "throttled": (400, {"__type": "ThrottlingException", "message": "Rate exceeded"}),
    "denied": (400, {"__type": "AccessDeniedException", "message": "no"}),
    "skewed": (400, {"__type": "InvalidSignatureException", "message": "expired"}),
    "500": (500, {"__type": "KMSInternalException"}),
}
KMS_RUBBISH = {"503": (503, b"<html>busy</html>"), "garbage": (200, b"\x00\xff{" * 50)}
SECRET = "fault-SECRET-fault-SECRET-fault-SECRET"
TOKEN = "fault-TOKEN-{number}-fault-TOKEN"


class FaultCloud(Loopback):
    """A context manager; ``objects`` is what S3 holds, by path, and ``stored`` every put that it has carried
    out. ``asked`` is called before each of its requests.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = make_ca()
        leaf = make_leaf(*self.authority, HOST, directory)
        self.kms = FakeKms(leaf)
        self.kms.server.server_close()
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, float] = {}
        self.stored: list[tuple[str, bytes]] = []
        self.ahead = 0.0
        self.asked: Callable[[], object] = lambda: None
        self.lock = threading.Lock()
        self.faults: dict[str, deque[str]] = {"s3": deque(), "kms": deque(), "sts": deque()}
        self.faults["results"] = deque()
        self.throttled: Counter[str] = Counter()
        self.tokens = 0
        self.expired: set[str] = set()
        self.calls: list[str] = []
        self.down = False
        self.refused: set[str] = set()
        cloud = self

        class Endpoint(_Handler):
            owner = cloud

        local = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        local.load_cert_chain(make_leaf(*self.authority, "localhost", directory))
        kms = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        kms.load_cert_chain(leaf)

        def choose(stream: Any, name: str | None, _: ssl.SSLContext) -> None:
            stream.context = kms if name == HOST else local

        local.sni_callback = choose

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def finish_request(self, request: Any, client_address: Any) -> None:
                if cloud.down:
                    return
                request.settimeout(10)
                super().finish_request(request, client_address)

            def handle_error(self, *_: object) -> None:
                pass

        super().__init__(Server(("127.0.0.1", 0), Endpoint), local)
        self.url = f"https://localhost:{self.port}"

    def clear(self) -> None:
        """No faults, and every credential is good again."""
        for waiting in self.faults.values():
            waiting.clear()
        self.throttled.clear()
        self.expired.clear()
        self.refused.clear()
        self.down = False

    def fault(self, service: str) -> str:
        """The next fault of a service, taken; empty when there is none."""
        with contextlib.suppress(IndexError):
            return self.faults[service].popleft()
        return ""


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    owner: FaultCloud

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if "TrentService" in self.headers.get("X-Amz-Target", ""):
            self._kms(content)
        else:
            self._sts()

    def _sts(self) -> None:
        match self.owner.fault("sts"):
            case "denied":
                self._error(403, "AccessDenied")
            case "500":
                self._error(500, "InternalFailure")
            case _:
                self.owner.tokens += 1
                token = TOKEN.format(number=self.owner.tokens)
                self._answer(200, STS_REPLY.format(secret=SECRET, token=token).encode(), "text/xml")

    def _kms(self, content: bytes) -> None:
        self.owner.calls.append("kms")
        key = json.loads(content)["KeyId"]
        if self.owner.throttled[key] > 0:
            self.owner.throttled[key] -= 1
            return self._json(*KMS_ERRORS["throttled"])
        fault = self.owner.fault("kms")
        if fault.startswith("expire") or self.headers.get("X-Amz-Security-Token") in self.owner.expired:
            self.owner.expired.add(self.headers["X-Amz-Security-Token"])
            return self._json(400, {"__type": "ExpiredTokenException", "message": "expired"})
        if fault in KMS_ERRORS:
            return self._json(*KMS_ERRORS[fault])
        if fault in KMS_RUBBISH:
            return self._answer(*KMS_RUBBISH[fault], "text/html")
        if fault == "cut":
            return self._drop()
        if fault == "slow":
            time.sleep(0.15)
        status, reply = self.owner.kms.answer(dict(self.headers), json.loads(content))
        return self._answer(status, reply, "application/x-amz-json-1.1")

    def _s3(self, method: str) -> bool:
        """Take the next fault; True when the request is answered with it already."""
        self.owner.calls.append(f"s3 {method}")
        self.owner.asked()
        if self.headers.get("X-Amz-Security-Token") in self.owner.expired:
            self._error(400, "ExpiredToken")
            return True
        if self.path in self.owner.refused:
            self._error(403, "AccessDenied")
            return True
        publishing = method == "PUT" and self.path.startswith("/results/")
        self._fault = (self.owner.fault("results") if publishing else "") or self.owner.fault("s3")
        codes = {
            "500": (500, "InternalError"),
            "503": (503, "SlowDown"),
            "missing": (404, "NoSuchKey"),
            "denied": (403, "AccessDenied"),
            "skewed": (403, "RequestTimeTooSkewed"),
        }
        if self._fault == "expire":
            self.owner.expired.add(self.headers["X-Amz-Security-Token"])
            self._error(400, "ExpiredToken")
            return True
        if self._fault in codes:
            self._error(*codes[self._fault])
            return True
        if self._fault == "cut" and method != "PUT":
            self._drop()
            return True
        if self._fault == "slow":
            time.sleep(0.15)
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            return self._list()
        return self._get()

    def _get(self) -> None:
        if self._s3(self.command):
            return None
        if self._fault == "bare":  # neither a length nor an ETag
            self.send_response(200)
            self.end_headers()
            return self._drop()
        content = self.owner.objects.get(self.path)
        if content is None:
            return self._error(404, "NoSuchKey")
        etag = _etag(content)
        if self.headers.get("If-Match", etag) != etag:
            return self._error(412, "PreconditionFailed")
        if self.command == "GET" and self._fault == "garbage":
            content = bytes(byte ^ 0x55 for byte in content)
        if self.command == "GET" and self._fault in ("half", "no-tls"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            if self._fault == "no-tls":
                with socket.socket(fileno=os.dup(self.connection.fileno())) as line:
                    line.sendall(b"this is not TLS")
            return self._drop()
        more = [("Content-Encoding", "gzip")] if self._fault == "gzip" else []
        return self._answer(200, content, "application/octet-stream", ("ETag", etag), *more)

    def do_PUT(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = _dechunk(self.rfile)
        else:
            content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("X-Amz-Content-SHA256", "").startswith("STREAMING-"):
            content = _dechunk(io.BytesIO(content))
        if self._s3("PUT"):
            return None
        if self._fault == "lost":  # not stored, and nobody hears of it
            return self._drop()
        with self.owner.lock:
            there, match = self.owner.objects.get(self.path), self.headers.get("If-Match")
            if match is not None and there is None:
                return self._error(404, "NoSuchKey")
            if (there is not None and self.headers.get("If-None-Match") == "*") or (
                there is not None and match is not None and match != _etag(there)
            ):
                return self._error(412, "PreconditionFailed")
            self.owner.objects[self.path] = content
            self.owner.modified[self.path] = self._time()
            self.owner.stored.append((self.path, content))
        if self._fault == "cut":  # stored, and nobody hears of it
            return self._drop()
        return self._answer(200, b"", "text/plain", ("ETag", _etag(content)))

    def _list(self) -> None:
        """ListObjectsV2 of a bucket in the path, with a prefix."""
        if self._s3("LIST"):
            return None
        bucket, _, query = self.path.partition("?")
        (prefix,) = urllib.parse.parse_qs(query)["prefix"]
        start = f"{bucket.rstrip('/')}/"
        with self.owner.lock:
            found = {path.removeprefix(start): each for path, each in self.owner.objects.items()}
            times = {path.removeprefix(start): each for path, each in self.owner.modified.items()}
        when = {key: datetime.fromtimestamp(times.get(key, 0), timezone.utc).isoformat() for key in found}
        items = "".join(
            f"<Contents><Key>{html.escape(key)}</Key><Size>{len(content)}</Size>"
            f"<ETag>{html.escape(_etag(content))}</ETag>"
            f"<LastModified>{when[key]}</LastModified>"
            "</Contents>"
            for key, content in sorted(found.items())
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        return self._answer(200, body.encode(), "application/xml")

    def _time(self) -> float:
        return time.time() + self.owner.ahead

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date of an answer: by S3's clock."""
        return super().date_time_string(self._time() if timestamp is None else timestamp)

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, status: int, fields: dict[str, str]) -> None:
        self._answer(status, json.dumps(fields).encode(), "application/x-amz-json-1.1")

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>"
        if self.path == "/" and self.command == "POST":
            body = f"<ErrorResponse>{body}</ErrorResponse>"
        self._answer(status, body.encode(), "application/xml")

    def _answer(self, status: int, content: bytes, kind: str, *headers: tuple[str, str]) -> None:
        self.answer(status, content, ("Content-Type", kind), *headers)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _dechunk(stream: IO[bytes]) -> bytes:
    """Chunks with a trailer: HTTP's own, and S3's inside them (RFC 9112, 7.1)."""
    content = b""
    while size := int(stream.readline().split(b";")[0], 16):
        content += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
    return content
