"""Measurements as tools and people write them down: sets of registers out of bytes, nothing guessed at.

Read are: what nitro-cli prints (``build-enclave``, ``describe-eif``, ``describe-enclaves``), what ``eif
measure`` and ``eif describe --json`` print, objects of registers alone or under ``pcrs`` or ``PCR``, the same
as TOML, and lines such as ``HEX PCR0``. A file can hold several sets, each with a name; which one is meant
is the caller's to say. Wherever registers stand, anything that is not a register is refused: a typing error
must not loosen what is expected.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from coattest.errors import Rejected, UsageError
from coattest.jsontext import unique_names
from coattest.strictjson import MAX_DEPTH, shown, too_deep
from coattest.text import parse_toml
from coattest_verify.attestation.limits import PCR_COUNT_MAX, PCR_SIZE_SHA384
from coattest_verify.attestation.rules import bad_expectation

MEASUREMENTS_MAX: Final = 1 << 20
"""Bytes of a measurements file; ``eif describe --json`` without files has about 4,000."""

SETS_MAX: Final = 256
"""Sets of one file. A host runs at most four enclaves, a project publishes tens of releases."""

FORMS: Final = (
    "measurements are the JSON of nitro-cli build-enclave, describe-eif and describe-enclaves, of eif "
    "measure and eif describe --json; objects of PCR0, PCR1, .., alone or under pcrs or PCR, in JSON or "
    "TOML; and lines 'HEX PCR0'"
)
"""What a message says when a file has none of the forms."""

_WHERE: Final = "measurements"
_REGISTER: Final = re.compile(r"(?i:pcr)[ _-]?(0|[1-9][0-9]?)")
_INDEX: Final = re.compile(r"0|[1-9][0-9]?")
_LIKE_REGISTER: Final = re.compile(r"(?i:pcr)[ _-]?[0-9]+")
_DIGITS: Final = 2 * PCR_SIZE_SHA384
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_LINE: Final = re.compile(
    r"(?P<value>(?:0[xX])?[0-9a-fA-F]{16,})[\s:=,]+(?P<after>(?i:pcr)[ _-]?[0-9]+)"
    r"|(?P<before>(?i:pcr)[ _-]?[0-9]+)[\s:=,]+\"?(?P<value2>(?:0[xX])?[0-9a-fA-F]{16,})\"?,?"
)
_SAID: Final = (
    "Start building the Enclave Image",
    "Using the locally available Docker image",
    "Enclave Image successfully created",
)
"""What nitro-cli says on stderr before its JSON; a log has both."""

_WRAPPERS: Final = ("Measurements", "measurements", "pcrs", "PCRs", "PCRS", "PCR", "pcr")
_ALGORITHMS: Final = ("HashAlgorithm", "hash_algorithm", "hashAlgorithm")
_NAMES: Final = ("EnclaveName", "EnclaveID", "ImageName", "name", "version")
_SIZES: Final = {64: "that of a SHA-256", 40: "that of a SHA-1", 128: "that of a SHA-512"}


@dataclass(frozen=True, slots=True)
class MeasurementSet:
    """Registers that belong together: index to 48 bytes, checked. ``notes`` are lines for a person.

    ``name`` is what the file calls the set: an enclave's, a key of an object, a table of TOML, else empty.
    """

    name: str
    pcrs: Mapping[int, bytes]
    notes: tuple[str, ...] = ()


def bad_measurements(what: str, *, where: str = _WHERE, hint: str | None = None) -> UsageError:
    """The error for a measurements file that does not parse."""
    return UsageError(what, where=where, hint=hint, code="bad-file")


def read_measurements(data: bytes, *, where: str = _WHERE) -> tuple[MeasurementSet, ...]:
    """Every set of a measurements file, in its order; at least one.

    Raises UsageError (``bad-file``) for anything else than the forms above, a name or register twice, another
    hash, a value that is not 96 hex digits, and more than SETS_MAX sets. ``where`` is the file's name.
    """
    if len(data) > MEASUREMENTS_MAX:
        raise bad_measurements(f"larger than {MEASUREMENTS_MAX} bytes", where=where, hint=FORMS)
    text = _text(data, where)
    sets = tuple(_sets_of_text(text, where))
    if not sets:
        raise bad_measurements("it has no registers", where=where, hint=FORMS)
    if len(sets) > SETS_MAX:
        raise bad_measurements(f"{len(sets)} sets; at most {SETS_MAX} are read", where=where)
    names = [each.name for each in sets if each.name]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise bad_measurements(f"two sets are named {shown(twice)}", where=where)
    return sets


def choose_set(
    sets: Sequence[MeasurementSet], name: str | None, *, where: str = _WHERE
) -> tuple[MeasurementSet, ...]:
    """The set that ``name`` names; without a name the only one, or all that have the same registers.

    Raises UsageError (``bad-file``) when there is no such set, or several different ones and no name.
    """
    known = ", ".join(shown(each.name) for each in sets if each.name) or "none has a name"
    if name is not None:
        chosen = tuple(each for each in sets if each.name == name)
        if not chosen:
            raise bad_measurements(
                f"no set is named {shown(name)}", where=where, hint=f"the file's sets: {known}"
            )
        return chosen
    if any(each.pcrs != sets[0].pcrs for each in sets):
        raise bad_measurements(
            f"{len(sets)} sets with different registers",
            where=where,
            hint=f"--set NAME names the one that is meant, --any-set accepts each of them; names: {known}",
        )
    return tuple(sets[:1])


def missing_registers(pcrs: Mapping[int, bytes], wanted: Sequence[int]) -> str | None:
    """Which of the ``wanted`` registers are not there, in words; None when all are."""
    missing = [f"PCR{index}" for index in wanted if index not in pcrs]
    if not missing:
        return None
    has = ", ".join(f"PCR{index}" for index in sorted(pcrs))
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; it has {has}"


# ---------------------------------------------------------------------- the forms


def _text(data: bytes, where: str) -> str:
    """The file's text: UTF-8, or UTF-16 with the byte order mark that PowerShell's ``>`` writes."""
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-SIG")
        what, hint = f"not {name} at byte {error.start}", FORMS
        if data.startswith(b".eif"):
            what, hint = "an image, not measurements", "eif measure IMAGE > FILE"
        raise bad_measurements(what, where=where, hint=hint) from None


def _sets_of_text(text: str, where: str) -> Iterator[MeasurementSet]:
    lines = text.splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith(_SAID)):
        del lines[0]
    rest = "\n".join(lines).strip()
    if not rest:
        raise bad_measurements("the file is empty", where=where, hint=FORMS)
    found = [
        _LINE.fullmatch(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]
    if found and all(found):
        yield _of_lines([match for match in found if match], where)
        return
    if rest[0] in "{[" and not re.match(r"\[+[\w. \"-]+\]+\s*$", rest.partition("\n")[0]):
        yield from _sets(_json(rest, where), "", where, 0)
        return
    if not re.search(r"^\s*[\w\"'.-]+\s*=", rest, re.MULTILINE):
        raise bad_measurements("none of the forms that are read", where=where, hint=FORMS)
    try:
        value = parse_toml(rest.encode(), max_size=2 * MEASUREMENTS_MAX)
    except Rejected as refused:
        raise bad_measurements(f"neither JSON nor TOML: {refused.what}", where=where, hint=FORMS) from None
    yield from _sets(value, "", where, 0)


def _json(text: str, where: str) -> Any:
    if too_deep(text.encode()):
        raise bad_measurements(f"nested deeper than {MAX_DEPTH}", where=where, hint=FORMS)
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        raise bad_measurements(f"not JSON: {str(error)[:200]}", where=where, hint=FORMS) from None


def _of_lines(found: Sequence[re.Match[str]], where: str) -> MeasurementSet:
    pairs: dict[str, Any] = {}
    for match in found:
        name = match["after"] or match["before"]
        if name in pairs:
            raise bad_measurements(f"{name} appears twice", where=where)
        pairs[name] = match["value"] or match["value2"]
    return _registers(pairs, "", where, bare=False)


def _sets(value: Any, name: str, where: str, depth: int) -> Iterator[MeasurementSet]:
    """The sets in a value: one object of registers, an object around one, or a list or object of several."""
    if depth > 4:
        raise bad_measurements("the registers are nested too deep", where=where, hint=FORMS)
    if isinstance(value, list):
        if not value:
            raise bad_measurements("an empty list: no enclave was running", where=where, hint=FORMS)
        for each in value:
            if not isinstance(each, dict):
                raise bad_measurements("a list of something else than objects", where=where, hint=FORMS)
            yield from _sets(each, _named(each), where, depth + 1)
        return
    if not isinstance(value, dict):
        raise bad_measurements("not an object with registers", where=where, hint=FORMS)
    wrappers = [key for key in _WRAPPERS if isinstance(value.get(key), (dict, list))]
    if wrappers:
        yield from _wrapped(value, wrappers, name, where, depth)
    elif any(_LIKE_REGISTER.fullmatch(key) for key in value) or set(value) & set(_ALGORITHMS) or not value:
        yield _registers(value, name, where, bare=False)
    elif all(isinstance(each, (dict, list)) for each in value.values()):
        for key, each in value.items():
            yield from _sets(each, f"{name}.{key}" if name else key, where, depth + 1)
    else:
        odd = next((key for key, each in value.items() if not isinstance(each, (dict, list))), "")
        raise bad_measurements(f"{shown(odd)} is not a register", where=where, hint=FORMS)


def _wrapped(
    value: Mapping[str, Any], wrappers: list[str], name: str, where: str, depth: int
) -> Iterator[MeasurementSet]:
    """What lies under ``Measurements`` or ``pcrs``; what is beside it describes the image."""
    beside = [key for key in value if _LIKE_REGISTER.fullmatch(key)]
    if len(wrappers) > 1 or beside:
        both = ", ".join([*wrappers, *beside])
        raise bad_measurements(f"registers in several places: {both}", where=where)
    inner = value[wrappers[0]]
    if isinstance(inner, list) or (
        not any(_LIKE_REGISTER.fullmatch(key) or _INDEX.fullmatch(key) for key in inner)
        and not set(inner) & set(_ALGORITHMS)
    ):
        yield from _sets(inner, name, where, depth + 1)
        return
    signed = value.get("IsSigned") is True
    notes = []
    if signed and inner.get("PCR8") == "0" * _DIGITS:
        inner = {key: text for key, text in inner.items() if key != "PCR8"}
        notes.append(
            "PCR8 is zeros though the file says that the image is signed: the signer is not compared; "
            "eif measure IMAGE prints the register"
        )
    found = _registers(inner, name or _named(value), where, bare=True)
    notes += found.notes
    flags = value.get("Flags")
    if isinstance(flags, str) and "DEBUG" in flags.upper():
        notes.append(
            "this enclave runs in debug mode: its documents have zeros in PCR0, PCR1 and PCR2, so none has "
            "these measurements"
        )
    for key, what in (("CheckCRC", "its CRC-32 is wrong"), ("SignatureCheck", "its signature is not valid")):
        if value.get(key) is False:
            notes.append(f"describe-eif says of this image that {what}")
    yield MeasurementSet(found.name, found.pcrs, tuple(notes))


def _named(value: Mapping[str, Any]) -> str:
    return next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "")


def _registers(value: Mapping[str, Any], name: str, where: str, *, bare: bool) -> MeasurementSet:
    """An object of registers; ``bare`` numbers are register names under ``pcrs`` only."""
    pcrs: dict[int, bytes] = {}
    upper: list[str] = []
    for key, text in value.items():
        if key in _ALGORITHMS:
            if not isinstance(text, str) or not re.sub(r"[-_ ]", "", text.lower()).startswith("sha384"):
                raise bad_measurements(
                    "not SHA-384, which is what Nitro measures with", where=f"{where} {key}"
                )
            continue
        index = _index(key, where, bare=bare)
        if index in pcrs:
            raise bad_measurements(f"PCR{index} appears twice", where=where)
        pcrs[index] = _value(text, f"{where} PCR{index}")
        if isinstance(text, str) and re.search("[A-F]", text):
            upper.append(f"PCR{index}")
    if not pcrs:
        raise bad_expectation("it has no registers", where=where, hint="give PCR0, PCR1 and PCR2")
    _refuse_zeros(pcrs, where)
    note = f"{', '.join(upper)} in upper case: the same value here; a key policy wants it in lower case"
    return MeasurementSet(name, MappingProxyType(pcrs), (note,) if upper else ())


def _refuse_zeros(pcrs: Mapping[int, bytes], where: str) -> None:
    zeros = [f"PCR{index}" for index in (0, 1, 2) if index in pcrs and not any(pcrs[index])]
    if zeros:
        raise bad_expectation(
            f"{', '.join(zeros)}: zeros, which every enclave in debug mode has, so they pin no code",
            where=where,
            hint="take the measurements from the image: eif measure IMAGE",
        )
    if 8 in pcrs and not any(pcrs[8]):
        raise bad_expectation(
            "zeros, as in every unsigned image, so it pins no signer",
            where=f"{where} PCR8",
            hint="leave PCR8 out",
        )


def _index(key: str, where: str, *, bare: bool) -> int:
    match = _REGISTER.fullmatch(key)
    number = match[1] if match else key if bare and _INDEX.fullmatch(key) else None
    if number is None or int(number) >= PCR_COUNT_MAX:
        raise bad_measurements(f"{shown(key)} is not a register", where=where, hint="PCR0 to PCR31")
    return int(number)


def _value(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise bad_measurements(f"not text but {type(text).__name__}", where=where, hint="96 hex digits")
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    if not _HEX.fullmatch(digits):
        raise bad_measurements("not hex", where=where, hint=f"{_DIGITS} hex digits")
    if len(digits) != _DIGITS:
        kind = _SIZES.get(len(digits))
        raise bad_measurements(
            f"{len(digits)} hex digits{f', {kind}' if kind else ''}; a register has {_DIGITS}, a SHA-384",
            where=where,
        )
    return bytes.fromhex(digits)
