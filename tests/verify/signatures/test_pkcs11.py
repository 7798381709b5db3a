"""A member's key in a PKCS#11 token: SoftHSM's. Skipped by name where it is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest_verify.signatures import dsse
from coattest_verify.signatures.keys import (
    PublicKey,
    UsageError,
    generate_key,
    load_public,
    load_remote_signer,
)

BIN = Path(sys.executable).parent
PIN = "4711"
MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)


@dataclass(frozen=True)
class Token:
    """A software token with one key under the id 2, and the public half of that key."""

    uri: str
    public: PublicKey


@pytest.fixture(scope="module")
def module_path() -> Path:
    found = next((path for path in MODULES if path.exists()), None)
    if found is None or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed (Debian: softhsm2)")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (pip: coattest[pkcs11])")
    return found


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, module_path: Path) -> Iterator[dict[str, Token]]:
    """One token for each curve. Both are made first: a process reads SoftHSM's store once."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        patch.setenv("PYKCS11LIB", str(module_path))
        found = {}
        for kind in ("p256", "p384"):
            public = generate_key(folder / kind, kind)
            softhsm("--init-token", "--free", "--label", kind, "--pin", PIN, "--so-pin", "0815")
            softhsm(
                "--import", str(folder / kind), "--token", kind, "--label", "k", "--id", "02", "--pin", PIN
            )
            (folder / kind).unlink()
            found[kind] = Token(f"hsm:2?label={kind}", public)
        # Another test of this process may have had the library read another store.
        pytest.importorskip("pkcs11").lib(str(module_path)).reinitialize()
        yield found


@pytest.fixture(params=["p256", "p384"])
def token(tokens: dict[str, Token], request: pytest.FixtureRequest) -> Token:
    """A token with one key."""
    return tokens[request.param]


def softhsm(*argv: str) -> None:
    subprocess.run(["softhsm2-util", *argv], check=True, capture_output=True, timeout=60)


def verify(*argv: str, folder: Path, succeeds: bool = True) -> str:
    done = subprocess.run(
        [str(BIN / "verify"), *argv],
        cwd=folder,
        env={**os.environ, "COATTEST_CONFIG": str(folder / "config")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode == 0) == succeeds, done.stderr
    return done.stdout if succeeds else done.stderr


def test_a_token_signs_like_a_file(token: Token) -> None:
    """``hsm:`` signs inside the token, and the signature verifies under the member's key."""
    signer = load_remote_signer(token.uri, [token.public], lambda _: PIN)
    envelope = dsse.sign_envelope(signer, "text/plain", b"payload")
    assert envelope.signers([token.public]) == (token.public,)


def test_a_token_with_another_key_is_refused(token: Token, tmp_path: Path) -> None:
    """A token that holds none of the member's keys signs nothing for it."""
    stranger = generate_key(tmp_path / "stranger", "p256")
    with pytest.raises(UsageError, match="holds none of the keys") as caught:
        load_remote_signer(token.uri, [stranger], lambda _: PIN)
    assert caught.value.code == "wrong-key"


def test_a_wrong_pin_is_the_environments_fault(token: Token) -> None:
    """A token that does not open is exit code 3 with PKCS#11's own word."""
    with pytest.raises(EnvironmentFailure, match="PinIncorrect"):
        load_remote_signer(token.uri, [token.public], lambda _: "0000")


def test_a_token_that_is_not_there_says_so(token: Token) -> None:
    """A label that no token has is named."""
    with pytest.raises(UsageError, match="No PKCS#11 token found") as caught:
        load_remote_signer("hsm:2?label=elsewhere", [token.public], lambda _: PIN)
    assert caught.value.code == "key-file"


def test_a_member_countersigns_with_a_token(token: Token, tmp_path: Path) -> None:
    """The commands take a token where they take a key file; the PIN comes from --passphrase-file."""
    (tmp_path / "member.pub").write_bytes(token.public.pem)
    assert load_public(tmp_path / "member.pub") == token.public
    (tmp_path / "pin").write_text(f"{PIN}\n")
    made = json.loads(verify("members", "init", "--member", "buyer-1=member.pub", "--json", folder=tmp_path))
    countersign = ("members", "countersign", "--key", token.uri, "--member", "buyer-1")
    assert "is encrypted" in verify(*countersign, folder=tmp_path, succeeds=False)
    verify(*countersign, "--passphrase-file", "pin", "--expect", made["root"], folder=tmp_path)
    shown = json.loads(verify("members", "show", "--root", made["root"], "--json", folder=tmp_path))
    assert shown["signed"] == ["buyer-1"]
