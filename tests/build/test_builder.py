"""The whole build: the same bytes wherever it runs, and failures that leave nothing behind."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coattest.errors import CoattestError, UsageError
from coattest_build import builder, image, sandbox
from coattest_build.builder import BuildReport
from coattest_build.formats import measure
from coattest_build.inputs import lock
from coattest_build.inputs.cache import Cache, cache_folder, exclusive, scratch
from coattest_build.sandbox.leftovers import remove_tree
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport
from support.build.source_roots import PACKAGES, PYTHONPATH

REPOSITORY = Path(__file__).parents[2]
MAX_IMAGE = 48_000_000
MAX_MEMORY_KIB = 150 * 1024

BUILD = """
import json, re, sys
from pathlib import Path
from coattest_build import builder
report = builder.build(Path(sys.argv[1]), Path(sys.argv[2]), jobs=1)
json.dump(report.to_json(), sys.stdout)
# Not ru_maxrss: that one starts at what the process that forked us had (pytest, with all tests collected).
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def copy_tree(target: Path) -> Path:
    """The parts of this checkout that a build reads, elsewhere."""
    for name in ("build/image.toml", "build/image.lock", "build/kernel", "build/init", "enclave"):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(REPOSITORY / name, path)
    return target


@pytest.mark.image
def test_every_profile_is_built_and_measured(built_images: Any) -> None:
    """The report's digests and registers are those of the files; the profiles share boot, not application."""
    report: BuildReport = built_images.report
    results = dict(report.profiles)
    assert set(results) == {"aws", "local"}
    assert [result.name for result in results.values()] == ["image.eif", "image.local.eif"]
    for name, result in results.items():
        measured = measure.measure(built_images.image(name))
        assert dict(result.pcrs) == {"PCR0": measured.pcr0, "PCR1": measured.pcr1, "PCR2": measured.pcr2}
        assert (result.sha256, result.sha384) == (measured.sha256, measured.sha384)
        assert result.size == built_images.image(name).stat().st_size <= MAX_IMAGE
    aws, local = dict(results["aws"].pcrs), dict(results["local"].pcrs)
    assert aws["PCR1"] == local["PCR1"]
    assert aws["PCR0"] != local["PCR0"]
    assert aws["PCR2"] != local["PCR2"]


@pytest.mark.slow
@pytest.mark.image
def test_a_build_elsewhere_gives_the_same_bytes_in_little_memory(built_images: Any, tmp_path: Path) -> None:
    """Path, folder, umask, zone, locale and hash seed do not matter; memory stays below 150 MiB."""
    source = copy_tree(tmp_path / "another place" / "with spaces")
    # A different order of directory entries and different times.
    for path in sorted(source.rglob("*"), reverse=True):
        os.utime(path, (1, 1))
    environment = {
        **os.environ,
        "COATTEST_CACHE": str(cache_folder()),
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "tr_TR.UTF-8",
        "PYTHONHASHSEED": "12345",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": "1",
        "PYTHONPATH": PYTHONPATH,
    }
    result = subprocess.run(
        [sys.executable, "-c", BUILD, os.path.relpath(source, tmp_path), "out"],
        cwd=tmp_path,
        env=environment,
        umask=0o077,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    report = RebuildReport.read(json.loads(result.stdout))
    assert report.differences(Claimed.decode(built_images.report.claim())) == ()
    for name, made in report.profiles.items():
        built = tmp_path / "out" / made.name
        assert built.read_bytes() == built_images.image(name).read_bytes()
        assert built.stat().st_mode & 0o777 == 0o644, "an image is for others to read, whatever the umask"
    assert int(result.stderr.split()[-1]) < MAX_MEMORY_KIB
    assert report.built.commit is None
    assert not report.built.kernel_compiled, "it came from the cache"


@pytest.mark.image
def test_one_changed_byte_of_the_program_changes_the_application_only(
    built_images: Any, tmp_path: Path
) -> None:
    """PCR0 and PCR2 move, PCR1 stays, and the claim's differences name source, section and registers."""
    source = copy_tree(tmp_path / "source")
    program = source / "enclave/coattest_enclave/__init__.py"
    program.write_bytes(program.read_bytes() + b"#")
    report = builder.build(source, tmp_path / "out", profiles=["aws"])
    before, after = (dict(dict(each.profiles)["aws"].pcrs) for each in (built_images.report, report))
    assert before["PCR1"] == after["PCR1"]
    assert before["PCR0"] != after["PCR0"]
    assert before["PCR2"] != after["PCR2"]
    one = dataclasses.replace(built_images.report, profiles=built_images.report.profiles[:1])
    claimed = Claimed.decode(one.claim())
    differences = [str(item) for item in RebuildReport.read(report.to_json()).differences(claimed)]
    assert differences[0].startswith("tree_sha256: ")
    assert any(text.startswith("aws: section 4 ramdisk") for text in differences)
    assert not any("PCR1" in text for text in differences)


@pytest.mark.image
def test_the_command_writes_images_report_and_claim(built_images: Any, tmp_path: Path) -> None:
    """`eif build --claim --json` prints one document and writes the claim for the same images."""
    command = [sys.executable, "-c", "from coattest_build.cli import main; main()", "build", "--json"]
    command += ["--source", str(REPOSITORY), "--this-checkout-is-mine"]
    command += ["--out", str(tmp_path), "--claim", str(tmp_path / "claim.json")]
    result = subprocess.run(command, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    document = json.loads(result.stdout)
    claim = Claimed.decode((tmp_path / "claim.json").read_bytes())
    assert RebuildReport.read(document).differences(claim) == ()
    assert json.loads((tmp_path / "build.json").read_text()) == document
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "build.json",
        "claim.json",
        "image.eif",
        "image.local.eif",
    ]


def test_the_metadata_is_reproducible() -> None:
    """The time is the lock's, and the keys are in the order of AWS's writer."""
    spec, (locked, _) = image.load_spec(REPOSITORY), lock.load_lock(REPOSITORY)
    document = json.loads(builder.image_metadata(spec, dataclasses.replace(locked, source_date_epoch=0)))
    assert list(document) == ["ImageName", "ImageVersion", "BuildMetadata", "DockerInfo", "CustomMetadata"]
    assert list(document["BuildMetadata"]) == [
        "BuildTime",
        "BuildTool",
        "BuildToolVersion",
        "OperatingSystem",
        "KernelVersion",
    ]
    assert document["BuildMetadata"]["BuildTime"] == "1970-01-01T00:00:00Z"


def fails(source: Path, out: Path, **options: Any) -> CoattestError:
    """The error of a build, after checking that it is one line and left nothing in ``out``."""
    with pytest.raises(CoattestError) as caught:
        builder.build(source, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())
    return caught.value


def test_a_missing_or_unknown_profile_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the profile and those that exist; nothing was downloaded for it."""
    source = copy_tree(tmp_path / "source")
    (source / "enclave/profiles/local.json").unlink()
    cache = tmp_path / "cache"
    error = fails(source, tmp_path / "out", profiles=["none"], cache=cache)
    assert error.exit_code == 2
    assert "aws, local" in str(error)
    error = fails(source, tmp_path / "out", cache=cache)
    assert error.exit_code == 2
    assert "local.json" in str(error)
    assert not list((cache / "inputs").iterdir())


def test_a_lock_that_does_not_parse_stops_the_build(tmp_path: Path) -> None:
    """Exit 2, naming the lock and the command that writes a new one."""
    source = copy_tree(tmp_path / "source")
    (source / "build/image.lock").write_text("half a lo")
    error = fails(source, tmp_path / "out", cache=tmp_path / "cache")
    assert error.exit_code == 2
    assert "build/image.lock" in str(error)
    assert "eif lock" in str(error)


def test_wheels_that_are_not_the_payloads_requirements_stop_the_build(tmp_path: Path) -> None:
    """The lock must pin the very wheels that enclave/requirements.lock names."""
    source = copy_tree(tmp_path / "source")
    requirements = source / "enclave/requirements.lock"
    requirements.write_text(requirements.read_text().replace("--hash=sha256:5", "--hash=sha256:6"))
    error = fails(source, tmp_path / "out", cache=tmp_path / "cache")
    assert error.exit_code == 2
    assert "enclave/requirements.lock" in str(error)


def test_an_unreachable_mirror_stops_the_build(tmp_path: Path) -> None:
    """Exit 3 with the mirror's address and the option for another; partial downloads stay for later."""
    source = copy_tree(tmp_path / "source")
    error = fails(source, tmp_path / "out", cache=tmp_path / "cache", mirror=(tmp_path / "no").as_uri())
    assert error.exit_code == 3
    assert "--mirror" in str(error)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file where the cache should be is exit 3 and names the option."""
    (tmp_path / "cache").write_text("a file")
    error = fails(copy_tree(tmp_path / "source"), tmp_path / "out", cache=tmp_path / "cache")
    assert error.exit_code == 3
    assert "--cache" in str(error)


def test_without_user_namespaces_the_build_stops_and_says_why(tmp_path: Path) -> None:
    """Inside a sandbox, where namespaces cannot be made, the sandbox is refused with a remedy: exit 3."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("needs a python3 below /usr to run inside")
    code = (
        "from pathlib import Path\nfrom coattest.errors import EnvironmentFailure\n"
        "from coattest_build import sandbox\n"
        "try: sandbox.spawn(Path('/'), ['/bin/true'], env={})\n"
        "except EnvironmentFailure as e: print(e); raise SystemExit(e.exit_code)\n"
    )
    root = tmp_path / "root"
    root.mkdir()
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    process = sandbox.spawn(
        root,
        [python, "-c", code],
        env={"PYTHONPATH": "/packages"},
        binds=[
            sandbox.Bind(Path("/usr"), "/usr"),
            *(sandbox.Bind(package, f"/packages/{package.name}") for package in PACKAGES),
        ],
        stdout=subprocess.PIPE,
    )
    said, _ = process.communicate()
    assert process.returncode == 3
    assert b"user.max_user_namespaces" in said
    assert said.count(b"\n") == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """When a file cannot be written the command ends with exit 3 and no image."""
    source = copy_tree(tmp_path / "source")

    def limit() -> None:  # the nearest thing to a full disk that needs no mount
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    # -B: a module's bytecode that is cut off at the limit would break whoever imports it next.
    command = [sys.executable, "-B", "-c", "from coattest_build.cli import main; main()", "build"]
    command += ["--source", str(source), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    result = subprocess.run(command, capture_output=True, check=False, preexec_fn=limit)
    assert result.returncode == 3
    assert result.stderr.strip().count(b"\n") == 0
    assert not (tmp_path / "out").exists()


def test_what_a_killed_build_left_is_cleared_and_a_running_ones_is_not(tmp_path: Path) -> None:
    """Scratch folders belong to the process that locked them."""
    with scratch(tmp_path, "build-") as running:
        (tmp_path / "build-killed").mkdir()
        (tmp_path / "build-killed" / "file").write_text("x")
        with scratch(tmp_path, "build-") as other:
            assert running.is_dir()
            assert other.is_dir()
            assert not (tmp_path / "build-killed").exists()
    assert [path.name for path in tmp_path.iterdir()] == [".build-lock"]


def test_a_scratch_folder_is_removed_under_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins at that moment leaves it to its own process, which would find its files gone."""
    removed: list[str] = []

    def removing(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        removed.append(folder.name)
        remove_tree(folder)

    monkeypatch.setattr("coattest_build.inputs.cache.remove_tree", removing)
    with scratch(tmp_path, "build-") as mine:
        (mine / "file").write_text("x")
    assert removed == [mine.name]
    assert not mine.exists()


def test_two_builds_of_one_kernel_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds a lock taken waits for it, and is told so."""
    refused = threading.Event()
    flock = fcntl.flock

    def observed(file: Any, operation: int) -> None:
        try:
            flock(file, operation)
        except BlockingIOError:
            refused.set()
            raise

    monkeypatch.setattr(fcntl, "flock", observed)
    answers: list[bool] = []

    def wait() -> None:
        with exclusive(tmp_path / "lock") as free:
            answers.append(free)

    with exclusive(tmp_path / "lock") as free:
        assert free
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert refused.wait(60)
        assert answers == []
    waiting.join()
    assert answers == [False]


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=3000))
def test_no_image_file_or_lock_escapes_the_error_type(data: bytes) -> None:
    """Arbitrary bytes as image.toml or image.lock are a usage error."""
    for parse in (image.parse_spec, lock.parse_lock):
        with pytest.raises(UsageError):
            parse(data.decode("latin-1"))


def test_the_tool_has_a_digest_of_its_own() -> None:
    """The digest names this builder: 32 bytes that do not depend on where it is installed."""
    digest = builder.tool_digest()
    assert len(bytes.fromhex(digest)) == 32
    command = [sys.executable, "-c", "from coattest_build.builder import tool_digest; print(tool_digest())"]
    result = subprocess.run(command, capture_output=True, check=True, cwd="/", text=True)
    assert result.stdout.strip() == digest


def test_the_cache_notices_what_rotted(tmp_path: Path) -> None:
    """An input whose bytes changed is not handed out, and is removed."""
    cache = Cache(tmp_path)
    import hashlib

    digest = hashlib.sha256(b"content").hexdigest()
    cache.path(digest).write_bytes(b"content")
    assert cache.take(digest, 7) == cache.path(digest)
    cache.path(digest).write_bytes(b"Content")
    assert cache.take(digest, 7) is None
    assert not cache.path(digest).exists()
