"""The signed text of an InRelease file, and nothing else of it. Pure but for the library's clock.

Sources: RFC 9580 section 7 (cleartext signature framework); apt's own rule that nothing may stand outside.
The text is what the library returns as verified; nothing is cut out of the file here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coattest.findings import Finding

if TYPE_CHECKING:
    from pysequoia import Cert

BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
END = b"-----END PGP SIGNATURE-----"


@dataclass(frozen=True, slots=True)
class ClearSigned:
    """The verified text, and the pinned primary keys (hex fingerprints) that signed it, sorted."""

    text: bytes
    signers: tuple[str, ...]


def signed_text(data: bytes, certificates: Sequence[Cert], where: str) -> ClearSigned | Finding:
    """The text in ``data`` that a pinned key signed, or why there is none.

    One valid signature by a pinned key is enough, as for apt: an archive also signs with the keys of its
    next release. Signatures by other keys count for nothing.
    """
    from pysequoia import verify  # noqa: PLC0415 - only `verify inputs` needs it

    finding = _framing(data, where)
    if finding:
        return finding
    asked: list[str] = []

    def store(issuers: list[str]) -> list[Cert]:
        asked.extend(issuers)
        return list(certificates)

    try:
        found = verify(bytes=data, store=store)
        text, signatures = found.bytes, found.valid_sigs
    except Exception as error:  # the library has no error types of its own
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding("no-pinned-signer", where, f"{said} Issuers: {', '.join(asked[:8]) or 'none'}"[:400])
    pinned = {certificate.fingerprint for certificate in certificates}
    signers = tuple(sorted({signature.certificate for signature in signatures} & pinned))
    if not signers or text is None:
        return Finding("no-pinned-signer", where, "the library named no pinned key")
    return ClearSigned(text, signers)


def _framing(data: bytes, where: str) -> Finding | None:
    """Exactly: the first line, Hash headers, an empty line, text, one signature, and then nothing."""
    lines = data.split(b"\n")
    if lines[0] != BEGIN or any(b"\r" in line or b"\0" in line for line in lines):
        if any(line.rstrip() == BEGIN for line in lines[1:]):
            return Finding("text-outside-signature", where, "there is text before the signed text")
        return Finding("not-clear-signed", where, "does not begin like a clear-signed text")
    try:
        blank = lines.index(b"", 1)
        signature = lines.index(SIGNATURE)
        end = lines.index(END)
    except ValueError:
        return Finding("not-clear-signed", where, "has no complete signature")
    armor = sum(line.startswith(b"-----") for line in lines)
    outside = {
        "there is an unsigned header": any(not line.startswith(b"Hash: ") for line in lines[1:blank]),
        "there is text after the signature": any(lines[end + 1 :]),
    }
    for detail, found in outside.items():
        if found:
            return Finding("text-outside-signature", where, detail)
    whole = blank < signature < end and armor == 3
    return None if whole else Finding("not-clear-signed", where, "is not one text with one signature block")
