"""How programs are started: what they are given, what they are not, and how they are ended."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure
from coattest.programs.environment import (
    OWN_VARIABLES,
    SYSTEM_PATH,
    find_program,
    import_path,
    program_environment,
    python_program,
)
from coattest.programs.start import ProgramLimits, run_program, start_program
from support.raises import raises_code

HOSTILE = (
    *("PIP_INDEX_URL", "PIP_CONFIG_FILE", "GIT_DIR", "GIT_SSH_COMMAND", "LD_PRELOAD", "LD_LIBRARY_PATH"),
    *("TAR_OPTIONS", "PAGER", "EDITOR", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "BASH_ENV", "ENV"),
    *("IFS", "PERL5LIB", "GCC_EXEC_PREFIX", "MAKEFLAGS", "OPENSSL_CONF", "XZ_OPT", "AWS_PROFILE"),
)


def script(text: str, limits: ProgramLimits | None = None) -> bytes:
    """What a shell script prints, under limits."""
    return run_program([find_program("sh"), "-c", text], limits=limits).stdout


def test_the_environment_is_built_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's gets through that was not named, not even to coattest's own programs."""
    for name in HOSTILE:
        monkeypatch.setenv(name, "hostile")
    seen = dict(line.split("=", 1) for line in script("/usr/bin/env").decode().splitlines())
    assert set(seen) <= {"PATH", "HOME", "LC_ALL", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD"}
    assert seen["PATH"] == SYSTEM_PATH
    assert set(program_environment(OWN_VARIABLES)) & set(HOSTILE) == set()


def test_coattests_own_programs_get_a_clean_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's, so that it finds the user's QEMU, but nothing of the current folder."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    entries = ["", ".", "bin", str(tmp_path / "here"), str(tmp_path / "here/bin"), str(tmp_path / "bin")]
    monkeypatch.setenv("PATH", os.pathsep.join(entries))
    assert program_environment(OWN_VARIABLES)["PATH"] == f"{tmp_path / 'bin'}{os.pathsep}{SYSTEM_PATH}"
    assert program_environment()["PATH"] == SYSTEM_PATH


def test_variables_are_inherited_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that ends in _ stands for all that begin with it; given ones win."""
    for name in [name for name in os.environ if name.startswith("COATTEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COATTEST_CACHE", "/cache")
    monkeypatch.setenv("COATTESTX", "no")
    monkeypatch.setenv("TZ", "UTC")
    assert program_environment(("COATTEST_", "TZ"), {"TZ": "CET"}) == {
        **program_environment(),
        "COATTEST_CACHE": "/cache",
        "TZ": "CET",
    }


def test_a_program_runs_in_a_neutral_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever coattest was started."""
    monkeypatch.chdir(tmp_path)
    assert script("pwd") == b"/\n"


def test_a_program_is_not_looked_for_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the current folder, not by a relative entry or an empty one, not through a link into it."""
    outside = tmp_path / "outside"
    here = tmp_path / "here"
    for folder in (here / "bin", outside):
        folder.mkdir(parents=True)
    for place in (here / "only-here", here / "bin" / "only-here"):
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
    (outside / "only-here").symlink_to(here / "only-here")
    (tmp_path / "link").symlink_to(here / "bin")
    monkeypatch.chdir(here)
    entries = ["", ".", "bin", str(here), str(here / "bin"), str(outside), str(tmp_path / "link")]
    monkeypatch.setenv("PATH", os.pathsep.join(entries))
    with raises_code(EnvironmentFailure, "no-program", match="only-here"):
        find_program("only-here")
    with raises_code(EnvironmentFailure, "no-program"):
        find_program("bin/only-here")
    monkeypatch.chdir("/")
    monkeypatch.setenv("PATH", str(here / "bin"))
    with raises_code(EnvironmentFailure, "no-program"):
        find_program("only-here/../only-here")


def test_a_program_of_the_users_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute entry elsewhere counts, and comes before the system's."""
    (tmp_path / "sh").write_text("#!/bin/sh\n")
    (tmp_path / "sh").chmod(0o755)
    monkeypatch.chdir("/usr/lib")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert find_program("sh") == str(tmp_path / "sh")


def test_a_program_is_not_looked_for_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the current folder is: a shell's PATH may still name the tools of a tree."""
    (tmp_path / "tree/build").mkdir(parents=True)
    (tmp_path / "tree/build/image.toml").write_text("")
    (tmp_path / "tree/bin").mkdir()
    program = tmp_path / "tree/bin/only-there"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "tree/bin")
    monkeypatch.chdir("/")
    for entry in (tmp_path / "tree/bin", tmp_path / "link"):
        monkeypatch.setenv("PATH", str(entry))
        with raises_code(EnvironmentFailure, "no-program", match="only-there"):
            find_program("only-there")
        assert program_environment(OWN_VARIABLES)["PATH"] == SYSTEM_PATH


@pytest.mark.parametrize("folder", ["/", "/usr", "/usr/bin"])
def test_the_systems_programs_are_found_everywhere(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the current folder is one that they lie in."""
    monkeypatch.chdir(folder)
    assert Path(find_program("sh")).name == "sh"
    monkeypatch.setenv("PATH", "")
    assert Path(find_program("sh")).name == "sh"


def test_a_module_is_not_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pip.py nor a package pip of the current folder, whatever sys.path says about it."""
    (tmp_path / "pip").mkdir()
    for name in ("pip.py", "pip/__init__.py", "pip/__main__.py", "runpy.py", "json.py", "importlib.py"):
        (tmp_path / name).write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    for entry in ("", ".", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [entry, *sys.path])
    ended = run_program(python_program("pip", "--version"))
    assert (ended.code, b"pip " in ended.stdout) == (0, True), ended.said
    assert not {"", ".", str(tmp_path)} & set(import_path())


def test_a_single_file_is_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is a package: a pip.py on the path is something else."""
    (tmp_path / "pip.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with raises_code(EnvironmentFailure, "no-program", match="pip"):
        python_program("pip")


def test_no_site_no_variables_no_user_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module starts without .pth files, sitecustomize, PYTHON* and the user's packages."""
    package = tmp_path / "shown"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import json, sys\n"
        "print(json.dumps([sys.flags.no_site, sys.flags.isolated, 'site' in sys.modules, sys.argv]))\n"
    )
    (package / "entry.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "evil"))
    shown = json.loads(run_program(python_program("shown", "a")).stdout)
    assert shown[:3] == [1, 1, False]
    assert shown[3][1:] == ["a"]
    assert run_program(python_program("shown.entry:main", "b")).stdout == b"['b']\n"


@pytest.mark.parametrize(
    "start",
    ["subprocess.run(['/bin/true'])", "os.system('true')", "os.fork()", "os.execv('/bin/true', ['true'])",
     "os.posix_spawn('/bin/true', ['true'], {})", "os.forkpty()", "os.popen('true')"],
)  # fmt: skip
def test_a_program_alone_starts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    """Whatever a module reads, it runs in no process of its own."""
    (tmp_path / "starts").mkdir()
    lines = ("import os, subprocess", "def main():", f"    {start}", "    print('started')")
    (tmp_path / "starts/__init__.py").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    ended = run_program(python_program("starts:main", alone=True))
    assert (ended.code, ended.stdout) == (1, b"")
    assert "wants a program to be started" in ended.said


@pytest.mark.parametrize("argv", [["sh", "-c", "true"], ["/bin/sh", "-c", "a\0b"]])
def test_a_program_is_a_path_and_plain_words(argv: list[str]) -> None:
    """A name would be looked up in PATH; a NUL would end a word early."""
    with pytest.raises(ValueError, match="absolute path"):
        start_program(argv)


def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """Also a file that cannot be executed."""
    (tmp_path / "text").write_text("x")
    for path in (tmp_path / "absent", tmp_path / "text"):
        with raises_code(EnvironmentFailure, "no-program"):
            run_program([str(path)])
        with raises_code(EnvironmentFailure, "no-program"):
            start_program([str(path)])


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """With what it started, which on a busy machine it may not have done within the first limit."""
    started = tmp_path / "pid"
    for seconds in (1, 8, 64):
        with raises_code(EnvironmentFailure, "program-time", match="did not end within"):
            script(f"sleep 1000 & echo $! > {started}; wait", ProgramLimits(seconds=seconds))
        if started.exists() and started.read_text():
            break
    assert gone(int(started.read_text()))


@pytest.mark.parametrize("stream", [1, 2])
def test_a_program_that_writes_too_much_is_ended(stream: int) -> None:
    """On either stream; what it wrote is never held in memory."""
    with raises_code(EnvironmentFailure, "program-output", match="more than 100000 bytes"):
        script(
            f"while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&{stream}; done",
            ProgramLimits(output=100_000),
        )


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    """A background process that holds the pipe neither stays nor makes us wait."""
    started = tmp_path / "pid"
    assert script(f"sleep 1000 & echo $! > {started}; echo done") == b"done\n"
    assert gone(int(started.read_text()))


@pytest.mark.parametrize("end", ["itself", "time", "output"])
def test_what_a_program_starts_in_a_session_of_its_own_is_ended(tmp_path: Path, end: str) -> None:
    """A daemon, its child and what holds no pipe: whether the program ends or is ended."""
    started = tmp_path / "pids"
    goes_on = {"itself": "os._exit(0)", "time": "time.sleep(1000)", "output": "break"}
    daemon = (
        "import os, sys, time\n"
        "for _ in range(3):\n"
        "    if os.fork():\n"
        f"        {goes_on[end]}\n"
        "    os.setsid()\n"
        f"    open({str(started)!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "else:\n"
        "    os.close(1); os.close(2); time.sleep(1000)\n"
        "while open(sys.argv[1]).read().count('\\n') < 3: time.sleep(0.01)\n"
        "while True: print('x' * 1000)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", daemon, str(started)]
    started.touch()
    if end == "itself":
        waiting = f"while [ $(wc -l < {started}) -lt 3 ]; do sleep 0.05; done"
        text = f'"$@"; {waiting}; echo done'
        assert run_program([find_program("sh"), "-c", text, "sh", *command]).stdout == b"done\n"
    elif end == "output":
        with raises_code(EnvironmentFailure, "program-output"):
            run_program(command, limits=ProgramLimits(seconds=100, output=100_000))
    else:
        seconds = 2.5
        while len(started.read_text().split()) < 3:  # more time where this machine needs it to start them
            started.write_text("")
            seconds *= 2
            with raises_code(EnvironmentFailure, "program-time"):
                run_program(command, limits=ProgramLimits(seconds=seconds, output=100_000))
    numbers = [int(line) for line in started.read_text().split()]
    assert len(numbers) == 3
    assert all(gone(number) for number in numbers)


def test_what_a_program_started_ends_with_coattest(tmp_path: Path) -> None:
    """Also when coattest is killed and can end nothing itself."""
    started = tmp_path / "pid"
    text = (
        "import sys; from coattest.programs.start import run_program;"
        f"run_program(['/bin/sh', '-c', 'setsid sleep 1000 & echo $! > {started}; sleep 1000'])"
    )
    process = start_program(
        [sys.executable, "-c", text],
        environment={**program_environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    while not (started.exists() and started.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.01)
    number = int(started.read_text())
    assert Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    process.kill()
    process.wait()
    assert gone(number)


@pytest.mark.parametrize(
    ("text", "code"), [("exit 7", 7), ("kill -9 $$", -9), ("kill -15 $$", -15), ("kill 0", -15)]
)
def test_a_program_ends_as_it_ended(text: str, code: int) -> None:
    """With its exit code, or by its signal."""
    assert run_program([find_program("sh"), "-c", text]).code == code


def test_a_service_that_is_meant_to_stay_stays(tmp_path: Path) -> None:
    """Where the caller says so, as for an enclave's host."""
    started = tmp_path / "pid"
    text = f"sleep 1000 >/dev/null 2>&1 & echo $! > {started}"
    assert run_program([find_program("sh"), "-c", text], leaves_service=True).code == 0
    process = int(started.read_text())
    assert Path(f"/proc/{process}").exists()
    os.kill(process, 9)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        (
            "import sys; sys.stdout.write(str(len(bytearray(200 * 1024**2))))",
            ProgramLimits(memory=150 * 1024**2),
        ),
        ("open(sys.argv[1], 'wb').write(bytes(2_000_000))", ProgramLimits(file=1_000_000)),
    ],
)
def test_memory_and_files_are_limited(text: str, limits: ProgramLimits, tmp_path: Path) -> None:
    """A program that wants more fails, and nothing else does."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys\n{text}", str(tmp_path / "file")]
    assert run_program(command).code == 0
    assert run_program(command, limits=limits).code != 0


def test_limits_are_set_before_the_program_starts() -> None:
    """The program sees them: processes counted from what the user runs already, no core, processor time."""
    kinds = "(r.RLIMIT_NPROC, r.RLIMIT_CORE, r.RLIMIT_CPU)"
    text = f"import resource as r\nprint(*(r.getrlimit(kind)[0] for kind in {kinds}))"
    command = [sys.executable, "-I", "-S", "-c", text]
    few, none, seconds = map(
        int, run_program(command, limits=ProgramLimits(seconds=7, processes=5)).stdout.split()
    )
    many = int(run_program(command, limits=ProgramLimits(processes=5000)).stdout.split()[0])
    assert 5 < few < many
    assert (none, seconds) == (0, 7 * (os.cpu_count() or 1))


def gone(process: int) -> bool:
    """Whether a killed process ends within a minute."""
    for _ in range(6000):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False
