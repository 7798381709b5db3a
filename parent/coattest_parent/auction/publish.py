"""Stores a result, in a file here and as an object in S3. Each is written whole, once, and never replaced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coattest.aws import AwsFailure, aws_errors
from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.files import read_bounded, write_new
from coattest_enclave.protocol import messages
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.link.aws import Aws, parse_s3_uri
from coattest_parent.link.enclave import RESULT_MAX

RESULT_FILE_MAX = RESULT_MAX + 1024 * 1024
"""Bytes of a result file: a result, its receipt (under 16 KiB) and at most 64 seals."""

TAKEN = frozenset({"412", "PreconditionFailed"})
"""S3's codes for a conditional write that found an object there (Amazon S3 User Guide, "Conditional writes");
409 ConditionalRequestConflict means that another write is under way.
"""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed auction: its manifest and its seals."""

    manifest: messages.Manifest
    seals: tuple[bytes, ...]

    def parse_result(self, content: bytes) -> messages.ResultFile | None:
        """The result file in ``content`` if it is for this manifest and seal, else None.

        It is not trusted here: only ``verify receipt`` verifies it, as one that just came from the enclave.
        """
        try:
            file = messages.ResultFile.decode(content)
            result = messages.Result.decode(file.result)
            seal = messages.check_seals(self.manifest, self.seals)
            same = messages.check_seals(self.manifest, file.seals).digest == seal.digest
        except MessageError:
            return None
        return (
            file if same and (result.manifest, result.seal) == (self.manifest.digest, seal.digest) else None
        )


def stored_result(sealed: Sealed, path: Path) -> messages.ResultFile | None:
    """The result that an earlier call left at ``path``; None when there is no file.

    Raises UsageError when the file is not a result of this auction.
    """
    try:
        content = read_bounded(path, RESULT_FILE_MAX)
    except FileNotFoundError:
        return None
    found = sealed.parse_result(content)
    if found is None:
        raise UsageError(
            "this file is not a result of this auction",
            where=str(path),
            hint="move it away, or give another --out",
            code="wrong-result",
        )
    return found


def store_result(sealed: Sealed, file: messages.ResultFile, path: Path) -> messages.ResultFile:
    """Write the file to ``path`` if nothing is there, and return what is there then: another process may have
    opened the same auction meanwhile, and its result stays.

    Raises UsageError when something else is there, EnvironmentFailure (``absent``) when it was, and is gone.
    """
    if write_new(path, file.encode()):
        return file
    there = stored_result(sealed, path)
    if there is None:
        raise EnvironmentFailure(
            "a file was there and is gone: somebody removed it meanwhile",
            where=str(path),
            hint="run it again",
            code="absent",
        )
    return there


def publish(sealed: Sealed, file: messages.ResultFile, uri: str, aws: Aws, region: str) -> bool:
    """Put the file at ``uri`` if nothing is there; False when the same result is there already.

    Raises FoundFalse when something else is there, and AwsFailure.
    """
    bucket, key = parse_s3_uri(uri)
    client = aws.s3(region)
    try:
        with aws_errors(uri):
            client.put_object(
                Bucket=bucket,
                Key=key,
                Body=file.encode(),
                ChecksumAlgorithm="SHA256",
                IfNoneMatch="*",
            )
    except AwsFailure as error:
        if error.service_code not in TAKEN:
            raise
    else:
        return True
    with aws_errors(uri):
        there = client.get_object(Bucket=bucket, Key=key)["Body"].read(RESULT_FILE_MAX + 1)
    published = sealed.parse_result(there)
    if published is None:
        raise FoundFalse(
            "this object is not a result of this auction",
            where=uri,
            hint="publish under another key",
            code="wrong-result",
        )
    if published.result != file.result:
        raise FoundFalse(
            "the object there is a different result of the same seal",
            where=uri,
            hint="keep both files and tell the buyers: 'verify receipt' says which of them is genuine",
            code="two-results",
        )
    return False
