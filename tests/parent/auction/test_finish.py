"""An opening's end: what the deadline stops, and what two openings at once leave."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest

from coattest import files as atomic
from coattest.errors import FoundFalse, UsageError
from coattest_parent.auction.finish import finish
from coattest_parent.auction.publish import ResultFileAt, Sealed
from coattest_parent.auction.steps import Way
from coattest_parent.link.aws import Aws, Endpoint
from coattest_parent.link.enclave import EnclaveFailed
from coattest_parent.link.retry import Backoff
from coattest_verify.auction import messages
from support.auction import deciding
from support.enclave.running_enclave import Auction


@pytest.fixture(scope="module")
def auction() -> Auction:
    """A sealed auction; what its bid files hold does not matter here."""
    made = Auction.make({"buyer-1": [7, 5], "buyer-2": [3, 9]})
    made.files = {"buyer-1": b"one", "buyer-2": b"two"}
    return made


@pytest.fixture(scope="module")
def sealed(auction: Auction) -> Sealed:
    """The same as the parent has it."""
    return Sealed(auction.manifest, tuple(auction.seals()))


def result_file(auction: Auction, sealed: Sealed, receipt: bytes) -> messages.ResultFile:
    """What an enclave would make of it."""
    result = deciding.result(auction.manifest, auction.seal.digest, dict.fromkeys(auction.files))
    return messages.ResultFile(result.encode(), receipt, sealed.seals)


def unchecked(*_: Any) -> None:
    """In place of the receipt's check: these files have no receipt."""


def way(seconds: float = 0.0) -> Way:
    """To an enclave that nobody asks."""
    aws = Aws(boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-central-1"), Endpoint())
    return Way("unix:/nowhere", None, aws, backoff=Backoff(seconds))


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def test_nothing_is_opened_after_the_publication_deadline(
    auction: Auction, sealed: Sealed, tmp_path: Path
) -> None:
    """At the deadline it may still be, a moment later it is refused; no retry goes on past it."""
    given: list[float] = []

    def opener(*_: Any, retry: Any, **__: Any) -> messages.ResultFile:
        given.append(retry.backoff.seconds)
        return result_file(auction, sealed, b"receipt")

    deadline, out = auction.manifest.publish_by, tmp_path / "result"
    with pytest.raises(FoundFalse, match="2027-01-16T08:00:00Z") as late:
        finish(sealed, ResultFileAt(out), way(120), now=at(deadline + 0.001), opener=opener, check=unchecked)
    assert (late.value.exit_code, late.value.code) == (1, "too-late")
    assert not out.exists()
    for left, retries in ((0, 0), (50, 50), (500, 120)):
        out.unlink(missing_ok=True)
        finish(sealed, ResultFileAt(out), way(120), now=at(deadline - left), opener=opener, check=unchecked)
        assert given.pop() == retries
    assert finish(
        sealed, ResultFileAt(out), way(), now=at(deadline + 1e6), opener=opener, check=unchecked
    ).resumed
    assert not given


@pytest.mark.parametrize("links", [True, False])
def test_of_two_openings_at_once_the_first_result_stays(
    auction: Auction, sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Who comes second uses what is there, with its receipt; also on a file system without hard links."""

    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(atomic.os, "link", no_links)
    out = tmp_path / "result"
    theirs = result_file(auction, sealed, b"their receipt")

    def opener(*_: Any, **__: Any) -> messages.ResultFile:
        out.write_bytes(theirs.encode())
        return result_file(auction, sealed, b"our receipt")

    assert (
        finish(
            sealed, ResultFileAt(out), way(), now=at(auction.manifest.closes), opener=opener, check=unchecked
        ).file
        == theirs
    )
    assert out.read_bytes() == theirs.encode()
    out.unlink()

    def alone(*_: Any, **__: Any) -> messages.ResultFile:
        return theirs

    assert (
        finish(
            sealed, ResultFileAt(out), way(), now=at(auction.manifest.closes), opener=alone, check=unchecked
        ).file
        == theirs
    )
    assert out.read_bytes() == theirs.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert out.stat().st_nlink == 1


def test_a_link_at_the_results_place_is_not_written_through(
    auction: Auction, sealed: Sealed, tmp_path: Path
) -> None:
    """Neither what it names is made or changed, nor the link replaced."""
    target = tmp_path / "target"
    out = tmp_path / "result"
    out.symlink_to(target)

    def opener(*_: Any, **__: Any) -> messages.ResultFile:
        return result_file(auction, sealed, b"receipt")

    with pytest.raises(UsageError, match="is a symbolic link"):
        finish(
            sealed, ResultFileAt(out), way(), now=at(auction.manifest.closes), opener=opener, check=unchecked
        )
    assert not target.exists()
    assert out.readlink() == target


def test_what_fails_leaves_nothing(auction: Auction, sealed: Sealed, tmp_path: Path) -> None:
    """No file, and none beside its place."""

    def opener(*_: Any, **__: Any) -> messages.ResultFile:
        raise EnclaveFailed("no", code="kms-failed")

    with pytest.raises(EnclaveFailed):
        finish(
            sealed,
            ResultFileAt(tmp_path / "result"),
            way(),
            now=at(auction.manifest.closes),
            opener=opener,
            check=unchecked,
        )
    assert not list(tmp_path.iterdir())
