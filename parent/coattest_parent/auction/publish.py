"""Stores a result at its place, and publishes it as an object in S3. Each is verified first, then written
whole, once, and never replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.files import read_bounded, write_new
from coattest_enclave.protocol.errors import MessageError
from coattest_parent.auction.objects import put_once
from coattest_parent.link.aws import Aws
from coattest_parent.link.enclave import RESULT_MAX
from coattest_verify.attestation import Root
from coattest_verify.auction import messages
from coattest_verify.auction.place import result_uri
from coattest_verify.auction.receipt import verify_opened

RESULT_FILE_MAX = RESULT_MAX + 1024 * 1024
"""Bytes of a result file: a result, its receipt (under 16 KiB) and at most 64 seals."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed auction: its manifest and its seals."""

    manifest: messages.Manifest
    seals: tuple[bytes, ...]

    def parse_result(self, content: bytes) -> messages.ResultFile | None:
        """The result file in ``content`` if it is for this manifest and seal, else None.

        It is not verified here: see ``check_opened``.
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


class ResultPlace(Protocol):
    """Where a result file is kept: whole or not at all, and the first that is put there stays."""

    @property
    def where(self) -> str:
        """Its address, for people."""
        ...

    def read(self) -> bytes | None:
        """What is there; None for nothing. More than RESULT_FILE_MAX bytes are cut or refused."""
        ...

    def put(self, content: bytes) -> bool:
        """Put it there whole; False when something is there, which stays."""
        ...


@dataclass(frozen=True, slots=True)
class ResultFileAt:
    """A ``ResultPlace`` that is a file."""

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> bytes | None:
        """A plain file's content, cut after RESULT_FILE_MAX + 1 bytes."""
        try:
            return read_bounded(self.path, RESULT_FILE_MAX)
        except FileNotFoundError:
            return None

    def put(self, content: bytes) -> bool:
        """Link it into its place."""
        return write_new(self.path, content)


def stored_result(sealed: Sealed, place: ResultPlace) -> messages.ResultFile | None:
    """The result that an earlier call left at its place; None when nothing is there.

    Raises UsageError when what is there is not a result of this auction.
    """
    content = place.read()
    if content is None:
        return None
    found = sealed.parse_result(content)
    if found is None:
        raise UsageError(
            "this file is not a result of this auction",
            where=place.where,
            hint="move it away, or give another --out",
            code="wrong-result",
        )
    return found


def store_result(sealed: Sealed, file: messages.ResultFile, place: ResultPlace) -> messages.ResultFile:
    """Put the file at its place if nothing is there, and return what is there then: another process may have
    opened the same auction meanwhile, and its result stays.

    Raises UsageError when something else is there, EnvironmentFailure (``absent``) when it was, and is gone.
    """
    if place.put(file.encode()):
        return file
    there = stored_result(sealed, place)
    if there is None:
        raise EnvironmentFailure(
            "a file was there and is gone: somebody removed it meanwhile",
            where=place.where,
            hint="run it again",
            code="absent",
        )
    return there


def publish(
    sealed: Sealed, file: messages.ResultFile, prefix: str, aws: Aws, region: str
) -> tuple[str, bool]:
    """Put the file under ``prefix`` (``s3://bucket/prefix/``), where its digest names it; the object's URI,
    and False when the same bytes are there already.

    A wrong object elsewhere cannot be taken for it or keep it away. Raises FoundFalse (``wrong-object``) when
    something else is in its place, and AwsFailure.
    """
    content = file.encode()
    uri = result_uri(prefix, sealed.manifest.digest, content)
    return uri, put_once(aws.s3(region), uri, content)


def check_opened(sealed: Sealed, file: messages.ResultFile, root: Root, now: datetime) -> None:
    """Raise FoundFalse (``unverified-result``) unless the receipt verifies: the sealed image made exactly
    this result under this seal, in the auction's time.

    ``root`` is the enclave's profile's. What a decision is needed for, buyers verify.
    """
    findings = verify_opened(file.encode(), sealed.manifest, root=root, now=now)
    if findings:
        first, *others = findings
        more = f", and {len(others)} more" if others else ""
        raise FoundFalse(
            f"the result does not verify: {first.where}: {first.detail}{more}",
            hint="it is not published; find out who wrote it, and remove it to open again",
            code="unverified-result",
            findings=findings,
        )
