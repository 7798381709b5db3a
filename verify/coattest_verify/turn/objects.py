"""Writes a commit into a bare repository, object by object: no index, work tree, filter or hook of git's.

Formats: gitformat-loose (a deflated header and content, named by its SHA-1), gitrepository-layout(5).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from coattest.errors import EnvironmentFailure
from coattest.files import write_atomic
from coattest_verify.quorum.change.tree import CommitFiles

_FILE, _TREE = 0o100644, 0o040000

_Tree = dict[str, "tuple[int, str] | _Tree"]


def write_commit(
    git: Path,
    base: CommitFiles,
    folder: str,
    changes: Mapping[str, bytes | None],
    *,
    author: str,
    message: str,
    now: datetime,
) -> str:
    """A commit after ``base`` in which files of ``folder`` are changed (None removes one); its id.

    Everything else stays as it is, entry by entry, whatever it is. Raises EnvironmentFailure
    (``bad-repository``) when a file, link or submodule of ``base`` is where a change needs a folder.
    """
    top: _Tree = {}
    files = {f"{folder}/{name}": (entry.mode, entry.identifier) for name, entry in base.entries.items()}
    files.update({name: (entry.mode, entry.identifier) for name, entry in base.outside.items()})
    for name, content in changes.items():
        if content is None:
            files.pop(f"{folder}/{name}", None)
        else:
            files[f"{folder}/{name}"] = (_FILE, _write(git, b"blob", content))
    for path, entry in files.items():
        at, parts = top, path.split("/")
        for part in parts[:-1]:
            below = at.setdefault(part, {})
            if not isinstance(below, dict):
                raise EnvironmentFailure(
                    "something else is in the place of a folder of attestations",
                    where=path,
                    hint="whoever put it there has to remove it",
                    code="bad-repository",
                )
            at = below
        at[parts[-1]] = entry
    when = f"{int(now.timestamp())} +0000"
    lines = [
        f"tree {_write_tree(git, top)}",
        f"parent {base.commit}",
        f"author {author} <{author}@coattest.invalid> {when}",
        f"committer {author} <{author}@coattest.invalid> {when}",
        "",
        message,
        "",
    ]
    return _write(git, b"commit", "\n".join(lines).encode())


def _write_tree(git: Path, tree: _Tree) -> str:
    """git sorts a folder as if its name ended in a slash."""
    listed = []
    for name, entry in tree.items():
        mode, identifier = (_TREE, _write_tree(git, entry)) if isinstance(entry, dict) else entry
        key = os.fsencode(name) + (b"/" if mode == _TREE else b"")
        listed.append((key, mode, name, identifier))
    content = b"".join(
        f"{mode:o} ".encode() + os.fsencode(name) + b"\0" + bytes.fromhex(identifier)
        for _, mode, name, identifier in sorted(listed)
    )
    return _write(git, b"tree", content)


def _write(git: Path, kind: bytes, content: bytes) -> str:
    data = kind + f" {len(content)}\0".encode() + content
    identifier = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    path = git / "objects" / identifier[:2] / identifier[2:]
    if not path.exists():
        write_atomic(path, zlib.compress(data), 0o444)
    return identifier
