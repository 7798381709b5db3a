"""Signing an image: load the key that a path or URI names, and write the signed image whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from coattest.errors import EnvironmentFailure, FoundFalse, UsageError
from coattest.extras import need_signer
from coattest.files import open_plain, read_whole
from coattest_build.formats import eif, measure, signature
from coattest_build.formats.eif import Part, SectionType
from coattest_build.formats.signature import Sign

URI_SCHEMES = ("awskms", "azurekms", "gcpkms", "hsm", "hv", "file2")
"""securesystemslib's signers that can hold an ECDSA key; ``hsm:`` is PKCS#11."""


def sign_image(
    image: Path,
    out: Path,
    *,
    certificate: x509.Certificate,
    sign: Sign,
    now: datetime,
    replace: bool = False,
    approve: Callable[[measure.ImageMeasurements], None] | None = None,
) -> measure.ImageMeasurements:
    """Write ``image`` with a signature section to ``out`` (which may be ``image``), in blocks.

    Returns what was written, measured again from the file. ``approve`` gets the measurements of the image
    before anything is signed, and raises to stop it. Raises FoundFalse when certificate, key and time do not
    go together, UsageError when the image is already signed and ``replace`` is false.
    """
    with open_plain(image) as given, tempfile.TemporaryFile(dir=out.parent) as file:
        # The image is read once: what is measured, approved and written comes from a copy of our own.
        shutil.copyfileobj(given, file)
        file.seek(0)
        before = measure.measure_file(file)
        layout = eif.read_structure(file)
        if layout.of_type(SectionType.SIGNATURE) and not replace:
            raise UsageError(
                "it is already signed", where=str(image), hint="give --replace", code="eif-signed"
            )
        if approve is not None:
            approve(before)
        section = signature.make_section(certificate, bytes.fromhex(before.pcr0), sign, now)
        parts = [
            Part.of_section(file, part) for part in layout.sections if part.type is not SectionType.SIGNATURE
        ]
        eif.write_parts(
            out,
            [*parts, Part.of_bytes(SectionType.SIGNATURE, section)],
            flags=layout.flags,
            default_memory=layout.default_memory,
            default_cpus=layout.default_cpus,
        )
    return measure.measure(out)


def load_sign(key: str, certificate: x509.Certificate, *, ask: Callable[[str], str]) -> Sign:
    """A signing function for a PEM file or one of securesystemslib's URIs.

    ``ask`` is called with the name of a secret (``pin``) when the signer wants one. A key file signs
    deterministically (RFC 6979): the same key and image give the same bytes. Raises FoundFalse when a key
    file does not belong to the certificate, UsageError when the key does not load, EnvironmentFailure when
    the signer's library or service fails.
    """
    if key.partition(":")[0] in URI_SCHEMES and ":" in key:
        return _from_uri(key, certificate, ask)
    return _from_file(Path(key), certificate)


def _from_file(path: Path, certificate: x509.Certificate) -> Sign:
    try:
        private = load_pem_private_key(read_whole(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        encrypted = isinstance(error, TypeError)  # cryptography's word for "no password was given"
        raise UsageError(
            "not an unencrypted PEM private key",
            where=str(path),
            hint="it is encrypted: give a decrypted copy, or a key in a KMS or token" if encrypted else None,
            code="signing-key",
        ) from None
    algorithm = signature.algorithm_of(certificate)
    if (
        not isinstance(private, ec.EllipticCurvePrivateKey)
        or private.public_key() != certificate.public_key()
    ):
        raise FoundFalse("this is not the key of the certificate", where=str(path), code="signature-mismatch")
    return lambda data: private.sign(data, ec.ECDSA(algorithm.hash, deterministic_signing=True))


def _from_uri(uri: str, certificate: x509.Certificate, ask: Callable[[str], str]) -> Sign:
    need_signer(uri)
    # Imported here: the signers pull in boto3 and more.
    from securesystemslib.signer import (  # noqa: PLC0415
        Signer,  # pyright: ignore[reportPrivateImportUsage]
        SSlibKey,  # pyright: ignore[reportPrivateImportUsage]
    )

    def sign(data: bytes) -> bytes:
        try:
            signer = Signer.from_priv_key_uri(uri, SSlibKey.from_crypto(certificate.public_key()), ask)
            return bytes.fromhex(signer.sign(data).signature)
        except Exception as error:  # securesystemslib documents that signers may raise anything
            message = str(error).strip().partition(os.linesep)[0] or type(error).__name__
            raise EnvironmentFailure(
                f"the signer failed: {message}",
                where=uri,
                hint="see the signer's requirements",
                code="signer-failed",
            ) from error

    return sign
