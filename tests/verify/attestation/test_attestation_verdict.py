"""Verdicts, the cache of chains, and batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from datetime import timedelta

import pytest

from coattest.errors import CoattestError, FoundFalse
from coattest_verify.attestation import (
    AWS_NITRO,
    ChainCache,
    ExpectNonce,
    Finding,
    NotVerified,
    Root,
    Verdict,
    rules,
    verify_many,
)
from coattest_verify.attestation import (
    chain as chain_module,
)
from coattest_verify.attestation.batch import Steps, alone, together
from coattest_verify.attestation.chain import verify_chain
from coattest_verify.attestation.encoding.certificates import Certificate
from coattest_verify.attestation.expectations import Demands
from coattest_verify.attestation.verify import verify_under
from support.verify.nitro_ca import (
    IMAGE,
    NOW,
    NOW_MS,
    check,
    codes,
    document,
    failed,
    make_chain,
    sibling,
    usual_chain,
)
from support.verify.usage_errors import usage_error

GENUINE = usual_chain()

# --- the verdict -------------------------------------------------------------------------------------------


def test_the_document_is_reachable_only_when_every_check_passed() -> None:
    """A failed verdict raises, with its findings, wherever the document is asked for."""
    passed, refused = check(document()), check(document(), IMAGE, ExpectNonce(b"x"))
    assert passed.ok
    assert passed.document.pcrs
    assert not refused.ok
    with pytest.raises(NotVerified, match="nonce") as caught:
        _ = refused.document
    assert caught.value.findings == refused.findings
    assert isinstance(caught.value, FoundFalse)
    assert "document" not in refused.to_json()
    assert refused._document is None
    assert "module_id" not in repr(passed)


def test_verdicts_and_documents_are_frozen() -> None:
    """Nobody turns a refusal into a pass, or a field into another one, by assignment."""
    verdict = check(document())
    with pytest.raises(FrozenInstanceError):
        verdict.findings = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        verdict.document.nonce = b"x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        verdict.document.pcrs[0] = b"x"  # type: ignore[index]


def test_a_verdict_as_json() -> None:
    """JSON has the outcome, root, time, every finding with its rule, and the document when it passed."""
    passed = json.loads(json.dumps(check(document(user_data=b"\x01")).to_json()))
    assert passed["ok"] is True
    assert passed["root"] == "test root"
    assert passed["checked_at"] == "2026-01-15T12:00:00+00:00"
    assert passed["chain_expires"] == "2026-01-15T14:55:00+00:00"
    assert passed["document"]["user_data"] == "01"
    assert passed["document"]["public_key"] is None
    assert passed["document"]["timestamp_ms"] == NOW_MS
    assert passed["document"]["timestamp"] == "2026-01-15T12:00:00.000+00:00"
    assert passed["document"]["pcrs"]["PCR0"] == "01" * 48
    refused = json.loads(json.dumps(check(document(), IMAGE, ExpectNonce(None)).to_json()))
    assert refused["ok"] is False
    assert refused["findings"] == [
        {
            "code": "nonce",
            "where": "nonce",
            "detail": f"expected null, found {b'nonce'.hex()}",
            "expected": "null",
            "found": b"nonce".hex(),
            "rule": "the caller's expectation",
        }
    ]


def test_every_rule_has_a_code_and_a_source_of_its_own() -> None:
    """Each rule's findings are told apart by their code, and say which source asks for it."""
    every = [rule for rule in vars(rules).values() if isinstance(rule, rules.Rule)]
    assert len(every) == len({rule.code for rule in every}) == 25
    for rule in every:
        assert rule.source
        found = rule.finding("field", "this", "that")
        assert (found.code, found.where, found.expected, found.found) == (rule.code, "field", "this", "that")
        assert str(found) == f"field: expected this, found that [{rule.code}; {rule.source}]"
    with pytest.raises(LookupError):
        rules.Rule("no-such-code", "nowhere")


def test_a_verdict_that_somebody_makes_passes_only_when_it_is_whole() -> None:
    """Without a document, or with a finding beside one, it is not ok and gives nothing away."""
    finding = rules.WRONG_NONCE.finding("nonce", "this", "that")
    whole = check(document()).document
    for findings, kept in (((), None), ((finding,), whole), ((finding,), None)):
        verdict = Verdict(findings, (), AWS_NITRO, NOW, None, kept)
        assert not verdict.ok
        with pytest.raises(NotVerified):
            _ = verdict.document
        assert "document" not in verdict.to_json()


def test_every_error_has_the_one_root() -> None:
    """What the package raises can be caught with one name."""
    for kind in (rules.Malformed, NotVerified, type(rules.bad_expectation("nonsense"))):
        assert issubclass(kind, CoattestError)


# --- the cache ---------------------------------------------------------------------------------------------


def test_a_chain_is_verified_once_and_remembered() -> None:
    """The second document of an enclave finds the chain of the first; another leaf's does not."""
    cache = ChainCache()
    first = alone(verify_chain(GENUINE.certificate, GENUINE.cabundle, GENUINE.root, cache))
    assert alone(verify_chain(GENUINE.certificate, GENUINE.cabundle, GENUINE.root, cache)) is first
    assert len(cache) == 1
    other = make_chain()
    assert alone(verify_chain(other.certificate, other.cabundle, other.root, cache)) is not first
    assert len(cache) == 2
    assert check(document(), cache=cache).ok
    assert len(cache) == 2


@pytest.mark.parametrize("position", range(5))
def test_cached_ancestors_run_out(position: int) -> None:
    """The dates of every certificate are compared at each use, for a chain in the cache too."""
    chain = make_chain(changes={position: {"not_after": NOW, "not_before": NOW - timedelta(minutes=6)}})
    cache = ChainCache()
    field = "certificate" if position == 4 else f"cabundle[{position}]"
    assert check(document(chain), chain=chain, cache=cache).ok
    assert len(cache) == 1
    later = check(document(chain), chain=chain, cache=cache, now=NOW + timedelta(seconds=1))
    assert failed(later) == {("certificate-dates", field)}
    earlier = check(document(chain), chain=chain, cache=cache, now=NOW - timedelta(minutes=7))
    assert ("certificate-dates", field) in failed(earlier)
    assert check(document(chain), chain=chain, cache=cache).ok


def test_a_cached_chain_serves_its_own_root_only() -> None:
    """A chain that was verified under one root is not known under another."""
    cache = ChainCache()
    assert check(document(), cache=cache).ok
    assert codes(check(document(), cache=cache, root=AWS_NITRO)) == {"root"}
    assert codes(check(document(), cache=cache, root=Root("test root", bytes(32)))) == {"root"}


def test_a_cached_chain_does_not_lend_its_key() -> None:
    """With the chain in the cache, a wrong signature, another leaf and another bundle are still refused."""
    cache = ChainCache()
    assert check(document(), cache=cache).ok
    forged = make_chain()
    assert codes(check(document()[:-96] + bytes(96), cache=cache)) == {"signature"}
    swapped = document(forged, certificate=GENUINE.certificate, cabundle=GENUINE.cabundle)
    assert codes(check(swapped, cache=cache)) == {"signature"}
    assert "chain" in codes(check(document(forged, cabundle=GENUINE.cabundle), cache=cache))
    assert not check(document(cabundle=[*GENUINE.cabundle[:3], forged.ders[3]]), cache=cache).ok


def test_what_did_not_verify_is_not_remembered() -> None:
    """A refused chain leaves nothing in the cache, so that nobody fills it from outside."""
    cache = ChainCache()
    for chain in (make_chain(), make_chain(changes={2: {"ca": False}})):
        assert not check(document(chain), chain=GENUINE, cache=cache).ok
    broken = make_chain(changes={1: {"path_length": 0}})
    assert not check(document(broken), chain=broken, cache=cache).ok
    assert len(cache) == 0


def test_the_cache_is_bounded_and_forgets_what_was_not_used_longest() -> None:
    """The chain that was used least recently goes first."""
    cache = ChainCache(2)
    chains = [make_chain() for _ in range(3)]

    def use(index: int) -> object:
        return alone(
            verify_chain(chains[index].certificate, chains[index].cabundle, chains[index].root, cache)
        )

    first, second = use(0), use(1)
    assert use(0) is first
    use(2)
    assert len(cache) == 2
    assert use(0) is first
    assert use(1) is not second
    with usage_error("bad-expectation"):
        ChainCache(0)
    assert len(ChainCache(1)) == 0


def counted_links(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every link that is verified from now on, as the field of its lower certificate."""
    seen: list[str] = []
    inner = chain_module._link_findings

    def counting(certificates: Sequence[Certificate | None]) -> list[Finding]:
        seen.extend(each.field for each in certificates[1:] if each is not None)
        return inner(certificates)

    monkeypatch.setattr(chain_module, "_link_findings", counting)
    return seen


def test_what_two_chains_share_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enclaves of one zone share the root, the region's and the zone's certificate."""
    cache = ChainCache()
    seen = counted_links(monkeypatch)
    assert check(document(), cache=cache).ok
    assert seen == ["cabundle[1]", "cabundle[2]", "cabundle[3]", "certificate"]
    for position, links_left in ((3, ["cabundle[3]", "certificate"]), (4, ["certificate"])):
        seen.clear()
        neighbour = sibling(GENUINE, position)
        assert check(document(neighbour), chain=neighbour, cache=cache).ok
        assert seen == links_left


def test_a_shared_part_vouches_for_nothing_below_it() -> None:
    """Below cached certificates every other signature, date, path length and repetition is judged as ever."""
    cache = ChainCache()
    assert check(document(), cache=cache).ok
    other = make_chain()
    cases = {
        "chain": [*GENUINE.cabundle[:3], other.ders[3]],
        "certificate": [*GENUINE.cabundle, GENUINE.cabundle[3]],
    }
    for code, bundle in cases.items():
        alone = check(document(other, cabundle=bundle))
        assert code in codes(alone)
        assert failed(check(document(other, cabundle=bundle), cache=cache)) == failed(alone)
    neighbour = sibling(GENUINE, 3)
    late = NOW + timedelta(days=6)
    assert check(document(neighbour), chain=neighbour, cache=cache).ok
    assert ("certificate-dates", "cabundle[2]") in failed(
        check(document(neighbour), chain=neighbour, cache=cache, now=late)
    )
    assert codes(check(document(neighbour), cache=cache, root=AWS_NITRO)) == {"root"}


def test_a_shared_part_is_its_exact_bytes_under_its_root() -> None:
    """Neither a zone of the same name with another key nor the same zone under another root is known."""
    cache = ChainCache()
    assert check(document(), cache=cache).ok
    twin = sibling(GENUINE, 2)
    borrowed = [*GENUINE.cabundle[:3], twin.ders[3]]
    assert check(document(twin), cache=cache).ok
    assert codes(check(document(twin, cabundle=borrowed), cache=cache)) == {"chain"}
    neighbour = sibling(GENUINE, 3)
    assert codes(check(document(neighbour), root=make_chain().root, cache=cache)) == {"root"}
    assert check(document(neighbour), cache=cache).ok


def test_shared_parts_are_bounded_and_the_zone_stays() -> None:
    """However many instances show themselves, as many parts are kept as chains; what all share is kept."""
    cache = ChainCache(4)
    for _ in range(6):
        neighbour = sibling(GENUINE, 3)
        assert check(document(neighbour), cache=cache).ok
        assert len(cache._parts) <= 4
    (_, start), verified = cache.part((GENUINE.root.sha256, tuple(GENUINE.cabundle)))
    assert (start, len(verified)) == (GENUINE.ders[:3], 3)


def test_threads_share_a_cache() -> None:
    """Many threads over more chains than the cache holds: every verdict is right, the bound holds."""
    cache = ChainCache(3)
    chains = [make_chain() for _ in range(6)]
    data = [document(chain) for chain in chains]
    start = threading.Barrier(4)

    def work(offset: int) -> list[bool]:
        start.wait()
        return [
            check(data[index], chain=chains[(index + shift) % 6], cache=cache).ok is (shift == 0)
            for shift in (0, 1)
            for index in (*range(offset, 6), *range(offset))
        ]

    with ThreadPoolExecutor(4) as pool:
        results = [result for outcome in pool.map(work, range(4)) for result in outcome]
    assert len(results) == 48
    assert all(results)
    assert len(cache) <= 3


# --- batches -----------------------------------------------------------------------------------------------


def test_a_step_of_each_task_comes_before_the_next_step_of_any() -> None:
    """Tasks of different lengths, in order; the results are in order too, and what one raises is raised."""
    seen: list[str] = []

    def task(name: str, steps: int) -> Steps[str]:
        for step in range(steps):
            seen.append(f"{name}{step}")
            yield
        return name.upper()

    assert together([task("a", 2), task("b", 0), task("c", 3)]) == ["A", "B", "C"]
    assert seen == ["a0", "c0", "a1", "c1", "c2"]
    assert together([]) == []
    assert alone(task("d", 2)) == "D"

    def failing() -> Steps[str]:
        yield
        raise LookupError("in the second step")

    with pytest.raises(LookupError, match="second step"):
        together([task("e", 3), failing()])


def test_documents_are_judged_together_as_each_alone() -> None:
    """Good and bad ones of many kinds, with a cache between them and without: no verdict changes another."""
    neighbour, stranger = sibling(GENUINE, 3), make_chain()
    unfit = make_chain(changes={2: {"ca": False}})
    kinds = [
        document(),
        document(neighbour),
        document(neighbour, nonce=b"other"),
        b"junk",
        document()[:-96] + bytes(96),
        document(stranger),
        document(stranger, cabundle=GENUINE.cabundle),
        document(neighbour, cabundle=[*GENUINE.cabundle[:3], stranger.ders[3]]),
        document(unfit),
        document(timestamp=1),
        document(sibling(GENUINE, 2)),
        document(sibling(GENUINE, 4)),
    ]
    demands = Demands.of([IMAGE])

    def task(data: bytes, cache: ChainCache | None) -> Steps[Verdict]:
        return verify_under(demands, data, now=NOW, root=GENUINE.root, cache=cache, strict=False)

    single = [alone(task(data, None)) for data in kinds]
    assert [verdict.ok for verdict in single].count(True) == 5
    cache = ChainCache()
    for shared in (None, cache, cache):
        assert together(task(data, shared) for data in kinds) == single
    assert together(task(data, ChainCache()) for data in reversed(kinds)) == single[::-1]


def test_what_documents_share_is_verified_once_though_they_are_read_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one's links are known when the second one's are looked at."""
    seen, cache = counted_links(monkeypatch), ChainCache()
    data = [document(sibling(GENUINE, position)) for position in (3, 3, 4)]
    assert all(verdict.ok for verdict in verify_many(data, [IMAGE], now=NOW, root=GENUINE.root, cache=cache))
    whole = ["cabundle[1]", "cabundle[2]", "cabundle[3]", "certificate"]
    assert seen == [*whole, *whole[2:], *whole[2:]]


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_a_batch_gives_the_verdicts_of_single_documents_in_order(threads: int | None) -> None:
    """verify_many is verify_document for each, whatever the number of threads."""
    data = [document(nonce=bytes([number])) if number % 3 else b"junk" for number in range(40)]
    verdicts = verify_many(
        iter(data), [IMAGE, ExpectNonce(b"\x04")], now=NOW, root=GENUINE.root, threads=threads
    )
    single = [check(each, IMAGE, ExpectNonce(b"\x04")) for each in data]
    assert [verdict.findings for verdict in verdicts] == [verdict.findings for verdict in single]
    assert [index for index, verdict in enumerate(verdicts) if verdict.ok] == [4]


def test_a_batch_uses_the_cache_it_is_given() -> None:
    """The chain of a batch's documents is in the caller's cache afterwards."""
    cache = ChainCache()
    verify_many([document()] * 3, [IMAGE], now=NOW, root=GENUINE.root, cache=cache, threads=2)
    assert len(cache) == 1


def test_a_batch_passes_its_options_on() -> None:
    """Strict mode holds for each document; a number of threads below one is an error."""
    empty = document(public_key=b"")
    (loose,) = verify_many([empty], [IMAGE], now=NOW, root=GENUINE.root)
    (strict,) = verify_many([empty], [IMAGE], now=NOW, root=GENUINE.root, strict=True)
    assert (loose.ok, codes(strict)) == (True, {"loose-field"})
    with usage_error("bad-expectation"):
        verify_many([], [IMAGE], now=NOW, threads=0)
    assert verify_many([], [IMAGE], now=NOW) == []
