"""Turns botocore's errors into AwsFailure. botocore is imported late: most commands never need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from coattest.errors import EnvironmentFailure

THROTTLED = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "SlowDown"})
FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
UNKNOWN_CALLER = frozenset({"UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId"})
"""Codes for one thing in CloudFormation, KMS and Service Quotas, EC2 and S3 (each one's "Common errors")."""

LOCAL_HINT = "with local services: source the party's env file of nitro-local up, and give --endpoint-url"
"""For who forgot where the stand-in of AWS is; ``auction`` and ``deploy`` go nowhere else by a variable."""

SETTINGS_HINT = "check AWS_PROFILE, ~/.aws/config and ~/.aws/credentials"

MESSAGE_MAX = 300
"""Characters of a service's own message that are shown."""


class AwsFailure(EnvironmentFailure):
    """An AWS call failed. The message has the service's code and words, never a credential."""

    default_code = "aws"


@contextlib.contextmanager
def aws_errors(where: str, *expected: str) -> Iterator[None]:
    """Within the block, botocore's errors become AwsFailure; ``where`` names what was asked for. A service's
    answer with one of the ``expected`` codes ends the block only.

    ``service_code`` is AWS's own code where a service answered (``AccessDenied``); otherwise ``code`` is
    ``no-credentials``, ``aws-settings``, ``unreachable``, or ``bad-answer`` for one that AWS does not give:
    botocore and the block make of that whatever Python raises.
    """
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    try:
        with _botocore_errors(where, *expected):
            yield
    except (ResponseParserError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        # Not its text, which may repeat the answer: one of STS has credentials.
        raise AwsFailure(
            f"the answer cannot be read: {type(error).__name__}", where=where, code="bad-answer"
        ) from None


@contextlib.contextmanager
def _botocore_errors(where: str, *expected: str) -> Iterator[None]:
    from botocore.exceptions import (  # noqa: PLC0415
        BotoCoreError,
        ClientError,
        ConfigParseError,
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
    )
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        yield
    except ClientError as error:
        reply = error.response.get("Error", {})
        code = str(reply.get("Code", "Unknown"))
        if code in expected:
            return
        raise AwsFailure(
            f"{error.operation_name}: {code}: {str(reply.get('Message', ''))[:MESSAGE_MAX]}",
            where=where,
            hint=_hint(code, error.operation_name),
            service_code=code,
        ) from error
    except NoCredentialsError as error:
        raise AwsFailure(
            "no AWS credentials",
            where=where,
            hint=f"set AWS_PROFILE or run on the instance; {LOCAL_HINT}",
            code="no-credentials",
        ) from error
    except (ConfigParseError, PartialCredentialsError, ProfileNotFound) as error:
        raise AwsFailure(
            str(error)[:MESSAGE_MAX], where=where, hint=SETTINGS_HINT, code="aws-settings"
        ) from error
    except (BotoCoreError, HTTPError) as error:  # the latter from a body that ends within TLS
        raise AwsFailure(
            str(error)[:MESSAGE_MAX],
            where=where,
            hint=f"check --endpoint-url, region and network; {LOCAL_HINT}",
            code="unreachable",
        ) from error


@contextlib.contextmanager
def aws_settings(where: str) -> Iterator[None]:
    """Within the block, where a session or a client is made, all that botocore raises becomes AwsFailure.

    Of settings that it does not expect, such as ``max_attempts = x`` or a ``credential_process`` that is not
    there, it makes whatever Python raises.
    """
    try:
        with _botocore_errors(where):
            yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Not its text, which may repeat what a file has where a key should be.
        raise AwsFailure(
            f"the AWS settings cannot be used: {type(error).__name__}",
            where=where,
            hint=SETTINGS_HINT,
            code="aws-settings",
        ) from error


def _hint(code: str, operation: str) -> str | None:
    """What to do about the failures that a caller meets most."""
    if code in THROTTLED:
        return "AWS throttled the request, retries included: wait and try again"
    if code in UNKNOWN_CALLER:
        return f"AWS does not know these credentials: check AWS_PROFILE; {LOCAL_HINT}"
    if code in FORBIDDEN:
        # S3's message does not name the action, and no action is called HeadObject.
        named = {"HeadObject": "s3:GetObject and s3:ListBucket", "PutObject": "s3:PutObject"}
        return f"these credentials lack {named.get(operation, f'the right that {operation} needs')}"
    return None
