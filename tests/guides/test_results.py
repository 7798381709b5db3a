"""The guides from the closing time on, in the terminals of test_guides.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from coattest_local.demo.chain import BUYERS
from support.guides.blocks import blocks_of
from support.guides.parties import TUTORIALS, Example

LAST = max(block.step for page in TUTORIALS for block in blocks_of(page))
OPENS, CHECKS = 9, 10


@pytest.fixture(scope="module")
def opened(summer: Example) -> Example:
    """The person, who has typed all steps but the last."""
    summer.tutorials(OPENS, CHECKS)
    return summer


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_both_tutorials_run_as_they_stand(opened: Example) -> None:
    """Each buyer has a verified page with the expected winners."""
    assert CHECKS == LAST - 1
    for name in BUYERS:
        page = (opened.folder / name / "receipt.html").read_text()
        assert "<span>Receipt verified</span>" in page
        assert "<td>harbour-12</td><td>buyer-2</td>" in page
        assert "<td>mill-lane-3</td><td>buyer-1</td>" in page
        assert "<td>station-1</td><td>tie: buyer-1, buyer-2</td>" in page


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_the_auction_page_runs_to_its_receipt(opened: Example) -> None:
    """From the first block that opens on; everybody has the same answer."""
    blocks = blocks_of("docs/auction.md")
    first = next(index for index, block in enumerate(blocks) if "auction open" in block.commands[0].text)
    for block in blocks[first:]:
        opened.type(block)
    assert (opened.shared / "summer" / "result.cbor").exists()


@pytest.mark.image
@pytest.mark.timeout(600)
def test_the_spool_opens_the_tutorials_auction_again(opened: Example) -> None:
    """docs/operations.md, as it stands."""
    for block in blocks_of("docs/operations.md"):
        opened.type(block)


@pytest.mark.image
@pytest.mark.timeout(120)
def test_every_check_is_made_without_network_or_account(opened: Example) -> None:
    """A document, a receipt and a proof bundle verify where there is no network and no credential."""
    folder = opened.folder / "buyer-1"
    plain = {
        "PATH": f"{opened.home / 'coattest-venv' / 'bin'}:{opened.environment['PATH']}",
        "HOME": str(opened.home),
        "COATTEST_CONFIG": str(folder / "config"),
    }
    trust = ["--root", (folder / "root").read_text().strip(), "--profile", "local"]
    address = opened.variable("service", "ENCLAVE")
    live = ["deploy-from-attestation", "live", "--address", address, "--nonce", "ab" * 32]
    (folder / "document").write_text(run_program(folder, plain, live))
    measure = ["eif", "measure", opened.variable("service", "IMAGE")]
    (folder / "measurements").write_text(run_program(folder, plain, measure))
    attestations = ["--attestations", str(opened.shared / "attestations"), "--release", "0.1.0"]
    run_program(folder, plain, ["verify", "release", "bundle", "--out", "proof.json", *attestations])
    receipt = ["result.cbor", "--manifest", "manifest.cbor"]
    given = [word if word.startswith("-") else str(opened.shared / word) for word in receipt]
    for command in (
        ["verify", "attestation", "document", "--expect", "measurements", "--root", "local"],
        ["verify", "receipt", *given, *attestations, *trust],
        ["verify", "quorum", "--bundle", "proof.json", "--release", "0.1.0", *trust],
    ):
        run_program(folder, plain, ["unshare", "--map-root-user", "--net", *command])


def run_program(folder: Path, environment: dict[str, str], command: list[str]) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.image
@pytest.mark.timeout(120)
def test_the_last_step_ends_the_enclave(opened: Example) -> None:
    """The tutorials' enclave runs until then, and not after it."""
    record = opened.folder / "service" / "deployment" / "enclave" / "enclave.json"
    assert record.exists()
    opened.tutorials(LAST, LAST)
    assert not record.exists()
