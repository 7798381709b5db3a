"""FLEET.toml: every field has a grammar, and what is not said is not guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coattest_verify.attestation.limits import SKEW_MAX_MS
from coattest_verify.fleet.file import MAX_SOURCES, InFiles, OverHttp, load_fleet
from coattest_verify.fleet.grammar import duration_ms
from support.verify.fleet.worlds import files_toml, fleet_toml
from support.verify.usage_errors import usage_error

ASKED = "https://{host}/enclave/attestation?nonce={nonce}"


def http_toml(**changes: Any) -> str:
    """One source of two hosts."""
    fields = {"name": "shops", "kind": "http", "url": ASKED, "hosts": ["10.0.0.1:8443", "b.example"]}
    return fleet_toml({**fields, "releases": ["0.1.0"], **changes})


def load(tmp_path: Path, text: str) -> Any:
    """The only source of a FLEET.toml."""
    path = tmp_path / "FLEET.toml"
    path.write_text(text)
    (source,) = load_fleet(path).sources
    return source


def test_defaults_are_those_of_the_page(tmp_path: Path) -> None:
    """Three minutes of age, a minute of skew, ten to boot; nitriding's nonce; files are beside FLEET.toml."""
    source = load(tmp_path, files_toml())
    assert source.reach == InFiles(tmp_path / "documents")
    assert (source.max_age_ms, source.skew_ms, source.boot_ms) == (180_000, 60_000, 600_000)
    assert (source.count, source.ids, source.role_arn, source.user_data) == (2, (), "", None)
    source = load(tmp_path, http_toml())
    assert source.reach == OverHttp(ASKED, ("10.0.0.1:8443", "b.example"), 20, 10_000)
    assert source.count == 2
    source = load(tmp_path, http_toml(hosts=None, url="http://[::1]:80/{nonce}", **{"user-data": "null"}))
    assert (source.reach.hosts, source.count, source.user_data) == (("[::1]:80",), 1, b"")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "format = 'coattest-fleet/v1'",
        "format = 'coattest-fleet/v1'\nsource = []",
        "format = 'coattest-fleet/v2'\n",
        files_toml(kind="s3"),
        files_toml(name="Parents"),
        files_toml(more="1"),
        files_toml(count=None),
        files_toml(count=0),
        files_toml(count=16_385),
        files_toml(releases=None),
        files_toml(releases=[]),
        files_toml(releases=["0.1.0", "0.1.0"]),
        files_toml(releases=["../x"]),
        files_toml(path=None),
        files_toml(path=""),
        files_toml(url=ASKED),
        files_toml(ids=["i-1"]),
        files_toml(ids=["i-0123456789abcdef0\\n"]),
        files_toml(**{"max-age": "3 minutes"}),
        files_toml(**{"max-age": "721h"}),
        files_toml(**{"clock-skew": f"{SKEW_MAX_MS // 1000 + 1}s"}),
        files_toml(**{"role-arn": "arn:aws:iam::1:role/x"}),
        files_toml(**{"user-data": "abc"}),
        files_toml() + files_toml().partition("\n")[2],
        fleet_toml(*({"name": f"a{number}"} for number in range(MAX_SOURCES + 1))),
        http_toml(count=2),
        http_toml(hosts=None),
        http_toml(hosts=["a b"]),
        http_toml(hosts=["user@host"]),
        http_toml(hosts=["host/path"]),
        http_toml(hosts=["a", "a"]),
        http_toml(url="https://{host}/"),
        http_toml(url=ASKED + "{nonce}"),
        http_toml(url=ASKED.replace("https", "file")),
        http_toml(url="https://{nonce}.example/{host}"),
        http_toml(url="https://user:pass@{host}/{nonce}"),
        http_toml(url="https://{host}/{nonce}{other}"),
        http_toml(url="https://{host}:443/{nonce}"),
        http_toml(url="https://{host}/{nonce}#part"),
        http_toml(url="https://a.example/{nonce}"),
        http_toml(**{"nonce-bytes": 8}),
        http_toml(**{"timeout": "1d"}),
    ],
)
def test_what_does_not_parse_is_refused(tmp_path: Path, text: str) -> None:
    """A missing, unknown or malformed field, with the page that has them all."""
    with usage_error("malformed"):
        load(tmp_path, text)


def test_durations_have_four_forms() -> None:
    """Seconds without a unit too."""
    assert [duration_ms(text) for text in ("0", "90", "90s", "2m", "1h")] == [
        0,
        90_000,
        90_000,
        120_000,
        3_600_000,
    ]
