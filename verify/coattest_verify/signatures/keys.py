"""Members' keys: Ed25519, ECDSA P-256 and P-384; the public half as data, the private half as a signer.

Identity is the key *material*: the SHA-256 of the SubjectPublicKeyInfo in its one DER encoding. A key id is
only a hint.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from coattest.errors import PATHS, EnvironmentFailure, FoundFalse, UsageError, require_kind
from coattest.extras import need_signer
from coattest.files import read_bounded, write_atomic, write_new
from coattest_verify.signatures.olpc import encode_olpc

SCHEMES = {
    "ed25519": "ed25519",
    "p256": "ecdsa-sha2-nistp256",
    "p384": "ecdsa-sha2-nistp384",
}
"""Key types by the name used on the command line; the values are securesystemslib's scheme names."""

_DESCRIPTOR = re.compile(r"/dev/fd/[0-9]{1,4}")
PASSPHRASE_FILE = "COATTEST_PASSPHRASE_FILE"  # noqa: S105  (a variable's name)
"""Environment variable naming a file whose first line is the passphrase of key files."""

MAX_KEY_FILE = 64 * 1024
"""Bytes of a key file; an encrypted P-384 key in PKCS#8 has about 500."""

_P25519 = 2**255 - 19
# The y coordinates of the points of small order (RFC 7748, section 7; "Taming the many EdDSAs", table 1).
_SMALL_ORDER_Y = {
    0,
    1,
    _P25519 - 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
}


class BadKey(FoundFalse):
    """A public key that is not accepted."""

    default_code = "bad-key"


def _unusable(what: str, where: object, hint: str | None = None) -> UsageError:
    """A key file that cannot be read, decrypted or used."""
    return UsageError(what, where=str(where) if where else None, hint=hint, code="key-file")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; equal when the material is equal."""

    spki: bytes
    """SubjectPublicKeyInfo, DER, canonical."""
    scheme: str = field(compare=False)
    _key: Any = field(compare=False, repr=False)

    @property
    def keyid(self) -> str:
        """securesystemslib's key id (SHA-256 of its canonical JSON, hex); what in-toto names links by."""
        return hashlib.sha256(encode_olpc(self._sslib())).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SPKI, lower-case hex."""
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def text(self) -> str:
        """The form used in ``quorum.toml``: base64 of the SPKI."""
        return base64.b64encode(self.spki).decode()

    @property
    def how(self) -> tuple[ec.ECDSA, ...]:
        """What signing takes beside the message: for ECDSA the digest of the curve (FIPS 186-5, 6.1.1)."""
        if self.scheme == SCHEMES["ed25519"]:
            return ()
        return (ec.ECDSA(SHA256() if self.scheme == SCHEMES["p256"] else SHA384()),)

    @property
    def pem(self) -> bytes:
        """The key as a PEM file."""
        pem: bytes = self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    @classmethod
    def from_spki(cls, spki: bytes) -> PublicKey:
        """Read a DER SubjectPublicKeyInfo. Raises BadKey for other types, encodings and weak points."""
        try:
            key = load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm, TypeError):
            raise BadKey("not a public key in DER") from None
        return cls._of(key, spki)

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read the form of ``quorum.toml``. Raises BadKey."""
        try:
            spki = base64.b64decode(text.encode("ascii"), validate=True)
        except ValueError:
            raise BadKey("not base64") from None
        if base64.b64encode(spki).decode() != text:
            raise BadKey("not canonical base64")
        return cls.from_spki(spki)

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Read a PEM public key. Raises BadKey."""
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm, TypeError):
            raise BadKey("not a public key in PEM") from None
        return cls._of(key, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    @classmethod
    def _of(cls, key: Any, spki: bytes) -> PublicKey:
        # One key, one encoding: otherwise one key under two encodings would count as two (ADR 53).
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
            raise BadKey("not the canonical encoding of this key")
        if isinstance(key, ed25519.Ed25519PublicKey):
            raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            y = int.from_bytes(raw, "little") & (2**255 - 1)
            if y >= _P25519 or y in _SMALL_ORDER_Y:
                raise BadKey("an Ed25519 point that is not canonical or of small order")
            return cls(spki, SCHEMES["ed25519"], key)
        if isinstance(key, ec.EllipticCurvePublicKey):
            if isinstance(key.curve, ec.SECP256R1):
                return cls(spki, SCHEMES["p256"], key)
            if isinstance(key.curve, ec.SECP384R1):
                return cls(spki, SCHEMES["p384"], key)
        raise BadKey("not an Ed25519, P-256 or P-384 key")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (Ed25519 raw, ECDSA in DER, as securesystemslib has them) is this key's."""
        try:
            self._key.verify(signature, message, *self.how)
        except InvalidSignature:
            return False
        return True

    def sslib(self) -> dict[str, Any]:
        """The key as securesystemslib's and in-toto's dictionary, key id included."""
        return {**self._sslib(), "keyid": self.keyid}

    def _sslib(self) -> dict[str, Any]:
        if isinstance(self._key, ed25519.Ed25519PublicKey):
            kind, value = "ed25519", self._key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        else:
            kind, value = "ecdsa", self.pem.decode()
        return {"keytype": kind, "scheme": self.scheme, "keyval": {"public": value}}


class Signer(Protocol):
    """A signing key: in a file, or in a device or service that it never leaves."""

    @property
    def public(self) -> PublicKey:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature as ``PublicKey.verifies`` takes it: Ed25519 raw, ECDSA in DER."""
        ...


@dataclass(frozen=True, slots=True)
class FileSigner:
    """The private key of a file, in memory."""

    public: PublicKey
    _key: Any = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """A signature with the digest that belongs to the curve."""
        signature: bytes = self._key.sign(message, *self.public.how)
        return signature


@dataclass(frozen=True, slots=True)
class RemoteSigner:
    """A securesystemslib signer and the public key that it was told."""

    public: PublicKey
    _signer: Any = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """A signature by the service or the token; raises whatever its library raises."""
        return bytes.fromhex(self._signer.sign(message).signature)


def generate_key(path: Path, kind: str = "ed25519", passphrase: bytes | None = None) -> PublicKey:
    """Make a private key at ``path`` (PKCS#8 PEM, mode 0600, encrypted when a passphrase is given).

    ``kind`` is one of SCHEMES. The public key is written beside it, with ``.pub`` appended. Never overwrites:
    raises UsageError.
    """
    key: Any
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[kind])
    protection: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    public = PublicKey.from_pem(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    if not write_new(path, content, 0o600):
        raise UsageError(
            "already exists", where=str(path), hint="a key file is never overwritten", code="exists"
        )
    write_atomic(path.with_name(path.name + ".pub"), public.pem)
    return public


def load_public(path: Path) -> PublicKey:
    """The public key in a PEM file. Raises UsageError."""
    try:
        return PublicKey.from_pem(_read(path))
    except BadKey as error:
        raise _unusable(error.what, path) from None


def load_signer(path: Path, passphrase: Callable[[], bytes] | None = None) -> FileSigner:
    """The signer of a PKCS#8 PEM file; ``/dev/fd/N`` is one that the caller opened, a pipe too.

    An encrypted file is opened with ``passphrase()``, which is asked only then; by default it is the first
    line of the file that COATTEST_PASSPHRASE_FILE names. Raises UsageError.
    """
    require_kind(path, PATHS, "path")
    content = _descriptor(path) if _DESCRIPTOR.fullmatch(str(path)) else _read(path)
    try:
        key = open_private_key(content, path, passphrase, code="key-file")
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return FileSigner(PublicKey.from_spki(spki), key)
    except (ValueError, UnsupportedAlgorithm, BadKey, AttributeError):
        raise _unusable("not an Ed25519, P-256 or P-384 private key in PKCS#8 PEM", path) from None


URI_SCHEMES = ("awskms", "azurekms", "gcpkms", "hsm")
"""securesystemslib's signers that hold a key elsewhere; ``hsm:`` is PKCS#11."""

PROBE = b"coattest/key-probe/v1"
"""What is signed to find out which key a signer holds."""


def load_remote_signer(uri: str, candidates: Sequence[PublicKey], ask: Callable[[str], str]) -> RemoteSigner:
    """A signer for one of securesystemslib's URIs, which belongs to one of ``candidates``.

    Such a signer must be told its public key; with several candidates a signature shows which one it is.
    ``ask`` is called with the name of a secret (``pin``) when the signer needs one. Raises UsageError when
    the signer has none of these keys, EnvironmentFailure when its library or service fails or is missing.
    """
    need_signer(uri)
    from securesystemslib.signer import (  # noqa: PLC0415 - key files need nothing of it
        Signer as Library,  # pyright: ignore[reportPrivateImportUsage]
    )
    from securesystemslib.signer import (  # noqa: PLC0415
        SSlibKey,  # pyright: ignore[reportPrivateImportUsage]
    )

    for public in candidates:
        known = SSlibKey.from_crypto(public._key)
        try:
            signer = RemoteSigner(public, Library.from_priv_key_uri(uri, known, ask))
            signature = signer.sign(PROBE)
        except (ValueError, TypeError) as error:
            raise _unusable(str(error) or "not the URI of a signer", uri) from None
        except Exception as error:
            # Each signer raises the exceptions of its own cloud or token; they have no common root.
            raise EnvironmentFailure(f"{type(error).__name__}: {error}", where=uri, code="signer") from None
        if public.verifies(signature, PROBE):
            return signer
    raise UsageError(
        "holds none of the keys that quorum.toml has for this member", where=uri, code="wrong-key"
    )


def is_remote(key: str) -> bool:
    """Whether ``--key`` names a remote signer instead of a file."""
    return key.partition(":")[0] in URI_SCHEMES and ":" in key


def encrypted_key(path: Path, *, option: str | None = None) -> UsageError:
    """The error for an encrypted key file without a passphrase; ``option`` is the command's own for it."""
    instead = f", or use {option}" if option else ""
    hint = f"set {PASSPHRASE_FILE} to a file whose first line is the passphrase{instead}"
    return _unusable("the key is encrypted", path, hint)


def _passphrase_from_environment(path: Path) -> bytes:
    name = os.environ.get(PASSPHRASE_FILE)
    if not name:
        raise encrypted_key(path)
    return read_passphrase(Path(name))


def read_passphrase(path: Path) -> bytes:
    """The first line of a file, without its end of line. Raises UsageError when it is empty.

    It is one's own, never from elsewhere, so it may be a pipe from a password manager.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_KEY_FILE).rstrip(b"\r\n")
    except FileNotFoundError:
        raise _unusable("no such file", path) from None
    except OSError as error:
        raise EnvironmentFailure(error.strerror or "cannot be read", where=str(path)) from None
    if not line:
        raise _unusable("the first line is empty", path)
    return line


def open_private_key(
    content: bytes, path: Path, passphrase: Callable[[], bytes] | None = None, *, code: str
) -> Any:
    """The private key in a PEM text, opened with ``passphrase()`` where it is encrypted.

    By default that is the first line of the file that COATTEST_PASSPHRASE_FILE names. Raises ValueError or
    UnsupportedAlgorithm for what is no key, UsageError where there is no passphrase or it does not open the
    key, the latter with ``code``. ``path`` is for the error only; the library's own words could quote the
    file.
    """
    try:
        return load_pem_private_key(content, None)
    except TypeError:
        # cryptography's word for "encrypted, and no password was given".
        secret = passphrase() if passphrase else _passphrase_from_environment(path)
    try:
        return load_pem_private_key(content, secret)
    except ValueError:
        raise UsageError(
            "the passphrase is wrong: it does not open this key", where=str(path), code=code
        ) from None


def _descriptor(path: Path) -> bytes:
    """What a descriptor of this process gives. It is one's own, so it may be a pipe."""
    try:
        with open(int(path.name), "rb", closefd=False) as file:
            content = file.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise _unusable(f"is not open for reading: {error.strerror}", path) from None
    if len(content) > MAX_KEY_FILE:
        raise _unusable(f"larger than {MAX_KEY_FILE} bytes", path)
    return content


def _read(path: Path) -> bytes:
    try:
        content = read_bounded(path, MAX_KEY_FILE)
    except FileNotFoundError:
        raise _unusable("no such file", path, "verify keygen makes one") from None
    except OSError as error:
        raise EnvironmentFailure(error.strerror or "cannot be read", where=str(path)) from None
    if len(content) > MAX_KEY_FILE:
        raise _unusable(f"larger than {MAX_KEY_FILE} bytes", path)
    return content
