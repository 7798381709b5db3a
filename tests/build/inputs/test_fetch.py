"""Downloads against a real HTTP server on loopback that misbehaves on request."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest.progress import Quiet
from coattest.shell import from_os_error
from coattest_build.inputs import fetch
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.fetch import InputGone, WrongContent, fetch_packages
from coattest_build.inputs.lock import LockedPackage
from support.loopback import Handler, Loopback
from support.raises import raises_code


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``cut`` limits the bytes of a path's next answers; remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Mirror)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.requests_seen: list[tuple[str, str]] = []
        self.ranges = True

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/debian"


class Mirror(Handler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.removeprefix("/debian/")
        wanted = self.headers.get("Range", "")
        self.server.requests_seen.append((path, wanted))
        content = self.server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cuts = self.server.cut.get(path)
        self.wfile.write(body[: cuts.pop(0)] if cuts else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    with Loopback(made):
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def locked(name: str, content: bytes) -> LockedPackage:
    digest = hashlib.sha256(content).hexdigest()
    return LockedPackage(name, "1", "amd64", len(content), digest, f"pool/{name}_1+b.deb", ("runtime",))


def offer(server: Server, *packages: tuple[str, bytes]) -> list[LockedPackage]:
    found = [locked(name, content) for name, content in packages]
    server.files.update(
        {
            package.path.replace("+", "%2B"): content
            for package, (_, content) in zip(found, packages, strict=True)
        }
    )
    return found


def get(server: Server, cache: Cache, packages: list[LockedPackage], *more: str) -> dict[str, Path]:
    return fetch_packages(packages, cache, lambda: (server.base, *more), Quiet())


def test_missing_inputs_are_fetched_and_present_ones_are_not(server: Server, cache: Cache) -> None:
    """The second run asks the server for nothing, and not even for a mirror."""
    packages = offer(server, ("a", b"first"), ("b", b"second" * 1000))
    paths = get(server, cache, packages)
    assert paths["b"].read_bytes() == b"second" * 1000
    assert len(server.requests_seen) == 2

    def no_mirror() -> tuple[str, ...]:
        raise AssertionError("asked for a mirror")

    assert fetch_packages(packages, cache, no_mirror, Quiet()) == paths
    assert len(server.requests_seen) == 2


def test_a_download_that_is_cut_short_is_resumed(server: Server, cache: Cache) -> None:
    """After a broken connection only the rest is asked for."""
    packages = offer(server, ("a", b"0123456789" * 1000))
    server.cut[packages[0].path.replace("+", "%2B")] = [1000]
    assert get(server, cache, packages)["a"].stat().st_size == 10_000
    assert [wanted for _, wanted in server.requests_seen] == ["", "bytes=1000-"]


def test_a_partial_file_of_an_earlier_run_is_continued(server: Server, cache: Cache) -> None:
    """What arrived before an interruption is not asked for again."""
    packages = offer(server, ("a", b"0123456789"))
    cache.partial(packages[0].sha256).write_bytes(b"0123")
    assert get(server, cache, packages)["a"].read_bytes() == b"0123456789"
    assert server.requests_seen[0][1] == "bytes=4-"


def test_a_server_without_ranges_starts_over(server: Server, cache: Cache) -> None:
    """A full answer to a partial request replaces what was there."""
    server.ranges = False
    packages = offer(server, ("a", b"0123456789"))
    cache.partial(packages[0].sha256).write_bytes(b"0123")
    assert get(server, cache, packages)["a"].read_bytes() == b"0123456789"


def test_a_spoilt_partial_file_is_forgotten(server: Server, cache: Cache) -> None:
    """A wrong beginning fails the hash once and is fetched anew."""
    packages = offer(server, ("a", b"0123456789"))
    cache.partial(packages[0].sha256).write_bytes(b"XXXX")
    assert get(server, cache, packages)["a"].read_bytes() == b"0123456789"
    assert [wanted for _, wanted in server.requests_seen] == ["bytes=4-", ""]


def test_wrong_bytes_are_refused_and_not_kept(server: Server, cache: Cache) -> None:
    """Other content under the right name and size is an error that names both digests; nothing stays."""
    packages = offer(server, ("a", b"0123456789"))
    server.files[packages[0].path.replace("+", "%2B")] = b"9876543210"
    with pytest.raises(WrongContent) as caught:
        get(server, cache, packages)
    message = str(caught.value)
    assert packages[0].path in message
    assert packages[0].sha256 in message
    assert hashlib.sha256(b"9876543210").hexdigest() in message
    assert caught.value.exit_code == 3
    assert not cache.path(packages[0].sha256).exists()
    assert not cache.partial(packages[0].sha256).exists()


def test_an_answer_that_never_ends_is_not_read_to_the_end(server: Server, cache: Cache) -> None:
    """A file longer than its pin is refused after one byte too many."""
    packages = offer(server, ("a", b"0123456789"))
    server.files[packages[0].path.replace("+", "%2B")] = b"0" * 10_000_000
    with pytest.raises(WrongContent, match=r"\(11 bytes\)"):
        get(server, cache, packages)


def test_a_file_that_is_gone_says_what_to_run(server: Server, cache: Cache) -> None:
    """A 404 everywhere is exit 3 and names the lock command."""
    with pytest.raises(InputGone, match="eif lock") as caught:
        get(server, cache, [locked("a", b"x")])
    assert caught.value.exit_code == 3
    assert len(server.requests_seen) == 1, "an answer that is final is not asked for again"


def test_a_package_that_the_mirror_has_only_half_of_is_one_line(server: Server, cache: Cache) -> None:
    """A truncated file is exit 3 with both sizes, and no finished file is left."""
    packages = offer(server, ("a", b"0123456789"))
    server.files[packages[0].path.replace("+", "%2B")] = b"01234"
    with raises_code(
        EnvironmentFailure, "mirror-unreachable", match="cut short after 5 of 10 bytes"
    ) as caught:
        get(server, cache, packages)
    assert "\n" not in str(caught.value)
    assert not cache.path(packages[0].sha256).exists()


def test_one_failure_ends_the_other_downloads(server: Server, cache: Cache) -> None:
    """A build that cannot succeed does not download hundreds of megabytes first."""
    packages = offer(server, *((f"p{n}", bytes([n]) * 3_000_000) for n in range(20)))
    with pytest.raises(InputGone):
        get(server, cache, [locked("gone", b"x" * 9_000_000), *packages])
    assert len(list((cache.folder / "inputs").iterdir())) < 20


def test_the_next_mirror_is_tried(server: Server, cache: Cache) -> None:
    """A mirror that does not have the file is passed over."""
    packages = offer(server, ("a", b"x"))
    paths = fetch_packages(packages, cache, lambda: (f"{server.base}/nothing", server.base), Quiet())
    assert paths["a"].read_bytes() == b"x"


def test_an_unreachable_mirror_is_one_line(server: Server, cache: Cache) -> None:
    """No answer at all is exit 3, names the mirror and the option for another one."""
    dead = "http://127.0.0.1:1/debian"
    with raises_code(EnvironmentFailure, "mirror-unreachable", match="--mirror") as caught:
        fetch_packages([locked("a", b"x")], cache, lambda: (dead,), Quiet())
    assert dead in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_full_disk_is_not_called_the_network(
    server: Server, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 at once, with the file and what to do: free space, or another cache."""
    packages = offer(server, ("a", b"0123456789"))

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetch, "write_plain", lambda *_, **__: Full())
    with pytest.raises(OSError, match="No space left") as caught:
        get(server, cache, packages)
    told = from_os_error(caught.value)
    assert (told.exit_code, told.code) == (3, "enospc")
    assert str(cache.partial(packages[0].sha256)) in str(told)
    assert "free some space, or point COATTEST_CACHE" in str(told)
    assert "network" not in str(told)
    assert len(server.requests_seen) == 1, "a full disk is not tried again"


def test_a_damaged_cache_entry_is_fetched_again(server: Server, cache: Cache) -> None:
    """The cache is hashed at every use; what rotted is replaced."""
    packages = offer(server, ("a", b"0123456789"))
    path = get(server, cache, packages)["a"]
    path.write_bytes(b"012345678X")
    assert get(server, cache, packages)["a"].read_bytes() == b"0123456789"
    assert len(server.requests_seen) == 2


def test_a_file_mirror_works(cache: Cache, tmp_path: Path) -> None:
    """A directory can be a mirror."""
    package = locked("a", b"0123456789")
    target = tmp_path / "mirror" / package.path
    target.parent.mkdir(parents=True)
    target.write_bytes(b"0123456789")
    found = fetch_packages([package], cache, lambda: ((tmp_path / "mirror").as_uri(),), Quiet())
    assert found["a"].read_bytes() == b"0123456789"


def test_a_folder_is_asked_once(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it lacks, or has other bytes of, it will not have in a second."""

    def waits(_: float) -> None:
        raise AssertionError("waited for a folder")

    monkeypatch.setattr(fetch.time, "sleep", waits)
    package = locked("a", b"0123456789")
    with raises_code(EnvironmentFailure, "mirror-unreachable"):
        fetch_packages([package], cache, lambda: (tmp_path.as_uri(),), Quiet())
    (tmp_path / package.path).parent.mkdir(parents=True)
    (tmp_path / package.path).write_bytes(b"9876543210")
    with pytest.raises(WrongContent):
        fetch_packages([package], cache, lambda: (tmp_path.as_uri(),), Quiet())


def test_progress_adds_up_to_the_total(server: Server, cache: Cache) -> None:
    """Whatever is cut, resumed or spoilt on the way, the bar ends at the number of bytes."""
    packages = offer(server, ("a", b"0123456789" * 100), ("b", b"b" * 500))
    cache.partial(packages[0].sha256).write_bytes(b"X" * 10)
    server.cut[packages[1].path.replace("+", "%2B")] = [100]
    counted: list[int] = []

    class Counting(Quiet):
        def transfer(self, text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
            assert total == 1500
            return nullcontext(counted.append)

    fetch_packages(packages, cache, lambda: (server.base,), Counting())
    assert sum(counted) == 1500
