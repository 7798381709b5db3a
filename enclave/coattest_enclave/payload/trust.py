"""The measured trust file: the one place that says whom this image trusts and how it reaches the outside.

It is part of the image, so PCR0 and PCR2 cover it. No flag, frame or environment variable changes it.
Addresses are ``vsock:CID:PORT`` (``any`` to listen) or ``unix:PATH``, which the aws profile may not have.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coattest_enclave.protocol.errors import EnclaveError

TRUST_FILE = Path("/etc/coattest/trust.json")
TRUST_MAX = 64 * 1024
"""Bytes of the trust file."""

NSM_DEVICE = "/dev/nsm"

_HOST = re.compile(r"kms\.\{region\}(\.[a-z0-9-]+){2,4}")
_VSOCK = re.compile(r"vsock:(any|[0-9]{1,10}):([0-9]{1,10})")
_UNIX = re.compile(r"unix:/[!-~]{1,100}")


@dataclass(frozen=True, slots=True)
class Trust:
    """What the trust file says. Of each list the first entry that works is used."""

    profile: str
    partition: str
    kms_host: str
    ca_pem: str
    nsm: tuple[str, ...]
    listen: tuple[str, ...]
    proxy: tuple[str, ...]
    entropy: tuple[str, ...]
    console: bool
    """Whether the program may write its one line to the console."""

    def on_hardware(self, present: bool) -> Trust:
        """What applies with the NSM device ``present`` (under a hypervisor) or not (on the software host).

        Raises EnclaveError when nothing does.
        """

        def pick(addresses: tuple[str, ...]) -> tuple[str, ...]:
            usable = tuple(a for a in addresses if a.startswith("unix:") is not present)
            if not usable:
                raise EnclaveError("there is no NSM device, and this profile needs one")
            return usable

        entropy = tuple(source for source in self.entropy if (source == "host") is not present)
        nsm, listen, proxy = pick(self.nsm), pick(self.listen), pick(self.proxy)
        return replace(self, nsm=nsm, listen=listen, proxy=proxy, entropy=entropy)


def parse_trust(data: bytes) -> Trust:
    """The trust file in ``data``; raises EnclaveError."""
    try:
        fields = json.loads(data.decode("ascii"), object_pairs_hook=unique_pairs)
    except (ValueError, RecursionError) as error:
        raise EnclaveError("trust file: not JSON") from error
    names = tuple(Trust.__dataclass_fields__)
    if not isinstance(fields, dict) or set(fields) != set(names) or len(data) > TRUST_MAX:
        raise EnclaveError("trust file: not exactly the expected fields")
    lists = {name: _texts(fields[name]) for name in ("nsm", "listen", "proxy", "entropy")}
    for name in ("profile", "partition", "kms_host", "ca_pem"):
        if not isinstance(fields[name], str):
            raise EnclaveError(f"trust file: {name} is not text")
    if not isinstance(fields["console"], bool):
        raise EnclaveError("trust file: console is not a boolean")
    trust = Trust(**{**fields, **lists})
    if trust.profile not in ("aws", "local") or trust.partition not in ("aws", "aws-cn", "aws-us-gov"):
        raise EnclaveError("trust file: unknown profile or partition")
    if not _HOST.fullmatch(trust.kms_host):
        raise EnclaveError("trust file: kms_host is not of the form kms.{region}.DOMAIN")
    for address in (*trust.listen, *trust.proxy, *(a for a in trust.nsm if a != NSM_DEVICE)):
        if not (_VSOCK.fullmatch(address) or _UNIX.fullmatch(address)):
            raise EnclaveError("trust file: an address is neither vsock:CID:PORT nor unix:PATH")
    if any(source not in ("nsm-hwrng", "host") for source in trust.entropy):
        raise EnclaveError("trust file: unknown entropy source")
    simulated = [a for a in (*trust.nsm, *trust.listen, *trust.proxy) if a.startswith("unix:")]
    if trust.profile == "aws" and (simulated or "host" in trust.entropy):
        raise EnclaveError("trust file: the aws profile has a simulated address or source")
    return trust


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise EnclaveError("trust file: not a list of texts")
    return tuple(value)


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object's fields; raises ValueError when a name appears twice."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a field appears twice")
    return dict(pairs)
