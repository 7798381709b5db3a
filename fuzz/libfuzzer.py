"""What the fuzzers share: their options, a corpus with seeds in it, and libFuzzer's limits."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import atheris


def fuzz(one: Callable[[bytes], None], seeds: Mapping[str, bytes], what: str) -> None:
    """Seed a corpus, then fuzz for the given time; atheris ends the process."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("corpus", nargs="?", type=Path)
    options = parser.parse_args()
    corpus = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (corpus / name).write_bytes(seed)
    os.chdir(corpus)  # libFuzzer leaves what it finds in the working directory
    limits = [f"-max_total_time={options.seconds}", "-max_len=20000", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], one)
    atheris.Fuzz()
