"""Commits of a folder of attestations, made object by object: any mode, any name, and no git program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dulwich.index import commit_tree
from dulwich.objects import Blob, Commit
from dulwich.repo import Repo

AUTHOR = b"Test <test@example.invalid>"
FILE, PROGRAM, LINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000

Files = dict[str, "bytes | tuple[int, bytes]"]
"""Path to content; with a mode where it is not a plain file."""


def read_folder(folder: Path, name: str = "attestations") -> Files:
    """Everything below a folder, by its path under ``name``."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class History:
    """A repository whose branch ``main`` is checked out; nothing is in its work tree."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.repository = Repo.init(str(folder), default_branch=b"main")

    def commit(self, files: Mapping[str, bytes | tuple[int, bytes]], *parents: str) -> str:
        """Commit exactly these files on ``main``, after ``parents``; returns the commit's id."""
        store = self.repository.object_store
        listed = []
        for path, content in files.items():
            mode, data = content if isinstance(content, tuple) else (FILE, content)
            blob = Blob.from_string(data)
            if mode != SUBMODULE:
                store.add_object(blob)
            listed.append((path.encode(), blob.id, mode))
        made = Commit()
        made.tree = commit_tree(store, listed)
        made.parents = [parent.encode() for parent in parents]
        made.author = made.committer = AUTHOR
        made.author_time = made.commit_time = 1_700_000_000
        made.author_timezone = made.commit_timezone = 0
        made.encoding, made.message = b"UTF-8", b"change"
        store.add_object(made)
        self.repository.refs[b"refs/heads/main"] = made.id
        return str(made.id.decode())
