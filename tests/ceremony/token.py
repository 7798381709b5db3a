"""A key in a PKCS#11 token: SoftHSM's, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from coattest_verify.signatures.keys import PublicKey, Signer, generate_key, load_remote_signer

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711"


def token_key(folder: Path) -> tuple[PublicKey, Signer] | None:
    """A new P-256 key that only the token has, for this process from then on; None without SoftHSM."""
    if not LIBRARY.exists() or shutil.which("softhsm2-util") is None:
        print("no key is in a token: softhsm2 is not installed", file=sys.stderr)
        return None
    import pkcs11

    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    os.environ |= {"SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "PYKCS11LIB": str(LIBRARY)}
    public = generate_key(folder / "key", "p256")
    for words in (
        ("--init-token", "--free", "--label", "own", "--so-pin", "0815"),
        ("--import", str(folder / "key"), "--token", "own", "--label", "k", "--id", "02"),
    ):
        subprocess.run(["softhsm2-util", *words, "--pin", PIN], check=True, capture_output=True, timeout=60)
    (folder / "key").unlink()
    pkcs11.lib(str(LIBRARY)).reinitialize()
    return public, load_remote_signer("hsm:2?label=own", [public], lambda _: PIN)
