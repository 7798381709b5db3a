"""Many documents under the same expectations, over several threads.

cryptography releases the interpreter lock while it verifies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from coattest_verify.attestation.chain import ChainCache
from coattest_verify.attestation.expectations import Demands, Expectation
from coattest_verify.attestation.root import AWS_NITRO, Root
from coattest_verify.attestation.rules import bad_expectation
from coattest_verify.attestation.verdict import Verdict
from coattest_verify.attestation.verify import verify_under


def verify_many(
    documents: Iterable[bytes],
    expectations: Sequence[Expectation],
    *,
    now: datetime,
    root: Root = AWS_NITRO,
    cache: ChainCache | None = None,
    strict: bool = False,
    threads: int | None = None,
) -> list[Verdict]:
    """One verdict per document, in the same order, all at the same ``now``; the arguments are
    verify_document's.

    ``threads`` is the number of processors unless given. A cache is made for the batch when none is given.
    Raises what verify_document raises, before any document is looked at.
    """
    demands = Demands.of(expectations)
    workers = os.cpu_count() or 1 if threads is None else threads
    if workers < 1:
        raise bad_expectation("at least one thread", where="threads")
    shared = ChainCache() if cache is None else cache

    def verify(document: bytes) -> Verdict:
        return verify_under(demands, document, now=now, root=root, cache=shared, strict=strict)

    if workers == 1:
        return [verify(document) for document in documents]
    with ThreadPoolExecutor(workers, thread_name_prefix="attestation") as pool:
        return list(pool.map(verify, documents))
