"""What code in the sandbox leaves behind leads nowhere: no later step and nothing on the host follows it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import Folder
from coattest_build import container, kernel, rootfs, sandbox
from coattest_build.containers.own.profile import read_profile
from coattest_build.image import Bytecode
from coattest_build.inputs import cache
from coattest_build.sandbox.isolate import Bind
from support.build.shell_root import make_shell_root
from support.raises import raises_code

DISK = 1 << 40
"""Bytes: what others write to the same disk meanwhile counts too, so only the test of that limit has less."""

SMALL = sandbox.Limits(seconds=600, memory=1 << 30, processes=32, disk=DISK, output=1 << 20, file=1 << 20)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A member's home, which is the same afterwards."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".bashrc").write_text("# my shell\n")
    (folder / "member.key").write_text("PRIVATE KEY\n")
    (folder / "mine.py").write_text("x = 1\n")

    def state() -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted(folder.rglob("*"))
        }

    before = state()
    yield folder
    assert state() == before


def hostile_root(folder: Path, script: str) -> Path:
    """A root whose "Python" is a script."""
    root = make_shell_root(folder)
    (root / "usr/bin/python3").write_text(f"#!/bin/sh\nPATH=/usr/bin\n{script}")
    (root / "usr/bin/python3").chmod(0o755)
    return root


def compiled(root: Path, directories: tuple[str, ...], sourceless: tuple[str, ...], scratch: Path) -> None:
    scratch.mkdir(exist_ok=True)
    rootfs.compile_modules(Bytecode("usr/bin/python3", directories, sourceless), root, scratch)


def test_a_link_that_one_step_leaves_is_not_bound_by_the_next(tmp_path: Path, home: Path) -> None:
    """The first run puts a link to the member's home in place of a folder that the second run writes to."""
    root = hostile_root(
        tmp_path / "root",
        f"""case "$*" in
*/tmp/lib*) cat /tmp/lib/member.key; echo evil >> /tmp/lib/.bashrc; echo ssh > /tmp/lib/.ssh/authorized_keys
            echo ok > /tmp/lib/a.pyc ;;
*) rm -r /tmp/lib; ln -s {home} /tmp/lib; echo ok > /tmp/x.pyc ;;
esac
exit 0
""",
    )
    (root / "tmp/lib").mkdir()
    (root / "tmp/lib/a.py").write_text("a = 1\n")
    (root / "tmp/x.py").write_text("x = 1\n")
    compiled(root, ("tmp",), ("tmp/lib",), tmp_path / "scratch")
    assert (root / "tmp/lib").is_dir()
    assert not (root / "tmp/lib").is_symlink()
    assert not (root / "tmp/lib/a.py").exists()  # sourceless, and its module came from the copy
    assert (root / "tmp/lib/a.pyc").read_text() == "ok\n"


@pytest.mark.parametrize("way", ["link", "link above", "cache folder", "fifo", "huge"])
def test_what_stands_for_a_module_is_not_followed(tmp_path: Path, home: Path, way: str) -> None:
    """A module that is a link, lies behind one, is a pipe or is huge ends the build, and nothing is read."""
    scripts = {
        "link": f"ln -s {home}/mine.py /lib/app/a.pyc",
        "link above": f"rm -r /lib/app/*; rmdir /lib/app/sub; ln -s {home} /lib/app/sub",
        "cache folder": f"ln -s {home} /lib/app/__pycache__",
        "fifo": "mkfifo /lib/app/a.pyc",
        "huge": "dd if=/dev/zero of=/lib/app/a.pyc bs=1M count=1 seek=17",
    }
    root = hostile_root(tmp_path / "root", f"{scripts[way]}\nexit 0\n")
    (root / "lib/app/sub").mkdir(parents=True)
    (root / "lib/app/a.py").write_text("a = 1\n")
    (root / "lib/app/sub/mine.py").write_text("b = 1\n")
    with raises_code(EnvironmentFailure, "bytecode-failed"):
        compiled(root, ("lib/app",), (), tmp_path / "scratch")
    assert not list(root.rglob("*.pyc"))


def test_only_modules_of_sources_reach_the_image(tmp_path: Path) -> None:
    """Whatever else the image's Python writes stays in the copy: sources, programs, modules of nothing."""
    root = hostile_root(
        tmp_path / "root",
        "cd /lib/app; echo m > a.pyc; echo m > nothing.pyc; echo evil > a.py; echo evil > new.py\n"
        "mkdir __pycache__; echo m > __pycache__/a.cpython-311.pyc; echo m > __pycache__/b.cpython-311.pyc\n"
        "chmod 4755 a.pyc; exit 0\n",
    )
    (root / "lib/app").mkdir(parents=True)
    (root / "lib/app/a.py").write_text("a = 1\n")
    compiled(root, ("lib/app",), (), tmp_path / "scratch")
    found = {path.relative_to(root / "lib/app").as_posix(): path for path in (root / "lib/app").rglob("*")}
    assert set(found) == {"a.py", "a.pyc", "__pycache__", "__pycache__/a.cpython-311.pyc"}
    assert found["a.py"].read_text() == "a = 1\n"
    assert stat.S_IMODE(found["a.pyc"].stat().st_mode) == 0o644


@pytest.mark.parametrize("target", ["absolute", "relative"])
def test_a_bytecode_folder_behind_a_link_is_refused(tmp_path: Path, home: Path, target: str) -> None:
    """A package may bring the link: inside the image it is harmless, on the host it leads to the home."""
    root = hostile_root(tmp_path / "root", "exit 0\n")
    (root / "opt").mkdir()
    (root / "opt/way").symlink_to(home if target == "absolute" else f"../../{home.relative_to(tmp_path)}")
    for folder in ("opt/way", "opt/way/.ssh"):
        with raises_code(UsageError, "usage", match="through a link"):
            compiled(root, (folder,), (), tmp_path / f"scratch-{folder.count('/')}")


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("place", ["/way/made", "/in/way/made", "/way"])
def test_a_mount_point_behind_a_link_of_the_root_is_refused(
    tmp_path: Path, home: Path, place: str, writable: bool
) -> None:
    """Where the root is composed, ``/oldroot`` is the host: a link there must not make anything on it."""
    root = make_shell_root(tmp_path / "root")
    (root / "in").mkdir()
    for link in ("way", "in/way"):
        (root / link).symlink_to(f"/oldroot{home}")
    given = tmp_path / "given"
    given.mkdir()
    with raises_code(EnvironmentFailure, "no-sandbox", match="link"):
        sandbox.run_isolated(
            root, ["/bin/sh", "-c", "true"], env={}, binds=[Bind(given, place)], writable_root=writable
        )
    assert not (home / "made").exists()


@pytest.mark.parametrize("name", ["tmp", "dev", "proc", "run"])
def test_a_root_whose_own_folders_are_links_cannot_reach_the_host(
    tmp_path: Path, home: Path, name: str
) -> None:
    """/tmp, /dev and /proc of a writable root may be links to the host: nothing is mounted through them."""
    root = make_shell_root(tmp_path / "root")
    shutil.rmtree(root / name, ignore_errors=True)
    (root / name).symlink_to(f"/oldroot{home}")
    with raises_code(EnvironmentFailure, "no-sandbox", match="link"):
        sandbox.run_isolated(root, ["/bin/sh", "-c", "true"], env={}, writable_root=True, tmpfs=["/run"])


@pytest.mark.parametrize("output", kernel.OUTPUTS)
def test_a_compiler_that_leaves_links_gives_nothing_away(tmp_path: Path, home: Path, output: str) -> None:
    """Each output of the kernel's compilation may be a link to a key."""
    out = tmp_path / "out"
    out.mkdir()
    for name in kernel.OUTPUTS:
        (out / name).write_text("CONFIG_X=y\n")
    (out / output).unlink()
    (out / output).symlink_to(home / "member.key")
    own = read_profile()
    minimal = dataclasses.replace(own.spec, kernel=dataclasses.replace(own.spec.kernel, profile="minimal"))
    inputs = dataclasses.replace(own, spec=minimal, fragment=b"CONFIG_X=y\n")
    with raises_code(EnvironmentFailure, "compile-failed"):
        kernel.adopt(out, tmp_path / "kernel", inputs, fresh=False)


def test_a_container_stage_that_leaves_links_gives_nothing_away(tmp_path: Path, home: Path) -> None:
    """The assembling stage reads the compile stage's modules through no link, neither above nor in place."""
    bytecode = Bytecode("usr/bin/python3", ("a",), ("b/c",))
    for number, way in enumerate(("b", "b/c", "a/__pycache__")):
        base = tmp_path / str(number)
        for side in ("compiled", "root"):
            for folder in ("a", "b/c"):
                (base / side / folder).mkdir(parents=True)
                (base / side / folder / "mine.py").write_text("x = 1\n")
        place = base / "compiled" / way
        shutil.rmtree(place, ignore_errors=True)
        place.symlink_to(home)
        with raises_code(EnvironmentFailure, "bytecode-failed"):
            container.take_bytecode(bytecode, base / "compiled", base / "root")


SPENT = {
    "time": (sandbox.Limits(1.5, 1 << 30, 32, DISK, 1 << 20), "sleep 1000", "seconds"),
    "time without output": (
        sandbox.Limits(1.5, 1 << 30, 32, DISK, 1 << 20),
        "exec >&- 2>&-; sleep 1000",
        "seconds",
    ),
    "processes": (SMALL, "i=0; while [ $i -lt 64 ]; do sleep 1000 & i=$((i+1)); done; wait", "processes"),
    "orphans": (
        SMALL,
        "i=0; while [ $i -lt 64 ]; do (sleep 1000 &) ; i=$((i+1)); done; sleep 1000",
        "processes",
    ),
    "output": (SMALL, "while :; do echo 0123456789012345678901234567890123456789; done", "wrote more"),
    "disk": (
        dataclasses.replace(SMALL, disk=256 << 20),
        "i=0; while :; do dd if=/dev/zero of=/out/$i bs=1M count=1 2>/dev/null; i=$((i+1)); done",
        "disk",
    ),
    "memory": (
        sandbox.Limits(600, 128 << 20, 32, DISK, 1 << 20),
        # The colon: a shell becomes what it runs last, and its memory is gone.
        "for i in 1 2 3 4; do (x=x; while [ ${#x} -lt 30000000 ]; do x=$x$x; done; sleep 99; :) & done; wait",
        "memory",
    ),
}


@pytest.mark.parametrize("spent", sorted(SPENT))
def test_each_step_has_limits(tmp_path: Path, spent: str) -> None:
    """Time, processes, orphans, output, disk and memory: the step ends with everything that it started."""
    limits, script, said = SPENT[spent]
    root = make_shell_root(tmp_path / "root")
    (tmp_path / "out").mkdir()
    with raises_code(EnvironmentFailure, "sandbox-limit", match=said) as caught:
        sandbox.run_limited(
            root,
            ["/bin/sh", "-c", script],
            limits=limits,
            env={"PATH": "/usr/bin", "MARK": str(tmp_path)},
            binds=[Bind(tmp_path / "out", "/out", writable=True)],
        )
    assert caught.value.exit_code == 3
    assert not running_with(str(tmp_path))


def test_what_a_step_says_is_heard_while_it_runs(tmp_path: Path) -> None:
    """Piece by piece, and all of it is in the log."""
    root = make_shell_root(tmp_path / "root")
    heard: list[bytes] = []
    code, said = sandbox.run_limited(
        root,
        ["/bin/sh", "-c", "echo one; sleep 1; echo two"],
        limits=sandbox.Limits(60, 1 << 30, 32, DISK, 1 << 20),
        env={"PATH": "/usr/bin"},
        log=tmp_path / "log",
        heard=heard.append,
    )
    assert (code, said, [piece for piece in heard if piece]) == (0, "one\ntwo\n", [b"one\n", b"two\n"])
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def running_with(mark: str) -> list[str]:
    """Processes whose environment has the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mark}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_one_file_tmp_and_memory_without_a_process_are_limited_too(tmp_path: Path) -> None:
    """A sparse file, /tmp and a shared memory file end at their limits without any watching."""
    root = make_shell_root(tmp_path / "root")
    (tmp_path / "out").mkdir()
    code, said = sandbox.run_limited(
        root,
        [
            "/bin/sh",
            "-c",
            "dd if=/dev/zero of=/out/sparse bs=1 count=1 seek=100M; dd if=/dev/zero of=/tmp/x bs=1M; ls /tmp",
        ],
        limits=sandbox.Limits(600, 1 << 30, 32, DISK, 1 << 20, file=64 << 20, tmpfs=16 << 20),
        env={"PATH": "/usr/bin"},
        binds=[Bind(tmp_path / "out", "/out", writable=True)],
    )
    assert code == 0
    assert "No space left" in said
    assert (tmp_path / "out/sparse").stat().st_size <= 64 << 20


def test_the_log_is_written_to_the_end_and_the_tail_is_returned(tmp_path: Path) -> None:
    """A failure's last words are in the error, all of them in the log."""
    root = make_shell_root(tmp_path / "root")
    log = tmp_path / "log"
    log.write_text("before\n")
    code, said = sandbox.run_limited(
        root, ["/bin/sh", "-c", "echo one; echo two >&2; exit 7"], limits=SMALL, env={}, log=log
    )
    assert (code, said) == (7, "one\ntwo\n")
    assert log.read_text() == "before\none\ntwo\n"


def test_what_was_left_can_be_removed_whatever_it_is(tmp_path: Path, home: Path) -> None:
    """Folders without rights, 1,500 inside each other, links to the home: all are gone."""
    folder = tmp_path / "left"
    folder.mkdir()
    (folder / "link").symlink_to(home)
    os.mkfifo(folder / "pipe")
    (folder / "shut").mkdir()
    (folder / "shut/file").write_text("x")
    (folder / "shut/link").symlink_to(home, target_is_directory=True)
    (folder / "shut").chmod(0)
    at = os.open(folder, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    sandbox.remove_tree(folder)
    assert not folder.exists()


def test_the_scratch_folder_of_a_build_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    """Also that of a run that was killed, which the next one removes."""
    stale = tmp_path / "build-stale"
    stale.mkdir()
    (stale / "shut").mkdir(mode=0)
    with cache.scratch(tmp_path, "build-") as folder:
        assert not stale.exists()
        (folder / "a/b").mkdir(parents=True)
        (folder / "a").chmod(0)
    assert not folder.exists()


def test_a_write_goes_through_no_link(tmp_path: Path, home: Path) -> None:
    """``Folder.write`` makes its file in the folder that was opened, or refuses."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "way").symlink_to(home)
    (base / "file").symlink_to(home / ".bashrc")
    with Folder(base) as folder:
        for name in ("way/new", "way/.ssh/new"):
            with pytest.raises(Exception, match="plain"):
                folder.write(name, b"evil")
        folder.write("file", b"content")
        folder.write("made/file", b"content")
    assert (base / "file").read_text() == "content"
    assert not (base / "file").is_symlink()
