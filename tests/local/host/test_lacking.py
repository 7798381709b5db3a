"""What an image's kernel lacks is refused on the software host as there, and told once."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest_build import sandbox
from coattest_build.sandbox import Lack
from coattest_local.host.enclave import run_enclave
from coattest_local.host.lacking import CALLS, FAMILIES, config_of, kernel_profile, lacks_of
from support.enclave.enclave_image import compile_program, make_image, rootfs
from support.enclave.lacking import results, words

ROLE, INSTANCE = "arn:aws:iam::111122223333:role/parent", "i-1234567890abcdef0"
OURS = {"BuildMetadata": {"BuildTool": "coattest"}, "CustomMetadata": {}}
CONTAINER = {**OURS, "CustomMetadata": {"kernel": {"profile": "container", "inputs": "sha256:00"}}}
AWS = {"BuildMetadata": {"BuildTool": "nitro-cli"}, "CustomMetadata": {}}
ALL = lacks_of({})
TOLD = "software host: the image's kernel lacks"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that tries calls and sockets."""
    return compile_program("lacking", tmp_path_factory.mktemp("lacking"))


def tried(program: Path, folder: Path, metadata: object, lacks: tuple[Lack, ...] = ALL) -> str:
    """The console of an image with this metadata whose program tries all of ``lacks``, twice."""
    arguments = ["/bin/lacking", *words(lacks), *words(lacks)]
    text = json.dumps(metadata).encode()
    image = make_image(folder / "l.eif", rootfs(program), cmd=arguments, metadata=text)
    with pytest.raises(EnvironmentFailure) as caught:
        run_enclave(image, folder / "e", role_arn=ROLE, instance_id=INSTANCE)
    assert caught.value.code == "enclave-ended"
    return (folder / "e/console.log").read_text()


def test_what_the_minimal_kernel_lacks_ends_as_there_and_is_told_once(program: Path, tmp_path: Path) -> None:
    """Each call and family has the errno of a kernel without it, and its option is named on the console."""
    lacks = lacks_of(config_of("minimal"))
    assert {lack.what for lack in ALL} - {lack.what for lack in lacks} == {
        "files without a name (CONFIG_MEMFD_CREATE)"
    }
    console = tried(program, tmp_path, OURS, lacks)
    assert results(console) == {word: lack.errno for lack in lacks for word in words([lack])}
    told = [line for line in console.splitlines() if line.startswith(TOLD)]
    assert sorted(told) == sorted(f"{TOLD} {lack.what}: refused here too" for lack in lacks)


def test_what_the_container_kernel_has_works(program: Path, tmp_path: Path) -> None:
    """TCP and the rest that its fragment adds; what it lacks too is refused."""
    lacks = lacks_of(config_of("container"))
    console = tried(program, tmp_path, CONTAINER)
    expected = {word: lack.errno for lack in lacks for word in words([lack])}
    found = results(console)
    assert {word: found[word] for word in expected} == expected
    assert found["family:2"] == 0
    assert errno.ENOSYS not in {number for word, number in found.items() if word not in expected}
    assert "CONFIG_INET)" not in console
    assert {"INET", "SYSVIPC", "POSIX_MQUEUE", "INOTIFY_USER", "AIO"} <= {
        name for name in (*FAMILIES, *CALLS) if not any(f"CONFIG_{name})" in lack.what for lack in lacks)
    }


def test_an_image_with_a_kernel_of_aws_lacks_nothing(program: Path, tmp_path: Path) -> None:
    """What nitro-cli made is not refused TCP, which its kernel has."""
    console = tried(program, tmp_path, AWS, tuple(lack for lack in ALL if lack.families[:1] == (2,)))
    assert results(console) == {"family:2": 0}
    assert TOLD not in console


@pytest.mark.parametrize(
    ("metadata", "profile"),
    [
        (OURS, "minimal"),
        (CONTAINER, "container"),
        (AWS, None),
        ({**OURS, "CustomMetadata": None}, None),  # eif container build --style nitro-cli: AWS's kernel
        ({**OURS, "CustomMetadata": {"kernel": {"profile": 7}}}, "minimal"),
        ([], None),
        ({}, None),
    ],
)
def test_the_profile_is_in_the_metadata(metadata: object, profile: str | None) -> None:
    """An image of coattest's has the minimal kernel unless it says otherwise."""
    assert kernel_profile(json.dumps(metadata).encode()) == profile


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_metadata_that_is_none_names_no_kernel(data: bytes) -> None:
    """It is not measured, and anybody may have written it."""
    assert kernel_profile(data) is None


def test_an_unknown_profile_has_no_more_than_minimal() -> None:
    """A name that this version does not know gives nothing away."""
    assert config_of("other") == config_of("minimal")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_call_belongs_to_two_options(machine: str) -> None:
    """The table has each number once, and as many on either machine but for what only x86_64 has."""
    numbers = [number for lack in lacks_of({}, machine) for number in lack.calls]
    assert len(set(numbers)) == len(numbers)


REFUSED_WITHOUT_LISTENER = """
import importlib.util, json, socket, sys
spec = importlib.util.spec_from_file_location("entry", sys.argv[1])
entry = importlib.util.module_from_spec(spec)
spec.loader.exec_module(entry)
entry.SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 31
entry.checked("no_new_privs", entry.libc.prctl(entry.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
assert entry.refuse_lacking(json.loads(sys.argv[2])) is None
try:
    socket.socket(socket.AF_INET)
except OSError as error:
    print(error.errno)
socket.socketpair()
"""


def test_where_no_listener_is_allowed_it_is_refused_all_the_same() -> None:
    """A host that watches us itself allows none: the calls end with their errno, untold."""
    lacks = [{"what": "TCP/IP", "errno": errno.EAFNOSUPPORT, "calls": [], "families": [2]}]
    entry = str(Path(sandbox.__file__).with_name("entry.py"))
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_WITHOUT_LISTENER, entry, json.dumps(lacks)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("97\n", "", 0)
