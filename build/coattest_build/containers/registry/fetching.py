"""Fetches what an image needs from a registry when it is asked for, and believes nothing before its digest.

Over https; over http from this machine alone. Time, pace, headers and redirects have the limits of
``inputs.transfer``. A token that the registry hands out to anybody is kept in memory; other credentials are
not read. Sources: OCI distribution-spec 1.1; Docker Registry v2 authentication via central service.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import urllib.error
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, TypeVar
from urllib.parse import urlencode, urlsplit

from coattest.errors import CoattestError, EnvironmentFailure, Rejected
from coattest.strictjson import Fields, parse
from coattest_build.containers.errors import ContainerError, beyond_limit, malformed, wrong_digest
from coattest_build.containers.manifests import (
    INDEXES,
    MANIFESTS,
    MAX_DOCUMENT,
    read_index,
    read_manifest,
)
from coattest_build.containers.registry.reference import Reference
from coattest_build.containers.sources import HeldBytes, Positioned, Spool
from coattest_build.inputs.transfer import (
    Origin,
    may_lead,
    named_place,
    open_address,
    read_response,
    response_blocks,
)

ACCEPT = ", ".join((*MANIFESTS, *INDEXES))
MAX_TOKEN = 64 << 10
"""Bytes of the answer with a token; Docker's has about 5,000."""
DOCUMENT_SECONDS = 120.0
_CHALLENGE = re.compile(r'Bearer\s+((?:[a-z_]+="[^"]*"\s*,?\s*)+)', re.IGNORECASE)
_PARAMETER = re.compile(r'([a-z_]+)="([^"]*)"', re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""RFC 6750, section 2.1: b64token."""
_FOLDER = "blobs/sha256/"

_T = TypeVar("_T")


class RegistryFiles:
    """The files of an OCI layout with one image, or one index of several; blobs go to ``spool``.

    Raises EnvironmentFailure where the registry does not answer or does not give the image to anybody,
    FoundFalse (``container-digest``) for content that is not what its digest says, ContainerError.
    """

    def __init__(self, reference: Reference, spool: Spool) -> None:
        self._reference, self._spool = reference, spool
        self._token: str | None = None
        self._origin = Origin()
        self._blobs: dict[str, Positioned] = {}
        self._sizes: dict[str, int] = {}
        """Bytes of each blob, by its descriptor."""
        self._documents: dict[str, bytes | None] = {reference.sha256: None}
        """Digests of manifests and indexes, which a registry has in another place, and what was fetched."""

    def has(self, name: str) -> bool:
        """Whether a layout has such a file; whether the registry has a blob shows when it is opened."""
        return name in ("oci-layout", "index.json") or name.startswith(_FOLDER)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Positioned]:
        """A file's bytes, checked."""
        if name == "oci-layout":
            yield HeldBytes(b'{"imageLayoutVersion": "1.0.0"}')
        elif name == "index.json":
            yield HeldBytes(self._index())
        elif (sha256 := name.removeprefix(_FOLDER)) in self._documents:
            yield HeldBytes(self._document(sha256))
        else:
            if sha256 not in self._blobs:
                self._blobs[sha256] = self._blob(sha256)
            yield self._blobs[sha256]

    def _index(self) -> bytes:
        sha256 = self._reference.sha256
        document = self._document(sha256)
        with malformed():
            values = Fields(parse(document, max_size=MAX_DOCUMENT), "manifest").values
        kind = values.get("mediaType") or (INDEXES[0] if "manifests" in values else MANIFESTS[0])
        descriptor = {"mediaType": kind, "digest": f"sha256:{sha256}", "size": len(document)}
        return json.dumps({"schemaVersion": 2, "manifests": [descriptor]}).encode()

    def _document(self, sha256: str) -> bytes:
        """A manifest or index; what an index leads to is one, too."""
        document = self._documents[sha256]
        if document is not None:
            return document
        read = partial(read_response, limit=MAX_DOCUMENT + 1, seconds=DOCUMENT_SECONDS)
        data = self._get("manifests", sha256, MAX_DOCUMENT + 1, read)
        if len(data) > MAX_DOCUMENT:
            raise beyond_limit(f"a manifest of more than {MAX_DOCUMENT} bytes")
        _check(hashlib.sha256(data).hexdigest(), sha256)
        self._documents[sha256] = data
        with contextlib.suppress(ContainerError):  # the reader says what is wrong with it
            for descriptor in read_index(data, "index"):
                self._documents.setdefault(descriptor.sha256, None)
        with contextlib.suppress(ContainerError):
            manifest = read_manifest(data, "manifest")
            for descriptor in (manifest.config, *manifest.layers):
                self._sizes.setdefault(descriptor.sha256, descriptor.size)
        return data

    def _blob(self, sha256: str) -> Positioned:
        room = self._spool.left()
        size = self._sizes.get(sha256)
        most = room if size is None else min(room, size)

        def blocks(response: IO[bytes]) -> Iterator[bytes]:
            length = getattr(response, "length", None)
            if size is not None and length is not None:
                _check_size(length, size, sha256)
            left = most + 1
            for block in response_blocks(response, left):
                left -= len(block)
                if not left and size is not None and size <= room:
                    _check_size(size + 1, size, sha256)
                yield block

        part, found = self._get(
            "blobs", sha256, most + 1, lambda response: self._spool.add(blocks(response), f"sha256:{sha256}")
        )
        _check(found, sha256)
        return part

    def _get(self, kind: str, sha256: str, most: int, read: Callable[[IO[bytes]], _T]) -> _T:
        """What ``read`` makes of the answer; asks again with a new token, once, where one is wanted."""
        host, name = self._reference.host, self._reference.name
        scheme = "http" if named_place(urlsplit(f"//{host}").hostname or "") == "loopback" else "https"
        address = f"{scheme}://{host}/v2/{name}/{kind}/sha256:{sha256}"

        def ask() -> _T:
            headers = {"Accept": ACCEPT}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            with open_address(address, headers, most=most, origin=self._origin) as response:
                return read(response)

        try:
            try:
                return ask()
            except urllib.error.HTTPError as error:
                if error.code != 401:
                    raise
                self._token = self._new_token(scheme, error.headers.get("WWW-Authenticate") or "")
            return ask()
        except urllib.error.HTTPError as error:
            raise self._refused(kind, error.code) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename:  # the spool's
                raise
            raise EnvironmentFailure(
                f"the registry does not answer: {getattr(error, 'reason', None) or error}",
                hint=self._otherwise(),
                code="unreachable",
            ) from None

    def _new_token(self, scheme: str, challenge: str) -> str:
        """A token for anybody, from where the registry says. Raises CoattestError, OSError, HTTPException."""
        match = _CHALLENGE.match(challenge)
        said = {key.lower(): value for key, value in _PARAMETER.findall(match[1])} if match else {}
        realm = urlsplit(said.get("realm", ""))
        if realm.scheme != scheme or not realm.hostname or "@" in realm.netloc:
            raise self._refused("token", 401)
        named = named_place(urlsplit(f"//{self._reference.host}").hostname or "")
        first = self._origin.place or named  # behind a proxy only the name is known
        if not may_lead(first, named_place(realm.hostname)):
            raise self._refused("token", 401)
        query = {
            "service": said.get("service", ""),
            "scope": said.get("scope", f"repository:{self._reference.name}:pull"),
        }
        address = f"{scheme}://{realm.netloc}{realm.path}?{urlencode(query)}"
        with open_address(address, most=MAX_TOKEN, redirects=False, origin=self._origin) as response:
            answer = read_response(response, MAX_TOKEN, seconds=DOCUMENT_SECONDS)
        try:
            values = Fields(parse(answer, max_size=MAX_TOKEN), "token").values
        except Rejected:
            values = {}
        token = values.get("token") or values.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise self._refused("token", 401)
        return token

    def _refused(self, kind: str, status: int) -> CoattestError:
        if status in (401, 403):
            what = "the registry does not give it to anybody without credentials, which are not read here"
        else:
            what = f"the registry answers {status} for {kind}"
        return EnvironmentFailure(what, hint=self._otherwise(), code="unreachable")

    def _otherwise(self) -> str:
        return f"or: skopeo copy --all {self._reference} oci:image, and name the folder `image`"


def _check(found: str, wanted: str) -> None:
    if found != wanted:
        raise wrong_digest(f"the registry's content has SHA-256 {found}", where=f"sha256:{wanted}")


def _check_size(found: int, size: int, sha256: str) -> None:
    if found != size:
        raise wrong_digest(
            f"the registry does not send the {size} bytes that its descriptor says", where=f"sha256:{sha256}"
        )
