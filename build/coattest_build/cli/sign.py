"""``eif sign``: add a signature section, whose certificate is measured into PCR8."""

from __future__ import annotations

from pathlib import Path

import click

from coattest.files import read_whole
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.shell import confirm_signing, err, expect_option, json_option, out, signing_key, utc_now
from coattest_build.cli.options import FILE
from coattest_build.formats.measure import ImageMeasurements
from coattest_build.formats.signature import load_certificate
from coattest_build.formats.signing import load_sign, sign_image


@click.command("sign")
@click.argument("image", type=FILE)
@signing_key(
    click.option(
        "--key",
        required=True,
        help="The private key: a PEM file, or a URI (awskms:KEY, hsm:ID?label=TOKEN for PKCS#11).",
    )
)
@click.option(
    "--certificate", required=True, type=FILE, help="The signing certificate (PEM); it must be in date."
)
@click.option(
    "--out",
    "output",
    type=NEW_FILE,
    help="Where to write the signed image (default: in place).",
)
@click.option("--replace", is_flag=True, help="Replace an existing signature.")
@expect_option
@json_option
def sign_command(
    *,
    image: Path,
    key: str,
    certificate: Path,
    output: Path | None,
    replace: bool,
    expect: str | None,
    as_json: bool,
) -> None:
    """Sign an image.

    Signs IMAGE's PCR0 and adds a section with the signature and the certificate. PCR8 becomes the measurement
    of the certificate; PCR0, PCR1 and PCR2 do not change. --expect is the SHA-256 of IMAGE.
    """
    signing_certificate = load_certificate(read_whole(certificate), where=str(certificate))
    signer = load_sign(key, signing_certificate, ask=_ask)

    def approve(measured: ImageMeasurements) -> None:
        confirm_signing(
            [
                ("signs", f"{image} is an image of the certificate's owner"),
                ("certificate", signing_certificate.subject.rfc4514_string()),
                ("PCR0", measured.pcr0),
                ("PCR1", measured.pcr1),
                ("PCR2", measured.pcr2),
            ],
            subject="image",
            digest=measured.sha256,
            expected=expect,
        )

    target = output or image
    signed = sign_image(
        image,
        target,
        certificate=signing_certificate,
        sign=signer,
        now=utc_now(),
        replace=replace,
        approve=approve,
    )
    if as_json:
        emit_json({"image": str(target), **signed.nitro_json()})
    else:
        out().print(f"PCR8 {signed.pcr8}")
        err().print(f"signed {target}")


def _ask(secret: str) -> str:
    answer: str = click.prompt(secret, hide_input=True, err=True)
    return answer
