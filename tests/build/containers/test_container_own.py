"""Style coattest: what becomes of a container image in an enclave with our kernel and init."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import EnvironmentFailure
from coattest_build.cli import container_build
from coattest_build.cli.describe import describe_command
from coattest_build.containers import nitrocli
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.image import open_container_image
from coattest_build.containers.manifests import MAX_WORDS
from coattest_build.containers.own.plan import MAX_WORD, decode_plan
from coattest_build.containers.own.profile import read_profile
from coattest_build.containers.own.tree import TIME, OwnTree, own_tree
from coattest_build.containers.own.users import ContainerUser, resolve_user
from coattest_build.explain.describe import describe_image, tree_rows
from coattest_build.formats.eif import EifSection, Layout, SectionType
from coattest_build.formats.lenient.initramfs import Unpacking, unpack_ramdisks
from coattest_build.kernel import Compiled, parse_config
from support.build.container_images import (
    Entry,
    config_of,
    entry,
    folder,
    hard_link,
    saved,
    sha256,
    symlink,
    tar,
)
from support.build.container_images import Layout as OciLayout
from support.build.containers.command import run

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv/web:/x\nodd:x:::/o:/x\nweb:x:99:99::/no:/x\n"
OTHERS = b"+33:x:5:5::/:\n%s:x:5:5::/:\nfew:x:35:users::/:\nfar:x:36:4294967295::/:\n" % (b"2" * 20)
"""Names that Go takes for numbers, and users whose group is none."""
GROUP = b"root:x:0:\nwww:x:34:\nlog:x:7:web,other\naux:x:5:other,web\nnone:x:x:web\n"


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", ContainerUser(0, 0, (0,), "/root")),
        ("web", ContainerUser(33, 34, (34, 5, 7), "/srv/web")),
        ("33", ContainerUser(33, 34, (34, 5, 7), "/srv/web")),
        ("web:log", ContainerUser(33, 7, (7,), "/srv/web")),
        ("web:0", ContainerUser(33, 0, (0,), "/srv/web")),
        ("1000", ContainerUser(1000, 0, (0,), "/")),
        ("00000000000000033", ContainerUser(33, 34, (34, 5, 7), "/srv/web")),
        ("1000:1001", ContainerUser(1000, 1001, (1001,), "/")),
        (":log", ContainerUser(0, 7, (7,), "/root")),
    ],
)
def test_the_user_is_who_docker_would_take(user: str, found: ContainerUser) -> None:
    """A number is an id; the first line counts; a named group replaces all others."""
    assert resolve_user(user, PASSWD, GROUP) == found


@pytest.mark.parametrize(
    "user",
    [
        *("nobody", "odd", "2147483648", "web:nobody", "0x1", "-1", "web:-1", "\uff11"),
        *("+33", "2" * 20, "few", "far"),
    ],
)
def test_a_user_whom_the_image_does_not_have_is_refused(user: str) -> None:
    """Docker takes a line without a number for root's; here nobody becomes root by a broken line."""
    with pytest.raises(ContainerError, match="which the image does not have"):
        resolve_user(user, PASSWD + OTHERS, GROUP)


def test_a_home_folder_with_a_nul_is_refused(
    opened: Opened, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """init would read another text behind it; inspect says so beforehand."""
    layer = tar(folder("etc"), entry("etc/passwd", b"web:x:33:34::/srv\0A=b:/x\n"))
    tree = opened(saved([layer], {"Cmd": ["a"], "User": "web"}))
    with pytest.raises(ContainerError, match="a NUL"):
        ramdisk(tree)
    _, shown, _ = run(capsys, "inspect", image, "--json")
    assert "a NUL" in json.loads(shown)["coattest"]["why_not"]


def test_an_image_without_users_runs_as_root() -> None:
    """As one made from scratch."""
    assert resolve_user("", b"", b"") == ContainerUser(0, 0, (0,), "/")


Opened = Callable[..., OwnTree]


@pytest.fixture
def opened(image: Path) -> Iterator[Opened]:
    """The tree of an archive."""
    with ExitStack() as stack:

        def open_one(raw: bytes, **options: Any) -> OwnTree:
            image.write_bytes(raw)
            return own_tree(stack.enter_context(open_container_image(image)), **options)

        yield open_one


def ramdisk(tree: OwnTree) -> bytes:
    """The application ramdisk."""
    return b"".join(tree.blocks())


def unpacked(raw: bytes) -> Unpacking:
    """What Linux makes of it."""
    section = EifSection(SectionType.RAMDISK, 0, len(raw))
    return unpack_ramdisks(io.BytesIO(raw), Layout(0, 0, 0, 0, (section,), len(raw)), digests=True)


def test_the_plan_is_what_docker_would_start(opened: Opened) -> None:
    """Entrypoint and Cmd joined, Docker's own variables behind the image's, ids, groups and the folder."""
    layer = tar(folder("etc"), entry("etc/passwd", PASSWD), entry("etc/group", GROUP))
    run_config = {
        "Entrypoint": ["/init", "a b"],
        "Cmd": ["c\nd", ""],
        "Env": ["A=b=c", "HOME=/h"],
        "User": "web",
        "WorkingDir": "/srv//web/../x",
    }
    tree = opened(saved([layer], run_config), nsm=True)
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    fields = [
        *("coattest-run/v1", "1", "33", "34", "3", "34", "5", "7", "/srv/x"),
        *("4", "/init", "a b", "c\nd", ""),
        *("4", "A=b=c", "HOME=/h", path, "HOSTNAME=enclave"),
    ]
    wanted = "".join(f"{field}\0" for field in fields).encode()
    assert tree.plan.encode() == wanted
    assert decode_plan(wanted) == replace(tree.plan, user=replace(tree.plan.user, home=""))
    found = unpacked(ramdisk(tree))
    plan = found.tree.stat(b"run")
    assert plan is not None
    assert (plan.mode, found.streams.sha256(plan.body)) == (0o100600, sha256(wanted))
    made = found.tree.stat(b"rootfs/srv/x")
    assert made is not None
    assert (made.kind, made.mode & 0o7777, made.uid) == ("directory", 0o755, 0)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({}, "nothing would run"),
        ({"Cmd": []}, "nothing would run"),
        ({"Cmd": [""]}, "nothing would run"),
        ({"Cmd": ["a"], "Env": ["A=1", "A=2"]}, "two values"),
        ({"Cmd": ["a"], "Env": ["A"]}, "not a variable"),
        ({"Cmd": ["a"], "Env": ["=1"]}, "not a variable"),
        ({"Cmd": ["a"], "WorkingDir": "srv"}, "not an absolute path"),
        ({"Cmd": ["a"], "WorkingDir": "/f"}, "no folder can be at '/f': a file is there"),
        ({"Cmd": ["a"], "User": "nobody"}, "does not have"),
        ({"Cmd": ["a" * (MAX_WORD + 1)]}, "at most"),
        ({"Cmd": ["a" * MAX_WORD] * 9}, "at most"),
        ({"Entrypoint": ["a"] * MAX_WORDS, "Cmd": ["a"]}, "more than 16384 words"),
        ({"Cmd": ["a"], "Env": [f"A{number}=" for number in range(MAX_WORDS)]}, "more than 16384 words"),
    ],
)
def test_what_has_no_one_meaning_is_refused(opened: Opened, config: Mapping[str, Any], what: str) -> None:
    """Nothing of a configuration is guessed, cut or dropped."""
    with pytest.raises(ContainerError, match=what):
        ramdisk(opened(saved([tar(folder("d"), entry("f"))], config)))


@pytest.mark.parametrize("fields", [{"architecture": "arm64"}, {"os": "windows"}])
def test_an_image_for_another_machine_is_refused(opened: Opened, fields: Mapping[str, str]) -> None:
    """The kernel is for one."""
    layer = tar(folder("d"))
    with pytest.raises(ContainerError, match="linux/amd64"):
        opened(saved([layer], config=config_of([layer], **fields)))


def content(mtime: int) -> list[bytes]:
    """Two layers of one content, at some time."""
    when = {"mtime": mtime}
    return [
        tar(
            folder("etc", **when),
            folder("srv", mode=0o750, uid=7, gid=8, **when),
            entry("srv/tool", b"tool", mode=0o4755, uid=7, **when),
            entry("srv/gone", b"x", **when),
            hard_link("srv/also", "srv/tool", mode=0o4755, uid=7, **when),
            symlink("etc/mtab", "../x", **when),
            entry("etc/hosts", b"10.0.0.1 trap\n", **when),
            folder("dev", **when),
            entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8, **when),
        ),
        tar(
            entry("srv/.wh.gone", **when),
            entry("srv/new", b"new", **when),
            entry("opt/a/b", b"b", mode=0o600, **when),
        ),
    ]


def test_the_same_content_is_the_same_bytes_whoever_saved_it(opened: Opened) -> None:
    """Another archive, compression, time, and implied folders with or without entries of their own."""
    first = ramdisk(opened(saved(content(1_600_000_000))))
    layout = OciLayout()
    one, two = content(1_700_000_000)
    explicit = tar(
        *(folder(name, mtime=1) for name in ("opt", "opt/a")),
        folder("srv", mode=0o750, uid=7, gid=8),
        entry("opt/a/b", b"b", mode=0o600),
        entry("srv/new", b"new"),
        entry("srv/.wh.gone"),
    )
    assert two != explicit
    layout.index(layout.manifest([one, explicit]))
    files = [entry(name, data) for name, data in layout.files.items()]
    assert ramdisk(opened(tar(*files))) == first


def test_files_with_holes_have_the_images_limit(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layer of 2 KB would be gigabytes on the disk of whoever looks at it: also in an export."""
    layer = tar(hole(1 << 30), entry("a", mode=0o755))
    for data in (saved([layer]), layer):
        image.write_bytes(data)
        assert run(capsys, "inspect", image)[0] == 0
        code, _, said = run(capsys, "inspect", image, "--max-size", 1 << 29)
        assert (code, "files of more than" in said) == (2, True)
    image.write_bytes(saved([tar(hole(1 << 30)), tar(hole(1 << 30)), tar(hole(1))]))
    assert run(capsys, "inspect", image)[0] == 2


def hole(size: int) -> Entry:
    """A sparse file of nothing."""
    pax = {"major": "1", "minor": "0", "name": "hole", "realsize": str(size)}
    headers = {f"GNU.sparse.{key}": value for key, value in pax.items()}
    return entry("hole", b"0\n".ljust(512, b"\0"), pax_headers=headers)


def test_an_entrypoint_of_one_empty_word_is_none(opened: Opened) -> None:
    """Docker's way to clear that of the base image."""
    layers = [tar(folder("d"))]
    for entrypoint in (None, [], [""]):
        tree = opened(saved(layers, {"Entrypoint": entrypoint, "Cmd": ["/a", ""]}))
        assert tree.plan.words == ("/a", "")


def test_a_ramdisk_has_an_end(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file takes a few bytes of a layer, and any number of the disk that a ramdisk is written to."""
    monkeypatch.setattr(nitrocli, "MAX_RAMDISK", 1 << 20)
    tree = opened(saved([tar(hole(1 << 30))]))
    assert sum(map(len, iter_until(tree.blocks()))) < 1 << 20


def iter_until(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks before the limit."""
    with pytest.raises(ContainerError, match="a ramdisk of more than"):
        yield from blocks


def test_the_tree_has_what_the_layers_say(opened: Opened) -> None:
    """Modes and owners kept, removals done, one inode for hard links, one time, nothing below /dev."""
    tree = opened(saved(content(5)))
    found = unpacked(ramdisk(tree))
    assert (found.findings, found.stopped) == ((), None)
    at = {path.decode(): node for path, node in found.tree.walk() if path.startswith(b"rootfs")}
    assert {node.mtime for node in at.values()} == {TIME}
    tool = at["rootfs/srv/tool"]
    assert tool is at["rootfs/srv/also"]
    assert (tool.mode, tool.uid, tool.links) == (0o104755, 7, 2)
    assert found.streams.sha256(tool.body) == sha256(b"tool")
    assert (at["rootfs/srv"].mode, at["rootfs/srv"].uid, at["rootfs/srv"].gid) == (0o40750, 7, 8)
    assert at["rootfs/opt/a"].mode == 0o40755
    assert at["rootfs/etc/mtab"].target == b"/proc/mounts"
    hosts = at["rootfs/etc/hosts"]
    assert (hosts.mode, found.streams.sha256(hosts.body)) == (
        0o100644,
        sha256(b"127.0.0.1\tlocalhost enclave\n"),
    )
    assert set(at) == {
        "rootfs",
        *(f"rootfs/{name}" for name in ("dev", "proc", "sys", "etc", "srv", "opt", "opt/a", "opt/a/b")),
        *(f"rootfs/etc/{name}" for name in ("hosts", "hostname", "resolv.conf", "mtab")),
        *(f"rootfs/srv/{name}" for name in ("tool", "also", "new")),
    }
    assert (tree.decided, tree.hidden) == ((b"opt", b"opt/a", b"srv"), ())


def test_users_are_looked_up_where_links_lead(opened: Opened) -> None:
    """Inside the image only; a link in a circle leads to nobody."""
    layer = tar(
        folder("etc"),
        folder("usr"),
        entry("usr/passwd", PASSWD),
        symlink("etc/passwd", "/../../usr/x"),
        symlink("usr/x", "passwd"),
        symlink("etc/group", "group"),
    )
    config = {"Cmd": ["a"], "User": "web"}
    assert opened(saved([layer], config)).plan.user == ContainerUser(33, 34, (34,), "/srv/web")


def test_a_path_that_linux_would_drop_is_refused(opened: Opened) -> None:
    """Its ramdisk would lose the file without a word."""
    deep = "/".join(["d" * 255] * 16)
    with pytest.raises(ContainerError, match="which Linux drops"):
        ramdisk(opened(saved([tar(entry(deep))])))


def test_the_fragment_has_what_programs_need_and_not_what_attacks_need() -> None:
    """The profile takes back what the auction's switches off, and only that; the auction's has no TCP."""
    profile = read_profile()
    options = parse_config(profile.fragment.decode())
    auctions = parse_config((Path(__file__).parents[3] / "build/kernel/x86_64.config").read_text())
    assert auctions["INET"] == "n"
    changed = {name for name, value in auctions.items() if options[name] != value}
    assert changed == {"INET", "UNIX98_PTYS", "SYSVIPC", "AIO"}
    for name in ("MODULES", "NAMESPACES", "BPF_SYSCALL", "IO_URING", "IPV6", "NETFILTER"):
        assert options[name] == "n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """A kernel that nobody compiled."""
    made = tmp_path / "kernel"
    made.mkdir()
    for name in ("bzImage", "init", "config"):
        (made / name).write_bytes(name.encode() * 50)
    compiled = Compiled(made / "bzImage", made / "init", made / "config", "ab" * 32, "cd" * 32, False)
    monkeypatch.setattr(container_build, "obtain_kernel", lambda *_, **__: compiled)
    return compiled


def test_an_image_file_names_profile_and_content(
    image: Path, kernel: Compiled, capsys: pytest.CaptureFixture[str]
) -> None:
    """In what the command prints and in the metadata, which `eif describe` shows; twice the same file."""
    image.write_bytes(saved(content(5), {"Cmd": ["/srv/tool"]}))
    target = image.with_name("x.eif")
    words = ("build", image, "--style", "coattest", "--out", target)
    code, shown, _ = run(capsys, *words)
    assert code == 0
    document = json.loads(shown)
    assert document["kernel"]["profile"] == "container"
    assert document["container"]["diff_ids"] == [f"sha256:{sha256(layer)}" for layer in content(5)]
    assert document["runs"]["command"] == ["/srv/tool"]
    described = describe_image(target, now=datetime.now(timezone.utc), files=False)
    assert described.measurements.pcr0 == document["Measurements"]["PCR0"]
    custom = described.metadata["CustomMetadata"]
    assert custom == {
        "kernel": {"profile": "container", "inputs": f"sha256:{kernel.digest}"},
        "container": document["container"],
    }
    assert described.to_json()["start"] == "run"
    rows = {row.path: row.hidden for row in tree_rows(described.unpacked)}
    assert (rows["rootfs/srv/tool"], rows["rootfs/opt/a/b"]) == (None, None)
    shown_to_people = CliRunner().invoke(describe_command, [str(target)]).output
    assert "container (init starts what /run says)" in shown_to_people
    first = target.read_bytes()
    assert run(capsys, *words)[0] == 0
    assert target.read_bytes() == first
    assert run(capsys, *words, "--nsm")[0] == 0
    assert target.read_bytes() != first
    code, shown, _ = run(capsys, *words, "--listen", "5005:80", "--connect", "a.test:443")
    network = {"listen": ["5005:80"], "connect": ["a.test:443"]}
    assert (code, json.loads(shown)["runs"]["network"]) == (0, network)
    again = describe_image(target, now=datetime.now(timezone.utc), files=False)
    assert again.measurements.pcr2 != described.measurements.pcr2
    assert again.to_json()["runs"]["network"] == network
    shown_to_people = CliRunner().invoke(describe_command, [str(target)]).output
    assert "vsock 5005 to 127.0.0.1:80; out to a.test:443" in " ".join(shown_to_people.split())
    assert run(capsys, *words, "--connect", "A.test:443")[0] == 2


def test_the_ramdisk_alone_needs_no_kernel(
    image: Path, kernel: Compiled, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its PCR2 is that of the image file: who has no time to compile can compare that."""
    del kernel
    image.write_bytes(saved(content(5), {"Cmd": ["/srv/tool"]}))
    words = (image, "--style", "coattest", "--nsm", "--out")
    built = json.loads(run(capsys, "build", *words, image.with_name("x.eif"))[1])
    alone = json.loads(run(capsys, "ramdisk", *words, image.with_name("x.cpio"), "--json")[1])
    assert alone["PCR2"] == built["Measurements"]["PCR2"]
    assert alone["sha256"] == sha256(image.with_name("x.cpio").read_bytes())
    code, _, said = run(capsys, "ramdisk", *words, image.with_name("x.cpio"), "--cmd", "/x")
    assert (code, "--cmd would do nothing" in said) == (2, True)


def test_a_folder_that_hides_a_link_is_told(
    image: Path, kernel: Compiled, capsys: pytest.CaptureFixture[str]
) -> None:
    """Docker's stores make a folder of it; who wrote the layer may have meant the link."""
    del kernel
    lower, upper = tar(folder("usr"), folder("usr/lib"), symlink("lib", "usr/lib")), tar(entry("lib/x"))
    image.write_bytes(saved([lower, upper, tar(entry("a", mode=0o755))]))
    code, _, said = run(capsys, "build", image, "--style", "coattest", "--out", image.with_name("x.eif"))
    assert code == 0
    assert "'/lib' is a folder and hides the link" in " ".join(said.split())


@pytest.mark.parametrize(
    ("style", "option"),
    [
        ("coattest", ("--blobs", ".")),
        ("coattest", ("--time", "1=2")),
        ("coattest", ("--docker", "20")),
        ("nitro-cli", ("--nsm",)),
        ("nitro-cli", ("--jobs", "1")),
        ("nitro-cli", ()),
    ],
)
def test_options_of_the_other_style_are_refused(
    image: Path, style: str, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Who gives one believes that it does something; and nitro-cli's style needs its blobs."""
    image.write_bytes(saved(content(5)))
    words = ("build", image, "--style", style, "--out", image.with_name("x.eif"), *option)
    code, _, said = run(capsys, *words)
    assert code == 2
    assert (option[0] if option else "--blobs") in said


def test_a_file_system_without_a_configuration_is_refused(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not say what runs."""
    image.write_bytes(tar(folder("d")))
    code, _, said = run(capsys, "build", image, "--style", "coattest", "--out", image.with_name("x.eif"))
    assert (code, "does not say what runs" in said) == (2, True)


def test_a_kernel_that_cannot_be_made_is_no_image(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3, and no file."""

    def fail(*_: object, **__: object) -> Compiled:
        raise EnvironmentFailure("no user namespaces", code="no-sandbox")

    monkeypatch.setattr(container_build, "obtain_kernel", fail)
    image.write_bytes(saved(content(5), {"Cmd": ["/srv/tool"]}))
    target = image.with_name("x.eif")
    assert run(capsys, "build", image, "--style", "coattest", "--out", target)[0] == 3
    assert not target.exists()
