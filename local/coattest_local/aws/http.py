"""Requests and answers as values, and the errors of the services in their wire forms."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

MAX_BODY = 256 * 1024 * 1024
"""Bytes of a body that are read into memory. S3 takes 5 GiB in one PUT; nothing here comes near that."""

SERVICES = ("iam", "kms", "s3", "sts")
JSON_SERVICES = ("kms", "servicequotas")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it was sent: the path and query still percent-encoded, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    source: str

    @property
    def action(self) -> str:
        """The action that a request of the JSON or the query protocol names; S3's names none."""
        target = self.headers.get("x-amz-target", "").rpartition(".")[2]
        if target or "x-www-form-urlencoded" not in self.headers.get("content-type", ""):
            return target
        return dict(parse_qsl(self.body.decode("latin-1"))).get("Action", "")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Forward = Callable[[str, HttpRequest, str], HttpResponse]
"""Hands a request on to moto's back end of a service, in an account's name."""


class ServiceError(Exception):
    """A refusal, with the code and status that AWS gives it."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def json_answer(document: object, status: int = 200) -> HttpResponse:
    """An answer of the JSON 1.1 protocol."""
    body = b"" if document is None else json.dumps(document).encode()
    return HttpResponse(status, body, {"Content-Type": "application/x-amz-json-1.1"})


def error_answer(service: str, error: ServiceError) -> HttpResponse:
    """The error in the service's protocol: JSON 1.1 (KMS, Service Quotas), XML of S3, XML of the query
    services.
    """
    identifier = str(uuid.uuid4())
    if service in JSON_SERVICES:
        answer = json_answer({"__type": error.code, "message": error.message}, error.status)
        headers = {**answer.headers, "x-amzn-RequestId": identifier, "x-amzn-ErrorType": error.code}
        return HttpResponse(answer.status, answer.body, headers)
    code, message = escape(error.code), escape(error.message)
    if service == "s3":
        details = f"<Code>{code}</Code><Message>{message}</Message><RequestId>{identifier}</RequestId>"
        text = f"<Error>{details}</Error>"
    else:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{identifier}</RequestId></ErrorResponse>"
        )
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return HttpResponse(error.status, body, {"Content-Type": "application/xml"})
