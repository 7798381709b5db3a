"""Downloads locked inputs into the cache: parallel, resumable, checked for size and SHA-256.

A file gets its final name only after that check, so a mirror decides what is available, never what is used.
"""

from __future__ import annotations

import errno
import http.client
import os
import threading
import time
import urllib.error
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import quote

from coattest.errors import EnvironmentFailure
from coattest.files import write_plain
from coattest.progress import Reporter
from coattest_build.inputs.cache import CHUNK, Cache, exclusive, sha256_file
from coattest_build.inputs.lock import LockedPackage
from coattest_build.inputs.transfer import open_address, read_response, read_some

PARALLEL = 6
"""Downloads at a time."""
ATTEMPTS = 3
"""Per mirror and file. What a folder does not have at once it will not have in a second."""
INDEX_SECONDS = 900.0
"""An index, in all: bookworm's takes that long at 10 kB a second."""
MAX_INDEX = 64 * 1024 * 1024
"""Bytes of a packed index; bookworm's has 9 MB."""
BACKOFF_SECONDS = 1.0
"""Half the wait before the second attempt; each wait is twice the one before."""
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""Errors of write(2) and open(2) that no network has."""
MIRROR_HINT = "check the network, or name another mirror with --mirror or COATTEST_DEBIAN_MIRROR"
GONE_HINT = (
    "the mirror no longer has this version: name one that does (--mirror), or run `eif lock` for new pins"
)

Advance = Callable[[int], None]
"""Called with the number of bytes that arrived; negative when they were thrown away."""


class InputGone(EnvironmentFailure):
    """Every mirror answered, and none has the input."""

    default_code = "input-gone"


class WrongContent(EnvironmentFailure):
    """A mirror served bytes that the lock does not pin."""

    default_code = "wrong-hash"


class _GivenUp(Exception):
    """Another download failed, so this one ends too."""


def _unreachable(what: str, where: str) -> EnvironmentFailure:
    """The error when no mirror answered."""
    return EnvironmentFailure(what, where=where, hint=MIRROR_HINT, code="mirror-unreachable")


def fetch_packages(
    packages: Sequence[LockedPackage], cache: Cache, mirrors: Callable[[], Sequence[str]], reporter: Reporter
) -> dict[str, Path]:
    """The checked path of every package's .deb, by package name; what is missing is downloaded.

    ``mirrors`` is asked for base addresses only when something is missing. Raises InputGone, WrongContent,
    and EnvironmentFailure (``mirror-unreachable``); the next call continues a download that was cut short.
    """
    with ThreadPoolExecutor(PARALLEL) as pool:
        checked = list(pool.map(lambda p: cache.take(p.sha256, p.size), packages))
    found = {p.name: path for p, path in zip(packages, checked, strict=True) if path}
    missing = sorted((p for p in packages if p.name not in found), key=lambda p: -p.size)
    if not missing:
        return found
    bases = tuple(mirrors())
    total = sum(package.size for package in missing)
    transfer = reporter.transfer(f"Downloading {len(missing)} packages", total)
    stop = threading.Event()
    with transfer as advance, ThreadPoolExecutor(PARALLEL) as pool:

        def counted(count: int) -> None:
            if stop.is_set():
                raise _GivenUp
            advance(count)

        tasks = {pool.submit(fetch_one, package, cache, bases, counted): package for package in missing}
        try:
            done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
            for task in done:
                found[tasks[task].name] = task.result()
        except BaseException:
            # One failure, or an interrupt, ends the others too; the next call continues them.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def fetch_one(package: LockedPackage, cache: Cache, bases: Sequence[str], advance: Advance) -> Path:
    """Download one package from the first base that has it. Raises as `fetch_packages`."""
    partial = cache.partial(package.sha256)
    with exclusive(partial.with_name(f"{partial.name}.lock")):
        path = cache.take(package.sha256, package.size)  # another process may just have finished it
        if path:
            advance(package.size)
            return path
        failures: list[str] = []
        for base in bases:
            for attempt in range(1 if base.startswith("file:") else ATTEMPTS):
                if attempt:
                    time.sleep(BACKOFF_SECONDS * 2**attempt)
                try:
                    _transfer(f"{base}/{quote(package.path)}", partial, package.size, advance)
                    _check(package, partial, base, advance)
                    partial.replace(cache.path(package.sha256))
                    partial.with_name(f"{partial.name}.lock").unlink(missing_ok=True)
                except urllib.error.HTTPError as error:
                    failures.append(f"HTTP {error.code} from {base}")
                    if error.code in (401, 403, 404, 410):
                        break
                except (OSError, http.client.HTTPException) as error:
                    _raise_disk(error, partial)
                    reason = getattr(error, "reason", None) or error or type(error).__name__
                    failures.append(f"{reason} ({base})")
                except WrongContent:
                    if attempt or base.startswith("file:"):
                        raise
                else:
                    return cache.path(package.sha256)
    what = f"could not be downloaded: {failures[-1] if failures else 'no mirror'}"
    if failures and all(failure.startswith("HTTP 4") for failure in failures):
        raise InputGone(what, where=package.path, hint=GONE_HINT)
    raise _unreachable(what, package.path)


def _raise_disk(error: Exception, partial: Path) -> None:
    """Raise the error again, with a file's name, where the disk failed and not the network."""
    if isinstance(error, OSError) and error.errno and (error.filename or error.errno in DISK):
        raise OSError(error.errno, os.strerror(error.errno), error.filename or str(partial)) from None


def _transfer(url: str, partial: Path, size: int, advance: Advance) -> None:
    """Append to ``partial`` what is missing of ``size`` bytes; start over when the server cannot resume."""
    start = partial.stat().st_size if partial.exists() else 0
    if start >= size:
        return
    with open_address(url, {"Range": f"bytes={start}-"} if start else None, most=size + 1) as response:
        resumed = start and getattr(response, "status", None) == 206
        if resumed:
            advance(start)
        written = start if resumed else 0
        with write_plain(partial, append=bool(resumed)) as file:
            while written <= size and (chunk := read_some(response, min(CHUNK, size + 1 - written))):
                file.write(chunk)
                written += len(chunk)
                advance(len(chunk))
    if written < size:
        advance(-written)
        raise ConnectionError(f"cut short after {written} of {size} bytes")


def _check(package: LockedPackage, partial: Path, base: str, advance: Advance) -> None:
    """Raise WrongContent, and delete ``partial``, unless it is exactly the pinned file."""
    size, digest = partial.stat().st_size, sha256_file(partial)
    if size == package.size and digest == package.sha256:
        return
    partial.unlink()
    advance(-size)
    found = f"{digest} ({size} bytes)"
    raise WrongContent(
        f"expected SHA-256 {package.sha256} ({package.size} bytes), found {found} from {base}",
        where=package.path,
        hint="use another mirror, or run `eif lock` and review what moved",
    )


def fetch_index(url: str, limit: int = MAX_INDEX) -> bytes:
    """A file of at most ``limit`` bytes (an index) from a mirror.

    Raises InputGone, and EnvironmentFailure (``mirror-unreachable``, ``too-large``).
    """
    try:
        with open_address(url, most=limit + 1, seconds=INDEX_SECONDS) as response:
            data = read_response(response, limit + 1)
    except urllib.error.HTTPError as error:
        raise InputGone(f"HTTP {error.code}", where=url, hint=MIRROR_HINT) from error
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(f"{getattr(error, 'reason', error)}", url) from error
    if len(data) > limit:
        raise EnvironmentFailure(f"larger than {limit} bytes", where=url, hint=MIRROR_HINT, code="too-large")
    return data
