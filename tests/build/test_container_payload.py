"""A container image as the payload of a source tree: pinned by content, built by whoever has it."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from coattest.errors import CoattestError, EnvironmentFailure, FoundFalse, Rejected, UsageError
from coattest.network import parse_network
from coattest_build import builder, container, image, kernel, starts
from coattest_build.cli import cli
from coattest_build.containers.image import Choice, open_container_image
from coattest_build.containers.own.tree import own_tree
from coattest_build.explain.describe import describe_image, tree_rows
from coattest_build.explain.sbom import bill_of_materials
from coattest_build.inputs import apt, fetch, locker, pinned_image
from coattest_build.inputs.cache import Cache
from coattest_build.inputs.debian import Archive, Package
from coattest_build.inputs.lock import BadLock, LockedContainer, load_lock, parse_lock
from coattest_build.inputs.unpack import Tree
from coattest_build.kernel import Compiled
from coattest_build.report import BuildReport
from coattest_verify.cli.quorum import show_outcome
from coattest_verify.cli.rebuild import rebuild_command
from coattest_verify.cli.words import report_rows
from coattest_verify.keypolicy.generate import generate_policy
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport
from support.build.container_images import (
    CONFIG,
    Layout,
    entry,
    folder,
    hard_link,
    saved,
    sha256,
    symlink,
    tar,
)
from support.raises import raises_code
from support.verify.members import NOW, Members

LAYERS = (
    tar(folder("etc"), entry("etc/passwd", b"web:x:33:34::/srv:/x\n"), folder("srv")),
    tar(entry("srv/tool", b"tool", mode=0o755, uid=33)),
)
RUN = {"Entrypoint": ["/srv/tool"], "User": "web", "WorkingDir": "/srv"}


def layout(layers: Sequence[bytes] = LAYERS, run: Mapping[str, Any] = RUN) -> Layout:
    """The image in an OCI layout, compressed, beside another image."""
    made = Layout()
    return made.index(made.manifest(layers, run), made.manifest(LAYERS[:1], {"Cmd": ["/x"]}))


def pin(path: Path) -> LockedContainer:
    """What a lock says of the image, of several the one whose command is RUN's."""
    with open_container_image(path, Choice(config=sha256(config_of_image()))) as opened:
        return pinned_image.pin_of(opened)


def config_of_image() -> bytes:
    """The configuration's bytes."""
    files = layout().files
    index = json.loads(files["index.json"])["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads(files[f"blobs/sha256/{index}"])
    assert manifest["config"]["mediaType"] == CONFIG
    return files[f"blobs/sha256/{manifest['config']['digest'].removeprefix('sha256:')}"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that `eif init container` wrote, with the pin; nothing is downloaded, no kernel compiled."""
    made = tmp_path / "kernel"
    made.mkdir()
    for name in kernel.OUTPUTS:
        (made / name).write_bytes(name.encode() * 50)
    compiled = Compiled(made / "bzImage", made / "init", made / "config", "ab" * 32, "cd" * 32, False)
    monkeypatch.setattr(kernel, "obtain", lambda *_, **__: compiled)
    monkeypatch.setattr(fetch, "fetch_packages", lambda *_, **__: {})
    starts.write_start("container", tmp_path / "source")
    lock_with(tmp_path / "source", pin(layout().write(tmp_path / "locked")))
    return tmp_path / "source"


def lock_with(source: Path, found: LockedContainer | None) -> None:
    """Pin a container image, as `eif lock` does."""
    lock, _ = load_lock(source)
    (source / image.LOCK_FILE).write_text(dataclasses.replace(lock, container=found).render())


def build(source: Path, cache: Path, given: Path | None = None) -> BuildReport:
    """The report of a build with this cache."""
    return builder.build(source, cache / "out", cache=cache, container=given, mirror="x")


def test_two_members_with_different_files_build_the_same(source: Path, tmp_path: Path) -> None:
    """An OCI layout and an archive of docker save, each with a cache of its own, and again from these."""
    (tmp_path / "saved.tar").write_bytes(saved(LAYERS, RUN))
    packed = tmp_path / "layout.tar.gz"
    packed.write_bytes(gzip.compress(layout().archive()))
    given = (layout().write(tmp_path / "oci"), tmp_path / "saved.tar", packed)
    reports = [build(source, tmp_path / f"m{number}", path) for number, path in enumerate(given)]
    reports += [build(source, tmp_path / f"m{number}") for number in range(3)]
    claim = Claimed.decode(reports[0].claim())
    for report in reports:
        assert report.claim() == reports[0].claim()
        assert RebuildReport.read(report.to_json()).differences(claim) == ()
    assert (claim.container, claim.kernel_profile) == (sha256(config_of_image()), "container")


def test_its_network_is_measured_and_claimed(source: Path, tmp_path: Path) -> None:
    """[container.network]: another list is another image."""
    packed = layout().write(tmp_path / "oci")
    without = build(source, tmp_path / "m", packed)
    path = source / image.IMAGE_FILE
    network = '[container.network]\nlisten = ["5005:8080"]\nconnect = ["a.test:443"]\n'
    path.write_text(path.read_text() + network)
    report = build(source, tmp_path / "m", packed)
    assert Claimed.decode(report.claim()).network == parse_network(["5005:8080"], ["a.test:443"])
    ((_, first), *_), ((_, second), *_) = without.profiles, report.profiles
    assert dict(first.pcrs)["PCR2"] != dict(second.pcrs)["PCR2"]
    described = describe_image(tmp_path / "m/out" / second.name, now=datetime.now(timezone.utc), files=False)
    assert described.plan is not None
    assert described.plan.network == Claimed.decode(report.claim()).network


def test_two_members_come_to_one_decision(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `verify rebuild` and their signatures; what is decided says that the image was taken as given."""
    monkeypatch.setenv("COATTEST_CONFIG", str(tmp_path / "config"))
    (tmp_path / "saved.tar").write_bytes(saved(LAYERS, RUN))
    given = {"buyer-1": layout().write(tmp_path / "oci"), "buyer-2": tmp_path / "saved.tar"}
    members = Members.make(tmp_path / "quorum", require_compiled_kernel=False)
    claim = build(source, tmp_path / "publisher", given["buyer-1"]).claim()
    members.claimed = Claimed.decode(claim)
    members.write("claim.json", claim)
    members.publish("buyer-1")
    for name, path in given.items():
        words = ("--source", source, "--attestations", members.attestations, "--from", path)
        out = tmp_path / name
        done = CliRunner().invoke(
            rebuild_command,
            [str(word) for word in (*words, "--out", out, "--cache", out / "cache", "--json")],
        )
        assert done.exit_code == 0, done.output
        report = json.loads((out / "rebuild.json").read_text())
        (row,) = (value for key, value in report_rows(RebuildReport.read(report)) if key == "payload")
        assert row == f"a container image, taken as given, not built from source: sha256:{pin_config()}"
        members.sign(name, report)
    outcome = members.decide()
    assert outcome.decision is not None, outcome.reasons
    assert (outcome.decision.agreed, outcome.decision.container) == (tuple(given), pin_config())
    show_outcome(outcome)
    assert "taken as given, not built from source" in " ".join(capsys.readouterr().out.split())
    policy = generate_policy(
        outcome.decision,
        account="111122223333",
        parent_roles=["arn:aws:iam::111122223333:role/parent"],
        administrators=[f"arn:aws:iam::111122223333:role/{name}" for name in "ab"],
        encrypters=["arn:aws:iam::111122223333:role/writer"],
        now=NOW,
    )
    assert outcome.decision.image_sha384
    assert outcome.decision.pcrs[0] in json.dumps(policy)


def test_the_image_runs_what_the_container_image_says(source: Path, tmp_path: Path) -> None:
    """With the profile's file in it, /dev/nsm as image.toml says, and a metadata section that names it."""
    report = build(source, tmp_path / "m", layout().write(tmp_path / "oci"))
    found = describe_image(tmp_path / "m/out/image.eif", now=datetime.now(timezone.utc), files=False)
    assert found.metadata["CustomMetadata"] == {
        "kernel": {"profile": "container"},
        "container": {
            "config": f"sha256:{sha256(config_of_image())}",
            "diff_ids": [f"sha256:{sha256(layer)}" for layer in LAYERS],
            "platform": "linux/amd64",
        },
    }
    digests = {row.path: row.sha256 for row in tree_rows(found.unpacked)}
    conf = (source / "enclave/aws.conf").read_bytes()
    assert digests["rootfs/etc/enclave.conf"] == sha256(conf)
    assert digests["rootfs/srv/tool"] == sha256(b"tool")
    plan = found.unpacked.tree.stat(b"run")
    assert plan is not None
    assert found.to_json()["start"] == "run"
    kinds = [(item.kind, item.name, item.sha256) for item in report.inputs if item.kind == "container"]
    assert kinds == [
        ("container", "config", sha256(config_of_image())),
        *(("container", f"layer-{at}", sha256(layer)) for at, layer in enumerate(LAYERS, 1)),
    ]


def test_a_changed_layer_is_refused_by_digest(source: Path, tmp_path: Path) -> None:
    """One under the old digest, one with a configuration of its own, and one that lies in the cache."""
    changed = (LAYERS[0], tar(entry("srv/tool", b"trap", mode=0o755, uid=33)))
    made = layout()
    for name, data in made.files.items():
        if data == gzip.compress(LAYERS[1], mtime=0):
            made.files[name] = gzip.compress(changed[1], mtime=0)
    with raises_code(FoundFalse, "container-digest"):
        build(source, tmp_path / "m", made.write(tmp_path / "under-the-old-digest"))
    with pytest.raises(CoattestError, match=f"no image whose configuration is sha256:{pin_config()}"):
        build(source, tmp_path / "m", layout(changed).write(tmp_path / "another"))
    build(source, tmp_path / "m", layout().write(tmp_path / "oci"))
    Cache(tmp_path / "m").path(sha256(LAYERS[1])).write_bytes(changed[1])
    with raises_code(EnvironmentFailure, "container-missing", match="which was damaged"):
        build(source, tmp_path / "m")


def pin_config() -> str:
    """The configuration's digest."""
    return sha256(config_of_image())


def test_without_the_image_the_way_to_it_is_named(source: Path, tmp_path: Path) -> None:
    """Exit 3: nothing was judged."""
    with raises_code(EnvironmentFailure, "container-missing", match="--from"):
        build(source, tmp_path / "m")


def test_what_is_not_about_the_image_does_not_name_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not compile is no fault of the container image."""

    def fail(*_: object, **__: object) -> Compiled:
        raise EnvironmentFailure("exit code 1", where="kernel", code="compile-failed")

    monkeypatch.setattr(kernel, "obtain", fail)
    with raises_code(EnvironmentFailure, "compile-failed") as caught:
        build(source, tmp_path / "m", tmp_path / "locked")
    assert caught.value.where == "kernel"


def test_a_lock_that_lies_about_the_layers_is_found_out(source: Path, tmp_path: Path) -> None:
    """The pinned configuration names the layers; a lock with other ones is refused from file and cache."""
    oci = layout().write(tmp_path / "oci")
    build(source, tmp_path / "m", oci)
    true = pin(oci)
    lock_with(source, dataclasses.replace(true, layers=true.layers[:1]))
    for given in (oci, None):
        with raises_code(FoundFalse, "container-digest"):
            build(source, tmp_path / "m", given)


@pytest.mark.parametrize(
    ("layers", "run", "what"),
    [
        ((*LAYERS, tar(hard_link("srv/more", "srv/tool"))), RUN, "link"),
        ((tar(entry("../x")),), RUN, ""),
        (LAYERS, {**RUN, "User": "nobody"}, "which the image does not have"),
        (LAYERS, {}, "nothing would run"),
        (LAYERS, {**RUN, "Env": ["A=1", "A=2"]}, "two values"),
    ],
)
def test_what_eif_container_refuses_is_refused_in_the_same_words(
    source: Path, tmp_path: Path, layers: Sequence[bytes], run: Mapping[str, Any], what: str
) -> None:
    """By `eif lock`, and by a build from a lock that somebody else wrote."""
    path = tmp_path / "bad.tar"
    path.write_bytes(saved(layers, run))
    with pytest.raises(UsageError) as alone:
        lock_and_apply(source, path)
    assert what in str(alone.value)
    with pytest.raises(UsageError) as building:
        build(source, tmp_path / "m", path)
    assert (building.value.code, building.value.what) == (alone.value.code, alone.value.what)
    done = CliRunner().invoke(cli, ["lock", "--source", str(source), "--from", str(path), "--mirror", "x"])
    assert isinstance(done.exception, UsageError)
    assert done.exception.what == alone.value.what


def lock_and_apply(source: Path, path: Path) -> None:
    """Pin an image whatever it is, and put its layers on each other."""
    with open_container_image(path) as opened:
        lock_with(source, pinned_image.pin_of(opened))
        own_tree(opened).plan.encode()


@pytest.mark.parametrize(
    "layer",
    [
        tar(folder("etc"), entry("etc/enclave.conf", b"mine")),
        tar(folder("etc"), symlink("etc/enclave.conf", "/nowhere")),
        tar(folder("opt"), symlink("opt/etc", "/srv")),
    ],
)
def test_the_profiles_file_replaces_nothing(source: Path, tmp_path: Path, layer: bytes) -> None:
    """Not a file of the image, nor through a link."""
    path = tmp_path / "image.tar"
    path.write_bytes(saved([layer], {"Cmd": ["/x"]}))
    with open_container_image(path) as opened:
        lock_with(source, pinned_image.pin_of(opened))
    text = (source / image.IMAGE_FILE).read_text()
    if b"opt/etc" in layer:
        (source / image.IMAGE_FILE).write_text(text.replace("etc/enclave.conf", "opt/etc/enclave.conf"))
    with raises_code(UsageError, "container-malformed", match="image.toml puts a file"):
        build(source, tmp_path / "m", path)


BASE = (Path(__file__).parents[2] / "build/image.lock").read_text()
GOOD: dict[str, Any] = {"platform": "linux/amd64", "config": "ab" * 32, "config_size": 9}


@pytest.mark.parametrize(
    "change",
    [
        {"platform": "linux"},
        {"platform": "linux/amd64\n"},
        {"platform": "LINUX/amd64"},
        {"config": "AB" * 32},
        {"config": f"sha256:{'ab' * 32}"},
        {"config_size": 0},
        {"config_size": True},
        {"manifest": "x"},
        {"from": "/home"},
        {"layer": [{"diff_id": "ab" * 32}]},
        {"layer": [{"diff_id": "x", "size": 1}]},
        {"layer": [{"diff_id": "ab" * 32, "size": -1}]},
        {"layer": [{"diff_id": "ab" * 32, "size": 1 << 40}]},
        {"layer": [{"diff_id": "ab" * 32, "size": 33 << 30}] * 2},
        {"layer": [{"diff_id": "ab" * 32, "size": 1}] * 1025},
        {"layer": [1]},
    ],
)
def test_every_field_of_the_pin_has_a_grammar(change: Mapping[str, Any]) -> None:
    """No host, no path, no tag has a place in it."""
    good = {**GOOD, "layer": [{"diff_id": "cd" * 32, "size": 0}]}
    assert parse_lock(with_container(good)).container is not None
    with pytest.raises(BadLock):
        parse_lock(with_container({**good, **change}))


def with_container(table: Mapping[str, Any]) -> str:
    """The auction's lock with a container's table."""
    lines = []
    for key, value in table.items():
        if key == "layer":
            inline = ", ".join(
                "{" + ", ".join(f"{name} = {json.dumps(item)}" for name, item in each.items()) + "}"
                if isinstance(each, dict)
                else str(each)
                for each in value
            )
            lines.append(f"layer = [{inline}]")
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    return f"{BASE}\n[container]\n" + "\n".join(lines) + "\n"


def test_a_lock_keeps_its_pin_in_the_text(tmp_path: Path) -> None:
    """Rendered and read again; the manifest is there where the file had one."""
    lock = parse_lock(BASE)
    for found in (pin(layout().write(tmp_path / "oci")), None):
        again = parse_lock(dataclasses.replace(lock, container=found).render())
        assert again.container == found


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('profile = "container"', 'profile = "minimal"', 'needs profile = "container"'),
        ("[container]", "[runtime]\npackages = []\n[container]", "[runtime] is not for an image of a"),
        ("[container]", '[run]\ncommand = ["/x"]\n[container]', "[run] is not for an image of a"),
        ("[container]", '[files]\n"a" = "enclave/a"\n[container]', "[files] is not for an image of a"),
        ("nsm = true", "nsm = 1", "container.nsm: not true or false"),
        ("nsm = true", '[container.network]\nlisten = ["x"]', "not a vsock port and a TCP port: 'x'"),
        ("nsm = true", 'image = "x"', "container.'image': unknown field"),
    ],
)
def test_a_fault_in_image_toml_is_said_where_it_is(
    tmp_path: Path, before: str, after: str, says: str
) -> None:
    """The image has all that the other tables say."""
    starts.write_start("container", tmp_path / "source")
    text = (tmp_path / "source" / image.IMAGE_FILE).read_text()
    assert image.parse_spec(text).from_container
    assert before in text
    with pytest.raises(UsageError) as caught:
        image.parse_spec(text.replace(before, after))
    assert caught.value.code == "bad-image-toml"
    assert says in str(caught.value)


def test_lock_and_image_toml_agree_on_a_container_image(source: Path, tmp_path: Path) -> None:
    """One without the other is refused, and --from where nothing is pinned."""
    lock_with(source, None)
    with pytest.raises(BadLock, match="pins no container image"):
        build(source, tmp_path / "m")
    starts.write_start("static", tmp_path / "static")
    spec = image.load_spec(tmp_path / "static")
    lock = dataclasses.replace(load_lock(source)[0], container=pin(tmp_path / "locked"))
    with pytest.raises(BadLock, match="pins a container image"):
        lock.check_against(spec)


@pytest.fixture
def mirror(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that has what the lock of a new tree pins."""
    lock, _ = load_lock(source)
    fields = ("name", "version", "architecture", "size", "sha256", "path")
    found = Archive([[Package(*(getattr(pin, name) for name in fields)) for pin in lock.packages]])
    monkeypatch.setattr(locker, "read_archive", lambda *_: (found, 1))
    monkeypatch.setattr(apt, "mirrors", lambda *_, **__: ("x",))


@pytest.mark.usefixtures("mirror")
def test_what_init_says_to_type_next_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line as it is printed, with the name of a file for IMAGE; then a build takes it from the cache."""
    monkeypatch.setenv("COATTEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved.tar").write_bytes(saved(LAYERS, RUN))
    shown = CliRunner().invoke(cli, ["init", "container", "mine"]).stdout
    entered, *steps = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    assert entered == "cd mine"
    monkeypatch.chdir(tmp_path / "mine")
    for step in (*steps, "eif build --out again"):
        program, *words = step.replace("IMAGE", "../saved.tar").split()
        assert program == "eif"
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.exception
    one, other = ((tmp_path / "mine" / name / "image.eif").read_bytes() for name in ("out", "again"))
    assert one == other


def test_a_lock_without_the_image_names_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tree as init writes it: before an index is read, and in a build."""
    monkeypatch.setattr(apt, "mirrors", pytest.fail)
    starts.write_start("container", tmp_path / "mine")
    tree = ["--source", str(tmp_path / "mine")]
    for words in (["lock", "--keep", *tree], ["build", "--out", str(tmp_path / "out"), *tree]):
        done = CliRunner().invoke(cli, words)
        assert isinstance(done.exception, UsageError)
        assert done.exception.hint == "name the image: `eif lock --keep --from IMAGE`"


@pytest.mark.usefixtures("mirror")
def test_eif_lock_pins_a_container_image(source: Path, tmp_path: Path) -> None:
    """From the file; without one the pin stays; without either, the way is named."""
    lock_with(source, None)

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, ["lock", "--source", str(source), "--keep", *words])

    missing = run()
    assert isinstance(missing.exception, UsageError)
    assert "eif lock --keep --from IMAGE" in str(missing.exception)
    oci = tmp_path / "locked"
    several = run("--from", str(oci))
    assert isinstance(several.exception, UsageError)
    assert several.exception.code == "container-ambiguous"
    (tmp_path / "saved.tar").write_bytes(saved(LAYERS, RUN))
    assert run("--from", str(tmp_path / "saved.tar")).exit_code == 0
    pinned_now = load_lock(source)[0].container
    assert pinned_now == dataclasses.replace(pin(oci), manifest=None)
    assert run().exit_code == 0
    assert load_lock(source)[0].container == pinned_now
    text = (source / image.LOCK_FILE).read_text()
    assert str(tmp_path) not in text
    assert "x:latest" not in text
    ignored = run("--max-size", "1")
    assert isinstance(ignored.exception, UsageError)


def test_the_container_route_gives_the_native_builds_registers(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage takes the image and checks it; the last has it from that stage's cache."""
    stage, compiled, cache = tmp_path / "stage", tmp_path / "compiled", tmp_path / "stages"
    (tmp_path / "linux.tar.xz").write_bytes(b"source")
    monkeypatch.setattr(kernel, "unpack_toolchain", lambda *_: Tree(stage))
    monkeypatch.setattr(kernel, "unpack_source", lambda *_: tmp_path / "linux.tar.xz")
    with raises_code(EnvironmentFailure, "container-missing"):
        container.prepare_stage(source, stage, cache=cache, mirror="x")
    container.prepare_stage(source, stage, cache=cache, mirror="x", container=tmp_path / "locked")
    assert (stage / container.IMAGE).is_dir()
    (compiled / "out").mkdir(parents=True)
    isolation = "".join(f"{name}:\t{value}\n" for name, value in container.EXPECTED.items())
    fragment = (source / "build" / starts.FRAGMENT).read_text()
    outputs = {"bzImage": b"bzImage" * 50, "init": b"init" * 50, "config": fragment.encode()}
    for name, data in {**outputs, "isolation": isolation.encode(), "run": b"r"}.items():
        (compiled / "out" / name).write_bytes(data)
    report = container.assemble_stage(
        source, stage, compiled, tmp_path / "o", cache=cache, mirror="x", run="r"
    )
    native = build(source, tmp_path / "m", tmp_path / "locked")
    assert (report.route, report.kernel_compiled_here) == ("container", True)
    assert report.profiles == native.profiles
    assert report.inputs == native.inputs


def test_the_move_of_a_pin_has_its_digest_whole(source: Path) -> None:
    """`verify release review` shows it, and `eif lock`."""
    lock, _ = load_lock(source)
    (move,) = locker.moves_between(dataclasses.replace(lock, container=None), lock)
    assert (move.name, move.before, move.after) == ("container image", None, f"sha256:{pin_config()}")


def test_the_bill_of_materials_has_it(source: Path) -> None:
    """As one component, in a document that the strict schema accepts."""
    lock, digest = load_lock(source)
    bill = bill_of_materials(image.load_spec(source), lock, digest, "0.1.0")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    (part,) = (part for part in bill["components"] if part["type"] == "container")
    assert (part["version"], part["scope"]) == (f"sha256:{pin_config()}", "required")
    assert part["bom-ref"] in bill["dependencies"][0]["dependsOn"]


def test_the_claim_names_the_container_image(source: Path, tmp_path: Path) -> None:
    """One that names another, or none, is not what was built."""
    report = build(source, tmp_path / "m", tmp_path / "locked")
    document = json.loads(report.claim())
    assert document["container"] == {"config": pin_config()}
    built = RebuildReport.read(report.to_json())
    for other in ({}, {"container": {"config": "ab" * 32}}):
        changed = {name: value for name, value in document.items() if name != "container"} | other
        (found,) = built.differences(Claimed.decode(json.dumps(changed).encode()))
        assert (found.code, found.where) == ("mismatch", "container")
    for wrong in (None, {}, {"config": "x"}, {"config": "ab" * 32, "x": 1}):
        with pytest.raises(Rejected):
            Claimed.decode(json.dumps({**document, "container": wrong}).encode())
