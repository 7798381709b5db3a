"""Images that are not the auction's: what may be left out, and what is refused before it costs a boot."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coattest.errors import EnvironmentFailure, UsageError
from coattest.network import parse_network
from coattest.progress import Quiet
from coattest_build import builder, container, image, kernel, rootfs, starts
from coattest_build import source as sources
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.own.plan import DEFAULT_PATH, decode_plan
from coattest_build.containers.own.users import ContainerUser
from coattest_build.formats import cpio, eif
from coattest_build.image import IMAGE_FILE, Bytecode, ImageSpec, Wheels
from coattest_build.inputs import fetch, wheels
from coattest_build.inputs import lock as locks
from coattest_build.inputs.lock import BadLock
from coattest_build.inputs.unpack import Tree
from coattest_build.rootfs.start import add_surroundings, program_of, start_entries
from coattest_local.host.enclave import run_enclave
from support.build.own_enclave import EXAMPLE, make_source, write_lock
from support.enclave.enclave_image import compile_program
from support.raises import raises_code

TEXT = (EXAMPLE / IMAGE_FILE).read_text()


def test_what_an_image_without_python_needs_not_say() -> None:
    """Wheels, bytecode, environment, files, links and prune may be left out."""
    text = TEXT
    for line in TEXT.splitlines():
        if line.startswith(
            ("prune", "links", "[files]", '"usr/lib/', "[wheels]", "requirements", 'target = "usr')
        ):
            text = text.replace(f"{line}\n", "")
    spec = image.parse_spec(text)
    assert (spec.wheels, spec.bytecode) == (None, None)
    assert (spec.environment, spec.files, spec.toolchain_links, spec.prune) == ((), (), (), ())


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('= "enclave/draw.py"', '= "src/draw.py"', "outside build/kernel, build/init, enclave"),
        ('aws = "enclave/aws.conf"', 'aws = "conf/aws.conf"', "outside build/kernel, build/init, enclave"),
        ('init = "build/init/init.c"', 'init = "init.c"', "outside build/kernel, build/init, enclave"),
        ('init = "build/init/init.c"', 'init = "build/initial/init.c"', "outside"),
        ('requirements = "enclave/', 'requirements = "', "outside"),
        ('command = ["/usr/bin/python3.11"', 'command = ["python3.11"', "the absolute path of a program"),
        ('command = ["/usr/bin/python3.11"', 'command = ["/usr/../python3.11"', "not a plain relative path"),
        ('"-I"', '"-c", "import os\\nprint()"', "control characters"),
        ("[debian]", '[run.environment]\nA = "1\\nB=2"\n[debian]', "one line each"),
        ("[debian]", '[run.environment]\n"A=B" = "1"\n[debian]', "not the name of a variable"),
        ('"x86_64"', '"aarch64"', "one of x86_64"),
        ('["bookworm", "bookworm-backports"]', "[]", "suites is empty"),
        ("[profiles]", "[profiles]\nless = 1", "profiles must map strings to strings"),
        ("[files]", "[filez]\n[files]", "'filez': unknown field"),
        ("[runtime]", "[runtime]\nmore = 1", "runtime.'more': unknown field"),
        ("[kernel]", '[kernel]\nprofile = "maximal"', "one of minimal, container"),
        (
            "[run]",
            '[run]\nuser = "web"',
            "user is for the kernel profile container; with minimal the program",
        ),
        ("[run]", '[run]\nworkdir = "/srv"', "workdir is for the kernel profile container"),
        ("[run]", "[run]\nnsm = true", "nsm is for the kernel profile container"),
    ],
)
def test_a_fault_in_an_image_file_is_said_where_it_is(before: str, after: str, says: str) -> None:
    """What would be lost, split or not started is refused, with the rule in the message."""
    assert before in TEXT
    with raises_code(UsageError, "bad-image-toml", match=says) as caught:
        image.parse_spec(TEXT.replace(before, after, 1))
    assert str(caught.value).startswith(IMAGE_FILE)


IN_CONTAINER = TEXT.replace("[kernel]", '[kernel]\nprofile = "container"')


@pytest.mark.parametrize(
    ("field", "says"),
    [
        *((f'user = "{user}"', "run.user: ") for user in ("", "-r", "a b", "a:b:c", "a:", "x" * 33)),
        *((f'workdir = "{place}"', "run.workdir: ") for place in ("", "srv", "//srv")),
        *((f'workdir = "{place}"', "plain relative path") for place in ("/srv/../x", "/srv/", "/a\u202eb")),
        ('nsm = "yes"', "run.nsm: not true or false"),
        ("nsm = 1", "run.nsm: not true or false"),
    ],
)
def test_what_init_gives_has_a_grammar(field: str, says: str) -> None:
    """User, working folder and device of the kernel profile container."""
    with raises_code(UsageError, "bad-image-toml", match=says):
        image.parse_spec(IN_CONTAINER.replace("[run]", f"[run]\n{field}"))


def container_spec(*fields: str, command: str = "serve") -> ImageSpec:
    """The example's specification for the kernel profile container."""
    begin, end = IN_CONTAINER.index("command ="), IN_CONTAINER.index("[debian]")
    run = "\n".join((f'command = ["{command}", "two words"]', *fields))
    return image.parse_spec(f"{IN_CONTAINER[:begin]}{run}\n{IN_CONTAINER[end:]}")


FOUND = {"serve": "/usr/bin/serve", "bin/serve": "/srv/bin/serve", "/opt/serve": "/opt/serve"}


@pytest.mark.parametrize("command", FOUND)
def test_the_program_is_looked_for_where_init_will(tmp_path: Path, command: str) -> None:
    """By name in PATH, below the working folder, or where its path says; /run and /tmp need not be there."""
    tree = Tree(tmp_path / "root")
    for name in ("dev", "proc", "sys", "usr/local/bin/serve"):
        tree.make_directory(name)
    spec = container_spec('workdir = "/srv"', command=command)
    with pytest.raises(UsageError, match="is not a file of the root file system"):
        rootfs.check_startable(spec, tree)
    tree.add_file(FOUND[command][1:], [b""], executable=True)
    rootfs.check_startable(spec, tree)
    assert program_of(spec, tree) == FOUND[command]


def test_what_the_container_profiles_init_starts(tmp_path: Path) -> None:
    """User by the image's own files, Docker's variables and files where there are none, /tmp for all."""
    tree = Tree(tmp_path / "root")
    for name in ("tmp", "var/tmp", "srv"):
        tree.make_directory(name)
    tree.add_file("etc/passwd", [b"web:x:33:34::/srv:/x\n"])
    tree.add_file("etc/group", [b"log:x:7:web\n"])
    tree.add_file("etc/hosts", [b"mine\n"])
    fields = ('user = "web"', 'workdir = "/srv/made"', "nsm = true", "[run.environment]", 'A = "b=c"')
    spec = container_spec(*fields)
    assert spec.container is not None
    add_surroundings(spec.container, tree)
    entries = {e.name: e for e in rootfs.application_entries(spec, tree.root, b"")}
    raw = entries["run"].content
    assert isinstance(raw, bytes)
    plan = decode_plan(raw)
    assert (plan.words, plan.folder, plan.nsm) == (("serve", "two words"), "/srv/made", True)
    assert plan.user == ContainerUser(33, 34, (34, 7), "")
    assert plan.environment == ("A=b=c", f"PATH={DEFAULT_PATH}", "HOSTNAME=enclave", "HOME=/srv")
    assert {"cmd", "env"}.isdisjoint(entries)
    modes = {name: oct(entries[f"rootfs/{name}"].mode) for name in ("tmp", "var/tmp", "srv/made", "srv")}
    assert modes == {"tmp": "0o41777", "var/tmp": "0o41777", "srv/made": "0o40755", "srv": "0o40755"}
    assert (tree.root / "etc/hosts").read_bytes() == b"mine\n"
    assert (tree.root / "etc/hostname").read_bytes() == b"enclave\n"


def test_a_network_is_in_the_plan(tmp_path: Path) -> None:
    """Behind the environment, which has the proxy's address unless it has one; both lists may be left out."""
    (tmp_path / "root").mkdir()
    network = ("[run.network]", 'connect = ["a.test:443"]')
    for fields, wanted in (
        ((), ["HTTPS_PROXY=http://127.0.0.1:3128"]),
        (('environment.https_proxy = "http://other"',), ["https_proxy=http://other"]),
    ):
        spec = container_spec(*fields, *network)
        raw = next(entry.content for entry in start_entries(spec, tmp_path / "root"))
        assert isinstance(raw, bytes)
        assert raw.endswith(b"\0" + b"0\0" + b"1\0a.test:443\0")
        plan = decode_plan(raw)
        assert plan.network == parse_network([], ["a.test:443"])
        assert [text for text in plan.environment if "proxy" in text.lower()] == wanted
    spec = container_spec("[run.network]", 'listen = ["5005:8080"]')
    raw = next(entry.content for entry in start_entries(spec, tmp_path / "root"))
    assert isinstance(raw, bytes)
    assert raw.endswith(b"\0" + b"1\0" + b"5005\0" + b"8080\0" + b"0\0")
    assert b"HTTPS_PROXY" not in raw
    without = next(entry.content for entry in start_entries(container_spec(), tmp_path / "root"))
    assert isinstance(without, bytes)
    for tail in (b"0\0" * 2, b"0\0", b"1\0" + b"5005\0" * 2, b"0\0" + b"1\0A\0", b"00\0" + b"1\0a:1\0"):
        with pytest.raises(ContainerError, match="is not a file of the form"):
            decode_plan(without + tail)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("[run.network]", "listen = [5005]"), "run.network.listen: '5005' is not a text"),
        (("[run.network]", 'listen = ["5005"]'), "not a vsock port and a TCP port: '5005'"),
        (("[run.network]", 'connect = ["a"]'), "not a host and a port: 'a'"),
        (("[run.network]", 'other = ["a"]'), "run.network.'other': unknown field"),
        (('network = "a"',), "run.network: not an object"),
    ],
)
def test_a_fault_in_a_network_is_said_where_it_is(fields: tuple[str, ...], says: str) -> None:
    """With the table."""
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        container_spec(*fields)
    assert "run.network" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (('user = "web"',), "USER names the user 'web', which the image does not have"),
        (("[run.environment]", 'A = "' + "x" * (128 << 10) + '"'), "at most"),
    ],
)
def test_what_init_would_refuse_is_not_built(tmp_path: Path, fields: tuple[str, ...], says: str) -> None:
    """Exit 2 with the table of image.toml."""
    (tmp_path / "root").mkdir()
    spec = container_spec(*fields)
    with raises_code(UsageError, "bad-image-toml", match=says) as caught:
        tuple(rootfs.application_entries(spec, tmp_path / "root", b""))
    assert str(caught.value).startswith(f"{IMAGE_FILE} [run]")


def test_an_unknown_user_is_found_before_the_kernel_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is all that is wrong with the root file system; a number needs no line of /etc/passwd."""
    starts.write_start("static", tmp_path / "source", image.CONTAINER)
    (tmp_path / "source/enclave/program").write_bytes(b"elf")
    (tmp_path / "source/enclave/program").chmod(0o755)
    monkeypatch.setattr(fetch, "fetch_packages", lambda *_, **__: {})
    monkeypatch.setattr(kernel, "obtain", lambda *_, **__: pytest.fail("the kernel's turn"))
    spec = tmp_path / "source" / IMAGE_FILE

    def build() -> None:
        builder.build(tmp_path / "source", tmp_path / "out", cache=tmp_path / "cache", mirror="x")

    with pytest.raises(pytest.fail.Exception, match="the kernel's turn"):
        build()
    spec.write_text(spec.read_text().replace('user = "65534"', 'user = "web"'))
    with raises_code(UsageError, "bad-image-toml", match="'web', which the image does not have") as caught:
        build()
    assert str(caught.value).startswith(f"{IMAGE_FILE} [run]")


def test_users_are_not_read_through_a_link(tmp_path: Path) -> None:
    """The image's Python may have written to the tree."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").symlink_to("/etc/passwd")
    with raises_code(UsageError, "bad-image-toml", match="/etc/passwd of the image"):
        tuple(rootfs.application_entries(container_spec(), tmp_path / "root", b""))


def test_a_working_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """init could not enter it."""
    tree = Tree(tmp_path / "root")
    tree.add_file("srv", [b""])
    with pytest.raises(UsageError, match="/srv is not a folder of the image"):
        add_surroundings(image.ContainerRun(folder="/srv"), tree)


def composed(folder: Path, change: Callable[[Tree], object] = lambda tree: None) -> tuple[ImageSpec, Tree]:
    """The example's specification and a root file system that could start, before ``change``."""
    tree = Tree(folder / "root")
    for name in rootfs.MOUNTED:
        tree.make_directory(name)
    change(tree)
    return image.parse_spec(TEXT), tree


def program(tree: Tree) -> None:
    """A program behind two links, as Debian's merged /usr and its alternatives have them."""
    tree.add_file("usr/libexec/python3.11.2", [b"elf"], executable=True)
    tree.add_symlink("usr/bin", "/usr/sbin")
    tree.add_symlink("usr/sbin/python3.11", "../libexec/./python3.11.2")


def test_a_program_behind_links_is_found(tmp_path: Path) -> None:
    """Links of folders and of files are followed as they will be in the image, absolute ones too."""
    rootfs.check_startable(*composed(tmp_path, program))


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    """It leads nowhere."""
    spec, tree = composed(tmp_path, lambda tree: tree.add_symlink("usr/bin", "bin"))
    with pytest.raises(UsageError, match="not a file of the root file system"):
        rootfs.check_startable(spec, tree)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tree: None, "/usr/bin/python3.11 is not a file"),
        (lambda tree: tree.make_directory("usr/bin/python3.11"), "/usr/bin/python3.11 is not a file"),
        (lambda tree: tree.add_symlink("usr/bin/python3.11", "python3"), "/usr/bin/python3.11 is not a file"),
        (lambda tree: tree.add_file("usr/bin/python3.11", [b""]), "is not executable"),
        (
            lambda tree: (program(tree), tree.add_file("etc/draw.conf", [b""])),
            "etc/draw.conf is already in the root file system",
        ),
        (lambda tree: (program(tree), tree.kinds.pop("sys")), "no directory sys"),
    ],
)
def test_an_image_that_would_not_start_is_not_built(
    tmp_path: Path, change: Callable[[Tree], object], says: str
) -> None:
    """A program that is missing, a directory that init mounts on, a profile's file that another one hides."""
    with pytest.raises(UsageError, match=says):
        rootfs.check_startable(*composed(tmp_path, change))


def test_programs_of_the_source_tree_stay_executable(tmp_path: Path) -> None:
    """The executable bit, which the tree's digest covers, is in the image too; other modes are not."""
    source = make_source(tmp_path / "source")
    (source / "enclave/tools").mkdir()
    for name, mode in (("run", 0o755), ("owner", 0o700), ("data", 0o660), ("others", 0o645)):
        (source / "enclave/tools" / name).write_text(name)
        (source / "enclave/tools" / name).chmod(mode)
    snapshot = sources.take(source, tmp_path / "snapshot")
    spec = dataclasses.replace(
        image.parse_spec(TEXT), files=(("bin", "enclave/tools"), ("run", "enclave/tools/run"))
    )
    tree = Tree(tmp_path / "root")
    for target, origin in spec.files:
        rootfs.add_sources(tree, snapshot.folder, origin, target)
    modes = {e.name: oct(e.mode) for e in rootfs.root_entries(tree.root, "r") if e.name != "r"}
    assert modes == {
        "r/bin": "0o40755",
        "r/bin/data": "0o100644",
        "r/bin/others": "0o100644",
        "r/bin/owner": "0o100755",
        "r/bin/run": "0o100755",
        "r/run": "0o100755",
    }


def test_links_of_the_tree_are_links_in_the_image(tmp_path: Path) -> None:
    """Where they lead to what is copied with them; a link out of the copied folder would lead elsewhere."""
    source = make_source(tmp_path / "source")
    for name in ("enclave/app/lib/cli.js", "enclave/other"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "enclave/app/.bin").mkdir()
    (source / "enclave/app/.bin/cli").symlink_to("../lib/cli.js")
    snapshot = sources.take(source, tmp_path / "snapshot")
    tree = Tree(tmp_path / "root")
    rootfs.add_sources(tree, snapshot.folder, "enclave/app", "srv")
    assert tree.resolve("/srv/.bin/cli") == "srv/lib/cli.js"
    (links,) = [e for e in rootfs.root_entries(tree.root, "r") if e.name == "r/srv/.bin/cli"]
    assert links.content == b"../lib/cli.js"
    for target in ("../../other", "../../app/lib/cli.js"):
        (source / "enclave/app/.bin/out").unlink(missing_ok=True)
        (source / "enclave/app/.bin/out").symlink_to(target)
        snapshot = sources.take(source, tmp_path / target.replace("/", "-"))
        with raises_code(UsageError, "bad-source", match=r"enclave/app/\.bin/out"):
            rootfs.add_sources(Tree(snapshot.folder / "again"), snapshot.folder, "enclave/app", "srv")


def test_files_that_are_not_in_the_tree_are_named(tmp_path: Path) -> None:
    """Exit 2 with the path and the table, for files, kernel fragment, init, profile and requirements."""
    source = make_source(tmp_path / "source")
    for name in ("enclave/aws.conf", "build/init/init.c", "build/kernel/x86_64.config"):
        kept = (source / name).read_bytes()
        (source / name).unlink()
        with pytest.raises(UsageError, match=name) as caught:
            builder.build(source, tmp_path / "out", cache=tmp_path / "cache")
        assert caught.value.exit_code == 2
        (source / name).write_bytes(kept)
    with pytest.raises(UsageError, match=r"no enclave/none\.py in the source tree"):
        rootfs.add_sources(Tree(tmp_path / "root"), source, "enclave/none.py", "x")
    with pytest.raises(UsageError, match=r"enclave/other\.lock: the file is missing"):
        wheels.pin_wheels(source, Wheels("enclave/other.lock", "lib"))


def test_wheels_that_no_image_file_asks_for_are_not_pinned(tmp_path: Path) -> None:
    """A lock with wheels for an image without them is refused; an empty requirements file asks nobody."""
    source = make_source(tmp_path / "source")
    (source / "enclave/requirements.lock").write_text("# none\n")
    assert wheels.pin_wheels(source, Wheels("enclave/requirements.lock", "lib")) == ()
    locked = dataclasses.replace(locks.load_lock(source)[0], wheels=())
    wheels.check_pins(locked, source, None)
    wheel = locks.LockedWheel("a", "1", "a-1-py3-none-any.whl", 1, "0" * 64)
    with pytest.raises(BadLock, match=f"does not agree with {IMAGE_FILE} on a 1"):
        wheels.check_pins(dataclasses.replace(locked, wheels=(wheel,)), source, None)


def test_modules_are_compiled_where_image_toml_says_so_only(tmp_path: Path) -> None:
    """No folders, no command, on either route; a folder or interpreter that is not there is named."""
    assert rootfs.compile_commands(Bytecode("usr/bin/python3.11", (), ())) == ()
    ((folders, command),) = rootfs.compile_commands(Bytecode("usr/bin/python3.11", (), ("usr/lib/a",)))
    assert (folders, command[0], command[-1]) == (("usr/lib/a",), "/usr/bin/python3.11", "/usr/lib/a")
    assert "compileall" not in container.driver(image.parse_spec(TEXT), None)
    for name in ("bin", "lib"):
        (tmp_path / "usr" / name).mkdir(parents=True)
    for missing in ("usr/bin/python3.11", "usr/lib/a"):
        with pytest.raises(UsageError, match=f"there is no {missing}"):
            rootfs.compile_modules(
                Bytecode("usr/bin/python3.11", ("usr/lib/a",), ()), tmp_path, tmp_path / "scratch"
            )
        (tmp_path / missing).touch()


@pytest.mark.image
def test_a_static_program_is_an_enclave(tmp_path: Path) -> None:
    """One executable file, no package, no Python: it is built, measured and run."""
    source = make_source(tmp_path / "source")
    shutil.copy(compile_program("relay", tmp_path), source / "enclave/relay")
    text = TEXT.replace('["/usr/bin/python3.11", "-I", "/usr/lib/draw/draw.py"]', '["/bin/relay"]')
    begin, end = text.index("packages = [", text.index("[runtime]")), text.index("directories =")
    text = f"{text[:begin]}packages = []\n{text[end:]}"
    begin, end = text.index("[wheels]"), text.index("[profiles]")
    (source / IMAGE_FILE).write_text(f'{text[:begin]}[files]\n"bin/relay" = "enclave/relay"\n\n{text[end:]}')
    write_lock(source)
    report = builder.build(source, tmp_path / "out", progress=Quiet())
    path = tmp_path / "out" / dict(report.profiles)["local"].name
    with path.open("rb") as file:
        _, application = eif.read_structure(file).of_type(eif.SectionType.RAMDISK)
        entries = {e.name for e in cpio.read_entries(file, application.offset, application.size)}
    assert {"rootfs/bin/relay", "rootfs/etc/draw.conf", "cmd", "env"} <= entries
    role, instance = "arn:aws:iam::111122223333:role/parent", "i-1234567890abcdef0"
    with run_enclave(path, tmp_path / "e", role_arn=role, instance_id=instance) as running:
        assert running.measurements.pcr0 == dict(dict(report.profiles)["local"].pcrs)["PCR0"]
    silent = r"does not listen at /run/coattest/in_7000\.sock.*--port"
    with pytest.raises(EnvironmentFailure, match=silent) as caught:
        run_enclave(path, tmp_path / "f", role_arn=role, instance_id=instance, port=7000, start_seconds=0.5)
    assert caught.value.code == "enclave-silent"
