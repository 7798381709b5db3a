"""Parsers of what a mirror or a checkout sends: their work grows with the size of it, not with its square.

Each text is so large that the square of it is hours of work: a parser that takes it runs into the time limit
of a test. What the parser says is looked at, not how long it took.
"""

from __future__ import annotations

import pytest

from coattest.errors import UsageError
from coattest_build.inputs import debian, wheels
from coattest_build.inputs.debian import Archive, IndexMalformed, Package, Relation
from coattest_build.inputs.lock import LockedWheel
from coattest_verify.rebuild.inputs.release import parse_release
from coattest_verify.rebuild.inputs.wheels import MAX_SAID, pip_finding
from support.raises import raises_code

LINES = 2_000_000
"""Lines of two bytes in 4 MB, what an InRelease may have: each added to all before it is 4 TB to copy."""


def test_a_field_of_two_million_lines_is_joined_once() -> None:
    """A Release file whose list of digests is all line feeds: its lines are kept apart until it ends."""
    (fields,) = debian.stanzas("SHA256:\n" + " x\n" * LINES)
    assert len(fields["SHA256"]) == 3 * LINES
    found = parse_release(b"Date: Sat, 11 Jul 2026 10:00:00 UTC\nSHA256:\n" + b" x\n" * LINES, "x")
    assert getattr(found, "code", None) == "bad-release"


@pytest.mark.parametrize("text", ["a" + " " * debian.MAX_FIELD + "x", "a (" + " " * debian.MAX_FIELD])
def test_a_relation_of_a_million_blanks_is_refused(text: str) -> None:
    """The blanks before a version and those before an architecture are not tried in every division."""
    with raises_code(IndexMalformed, "bad-index", match="not a package relation"):
        debian.parse_relations(text)


@pytest.mark.parametrize("most", [debian.MAX_RELATION, 10**9])
def test_the_pattern_of_a_relation_is_linear_whatever_its_limit(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on a relation's length is a second lock, not the only one."""
    monkeypatch.setattr(debian, "MAX_RELATION", most)
    with raises_code(IndexMalformed, "bad-index"):
        debian.parse_relations("a" + " " * debian.MAX_FIELD + "x")
    spaced = debian.parse_relations("a:any  ( >=  1.0 )  [amd64], b | c (<< 2)")
    assert spaced == ((Relation("a", ">=", "1.0"),), (Relation("b"), Relation("c", "<<", "2")))


def same_name(count: int, depends: tuple[tuple[Relation, ...], ...]) -> list[Package]:
    sha = "0" * 64
    return [Package("a", str(number), "all", 1, sha, "pool/a.deb", depends) for number in range(count)]


@pytest.mark.slow
def test_an_index_with_one_name_many_times_is_given_up() -> None:
    """20,000 versions of a package that depends 20,000 times on a later one: 400 million comparisons."""
    wanted = tuple((Relation("a", ">>", "99999"), Relation("b")) for _ in range(20_000))
    archive = Archive([[*same_name(20_000, wanted), Package("b", "1", "all", 1, "0" * 64, "pool/b.deb")]])
    with raises_code(IndexMalformed, "bad-index", match="comparisons"):
        archive.closure(["a"])


def test_a_requirements_file_of_blanks_is_read() -> None:
    """A million blanks, or a million empty lines, without a comment behind them."""
    for blank in (" ", "\n", "\t\n"):
        assert wheels.parse_requirements(blank * 1_000_000, "x") == ()
    with pytest.raises(UsageError):
        wheels.parse_requirements(" " * 1_000_000 + "x", "x")


def test_what_pip_says_is_looked_at_up_to_a_limit() -> None:
    """16 MB of the beginning of its list of versions, which never ends."""
    pin = LockedWheel("a", "1", "a-1-py3-none-any.whl", 1, "0" * 64)
    assert pip_finding(pin, "(from versions: " * 1_000_000).code == "index-unreachable"
    assert pip_finding(pin, "x" * MAX_SAID + "(from versions: 2)").code == "wrong-version"


@pytest.mark.parametrize(
    "date", ["1" * 5000, "Sat, 11 Jul 2026 10:00:00" + " " * 9999, "", "Sat, 99", "-" * 99]
)
def test_a_date_of_an_archive_has_a_grammar(date: str) -> None:
    """The library's own reader of dates takes much else."""
    found = parse_release(f"Date: {date}\nSHA256:\n".encode(), "x")
    assert getattr(found, "code", None) == "bad-release"
