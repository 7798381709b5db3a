"""SigV4: botocore's signer is the oracle."""

from __future__ import annotations

import datetime

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from coattest_enclave.payload import sigv4

printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
HOST = "kms.eu-central-1.amazonaws.com"
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


def by_botocore(
    headers: dict[str, str], body: bytes, credentials: sigv4.Credentials, region: str, now: datetime.datetime
) -> HTTPHeaders:
    """The headers that botocore sends for the same request at the same time."""
    signer = SigV4Auth(
        BotoCredentials(credentials.access_key, credentials.secret_key, credentials.session_token or None),
        "kms",
        region,
    )
    request = AWSRequest("POST", f"https://{HOST}/", headers=headers, data=body)
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    return request.headers


@given(
    printable,
    printable,
    printable | st.just(""),
    st.binary(max_size=200),
    st.datetimes(datetime.datetime(2020, 1, 1)),
)
def test_botocore_signs_the_same(
    access: str, secret: str, token: str, body: bytes, when: datetime.datetime
) -> None:
    """For any credentials, body and time the authorization header equals botocore's."""
    credentials = sigv4.Credentials(access, secret, token)
    now = when.replace(tzinfo=datetime.timezone.utc)
    headers = {
        "Host": HOST,
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "TrentService.Decrypt",
    }
    ours = sigv4.sign_request(headers, body, credentials, region="eu-central-1", service="kms", now=now)
    theirs = by_botocore(dict(headers), body, credentials, "eu-central-1", now)
    assert ours["Authorization"] == theirs["Authorization"]
    assert ours["X-Amz-Date"] == theirs["X-Amz-Date"]
    assert ours.get("X-Amz-Security-Token") == theirs.get("X-Amz-Security-Token")


def test_the_signature_covers_everything() -> None:
    """Another body, region, target or time is another signature."""
    credentials = sigv4.Credentials("access", "secret", "token")

    def authorization(
        body: bytes = b"{}", region: str = "eu-central-1", target: str = "a", day: int = 2
    ) -> str:
        headers = {"Host": HOST, "X-Amz-Target": target}
        signed = sigv4.sign_request(
            headers, body, credentials, region=region, service="kms", now=NOW.replace(day=day)
        )
        return signed["Authorization"]

    variants = [
        authorization(),
        authorization(body=b"{ }"),
        authorization(region="eu-west-1"),
        authorization(target="b"),
        authorization(day=3),
    ]
    assert len(set(variants)) == len(variants)


def test_credentials_do_not_print() -> None:
    """A Credentials value shows none of its parts, so it can reach no log by accident."""
    text = repr(sigv4.Credentials("access", "secret", "token")) + str(
        sigv4.Credentials("access", "secret", "token")
    )
    assert not any(word in text for word in ("access=", "secret", "token="))
    assert text == "Credentials()" * 2
