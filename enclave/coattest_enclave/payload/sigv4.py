"""AWS Signature Version 4 for one kind of request: POST / with a body and no query.

Source: IAM User Guide, "Create a signed AWS API request". The tests compare it with botocore's signer.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary credentials of the instance's role, which are never printed."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)


def sign_request(
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    *,
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """``headers``, which must include Host, with date, token and Authorization added; ``now`` is UTC."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    signed = {**headers, "X-Amz-Date": stamp}
    if credentials.session_token:
        signed["X-Amz-Security-Token"] = credentials.session_token
    lower = {name.lower(): " ".join(value.split()) for name, value in signed.items()}
    names = ";".join(sorted(lower))
    lines = [f"{name}:{lower[name]}" for name in sorted(lower)]
    canonical = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + credentials.secret_key.encode()
    for part in (*scope.split("/"), "\n".join([ALGORITHM, stamp, scope, digest])):
        key = hmac.digest(key, part.encode(), "sha256")
    credential = f"Credential={credentials.access_key}/{scope}"
    authorization = f"{ALGORITHM} {credential}, SignedHeaders={names}, Signature={key.hex()}"
    return {**signed, "Authorization": authorization}
