"""What runs on an instance: its scripts, with stand-ins for what they call, and its logs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coattest_parent.deployment.stack import configuration
from support.parent.deployments import SETTINGS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")

PCRS = {f"COATTEST_PCR{index}": f"{index:096x}" for index in range(3)}
DESCRIBED = json.dumps(
    [{"State": "RUNNING", "Measurements": {name.removeprefix("COATTEST_"): PCRS[name] for name in PCRS}}],
    indent=2,
)
IMAGE = b"an image"


def run(folder: Path, script: str, stands_in: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script; ``stands_in`` is the body of every program that it calls, which writes down its calls."""
    text = configuration.instance_files()[script]
    for place in ("/var/log/coattest", "/run/"):
        text = text.replace(place, f"{folder}/")
    (folder / script).write_text(text)
    body = f'#!/bin/bash\nname="${{0##*/}} $*"\necho "$name" >> {folder}/calls\n{stands_in}'
    for name in ("aws", "nitro-cli", "sleep", "systemctl", "systemd-notify"):
        (folder / name).write_text(body)
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["bash", str(folder / script)],
        env={
            "PATH": f"{folder}:{os.defpath}",
            "COATTEST_IMAGE": "i",
            "COATTEST_ARTIFACTS": "a",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def calls(folder: Path, name: str) -> list[str]:
    """The calls of one program."""
    return [line for line in (folder / "calls").read_text().splitlines() if line.startswith(name)]


@pytest.mark.parametrize(("failures", "code"), [(4, 0), (5, 1)])
def test_the_image_is_fetched_five_times(tmp_path: Path, failures: int, code: int) -> None:
    """By the script itself, as ``test_no_unit_that_another_requires_is_started_again`` says why."""
    stands_in = f"""
if [ "${{name%% *}}" = aws ]; then
  [ "$(grep -c ^aws {tmp_path}/calls)" -le {failures} ] && exit 1
  printf 'an image' > "${{@: -1}}"
fi
"""
    digest = hashlib.sha384(IMAGE).hexdigest()
    done = run(
        tmp_path, "fetch-image.sh", stands_in, STATE_DIRECTORY=str(tmp_path), COATTEST_IMAGE_SHA384=digest
    )
    assert done.returncode == code, done.stderr
    assert len(calls(tmp_path, "aws")) == 5
    assert (tmp_path / "image.eif").exists() == (code == 0)


def test_another_image_is_never_left_there(tmp_path: Path) -> None:
    """Neither one from the bucket nor one of an earlier boot."""
    (tmp_path / "image.eif").write_bytes(b"another")
    stands_in = 'if [ "${name%% *}" = aws ]; then printf other > "${@: -1}"; fi\n'
    digest = hashlib.sha384(IMAGE).hexdigest()
    done = run(
        tmp_path, "fetch-image.sh", stands_in, STATE_DIRECTORY=str(tmp_path), COATTEST_IMAGE_SHA384=digest
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the image in the bucket is not the decided one"
    assert not (tmp_path / "image.eif").exists()


def test_no_unit_that_another_requires_is_started_again() -> None:
    """systemd gives up what requires a unit at its first failure, and starts that one's OnFailure, whatever
    Restart says (systemd/systemd, issue 18856): a fetch that failed once would end a healthy parent.
    """
    units = {name: text for name, text in configuration.instance_files().items() if name.endswith(".service")}
    required = {
        name
        for text in units.values()
        for line in text.splitlines()
        if line.startswith(("Requires=", "BindsTo=", "Requisite="))
        for name in line.partition("=")[2].split()
    }
    assert required == {"coattest-allocator.service", "coattest-image.service"}
    for name in required:
        assert "\nRestart=" not in units[name]


def test_an_enclave_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Rust's println writes all up to the last line feed, and then the rest: who is gone by then makes
    nitro-cli fail. One description that fails is not the end either; two in a row are.
    """
    (tmp_path / "described").write_text(DESCRIBED)
    stands_in = f"""
case "$name" in
nitro-cli\\ describe*)
  count=$(grep -c "^nitro-cli describe" {tmp_path}/calls)
  case $count in
  3|7|8) exit 1 ;;
  *) trap '' PIPE; head -n -1 {tmp_path}/described; /bin/sleep 0.2; echo ']' 2> /dev/null || exit 101 ;;
  esac ;;
esac
"""
    done = run(tmp_path, "enclave.sh", stands_in, COATTEST_CPUS="2", COATTEST_MEMORY="2048", **PCRS)
    assert (done.returncode, done.stderr.splitlines()) == (1, ["the enclave is gone"])
    assert len(calls(tmp_path, "nitro-cli describe")) == 8
    assert len(calls(tmp_path, "systemd-notify")) == 1


LATER = "[ E39 ] Enclave process connection failure."
REASON = "[ E22 ] Insufficient CPUs requested."


@pytest.mark.parametrize(
    ("stands_in", "last"),
    [
        (
            f'case "$name" in *run-enclave*) printf "{REASON}\\n{LATER}\\nIf you ..\\n" >&2; exit 1;; esac',
            f"nitro-cli did not start it: {REASON}",
        ),
        (
            'case "$name" in *terminate*) echo "Successfully terminated" >&2; echo "{}";; esac',
            "nitro-cli measured another PCR0 than the release has",
        ),
    ],
)
def test_why_an_enclave_was_not_started_comes_last(tmp_path: Path, stands_in: str, last: str) -> None:
    """nitro-cli's advice comes after its reason, and its words at an end after ours."""
    done = run(tmp_path, "enclave.sh", stands_in, COATTEST_CPUS="2", COATTEST_MEMORY="2048", **PCRS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == last


@pytest.mark.parametrize("unit", ["allocator", "image", "enclave"])
def test_the_last_words_end_with_what_failed(tmp_path: Path, unit: str) -> None:
    """What goes on beside it, and what an earlier boot said, comes before; also where a log is missing."""
    names = ("proxy", "live", "allocator", "image", "enclave")
    for age, name in enumerate(sorted(names, key=lambda name: name == unit)):
        path = tmp_path / f"coattest-{name}.log"
        path.write_text(f"{name} says\n" * 600)
        os.utime(path, (1000 + age, 1000 + age))
    os.utime(tmp_path / "coattest-proxy.log")
    place = {"COATTEST_RESULTS": "r", "COATTEST_STACK": "s", "COATTEST_INSTANCE": "i-0"}
    done = run(tmp_path, "dead.sh", "", **place)
    log = (tmp_path / "coattest-failed.log").read_text()
    assert log.splitlines()[-1] == f"{unit} says"
    assert 8000 < len(log) <= 16000
    assert done.stdout == "the enclave stays dead\n"
    assert calls(tmp_path, "aws")[0].startswith("aws s3api put-object --bucket r --key live/s/i-0/failed.log")
    assert calls(tmp_path, "sleep") == ["sleep 600"]
    assert calls(tmp_path, "systemctl") == ["systemctl poweroff"]


def test_every_units_log_is_followed_by_the_agent() -> None:
    """By a file's own name: of a wildcard the agent follows the newest file only (CloudWatch User Guide,
    "CloudWatch agent configuration file: Logs section", file_path).
    """
    collected = json.loads(configuration._agent(SETTINGS))["logs"]["logs_collected"]["files"]["collect_list"]
    paths = {each["file_path"] for each in collected}
    assert not any("*" in path for path in paths)
    units = {name for name in configuration.instance_files() if name.endswith(".service")}
    expected = {f"/var/log/coattest/{name.removesuffix('.service')}.log" for name in units}
    assert paths == {*expected, "/var/log/cloud-init-output.log"}
    streams = {(each["log_group_name"], each["log_stream_name"]) for each in collected}
    assert len(streams) == len(collected)
    for name in ("allocator", "enclave", "dead"):
        assert "StandardOutput=append:" in configuration.instance_files()[f"coattest-{name}.service"]
