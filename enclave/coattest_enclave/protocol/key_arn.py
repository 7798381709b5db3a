"""The ARN of a KMS key, which says where a request about it goes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from coattest_enclave.protocol.errors import MessageError

# Single-Region keys by full ARN: an alias can be moved to a different key at any time.
_ARN = re.compile(
    r"arn:(aws|aws-cn|aws-us-gov):kms:([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}):([0-9]{12}):key/"
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)


class KeyArn(NamedTuple):
    """The parts of a KMS key ARN that say where a request goes."""

    partition: str
    region: str
    account: str


def parse_key_arn(arn: Any) -> KeyArn:
    """Partition, region and account of a full KMS key ARN; raises MessageError for anything else."""
    match = _ARN.fullmatch(arn) if isinstance(arn, str) else None
    if match is None:
        raise MessageError("not the full ARN of a single-Region KMS key")
    return KeyArn(*match.groups())
