"""The independent engine of IAM's semantics: npm's @cloud-copilot/iam-simulate, in a Node.js of its own.

``python tests/support/verify/keypolicy/node_engine.py FOLDER`` installs it there, by the hashes of its lock.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

FILES = Path(__file__).resolve().parents[3] / "verify/keypolicy/iam/engine"
FOLDER = "COATTEST_ENGINE"
"""The environment variable that names the folder in which it is installed."""


class NodeEngine:
    """A running engine. ``ask`` gives "allowed", "delegated", "denied" or "nothing"."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["node", "engine.mjs"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(
        self,
        document: dict[str, Any],
        principal: str,
        action: str,
        context: dict[str, Any],
        *,
        resource: str,
        account: str,
    ) -> str:
        """What the policy says of a request on ``resource``, which ``account`` owns."""
        asked = {
            "policy": document,
            "principal": principal,
            "action": action,
            "context": context,
            "resource": resource,
            "account": account,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        word = self._process.stdout.readline().rstrip("\n")
        assert word, "the engine ended"
        return word

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout
        self._process.stdout.close()


def install(folder: Path) -> None:
    """Install the engine's packages in a folder. Every package has a hash; no script of one is run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "engine.mjs"):
        shutil.copyfile(FILES / name, folder / name)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(npm, cwd=folder, check=True, env={**os.environ, "NO_UPDATE_NOTIFIER": "1"})


if __name__ == "__main__":
    install(Path(sys.argv[1]))
