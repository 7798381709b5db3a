"""What a command inside the sandbox can see and do, asked from inside, as root and as an ordinary user."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import EnvironmentFailure
from coattest_build import sandbox
from coattest_build.sandbox import isolate
from coattest_build.sandbox.isolate import Bind
from support.build.source_roots import PYTHONPATH
from support.raises import raises_code
from support.unnoticed import unnoticed_where_it_waits

PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
NOBODY = 65534

pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs a python3 below /usr to run inside")

REPORT = r"""
import ctypes, json, os, socket
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0
status = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps({
    "pid": os.getpid(), "uid": os.getuid(), "top": sorted(os.listdir("/")), "dev": sorted(os.listdir("/dev")),
    "processes": sorted(name for name in os.listdir("/proc") if name.isdigit()),
    "proc_sys": os.path.exists("/proc/sys"),
    "host_proc_1": os.path.exists("/proc/1"),
    "caps": {name: status[name] for name in status if name.startswith("Cap")},
    "no_new_privs": status["NoNewPrivs"], "seccomp": status["Seccomp"],
    "interfaces": [name for _, name in socket.if_nameindex()],
    "connect": attempt(socket.create_connection, ("192.0.2.1", 80), 1),
    "vsock": attempt(socket.socket, 40, socket.SOCK_STREAM),
    "write_usr": attempt(os.mkdir, "/usr/coattest-test"),
    "write_root": attempt(os.mkdir, "/coattest-test"),
    "write_tmp": attempt(os.mkdir, "/tmp/coattest-test"),
    "mount": libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
    "unshare": libc.unshare(0x10000000),
    "session": os.getsid(0), "hostname": socket.gethostname(), "env": dict(os.environ),
}))
"""

KEYS = r"""
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
session = ctypes.c_int(-3)
found = {}
for name, arguments in (
    ("keyctl", (KEYCTL, 0, session, 0)),
    ("request_key", (REQUEST_KEY, b"user", b"NAME", None, session)),
    ("add_key", (ADD_KEY, b"user", b"NAME-planted", b"x", 1, session)),
):
    found[name] = ctypes.get_errno() if libc.syscall(*arguments) == -1 else 0
print(json.dumps(found))
"""
"""Looks for the session keyring, for the secret in it, and puts one of its own there (keyrings(7))."""

OUTER = """
import sys
from pathlib import Path
from coattest_build.sandbox import Bind, run_isolated
root, python, code = sys.argv[1:]
binds = [Bind(Path("/usr"), "/usr")]
sys.exit(run_isolated(Path(root), [python, "-I", "-c", code], env={"GIVEN": "yes"}, binds=binds))
"""


def make_root(path: Path) -> Path:
    """A root directory whose /usr is the host's, for tests that need some program to run."""
    path.mkdir(mode=0o755, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (path / name).symlink_to(f"usr/{name}")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root")


def inside(root: Path, code: str, **options: Any) -> int:
    """The exit code of Python code run inside ``root`` with the host's /usr bound read-only."""
    assert PYTHON
    binds = [Bind(Path("/usr"), "/usr"), *options.pop("binds", ())]
    return sandbox.run_isolated(root, [PYTHON, "-I", "-c", code], env={}, binds=binds, **options)


LOOPBACK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
peer = socket.create_connection(server.getsockname())
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    raise SystemExit(error.errno)
"""


def test_the_loopback_is_up_only_where_asked_for(root: Path) -> None:
    """TCP between the sandbox's own processes; nothing beyond is reached."""
    assert inside(root, LOOPBACK, loopback=True) == errno.ENETUNREACH
    assert inside(root, LOOPBACK) not in (0, errno.ENETUNREACH)


def report(root: Path, user: int | None) -> dict[str, Any]:
    assert PYTHON
    command = [PYTHON, "-c", OUTER, str(root), PYTHON, REPORT]
    options: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    result = subprocess.run(
        command, env={"PYTHONPATH": PYTHONPATH}, capture_output=True, check=False, cwd="/", **options
    )
    assert result.returncode == 0, result.stderr.decode()
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


@pytest.fixture(params=["this user", "an ordinary user"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "this user":
        base = request.getfixturevalue("tmp_path")
        return report(make_root(base / "root"), None)
    if os.geteuid() != 0:
        pytest.skip("this user is ordinary already; only root can become another one")
    # pytest's own temporary folders are private to this user.
    base = Path("/var/tmp") / f"coattest-sandbox-{os.getpid()}"
    base.mkdir(mode=0o755)
    try:
        return report(make_root(base / "root"), NOBODY)
    finally:
        shutil.rmtree(base)


def test_no_capability_is_left_and_none_can_come_back(seen: dict[str, Any]) -> None:
    """Every capability set, the bounding set included, is empty, and no_new_privs is set."""
    assert set(seen["caps"]) >= {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert {int(value, 16) for value in seen["caps"].values()} == {0}
    assert seen["no_new_privs"] == "1"
    assert seen["mount"] == -1
    assert seen["unshare"] == -1, "a nested user namespace would bring capabilities back"


def test_there_is_no_network(seen: dict[str, Any]) -> None:
    """Only an unconfigured loopback exists, nothing can be reached, and AF_VSOCK sockets are refused."""
    assert seen["interfaces"] == ["lo"]
    assert seen["connect"] != 0
    assert seen["seccomp"] == "2"
    assert seen["vsock"] == 1  # EPERM, from the filter


def test_no_key_of_the_session_can_be_read_or_planted(root: Path) -> None:
    """The session's keyring is inherited, and no namespace covers it: a user's secrets may be in it."""
    first = {"x86_64": 248, "aarch64": 217}[os.uname().machine]
    numbers = {"ADD_KEY": first, "REQUEST_KEY": first + 1, "KEYCTL": first + 2}
    name = f"coattest-test-{os.getpid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    key = libc.syscall(numbers["ADD_KEY"], b"user", name.encode(), b"secret", 6, ctypes.c_int(-3))
    if key == -1:
        pytest.skip(f"this host has no keyring here: {os.strerror(ctypes.get_errno())}")
    try:
        code = KEYS.replace("NAME", name)
        for variable, number in numbers.items():
            code = code.replace(variable, str(number))
        reader, writer = os.pipe()
        with os.fdopen(reader) as said:
            with os.fdopen(writer, "w") as stdout:
                assert inside(root, code, stdout=stdout) == 0
            assert set(json.loads(said.read()).values()) == {errno.ENOSYS}
    finally:
        libc.syscall(numbers["KEYCTL"], 9, ctypes.c_long(key), ctypes.c_int(-3))  # KEYCTL_UNLINK


def test_no_path_of_the_host_is_visible(seen: dict[str, Any]) -> None:
    """The root holds what it was given, /dev five harmless devices, /proc the sandbox's own processes."""
    assert seen["top"] == ["bin", "dev", "lib", "lib64", "proc", "tmp", "usr"]
    devices = {"null", "zero", "full", "random", "urandom"}
    assert set(seen["dev"]) == devices | {"fd", "stdin", "stdout", "stderr"}
    assert not seen["proc_sys"]
    assert not seen["host_proc_1"]


def test_it_has_processes_session_host_name_and_environment_of_its_own(seen: dict[str, Any]) -> None:
    """The command is process 2 in its own PID namespace and sees nothing of the caller's environment."""
    assert seen["pid"] == 2
    assert seen["processes"] == ["2"]
    assert seen["session"] == 1
    assert seen["hostname"] == "coattest"
    assert {name: value for name, value in seen["env"].items() if name != "LC_CTYPE"} == {"GIVEN": "yes"}


def test_only_tmp_can_be_written(seen: dict[str, Any]) -> None:
    """The root and its binds are read-only; /tmp is an empty tmpfs."""
    assert seen["write_usr"] == seen["write_root"] == 30  # EROFS
    assert seen["write_tmp"] == 0


def test_writable_binds_reach_the_host_and_others_do_not(root: Path, tmp_path: Path) -> None:
    """A bind is read-only unless it is asked to be writable."""
    shared = tmp_path / "shared"
    shared.mkdir()
    code = "open('/work/file', 'w').write('x')"
    assert inside(root, code, binds=[Bind(shared, "/work", writable=True)]) == 0
    assert (shared / "file").read_text() == "x"
    (shared / "file").unlink()
    code = "import sys\ntry: open('/work/file', 'w')\nexcept OSError as e: sys.exit(e.errno)"
    assert inside(root, code, binds=[Bind(shared, "/work")]) == 30
    assert not (root / "work").exists(), "mount points are not made in the root itself"


def test_a_device_in_a_bound_tree_cannot_be_opened(root: Path, tmp_path: Path) -> None:
    """Binds are nodev, so a device node among the files is dead."""
    shared = tmp_path / "shared"
    shared.mkdir()
    try:
        os.mknod(shared / "null", 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root can make a device node")
    code = "import sys\ntry: open('/work/null')\nexcept OSError as e: sys.exit(e.errno)"
    assert inside(root, code, binds=[Bind(shared, "/work")]) == 13


def test_exit_codes_and_signals_come_through(root: Path) -> None:
    """The exit code is the command's, or 128 + n after signal n."""
    assert inside(root, "raise SystemExit(7)") == 7
    assert inside(root, "import os; os.kill(os.getpid(), 9)") == 128 + 9


def test_a_program_that_is_not_there_is_one_clear_error(root: Path) -> None:
    """A command that cannot be executed is reported by name, not as an exit code."""
    with raises_code(EnvironmentFailure, "no-sandbox", match="run /no/such/program: No such file"):
        sandbox.spawn(root, ["/no/such/program"], env={})


def test_proc_can_be_left_empty(root: Path) -> None:
    """Without ``proc`` nothing at all is in /proc."""
    assert inside(root, "import os, sys; sys.exit(len(os.listdir('/proc')))", proc=False) == 0


def test_killing_it_ends_everything_inside(root: Path) -> None:
    """When the supervising process is killed, a command that ignores signals ends too."""
    assert PYTHON
    reader, writer = os.pipe()
    code = "import signal, time, os\nsignal.signal(15, signal.SIG_IGN)\nos.write(1, b'x')\ntime.sleep(600)"
    process = sandbox.spawn(
        root, [PYTHON, "-I", "-c", code], env={}, binds=[Bind(Path("/usr"), "/usr")], stdout=writer
    )
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    process.kill()
    process.wait()
    assert os.read(reader, 1) == b"", "the pipe closes when the last process inside is gone"
    os.close(reader)


def test_it_ends_when_it_is_told_as_it_begins_to_wait(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python has not yet looked at the signal when the wait begins."""
    script = tmp_path / "entry.py"
    script.write_text(unnoticed_where_it_waits(isolate.ENTRY))
    monkeypatch.setattr(isolate, "ENTRY", script)
    try:
        process = sandbox.spawn(root, ["/usr/bin/sleep", "600"], env={}, binds=[Bind(Path("/usr"), "/usr")])
        said = f"exit code {process.wait(60)}"
    except EnvironmentFailure as error:  # it can be over before the command has started
        said = str(error)
    assert f"exit code {128 + signal.SIGKILL}" in said


def test_it_ends_when_its_parent_is_killed(root: Path) -> None:
    """SIGKILL for the caller leaves no process behind."""
    assert PYTHON
    reader, writer = os.pipe()
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom coattest_build.sandbox.isolate import Bind, spawn\n"
        "code = \"import os, time; os.write(1, b'x'); time.sleep(600)\"\n"
        "spawn(Path(sys.argv[1]), [sys.argv[2], '-I', '-c', code], env={},"
        " binds=[Bind(Path('/usr'), '/usr')], stdout=int(sys.argv[3]))\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(root), PYTHON, str(writer)], pass_fds=[writer]
    )
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    started = time.monotonic()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert os.read(reader, 1) == b""
    assert time.monotonic() - started < 60
    os.close(reader)


def test_a_helper_that_dies_is_not_taken_for_a_command_that_ran(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the set-up ends without a word the error says so, whatever its exit code."""
    script = tmp_path / "entry.py"
    script.write_text("raise SystemExit(0)\n")
    monkeypatch.setattr(isolate, "ENTRY", script)
    with raises_code(EnvironmentFailure, "no-sandbox", match="before the command started"):
        sandbox.spawn(root, ["/bin/true"], env={})
