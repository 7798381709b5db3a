"""The gate in front of everything: a WSGI application that authenticates a request and hands it to its
service.

Nothing is anonymous and nothing is authorised by default. The service is the one named in the signed
credential scope, so a request cannot be signed for one service and be answered by another.
"""

from __future__ import annotations

import functools
import hmac
import io
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.test import EnvironBuilder, run_wsgi_app

from coattest_local.aws import sigv4
from coattest_local.aws.accounts import Arrival, SignedCaller, caller_of, find_credential
from coattest_local.aws.faults import Faults
from coattest_local.aws.http import (
    JSON_SERVICES,
    MAX_BODY,
    SERVICES,
    HttpRequest,
    HttpResponse,
    ServiceError,
    error_answer,
)
from coattest_local.aws.identity import answer_iam, answer_sts
from coattest_local.aws.kms.service import KmsService
from coattest_local.aws.s3 import answer_s3
from coattest_local.aws.stacks.additions import extend_moto
from coattest_local.aws.trail import Trail
from coattest_verify.attestation import Root

if TYPE_CHECKING:
    from coattest_local.aws.groups.controller import Groups

DEPLOYING = ("autoscaling", "cloudformation", "ec2", "servicequotas")
"""What a deployment asks, and nobody else: loaded when first asked, as moto takes seconds for it."""

EMULATED = (*SERVICES, *DEPLOYING)

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Environ = dict[str, Any]

_UNKNOWN_KEY = {
    "kms": ("UnrecognizedClientException", "The security token included in the request is invalid.", 400),
    "s3": ("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.", 403),
}
_BAD_TOKEN = {
    "kms": ("UnrecognizedClientException", "The security token included in the request is invalid.", 400),
    "s3": ("InvalidToken", "The provided token is malformed or otherwise invalid.", 400),
}
_EXPIRED = {
    "kms": ("ExpiredTokenException", "The security token included in the request is expired", 400),
    "s3": ("ExpiredToken", "The provided token has expired.", 400),
}
_QUERY_UNKNOWN = ("InvalidClientTokenId", "The security token included in the request is invalid.", 403)
_QUERY_EXPIRED = ("ExpiredToken", "The security token included in the request is expired", 403)


class Gate:
    """The application. One instance a process: moto's state is global."""

    def __init__(
        self,
        root: Root,
        trail: Trail,
        clock: Callable[[], datetime],
        *,
        instances: Path,
        faults: Faults | None = None,
    ) -> None:
        """``root`` is what documents have to chain to.

        ``instances`` has the folders of the pretended instances; ``faults`` are a test's.
        """
        self._faults = faults or Faults()
        self._clock = clock
        self._lock = threading.RLock()
        self._instances = instances
        self._groups: Groups | None = None
        extend_moto()
        self._app = functools.cache(create_backend_app)
        self._services: dict[str, Callable[[HttpRequest, SignedCaller], HttpResponse]] = {
            "iam": functools.partial(answer_iam, self._forward),
            "kms": KmsService(root, forward=self._forward, trail=trail).handle,
            "s3": functools.partial(answer_s3, self._forward),
            "sts": functools.partial(answer_sts, self._forward),
        }

    def stop(self) -> None:
        """End every enclave, and the watch over the groups."""
        if self._groups:
            self._groups.stop()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI entry point."""
        service = "kms" if "HTTP_X_AMZ_TARGET" in environ else "s3"
        try:
            request = read_request(environ)
            header = sigv4.parse_authorization(request)
            service = header.service
            answer = self._answer(request, header)
        except sigv4.SignatureRefused as refusal:
            answer = error_answer(_protocol(service, environ), sigv4.as_service_error(refusal, service))
        except ServiceError as error:
            answer = error_answer(_protocol(service, environ), error)
        except Exception:
            # A fault in here or in moto: reported in the service's own form, and never as a permission.
            traceback.print_exc(file=sys.stderr)
            answer = error_answer(
                _protocol(service, environ), ServiceError("InternalFailure", "a fault in the simulator", 500)
            )
        headers = [*answer.headers.items()]
        if not any(name.lower() == "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(len(answer.body))))
        start_response(f"{answer.status} {responses.get(answer.status, 'Unknown')}", headers)
        return [b"" if environ.get("REQUEST_METHOD") == "HEAD" else answer.body]

    def _answer(self, request: HttpRequest, header: sigv4.AuthorizationHeader) -> HttpResponse:
        if header.service not in EMULATED:
            raise ServiceError("UnknownService", f"{header.service} is not emulated", 501)
        if self._faults.throttled(header.service, request.action):
            code = {"s3": "SlowDown", **dict.fromkeys(JSON_SERVICES, "ThrottlingException")}
            raise ServiceError(code.get(header.service, "Throttling"), "Rate exceeded", 400)
        # moto's back ends are not made for threads; a request is short, a TLS handshake is not and happens
        # elsewhere.
        with self._lock:
            caller = self._authenticate(request, header)
            if header.service in DEPLOYING and not self._groups:
                self._load()
            return self._services[header.service](request, caller)

    def _load(self) -> None:
        from coattest_local.aws.groups.controller import Groups  # noqa: PLC0415 - DEPLOYING says why
        from coattest_local.aws.stacks.service import services  # noqa: PLC0415

        self._services |= services(self._forward, self._clock, self._faults)
        self._groups = Groups(self._instances, self._services["s3"], self._lock, self._clock, self._faults)
        self._groups.start()

    def _authenticate(self, request: HttpRequest, header: sigv4.AuthorizationHeader) -> SignedCaller:
        now, service = self._clock(), header.service
        credential = find_credential(header.access_key)
        if credential is None:
            raise ServiceError(*_UNKNOWN_KEY.get(service, _QUERY_UNKNOWN))
        sigv4.check_request_signature(request, header, credential.secret, now)
        if not hmac.compare_digest(credential.token or "", header.token or ""):
            raise ServiceError(*_BAD_TOKEN.get(service, _QUERY_UNKNOWN))
        if credential.expires is not None and now >= credential.expires:
            raise ServiceError(*_EXPIRED.get(service, _QUERY_EXPIRED))
        return caller_of(credential, Arrival(header.region, request.source, now))

    def _forward(self, service: str, request: HttpRequest, account: str) -> HttpResponse:
        """Let moto answer, in an account's name. Only called for what was authorised."""
        environ = _moto_environ(service, request, account)
        chunks, status, headers = run_wsgi_app(self._app(service), environ, buffered=True)
        dropped = {"connection", "transfer-encoding", "server", "date"}
        kept = {name: value for name, value in headers.items() if name.lower() not in dropped}
        return HttpResponse(int(status.split(maxsplit=1)[0]), b"".join(chunks), kept)


def _protocol(service: str, environ: Environ) -> str:
    """The service in whose form a client reads its error; for one that is not emulated, by the request."""
    if service in EMULATED:
        return service
    return "sts" if "x-www-form-urlencoded" in environ.get("CONTENT_TYPE", "") else "kms"


def read_request(environ: Mapping[str, Any]) -> HttpRequest:
    """The request as it was sent. Raises ServiceError when the body is too long or has no length."""
    body = _read_body(environ)
    headers = {
        name[5:].replace("_", "-").lower(): str(value).encode("latin-1").decode("utf-8", "surrogateescape")
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    # The account header is moto's own back door: it is set in ``_moto_environ`` and taken from nobody.
    headers.pop("x-moto-account-id", None)
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").lower()] = str(environ[name])
    path, _, query = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "/").partition("?")
    return HttpRequest(
        str(environ["REQUEST_METHOD"]), path, query, headers, body, str(environ.get("REMOTE_ADDR", ""))
    )


def _read_body(environ: Mapping[str, Any]) -> bytes:
    chunked = str(environ.get("HTTP_TRANSFER_ENCODING", "")).strip().lower()
    if chunked:
        # werkzeug takes the chunks apart and marks the end of the stream.
        if chunked != "chunked" or not environ.get("wsgi.input_terminated"):
            raise ServiceError("NotImplemented", f"Transfer-Encoding {chunked} is not emulated", 501)
        body: bytes = environ["wsgi.input"].read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise ServiceError("EntityTooLarge", f"a body has at most {MAX_BODY} bytes")
        return body
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise ServiceError("MissingContentLength", "Content-Length is not a number", 411) from error
    if not 0 <= size <= MAX_BODY:
        raise ServiceError("EntityTooLarge", f"a body has at most {MAX_BODY} bytes")
    body = environ["wsgi.input"].read(size) if size else b""
    if len(body) != size:
        raise ServiceError("IncompleteBody", "the body is shorter than Content-Length")
    return body


def _moto_environ(service: str, request: HttpRequest, account: str) -> Environ:
    dropped = ("content-length", "host", "transfer-encoding")
    kept = [(name, value) for name, value in request.headers.items() if name not in dropped]
    # "localhost" keeps moto from reading a bucket's name out of the host; the path has it.
    host = "localhost" if service == "s3" else f"{service}.amazonaws.com"
    address = f"{request.path}?{request.query}" if request.query else request.path
    builder = EnvironBuilder(
        address.replace("#", "%23"),  # it is part of a key, and begins no fragment
        f"https://{host}",
        method=request.method,
        headers=[*kept, ("X-Moto-Account-Id", account)],
        input_stream=io.BytesIO(request.body),
        errors_stream=io.StringIO(),
        environ_base={"REMOTE_ADDR": request.source},
    )
    environ: Environ = builder.get_environ()
    return environ
