"""Container images booted in QEMU's nitro-enclave machine, in both styles (``tox -e container-images``)."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from click.testing import CliRunner

from coattest.errors import EnvironmentFailure
from coattest_build import builder
from coattest_build.cli.container_build import container_build_command
from coattest_build.cli.container_check import check_command
from coattest_build.containers.image import open_container_image
from coattest_build.containers.own.tree import own_tree
from coattest_build.formats.cpio import content_blocks, read_entries
from coattest_build.formats.eif import SectionType
from coattest_build.formats.measure import measure
from coattest_build.image import LOCK_FILE
from coattest_build.inputs.lock import load_lock
from coattest_build.inputs.pinned_image import pin_of
from coattest_build.starts import write_start
from coattest_local.host.ca import tls_ca_pem
from coattest_local.qemu.enclave import QemuEnclave, run_in_qemu
from coattest_local.qemu.tools import QemuTools, find_tools
from coattest_parent.link.channels import connect_to, parse_address
from coattest_parent.link.forward import PortForwarder
from coattest_parent.link.proxy import ConnectProxy
from coattest_verify.cli.rebuild import rebuild_command
from coattest_verify.quorum.statements.claim import Claimed
from support.build import container_route
from support.build.container_images import entry, folder, saved, tar
from support.enclave.enclave_image import compile_program, read_layout, whole
from support.loopback import free_port
from support.only_in import only_in
from support.parent.network import NAME, TARGET, tls_server
from support.verify.members import Members

only_in("container-images")
pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

PLACE = Path(__file__).parents[2] / "support" / "container_images"
ROLE = "arn:aws:iam::111122223333:role/parent"
INSTANCE = "i-1234567890abcdef0"
DOCKERFILE = """\
FROM scratch
ADD base.tar /
COPY server.py /srv/app/server.py
COPY kept /tmp/kept
ENV GREETING="hello there" HOME=/srv
WORKDIR /srv/app
USER www-data
EXPOSE 80
ENTRYPOINT ["python3"]
CMD ["server.py", "two words"]
"""
WWW_DATA = 33
NITRO_LOCAL = [sys.executable, "-c", "from coattest_local.cli import main; main()"]
# Docker's fourteen without CAP_MKNOD.
DOCKERS = 0xA80425FB & ~(1 << 27)


@pytest.fixture(scope="module")
def tools() -> QemuTools:
    """QEMU and vhost-device-vsock, which the environment builds."""
    return find_tools()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    """One Dockerfile on a Debian root file system, built and saved by buildah and by Docker's BuildKit.

    ``carried`` is BuildKit's image as buildah saves it again.
    """
    if lacking := container_route.missing("dockerd", container_route.DOCKER):
        reason = f"needs {', '.join(lacking)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="coattest-images-") as name:
        scratch = Path(name)
        context = scratch / "context"
        context.mkdir()
        shutil.copyfile(container_route.base_archive("bookworm"), context / "base.tar")
        shutil.copyfile(PLACE / "server.py", context / "server.py")
        (context / "kept").write_text("of the image")
        (context / "Dockerfile").write_text(DOCKERFILE)
        (scratch / "docker").mkdir()
        with container_route.docker_daemon(scratch / "docker") as buildkit:
            found, buildah = {}, container_route.Buildah(scratch / "buildah")
            engines: Mapping[str, container_route.Engine] = {"buildah": buildah, "buildkit": buildkit}
            for maker, engine in engines.items():
                engine.image("localhost/coattest-server", context)
                found[maker] = scratch / f"{maker}.tar"
                engine.save("localhost/coattest-server", found[maker])
            found["carried"] = scratch / "carried.tar"
            buildah.carry(found["buildkit"], found["carried"])
        yield found


def build(image: Path, target: Path, *words: object) -> None:
    """`eif container build`."""
    done = CliRunner().invoke(
        container_build_command, [str(word) for word in (image, "--out", target, *words)]
    )
    assert done.exit_code == 0, done.output


@contextlib.contextmanager
def booted(image: Path, directory: Path, tools: QemuTools) -> Iterator[QemuEnclave]:
    """The image in QEMU, when it listens."""
    with run_in_qemu(image, directory, role_arn=ROLE, instance_id=INSTANCE, tools=tools) as enclave:
        yield enclave


def ends(image: Path, directory: Path, tools: QemuTools) -> str:
    """The console of an image whose program ends by itself."""
    with (
        pytest.raises(EnvironmentFailure, match="the guest ended"),
        booted(image, directory, tools),
    ):
        pass
    return (directory / "console.log").read_text(errors="replace").replace("\r", "")


class Through(http.client.HTTPConnection):
    """HTTP over the enclave's vsock port."""

    def __init__(self, address: str) -> None:
        super().__init__("enclave")
        self._address = address

    def connect(self) -> None:
        """By the Unix socket of the hybrid vsock."""
        self.sock = connect_to(parse_address(self._address), 120)


def ask(enclave: QemuEnclave, path: str = "/") -> Any:
    """GET, as JSON."""
    connection = Through(enclave.address)
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def test_two_makers_of_one_dockerfile_give_one_ramdisk(archives: Mapping[str, Path], tmp_path: Path) -> None:
    """Times, compression and form of the archive differ; what is measured does not."""
    ramdisks = {}
    for maker, archive in archives.items():
        with open_container_image(archive) as opened:
            ramdisks[maker] = tmp_path / maker
            with ramdisks[maker].open("wb") as file:
                file.writelines(own_tree(opened).blocks())
    assert ramdisks["buildah"].read_bytes() == ramdisks["buildkit"].read_bytes()


def test_two_members_with_different_daemons_come_to_one_decision(
    archives: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has the image from Docker, the other from buildah; both build it by `verify rebuild`."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
    source = tree_of(archives["buildkit"], tmp_path / "tree")
    given = {"buyer-1": archives["buildkit"], "buyer-2": archives["carried"]}
    assert given["buyer-1"].read_bytes() != given["buyer-2"].read_bytes()
    members = Members.make(tmp_path / "quorum", require_compiled_kernel=False)
    claim = builder.build(source, tmp_path / "publisher", container=archives["carried"]).claim()
    members.claimed = Claimed.decode(claim)
    members.write("claim.json", claim)
    members.publish("buyer-1")
    for name, archive in given.items():
        words = ("--source", source, "--attestations", members.attestations, "--from", archive)
        line = [str(word) for word in (*words, "--out", tmp_path / name, "--json")]
        done = CliRunner().invoke(rebuild_command, line)
        assert done.exit_code == 0, done.output
        members.sign(name, json.loads((tmp_path / name / "rebuild.json").read_text()))
    outcome = members.decide()
    assert outcome.decision is not None, outcome.reasons
    assert outcome.decision.agreed == tuple(given)
    assert outcome.decision.pcrs[0] == measure(tmp_path / "publisher/image.eif").pcr0


def tree_of(archive: Path, folder: Path) -> Path:
    """A tree from `eif init container` whose lock pins this image."""
    write_start("container", folder)
    with open_container_image(archive) as opened:
        lock = replace(load_lock(folder)[0], container=pin_of(opened))
    (folder / LOCK_FILE).write_text(lock.render())
    return folder


@pytest.fixture(scope="module")
def server(
    archives: Mapping[str, Path], tools: QemuTools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[QemuEnclave, Mapping[str, Any], Path]]:
    """The Debian image with /dev/nsm in QEMU, and what it tells of itself."""
    place = tmp_path_factory.mktemp("server")
    image = place / "server.eif"
    build(archives["buildah"], image, "--style", "coattest", "--nsm")
    with booted(image, place / "e", tools) as enclave:
        yield enclave, ask(enclave), image


def test_an_ordinary_server_runs_as_in_docker(
    server: tuple[QemuEnclave, Mapping[str, Any], Path],
) -> None:
    """Words, user, folder, environment; terminals, IPC, inotify, AIO; a file system that can be written."""
    _, facts, _ = server
    print(json.dumps(facts, indent=1))
    assert facts["ids"] == [WWW_DATA, WWW_DATA, [WWW_DATA]]
    assert (facts["folder"], facts["words"]) == ("/srv/app", ["server.py", "two words"])
    environment = facts["environment"]
    assert (environment["GREETING"], environment["HOME"]) == ("hello there", "/srv")
    assert environment["PATH"].startswith("/usr/local/sbin:")
    assert (facts["terminal"], facts["script"], facts["temporary"]) == ("line\n", "ran\n", "of the image")
    for name in ("shared memory", "semaphores", "queues", "inotify", "memory file"):
        assert facts[name] is True, name
    assert (facts["asynchronous"], facts["stdout"], facts["shm"]) == (0, 16, 1)
    assert (facts["files"], facts["own home"]) == ([65536, 65536], "/srv")
    assert facts["root"][0][1].split(",")[0] == "rw"
    assert facts["left of orphans"] == 0


def test_it_has_no_more_than_docker_gives(server: tuple[QemuEnclave, Mapping[str, Any], Path]) -> None:
    """No capability for a user, Docker's for root; the loopback alone; /proc/sys is not written."""
    _, facts, _ = server
    assert [int(text, 16) for text in facts["capabilities"]] == [0, DOCKERS]
    assert (facts["interfaces"], facts["localhost"], facts["host"]) == (["lo"], "127.0.0.1", "enclave")
    assert facts["name server"].startswith("gaierror")
    assert "Read-only" in facts["sysctl"] or "Permission" in facts["sysctl"]


def test_its_clock_and_registers_are_the_nsms(server: tuple[QemuEnclave, Mapping[str, Any], Path]) -> None:
    """QEMU measured what `eif container build` says; the clock was set before the program started."""
    _, facts, image = server
    measured = measure(image)
    assert facts["registers"] == [measured.pcr0, measured.pcr1, measured.pcr2]
    assert abs(facts["time"] - time.time()) < 120


def test_the_end_tells_the_exit_code(server: tuple[QemuEnclave, Mapping[str, Any], Path]) -> None:
    """What it wrote is on the console, by descriptor and by name, and then its exit code."""
    enclave, _, _ = server
    with contextlib.suppress(http.client.HTTPException, OSError, ValueError):
        ask(enclave, "/exit/7")
    deadline = time.monotonic() + 60
    console = enclave.console
    while b"the enclave ends" not in console.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.2)
    said = console.read_text(errors="replace").replace("\r", "")
    for line in ("hello from the image", "written by name", "init: the program ended with exit code 7"):
        assert line in said


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The layer of an image from scratch: one static program."""
    program = compile_program("static", tmp_path_factory.mktemp("static"), PLACE)
    return tar(folder("opt"), folder("opt/bin"), entry("opt/bin/static", program.read_bytes(), mode=0o755))


def test_a_static_program_from_scratch_is_found_in_path(
    static: bytes, tools: QemuTools, tmp_path: Path
) -> None:
    """By name alone, as a number of no user, in a folder that no layer has; /dev/nsm only where asked for."""
    config = {
        "Cmd": ["static", "", "a\nb"],
        "Env": ["PATH=relative::/nowhere:/opt/bin", "EMPTY="],
        "User": "1234:5",
        "WorkingDir": "/made/here",
    }
    (tmp_path / "image.tar").write_bytes(saved([static], config))
    build(tmp_path / "image.tar", tmp_path / "x.eif", "--style", "coattest")
    said = ends(tmp_path / "x.eif", tmp_path / "e", tools)
    wanted = [
        *("word static", "word ", "word a", "b"),
        *("variable PATH=relative::/nowhere:/opt/bin", "variable EMPTY=", "variable HOSTNAME=enclave"),
        *("variable HOME=/", "ids 1234 5 in /made/here", "nsm -1"),
        "init: the program ended with exit code 3",
    ]
    assert "\n".join(wanted) in said


def test_a_container_image_in_image_toml_boots(static: bytes, tools: QemuTools, tmp_path: Path) -> None:
    """From `eif init container` and its pin: its own user and folder, /dev/nsm as image.toml says."""
    config = {"Cmd": ["static"], "Env": ["PATH=/opt/bin"], "User": "1234:5", "WorkingDir": "/opt"}
    (tmp_path / "image.tar").write_bytes(saved([static], config))
    tree = tree_of(tmp_path / "image.tar", tmp_path / "tree")
    report = builder.build(tree, tmp_path / "out", container=tmp_path / "image.tar")
    said = ends(tmp_path / "out/image.eif", tmp_path / "e", tools)
    assert "ids 1234 5 in /opt\nnsm 0\ninit: the program ended with exit code 3" in said
    assert measure(tmp_path / "out/image.eif").pcr0 == dict(dict(report.profiles)["aws"].pcrs)["PCR0"]


def test_a_program_that_is_not_there_ends_with_127(static: bytes, tools: QemuTools, tmp_path: Path) -> None:
    """As a shell tells it; the enclave does not hang."""
    (tmp_path / "image.tar").write_bytes(saved([static], {"Cmd": ["nothing"]}))
    build(tmp_path / "image.tar", tmp_path / "x.eif", "--style", "coattest")
    said = ends(tmp_path / "x.eif", tmp_path / "e", tools)
    assert "init: find nothing failed: errno 2\ninit: the program ended with exit code 127" in said


def node_layer(more: Mapping[str, Path]) -> bytes:
    """This machine's node with its libraries, alone, and these files."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    said = subprocess.run(["ldd", node], capture_output=True, text=True, check=True).stdout
    files = {path.lstrip("/"): Path(path) for path in re.findall(r"(/\S+) \(0x", said)}
    files |= {"bin/node": Path(node), **more}
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    return tar(
        *(folder(name) for name in sorted(folders)),
        folder("tmp", mode=0o1777),
        *(entry(name, path.read_bytes(), mode=0o755) for name, path in files.items()),
    )


def test_node_runs_behind_a_bridge(tools: QemuTools, tmp_path: Path) -> None:
    """TCP, inotify, threads, a user without a name."""
    bridge = compile_program("bridge", tmp_path, PLACE)
    layer = node_layer({"bridge": bridge, "srv/server.js": PLACE / "server.js"})
    config = {
        "Entrypoint": ["/bridge", "5005", "8080"],
        "Cmd": ["node", "server.js", "a word"],
        "Env": ["PATH=/bin"],
        "User": "65534:65534",
        "WorkingDir": "/srv",
    }
    (tmp_path / "image.tar").write_bytes(saved([layer], config))
    build(tmp_path / "image.tar", tmp_path / "x.eif", "--style", "coattest")
    with booted(tmp_path / "x.eif", tmp_path / "e", tools) as enclave:
        facts = retried(enclave)
    assert facts == {"event": "rename", "answer": 42, "uid": 65534, "cwd": "/srv", "words": ["a word"]}


def test_a_network_leads_where_it_was_measured_to_and_nowhere_else(tools: QemuTools, tmp_path: Path) -> None:
    """A client inside by the parent's proxy, a server inside by the parent's port; no vsock of its own."""
    (tmp_path / "ca.pem").write_bytes(tls_ca_pem())
    families = compile_program("families", tmp_path, PLACE)
    layer = node_layer(
        {"families": families, "srv/network.js": PLACE / "network.js", "srv/ca.pem": tmp_path / "ca.pem"}
    )
    config = {"Cmd": ["node", "/srv/network.js"], "Env": ["PATH=/bin"], "User": "0:0"}
    (tmp_path / "image.tar").write_bytes(saved([layer], config))
    unlisted = "other.coattest.test:443"
    words = ("--style", "coattest", "--listen", "5005:8080", "--connect", TARGET)
    build(tmp_path / "image.tar", tmp_path / "x.eif", *words)
    with (
        booted(tmp_path / "x.eif", tmp_path / "e", tools) as enclave,
        tls_server(tmp_path) as port,
        ConnectProxy(
            parse_address(enclave.proxy_address), dict.fromkeys((TARGET, unlisted), ("127.0.0.1", port))
        ) as proxy,
        PortForwarder(("127.0.0.1", 0), parse_address(enclave.address)) as outside,
    ):
        facts = retried(enclave)

        def get(path: str) -> Any:
            connection = http.client.HTTPConnection("127.0.0.1", outside.port, timeout=120)
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())

        assert get(f"/{TARGET}") == {"proxy": 200, "text": "hello"}
        assert get(f"/{unlisted}") == {"proxy": 403}
        assert get(f"/{NAME}:80") == {"proxy": 403}
        assert (proxy.tunnels_opened, proxy.refused) == (1, [])
    unsupported = errno.EAFNOSUPPORT
    assert facts == {"vsock": f"{unsupported} {unsupported} {unsupported} 0\n", "uid": 0}


@pytest.fixture
def nowhere() -> Iterator[str]:
    """HOST:PORT at which nobody listens."""
    with free_port() as port:
        yield f"127.0.0.1:{port}"


def test_one_command_runs_an_enclave_with_its_network(tools: QemuTools, tmp_path: Path, nowhere: str) -> None:
    """Proxy and ports are those that were measured; `eif container check` finds the file equal."""
    (tmp_path / "ca.pem").write_bytes(tls_ca_pem())
    families = compile_program("families", tmp_path, PLACE)
    layer = node_layer(
        {"families": families, "srv/network.js": PLACE / "network.js", "srv/ca.pem": tmp_path / "ca.pem"}
    )
    config = {"Cmd": ["node", "/srv/network.js"], "Env": ["PATH=/bin"], "User": "0:0"}
    source, eif = tmp_path / "image.tar", tmp_path / "x.eif"
    source.write_bytes(saved([layer], config))
    words = ("--style", "coattest", "--listen", "5005:8080", "--connect", nowhere)
    build(source, eif, *words)
    done = CliRunner().invoke(check_command, [str(word) for word in (source, "--eif", eif, *words)])
    assert done.exit_code == 0, done.output
    place = ["--directory", str(tmp_path / "e")]
    line = [*NITRO_LOCAL, "run-enclave", str(eif), *place, "--host", "qemu", "--detach", "--json"]
    started = subprocess.run(
        [*line, "--role-arn", ROLE, "--instance-id", INSTANCE], capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stderr
    try:
        record = json.loads(started.stdout)
        assert record["connect"] == [nowhere]
        port = int(record["ports"]["5005"].rpartition(":")[2])
        deadline = time.monotonic() + 120
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                connection.request("GET", f"/{nowhere}")
                answer = json.loads(connection.getresponse().read())
                break
            except (http.client.HTTPException, OSError):
                assert time.monotonic() < deadline
                time.sleep(1)
        assert answer == {"proxy": 502}
    finally:
        subprocess.run([*NITRO_LOCAL, "terminate-enclave", *place], check=True, capture_output=True)


def retried(enclave: QemuEnclave) -> Any:
    """GET, again until the server behind the bridge listens."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return ask(enclave)
        except (http.client.HTTPException, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_nitro_clis_style_boots_with_blobs_of_ones_own(
    static: bytes, tools: QemuTools, built_images: Any, tmp_path: Path
) -> None:
    """Kernel and init of the auction in the place of AWS's: they read cmd and env as AWS's init does."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    with built_images.image("local").open("rb") as file:
        layout = read_layout(file)
        (blobs / "bzImage").write_bytes(whole(file, layout.of_type(SectionType.KERNEL)[0]))
        (blobs / "cmdline").write_bytes(whole(file, layout.of_type(SectionType.CMDLINE)[0]))
        boot = layout.of_type(SectionType.RAMDISK)[0]
        (init,) = (one for one in read_entries(file, boot.offset, boot.size) if one.name == "init")
        (blobs / "init").write_bytes(b"".join(content_blocks(file, init)))
    (blobs / "nsm.ko").write_bytes(b"not a driver")
    config = {"Cmd": ["/opt/bin/static", "x"], "Env": ["A=1"], "WorkingDir": "/opt"}
    (tmp_path / "image.tar").write_bytes(saved([static], config))
    build(tmp_path / "image.tar", tmp_path / "x.eif", "--style", "nitro-cli", "--blobs", blobs)
    said = ends(tmp_path / "x.eif", tmp_path / "e", tools)
    assert "word /opt/bin/static\nword x\nvariable A=1\nids 0 0 in /\nnsm 0\n" in said
    assert "init: the program ended with exit code 3" in said
