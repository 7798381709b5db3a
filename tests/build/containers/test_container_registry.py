"""Images straight from a registry: by digest, nothing believed before it, nothing read without a limit."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coattest.errors import UsageError
from coattest_build.containers.image import Choice, open_container_image
from coattest_build.containers.manifests import Platform
from coattest_build.containers.registry import fetching
from coattest_build.containers.registry.reference import Reference, parse_reference
from coattest_build.inputs import transfer
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.pinned_image import open_pinned, pin_of
from coattest_local.host.ca import issue_server_certificate, tls_ca_pem
from support.build.container_images import Layout, config_of, entry, folder, ramdisk_of, sha256, tar
from support.build.containers import registries
from support.build.containers.command import run
from support.build.containers.registries import NAME, Answer, push, real_registry, registry_of
from support.loopback import Handler, Loopback, free_port
from support.raises import raises_code

LAYERS = [tar(folder("d"), entry("d/x", b"1" * 3000)), tar(entry("y", os.urandom(5000)))]
HOST = "registry.coattest.test"


def several() -> tuple[Layout, dict[str, Any]]:
    """An index of two platforms and what only describes them, as BuildKit pushes it; its descriptor."""
    made = Layout()
    images = [
        made.manifest(
            LAYERS,
            config=config_of(LAYERS, architecture=architecture),
            platform={"os": "linux", "architecture": architecture},
        )
        for architecture in ("amd64", "arm64")
    ]
    about = made.manifest(LAYERS[:1], platform={"os": "unknown", "architecture": "unknown"})
    return made, made.nested(*images, about)


def one() -> tuple[Layout, str]:
    """An image of two layers, and its digest in hex."""
    made = Layout()
    return made, made.manifest(LAYERS)["digest"].removeprefix("sha256:")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry."""
    if registries.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs Debian's docker-registry")
    with real_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def test_an_image_of_a_real_registry_is_the_same_as_its_layout(
    real: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index whose platform is named, and its manifest; ramdisk and digests are those of the files."""
    layout, index = several()
    push(real, layout)
    path = layout.index(index).write(tmp_path / "layout")
    wanted = ramdisk_of(path, Choice(platform=Platform("linux", "amd64")))
    address = f"docker://{real}/{NAME}@{index['digest']}"
    code, shown, _ = run(capsys, "inspect", address, "--platform", "linux/amd64", "--json")
    found = json.loads(shown)
    assert (code, found["form"], found["platform"]) == (0, "oci", "linux/amd64")
    assert [layer["compression"] for layer in found["layers"]] == ["gzip", "gzip"]
    words = ("--style", "nitro-cli", "--out", tmp_path / "x.cpio")
    exact = f"docker://{real}/{NAME}@{found['manifest']}"
    for line in ((address, "--platform", "linux/amd64"), (exact,)):
        assert run(capsys, "ramdisk", *line, *words)[0] == 0
        assert (tmp_path / "x.cpio").read_bytes() == wanted
    code, shown, _ = run(capsys, "inspect", address, "--json")
    assert (code, json.loads(shown)["code"]) == (2, "container-ambiguous")
    code, shown, _ = run(capsys, "inspect", f"docker://{real}/{NAME}@sha256:{'0' * 64}", "--json")
    assert (code, json.loads(shown)["code"]) == (3, "unreachable")
    assert "skopeo copy --all docker://" in json.loads(shown)["hint"]


def test_a_pinned_image_comes_from_a_registry_into_the_cache(real: str, tmp_path: Path) -> None:
    """With --from; the next build has it without one."""
    layout, digest = one()
    push(real, layout)
    with open_container_image(parse_reference(f"docker://{real}/{NAME}@sha256:{digest}")) as opened:
        pin = pin_of(opened)
    assert pin.manifest == digest
    store = Cache(tmp_path / "cache")
    for given in (Reference(real, NAME, digest), None):
        with open_pinned(pin, store, given) as opened:
            assert [layer.content.read(0, 1 << 20) for layer in opened.layers] == LAYERS


Shown = Callable[..., tuple[int, Any]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Inspects an image of a registry that a hook makes hostile: exit code and JSON."""

    def inspect(
        hook: Answer, *more: object, layout: Layout | None = None, digest: str = ""
    ) -> tuple[int, Any]:
        made, known = one()
        with Loopback.of(registry_of(layout or made, hook)) as server:
            address = f"docker://127.0.0.1:{server.port}/{NAME}@sha256:{digest or known}"
            code, text, _ = run(capsys, "inspect", address, *more, "--json")
        return code, json.loads(text)

    return inspect


@pytest.mark.parametrize("number", range(4))
def test_content_that_is_not_what_its_digest_says_is_refused(number: int, shown: Shown) -> None:
    """The manifest, the configuration, each layer; also of the right length."""
    _, digest = one()
    seen: list[str] = []

    def other(request: Handler) -> bool:
        seen.append(request.path)
        if len(seen) - 1 != number:
            return False
        layout, _ = one()
        data = layout.files[f"blobs/sha256/{request.path.rpartition(':')[2]}"]
        request.answer(200, data[:-1] + bytes([data[-1] ^ 1]))
        return True

    code, document = shown(other)
    assert (code, document["code"]) == (1, "container-digest")
    assert seen[0] == f"/v2/{NAME}/manifests/sha256:{digest}"
    assert all("/blobs/" in path for path in seen[1:])


def challenge(request: Handler, realm: str) -> bool:
    """Ask for a token."""
    scope = f'Bearer realm="{realm}",service="s",scope="repository:{NAME}:pull"'
    request.answer(401, b"{}", ("WWW-Authenticate", scope))
    return True


def test_a_token_for_anybody_is_asked_for_once_and_goes_to_the_registry_alone(shown: Shown) -> None:
    """A redirect to another server, as to S3, comes without it."""
    layout, _ = one()
    elsewhere: list[str | None] = []
    asked: list[str] = []

    def storage(request: Handler) -> bool:
        elsewhere.append(request.headers.get("Authorization"))
        request.answer(200, layout.files[request.path.removeprefix("/")])
        return True

    with Loopback.of(registry_of(layout, storage)) as other:

        def guarded(request: Handler) -> bool:
            base = f"http://127.0.0.1:{request.server.server_address[1]}"  # type: ignore[attr-defined]
            if request.path.startswith("/token"):
                asked.append(request.path)
                request.answer(200, b'{"token": "abc.def"}')
                return True
            if request.headers.get("Authorization") != "Bearer abc.def":
                return challenge(request, f"{base}/token")
            if "/blobs/" in request.path:
                place = f"blobs/sha256/{request.path.rpartition(':')[2]}"
                request.answer(307, b"", ("Location", f"{other.url}/{place}"))
                return True
            return False

        code, _ = shown(guarded)
    assert (code, elsewhere) == (0, [None, None, None])
    assert asked == ["/token?service=s&scope=repository%3Ateam%2Fserver%3Apull"]


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "https://127.0.0.1/token",
        "http://user@127.0.0.1/x",
        "file:///etc/passwd",
        "http://169.254.169.254/x",
        "x",
    ],
)
def test_a_token_is_not_fetched_from_anywhere(realm: str, shown: Shown) -> None:
    """Another scheme, no server, a service of the cloud around us: exit 3, and the way with credentials."""
    code, document = shown(lambda request: challenge(request, realm))
    assert (code, document["code"]) == (3, "unreachable")
    assert "skopeo copy" in document["hint"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"token": 5}', b'{"token": "a\\nb"}', b"{" + b" " * (1 << 20)]
)
def test_an_answer_that_is_no_token_is_refused(body: bytes, shown: Shown) -> None:
    """It would become a header."""

    def hook(request: Handler) -> bool:
        if request.path.startswith("/token"):
            request.answer(200, body)
            return True
        port = request.server.server_address[1]  # type: ignore[attr-defined]
        return challenge(request, f"http://127.0.0.1:{port}/token")

    assert shown(hook)[0] == 3


def test_a_token_that_does_not_help_ends_it(shown: Shown) -> None:
    """No circle."""
    seen: list[str] = []

    def hook(request: Handler) -> bool:
        seen.append(request.path)
        if request.path.startswith("/token"):
            request.answer(200, b'{"access_token": "t"}')
            return True
        port = request.server.server_address[1]  # type: ignore[attr-defined]
        return challenge(request, f"http://127.0.0.1:{port}/token")

    code, document = shown(hook)
    assert (code, len(seen)) == (3, 3)
    assert "credentials" in document["error"]


def test_a_token_that_runs_out_is_replaced(shown: Shown) -> None:
    """Docker's last five minutes, and a large image takes longer: here each is good for one answer."""
    given: list[str] = []
    used: set[str] = set()

    def hook(request: Handler) -> bool:
        if request.path.startswith("/token"):
            given.append(f"t{len(given)}")
            request.answer(200, json.dumps({"token": given[-1]}).encode())
            return True
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token in given and token not in used:
            used.add(token)
            return False
        port = request.server.server_address[1]  # type: ignore[attr-defined]
        return challenge(request, f"http://127.0.0.1:{port}/token")

    assert shown(hook)[0] == 0
    assert given == ["t0", "t1", "t2", "t3"]


def test_a_name_does_not_lead_a_request_for_a_token_elsewhere(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks public, and what it resolves to is in the neighbourhood: as if it were a redirect."""
    asked: list[str] = []

    def neighbour(request: Handler) -> bool:
        asked.append(request.path)
        request.answer(200, b'{"token": "t"}')
        return True

    known, where = socket.getaddrinfo, transfer.place
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: known(
            "127.0.0.2" if host == HOST else host, *more, **options
        )
    )  # fmt: skip
    monkeypatch.setattr(
        transfer, "place", lambda address: "link-local" if address == "127.0.0.2" else where(address)
    )
    layout, _ = one()
    server = http.server.ThreadingHTTPServer(("127.0.0.2", 0), registry_of(layout, neighbour))
    with Loopback(server) as other:
        code, document = shown(lambda request: challenge(request, f"http://{HOST}:{other.port}/token"))
    assert (code, document["code"], asked) == (3, "unreachable", [])
    assert "to a link-local address is not followed" in document["error"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_blob_is_not_read_beyond_its_descriptor(announced: bool, shown: Shown) -> None:
    """With another Content-Length not at all; without one as far as the descriptor says and no further."""
    ended: list[bool] = []

    def hook(request: Handler) -> bool:
        if "/blobs/" not in request.path:
            return False
        request.send_response(200)
        if announced:
            request.send_header("Content-Length", str(1 << 30))
        request.end_headers()
        try:
            for _ in range(1 << 10):
                request.wfile.write(bytes(1 << 20))
        except OSError:
            ended.append(True)
        return True

    code, document = shown(hook)
    assert (code, document["code"], ended) == (1, "container-digest", [True])
    assert "bytes that its descriptor says" in document["error"]


def test_a_manifest_and_layers_have_limits(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hostile registry sends without an end is not read to it."""
    monkeypatch.setattr(fetching, "MAX_DOCUMENT", 100)
    code, document = shown(lambda _: False)
    assert (code, document["code"]) == (2, "container-limit")
    monkeypatch.undo()
    code, document = shown(lambda _: False, "--max-size", "4000")
    assert (code, document["code"]) == (2, "container-limit")


def test_an_answer_that_is_cut_short_is_none(shown: Shown) -> None:
    """Exit 3: the network's fault and not the image's."""

    def hook(request: Handler) -> bool:
        if "/blobs/" not in request.path:
            return False
        request.send_response(200)
        data = one()[0].files[f"blobs/sha256/{request.path.rpartition(':')[2]}"]
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:100])
        return True

    code, document = shown(hook)
    assert (code, document["code"]) == (3, "unreachable")


def test_a_document_of_another_kind_is_refused(shown: Shown) -> None:
    """An index that is a manifest too, schema 1, no JSON."""
    for data in (b"x", b'{"manifests": [], "layers": []}', b'{"schemaVersion": 1, "fsLayers": []}', b"[]"):
        layout = Layout()
        layout.blob(data, "x")
        code, document = shown(lambda _: False, layout=layout, digest=sha256(data))
        assert (code, document["code"].startswith("container-")) == (2, True)


def test_nobody_there_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, at once."""
    with free_port() as port:
        code, text, _ = run(capsys, "inspect", f"docker://127.0.0.1:{port}/a@sha256:{'1' * 64}", "--json")
    assert (code, json.loads(text)["code"]) == (3, "unreachable")


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], Loopback]:
    """A registry of another name, over TLS under the published test authority, that is on loopback here."""
    (tmp_path / "ca.pem").write_bytes(tls_ca_pem())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    chain = tmp_path / "chain.pem"
    chain.write_bytes(b"".join(issue_server_certificate([HOST])))
    known = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: known(
            "127.0.0.1" if host == HOST else host, *more, **options
        )
    )  # fmt: skip

    def make(hook: Answer) -> Loopback:
        layout, _ = one()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), registry_of(layout, hook))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return Loopback(server, context)

    return make


def test_any_other_host_is_asked_over_tls_and_leads_to_no_plain_http(
    secure: Callable[[Answer], Loopback], capsys: pytest.CaptureFixture[str]
) -> None:
    """The image is read; a redirect to http ends it before the other server is asked."""
    asked: list[str] = []

    def plain(request: Handler) -> bool:
        asked.append(request.path)
        return False

    _, digest = one()
    layout, _ = one()
    with secure(lambda _: False) as server:
        address = f"docker://{HOST}:{server.port}/{NAME}@sha256:{digest}"
        assert run(capsys, "inspect", address, "--json")[0] == 0
    with Loopback.of(registry_of(layout, plain)) as other:

        def lead(request: Handler) -> bool:
            if "/blobs/" in request.path:
                request.answer(302, b"", ("Location", f"{other.url}{request.path}"))
                return True
            return False

        with secure(lead) as server:
            address = f"docker://{HOST}:{server.port}/{NAME}@sha256:{digest}"
            code, text, _ = run(capsys, "inspect", address, "--json")
    assert (code, asked) == (3, [])
    assert "from https to http is not followed" in json.loads(text)["error"]


@pytest.mark.parametrize(
    "text",
    [
        "docker://",
        "docker://alpine@sha256:" + "0" * 64,
        f"docker://a.example/{'x/' * 200}y@sha256:" + "0" * 64,
        "docker://a.example/b",
        "docker://a.example/b:latest",
        "docker://a.example/b:1@sha256:" + "0" * 64,
        "docker://a.example/b@sha256:" + "A" * 64,
        "docker://a.example/b@sha512:" + "0" * 128,
        "docker://a.example/../b@sha256:" + "0" * 64,
        "docker://a.example/b?x@sha256:" + "0" * 64,
        "docker://u:p@a.example/b@sha256:" + "0" * 64,
        "docker://a.example/B@sha256:" + "0" * 64,
        "docker://a.example:0/b@sha256:" + "0" * 64,
    ],
)
def test_what_is_no_digest_is_no_name(text: str) -> None:
    """A tag, a short name, somebody's password, a path that leads elsewhere."""
    with raises_code(UsageError, "bad-address"):
        parse_reference(text)


def test_docker_hub_is_named_as_people_do() -> None:
    """Its host has another name, and official images a folder."""
    zeros = "0" * 64
    assert parse_reference(f"docker://docker.io/node@sha256:{zeros}") == Reference(
        "registry-1.docker.io", "library/node", zeros
    )
    assert parse_reference(f"docker://docker.io/a/b@sha256:{zeros}").name == "a/b"
    assert str(parse_reference(f"docker://localhost:5000/a@sha256:{zeros}")).startswith("docker://localhost:")
