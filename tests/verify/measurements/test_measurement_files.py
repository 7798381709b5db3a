"""Measurement files as nitro-cli, our own tools and people write them."""

from __future__ import annotations

import codecs
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coattest.errors import UsageError
from coattest_verify.attestation.measurements import (
    MEASUREMENTS_MAX,
    SETS_MAX,
    MeasurementSet,
    choose_set,
    missing_registers,
    read_measurements,
)
from support.shared_cases import shared_folder
from support.verify.attestation_cli import verify
from support.verify.nitro_ca import PCRS, document, usual_chain

REGISTERS = {f"PCR{index}": PCRS[index].hex() for index in (0, 1, 2)}
WANTED = {index: PCRS[index] for index in (0, 1, 2)}
NITRO = {"HashAlgorithm": "Sha384 { ... }", **REGISTERS}
OTHER = {f"PCR{index}": f"{index + 1}" * 96 for index in (0, 1, 2)}


def read(value: object) -> dict[int, bytes]:
    """The registers of the one set in a value's JSON, or in text."""
    data = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None
    (found,) = read_measurements(json.dumps(value).encode() if data is None else data)
    return dict(found.pcrs)


LINES = "\n".join(f"{value} {name}" for name, value in REGISTERS.items()) + "\n"
ENCLAVE = {"EnclaveName": "one", "EnclaveID": "i-1-enc1", "State": "RUNNING", "Flags": "NONE"}
FORMS: dict[str, Any] = {
    "nitro-cli build-enclave": {"Measurements": NITRO},
    "its log": "Start building the Enclave Image...\nUsing the locally available Docker image...\n"
    "Enclave Image successfully created.\n" + json.dumps({"Measurements": NITRO}, indent=2),
    "nitro-cli describe-eif": {"EifVersion": 4, "Measurements": NITRO, "IsSigned": False, "CheckCRC": True},
    "nitro-cli describe-enclaves": [ENCLAVE | {"Measurements": NITRO}],
    "eif describe --json": {"version": 4, "Measurements": NITRO, "metadata": {"a": 1}, "findings": []},
    "registers alone": REGISTERS,
    "with an algorithm": NITRO | {"HashAlgorithm": "SHA-384"},
    "lower case": {name.lower(): value for name, value in REGISTERS.items()},
    "upper-case values": {name: value.upper() for name, value in REGISTERS.items()},
    "0x": {name: f"0x{value}" for name, value in REGISTERS.items()},
    "pcrs": {"pcrs": REGISTERS, "module_id": "i-1"},
    "pcrs by number": {"pcrs": {name[3:]: value for name, value in REGISTERS.items()}},
    "PCR by number": {"PCR": {name[3:]: value for name, value in REGISTERS.items()}},
    "lower-case measurements": {"measurements": REGISTERS},
    "a byte order mark": codecs.BOM_UTF8 + json.dumps(NITRO).encode(),
    "PowerShell's UTF-16": codecs.BOM_UTF16_LE + json.dumps(NITRO).encode("utf-16-le"),
    "CRLF": json.dumps({"Measurements": NITRO}, indent=2).replace("\n", "\r\n"),
    "TOML": "".join(f'{name} = "{value}"\n' for name, value in REGISTERS.items()),
    "a TOML table": "[measurements]\n"
    + "".join(f'{name.lower()} = "0x{value}"\n' for name, value in REGISTERS.items()),
    "a named TOML table": "# ours\n['release 1']\n"
    + "".join(f'{name} = "{value}"\n' for name, value in REGISTERS.items()),
    "HEX PCR0": LINES,
    "HEX PCR0 with a comment": "# qos\n\n" + LINES,
    "PCR0: HEX": "\n".join(f"{name}: {value}" for name, value in REGISTERS.items()),
    "PCR0 HEX": "\r\n".join(f"{name}\t0x{value}" for name, value in REGISTERS.items()),
    "PCR0=HEX": "\n".join(f"{name}={value}" for name, value in REGISTERS.items()),
    "one named set": {"v1": REGISTERS},
}


@pytest.mark.parametrize("form", FORMS)
def test_measurements_are_read_in_every_form(form: str) -> None:
    """Each gives the same three registers."""
    assert read(FORMS[form]) == WANTED


def test_register_names_run_to_31() -> None:
    """PCR31 is a register, PCR32 is not."""
    assert read({"PCR31": "AA" * 48}) == {31: b"\xaa" * 48}
    assert read({"PCR10": "aa" * 48}) == {10: b"\xaa" * 48}
    with pytest.raises(UsageError, match="'PCR32' is not a register"):
        read({"PCR32": "aa" * 48})


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "the file is empty"),
    "a word": (
        "PCR0",
        "none of the forms that are read (measurements are the JSON of nitro-cli build-enclave",
    ),
    "prose": ("the registers are secret", "none of the forms that are read"),
    "an image": (b".eif\0\4\xff\xff", "an image, not measurements (eif measure IMAGE > FILE)"),
    "binary": (b"\x84\x44\xff", "not UTF-8 at byte 0"),
    "half of a UTF-16": (codecs.BOM_UTF16_LE + b"\x00\xd8", "not UTF-16 at byte"),
    "an empty list": ([], "an empty list: no enclave was running"),
    "a number": ("1", "none of the forms"),
    "null": ("null", "none of the forms"),
    "an empty object": ({}, "it has no registers (give PCR0, PCR1 and PCR2)"),
    "an algorithm alone": ({"HashAlgorithm": "Sha384"}, "it has no registers"),
    "deep nesting": ("[" * 100_000, "nested deeper than 32"),
    "an unknown name": ({"PCR0": "aa" * 48, "Extra": ""}, "'Extra' is not a register"),
    "a typing error": (REGISTERS | {"PRC8": "aa" * 48}, "'PRC8' is not a register (PCR0 to PCR31)"),
    "one under Measurements": ({"Measurements": NITRO | {"PCRX": ""}}, "'PCRX' is not a register"),
    "a leading zero": ({"PCR01": "aa" * 48}, "'PCR01' is not a register"),
    "a short value": ({"PCR0": "aa" * 47}, "measurements PCR0: 94 hex digits; a register has 96, a SHA-384"),
    "a SHA-256": ({"PCR0": "aa" * 32}, "64 hex digits, that of a SHA-256; a register has 96"),
    "a SHA-512": ({"PCR0": "aa" * 64}, "128 hex digits, that of a SHA-512"),
    "a SHA-256 on a line": (f"{'aa' * 32} PCR0", "64 hex digits, that of a SHA-256"),
    "spaces in a value": ({"PCR0": "aa " * 32}, "measurements PCR0: not hex (96 hex digits)"),
    "base64": ({"PCR0": "q6ur" * 16}, "measurements PCR0: not hex"),
    "a number as value": ({"PCR0": 0}, "measurements PCR0: not text but int"),
    "another hash": ({"HashAlgorithm": "Sha256", "PCR0": "aa" * 48}, "HashAlgorithm: not SHA-384"),
    "a hash that is no text": ({"HashAlgorithm": 384, "PCR0": "aa" * 48}, "HashAlgorithm: not SHA-384"),
    "a name twice": ('{"PCR0": "A", "PCR0": "B"}', "'PCR0' appears twice"),
    "a register twice": ({"PCR0": "aa" * 48, "pcr0": "bb" * 48}, "PCR0 appears twice"),
    "a line twice": (LINES + LINES, "PCR0 appears twice"),
    "two places": ({"Measurements": NITRO, "pcrs": REGISTERS}, "in several places: Measurements, pcrs"),
    "beside them": ({"Measurements": NITRO, "PCR0": "aa" * 48}, "in several places: Measurements, PCR0"),
    "no object": ({"Measurements": ["aa"]}, "a list of something else than objects"),
    "two sets of one name": ([{"name": "a"} | {"pcrs": REGISTERS}] * 2, "two sets are named 'a'"),
    "too many": ([{"Measurements": NITRO}] * (SETS_MAX + 1), f"{SETS_MAX + 1} sets; at most {SETS_MAX}"),
    "too large": (b" " * (MEASUREMENTS_MAX + 1), f"larger than {MEASUREMENTS_MAX} bytes"),
    "zeros": ({"PCR0": "00" * 48, "PCR1": "00" * 48}, "PCR0, PCR1: zeros, which every enclave in debug"),
    "a PCR8 of zeros": (REGISTERS | {"PCR8": "00" * 48}, "zeros, as in every unsigned image"),
    "broken TOML": ("a = [\nPCR0 = 1", "neither JSON nor TOML"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_exactly(name: str) -> None:
    """An unknown name, another hash, a value of another length: nothing is passed over. Exit 2."""
    value, said = BAD[name]
    with pytest.raises(UsageError) as caught:
        read(value)
    assert said in str(caught.value)
    assert (caught.value.exit_code, caught.value.code in ("bad-file", "bad-expectation")) == (2, True)


def test_several_sets_want_a_choice() -> None:
    """Two releases in one file: nothing is chosen silently, unless they are the same."""
    sets = read_measurements(json.dumps({"v1": REGISTERS, "v2": OTHER}).encode())
    assert [each.name for each in sets] == ["v1", "v2"]
    with pytest.raises(UsageError, match=r"2 sets with different registers .*--set NAME.*'v1', 'v2'"):
        choose_set(sets, None)
    assert choose_set(sets, "v2") == sets[1:]
    with pytest.raises(UsageError, match=r"no set is named 'v3' \(the file's sets: 'v1', 'v2'\)"):
        choose_set(sets, "v3")
    same = read_measurements(
        json.dumps([ENCLAVE | {"Measurements": NITRO}, {"Measurements": NITRO}]).encode()
    )
    assert choose_set(same, None) == same[:1]


def test_missing_registers_are_named() -> None:
    """Which are missing, and which are there."""
    assert missing_registers(WANTED, (0, 1, 2)) is None
    assert missing_registers({1: b"", 4: b""}, (0, 1, 2)) == "PCR0 and PCR2 are missing; it has PCR1, PCR4"


def test_what_the_tools_say_of_an_enclave_or_image_is_passed_on() -> None:
    """Debug mode, a wrong CRC-32, upper case: the registers are read, and a person is told."""
    (debug,) = read_measurements(
        json.dumps([ENCLAVE | {"Measurements": NITRO, "Flags": "DEBUG_MODE"}]).encode()
    )
    assert debug.name == "one"
    assert any("debug mode: its documents have zeros" in note for note in debug.notes)
    (image,) = read_measurements(json.dumps({"Measurements": NITRO, "CheckCRC": False}).encode())
    assert any("CRC-32 is wrong" in note for note in image.notes)
    (upper,) = read_measurements(json.dumps({"PCR0": "AA" * 48}).encode())
    assert upper.notes == ("PCR0 in upper case: the same value here; a key policy wants it in lower case",)


CASES = {
    "m_build.json": None,
    "m_describe_eif.json": None,
    "m_describe_eif_signed.json": None,
    "m_describe_enclaves.json": None,
    "m_flat.json": None,
    "m_lower.json": None,
    "m_upper.json": None,
    "m_zero.json": "PCR0, PCR1, PCR2: zeros, which every enclave in debug mode has, so they pin no code",
}


@pytest.mark.parametrize("name", CASES)
def test_the_shared_cases_are_read_or_refused(name: str) -> None:
    """Eight files as they are found: seven have the same registers, one is zeros where there must be none."""
    data = (shared_folder("cases/measurements") / name).read_bytes()
    refused = CASES[name]
    if refused is None:
        (found,) = read_measurements(data, where=name)
        assert found.pcrs[0].hex().startswith("eb7d0dab08ff41546d7e5659aee883af")
        assert sorted(found.pcrs) == [0, 1, 2]
    else:
        with pytest.raises(UsageError) as caught:
            read_measurements(data, where=name)
        assert f"{name}" in str(caught.value)
        assert refused in str(caught.value)


def test_every_shared_case_is_named_here() -> None:
    """A new file wants a verdict."""
    assert {path.name for path in shared_folder("cases/measurements").iterdir()} == set(CASES)


def test_a_signed_image_has_its_fourth_register() -> None:
    """With its PCR8 the signer is compared; with zeros there a note says that it is not."""
    data = json.loads((shared_folder("cases/measurements") / "m_describe_eif_signed.json").read_bytes())
    (found,) = read_measurements(json.dumps(data).encode())
    assert any(note.startswith("PCR8 is zeros though the file says that") for note in found.notes)
    data["Measurements"]["PCR8"] = "ab" * 48
    assert read(data)[8] == b"\xab" * 48


@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(str.encode)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=4) | st.just("aa" * 48),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["PCR0", "pcr1", "pcrs", "Measurements", "0", "a", "HashAlgorithm", "IsSigned"]
                ),
                inner,
                max_size=4,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
    | st.lists(st.sampled_from(["aa" * 48, "PCR0", " ", "\n", "=", '"', "[a]", "PCR1", "0x", ":"])).map(
        lambda parts: "".join(parts).encode()
    )
)
def test_any_file_gives_registers_or_one_kind_of_error(data: bytes) -> None:
    """Nothing but UsageError escapes, and what is read are registers of 48 bytes."""
    sets: tuple[MeasurementSet, ...] = ()
    with contextlib.suppress(UsageError):
        sets = read_measurements(data)
    for each in sets:
        assert each.pcrs
        assert all(0 <= index < 32 and len(value) == 48 for index, value in each.pcrs.items())


# ---------------------------------------------------------------------- the command


def root() -> str:
    """The test authority, as --root wants it."""
    return f"sha256:{usual_chain().root.sha256.hex()}"


def test_the_command_reads_stdin_sets_and_clocks(tmp_path: Path) -> None:
    """One document over a pipe, against a file of two releases; and text that is none."""
    releases = tmp_path / "releases.toml"
    lines = [
        f"[{name}]\n" + "".join(f'{key} = "{value}"\n' for key, value in registers.items())
        for name, registers in (("v1", OTHER), ("v2", REGISTERS))
    ]
    releases.write_text("\n".join(lines))
    sent = json.dumps({"attestation": document().hex()})
    common = ("-", "--root", root(), "--at", "document", "--expect", releases)
    undecided = verify(*common, stdin=sent)
    assert (undecided.returncode, "--set NAME" in undecided.stderr) == (2, True)
    assert verify(*common, "--set", "v2", stdin=sent).returncode == 0
    assert verify(*common, "--any-set", stdin=sent).returncode == 0
    wrong = verify(*common, "--set", "v1", stdin=sent)
    assert (wrong.returncode, "PCR0" in wrong.stdout) == (1, True)
    text = verify(*common, "--set", "v2", stdin="Bad gateway\n")
    assert (text.returncode, "not a document in hex, base64 or JSON" in text.stdout) == (1, True)
    assert "would do nothing without --expect" in verify("-", "--set", "v2", stdin=sent).stderr


def test_the_command_says_how_far_ahead_a_document_is(tmp_path: Path) -> None:
    """A clock that is behind by two seconds: refused with the distance, accepted with that much skew."""
    path = tmp_path / "document"
    path.write_bytes(document())
    at = "2026-01-15T11:59:58Z"
    options = (path, "--root", root(), "--at", at, "--unsafe-any-measurement")
    refused = verify(*options)
    assert refused.returncode == 1
    assert "2000 ms ahead" in refused.stdout
    assert verify(*options, "--clock-skew", "1999").returncode == 1
    assert verify(*options, "--clock-skew", "2000").returncode == 0
    assert verify(*options, "--clock-skew", "300001").returncode == 2
    with_age = verify(*options, "--clock-skew", "2000", "--max-age", "5")
    assert with_age.returncode == 0
