"""Fetches the documents of a source. What answers is hostile: size, time and place have limits."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import re
import secrets
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from coattest.errors import CoattestError, EnvironmentFailure, Rejected
from coattest.files import Folder
from coattest.shell import from_os_error
from coattest_build.inputs.transfer import open_address, read_response
from coattest_verify.attestation.batch import AT_A_TIME as FILES_AT_A_TIME
from coattest_verify.attestation.files import DOCUMENT_SUFFIXES, FILE_MAX, decode_document
from coattest_verify.fleet.file import MAX_ENCLAVES, FleetSource, InBucket, InFiles, OverHttp
from coattest_verify.fleet.judge import FetchedDocument, Judged, judge_objects
from coattest_verify.fleet.live import LiveObjects, group_of

AT_A_TIME: Final = 32
"""Requests over a network at a time: as many threads, which judge each document when it is there."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


Judging = Callable[[list[tuple[str, FetchedDocument | CoattestError]]], list[Judged]]
Clients = Callable[[str, str], Any]
"""A boto3 client of a service (``s3``) in a Region, the same one each time."""


def no_aws(service: str, region: str) -> NoReturn:
    """The clients of a fleet that has nothing in AWS."""
    raise LookupError(f"{service} in {region}")


@dataclass(frozen=True, slots=True)
class AskedSource:
    """The answers of a source in the places' order, and ``strays``: what is there and of no place.

    ``source`` has the ids and the count of what must be there now.
    """

    source: FleetSource
    answers: list[Judged]
    strays: list[Judged] = field(default_factory=list)


def ask_all(
    source: FleetSource, judging: Judging, clock: Callable[[], datetime], clients: Clients
) -> AskedSource:
    """Ask for each document of a source, and judge it while others are asked for.

    ``judging`` gets a place (host, file name, or instance id) and its answer, or why there is none. A folder
    or a group that cannot be listed is one place without a name.
    """
    with contextlib.ExitStack() as stack:
        strays: list[Judged] = []
        try:
            if isinstance(source.reach, InBucket):
                source, strays, ask = _bucket(source, source.reach, clock, clients)
                places = source.ids
            else:
                places, ask = _reached(source.reach, clock, stack)
        except (CoattestError, OSError) as error:
            return AskedSource(source, judging([("", _reason(error))]))

        def answer_of(place: str) -> FetchedDocument | CoattestError:
            try:
                return ask(place)
            except (CoattestError, OSError) as error:
                return _reason(error)

        def look(start: int) -> list[Judged]:
            return judging([(place, answer_of(place)) for place in places[start : start + together]])

        files = isinstance(source.reach, InFiles)
        together, workers = (FILES_AT_A_TIME, os.cpu_count() or 1) if files else (1, AT_A_TIME)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        looked = pool.map(look, range(0, len(places), together))
        return AskedSource(source, list(itertools.chain.from_iterable(looked)), strays)


def _reason(error: CoattestError | OSError) -> CoattestError:
    return from_os_error(error) if isinstance(error, OSError) else error


def _bucket(
    source: FleetSource, reach: InBucket, clock: Callable[[], datetime], clients: Clients
) -> tuple[FleetSource, list[Judged], Callable[[str], FetchedDocument]]:
    """A source with the instances that Auto Scaling has in service, what else is there, and how to ask."""
    group = group_of(clients("autoscaling", reach.region), reach.stack)
    if len(group.instances) > MAX_ENCLAVES:
        raise EnvironmentFailure(f"more than {MAX_ENCLAVES} instances", where=reach.stack, code="too-large")
    owner = source.role_arn.split(":")[4]
    objects = LiveObjects(clients("s3", reach.region), reach.bucket, owner, reach.stack)
    strays = judge_objects(source, objects.listed(), group.instances, now=clock())
    ids = group.in_service
    source = replace(source, ids=ids, count=max(source.count, group.wanted, len(ids)))

    def ask(instance: str) -> FetchedDocument:
        data = objects.read(instance)
        if data is None:
            raise objects.failed_boot(instance) or EnvironmentFailure(
                "no document", where=instance, code="fleet-missing"
            )
        return FetchedDocument(data, None, clock())

    return source, strays, ask


def _reached(
    reach: InFiles | OverHttp, clock: Callable[[], datetime], stack: contextlib.ExitStack
) -> tuple[tuple[str, ...], Callable[[str], FetchedDocument]]:
    if isinstance(reach, OverHttp):
        return reach.hosts, lambda host: ask_host(reach, host, clock)
    single = not reach.path.is_dir()
    folder = stack.enter_context(
        Folder(reach.path.parent if single else reach.path, total=MAX_ENCLAVES * FILE_MAX)
    )
    names = (reach.path.name,) if single else tuple(filter(_is_document, folder.names()))
    return names, lambda name: FetchedDocument(decode_document(folder.read(name, FILE_MAX)), None, clock())


def _is_document(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and Path(name).suffix in DOCUMENT_SUFFIXES


def ask_host(reach: OverHttp, host: str, clock: Callable[[], datetime]) -> FetchedDocument:
    """A document over a fresh nonce. No redirect is followed, no answer longer than a document is read.

    Raises EnvironmentFailure (``unreachable``), and Rejected for an answer that is no document.
    """
    nonce = secrets.token_bytes(reach.nonce_bytes)
    url = reach.url.replace("{host}", host).replace("{nonce}", nonce.hex())
    seconds = reach.timeout_ms / 1000
    try:
        with open_address(url, most=FILE_MAX + 1, seconds=seconds, redirects=False) as response:
            data = read_response(response, FILE_MAX + 1, seconds=seconds)
    except urllib.error.HTTPError as error:
        raise _unreachable(host, f"HTTP {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise _unreachable(host, f"{type(error).__name__}: {str(reason)[:200]}") from None
    if len(data) > FILE_MAX:
        raise Rejected(f"an answer of more than {FILE_MAX} bytes", where=host, code="too-large")
    return FetchedDocument(decode_document(data), nonce, clock())


def _unreachable(host: str, what: str) -> EnvironmentFailure:
    return EnvironmentFailure(what, where=host, code="unreachable")
