"""Every guide, run as it stands against local services: the tutorials step by step, then the other pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coattest_local.aws import services as local_services
from coattest_local.demo import cloud
from coattest_local.demo.chain import ACCOUNTS, BUYERS
from support.guides.blocks import ROOT, blocks_of
from support.guides.parties import PREPARE, SERVICE, STAND_INS, Page, Parties

TUTORIALS = {"docs/tutorial-buyer.md": BUYERS, "docs/tutorial-service.md": (SERVICE,)}
STEPS = sorted((block for page in TUTORIALS for block in blocks_of(page)), key=lambda block: block.step)
LAST = STEPS[-1].step
OWN_TESTS = {"docs/your-own-enclave.md", "docs/ci.md"}
"""Pages of other parties: test_own_enclave.py and test_ci.py run them."""

PAGES = [
    page
    for page in [
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
        "attestations/README.md",
    ]
    if page not in {*TUTORIALS, *OWN_TESTS} and any(block.marker is None for block in blocks_of(page))
]


def test_steps_are_one_sequence() -> None:
    """No step is missing between the two tutorials, none is in both, and every block is in one."""
    owners: dict[int, set[str]] = {}
    for block in STEPS:
        assert block.marker is None
        owners.setdefault(block.step, set()).add(block.page)
    assert list(owners) == list(range(1, len(owners) + 1))
    assert all(len(pages) == 1 for pages in owners.values())


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    """Three accounts at the local services, after every step of the tutorials but the last.

    Whatever enclave the service left running is ended.
    """
    folder = tmp_path_factory.mktemp("guides")
    with local_services.start(folder / "aws", accounts=ACCOUNTS, region=cloud.REGION, quiet=True) as running:
        made = Parties(folder, running)
        try:
            for block in STEPS:
                for name in TUTORIALS[block.page] if block.step < LAST else ():
                    made.step(name, block)
            yield made
        finally:
            program = str(Path(sys.executable).with_name("deploy-from-attestation"))
            for state in (folder / SERVICE).glob("**/enclave/enclave.json"):
                subprocess.run([program, "destroy", "--state", str(state.parents[1])], check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_both_tutorials_run_as_they_stand(parties: Parties) -> None:
    """After the steps each buyer has a verified page with the expected winners."""
    for name in BUYERS:
        page = (parties.folder / name / "receipt.html").read_text()
        assert "<span>Receipt verified</span>" in page
        assert "<td>harbour-12</td><td>buyer-2</td>" in page
        assert "<td>mill-lane-3</td><td>buyer-1</td>" in page
        assert "<td>station-1</td><td>tie: buyer-1, buyer-2</td>" in page


@pytest.mark.image
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_as_it_stands(parties: Parties, name: str) -> None:
    """Every block by whom it names, from the page's beginning, while the tutorials' enclave runs."""
    if name == "docs/commands.md" and shutil.which("man") is None and not os.environ.get("CI"):
        pytest.skip("man is not installed")
    stem = Path(name).stem if name.startswith("docs/") else Path(name).parent.name
    page = Page(parties, stem)
    PREPARE.get(stem, lambda _: None)(page)
    for block in blocks_of(name):
        if block.marker is None:
            page.run(block)
        for command in block.commands if block.marker else ():
            for begins, stand_in in STAND_INS.items():
                if command.text.startswith(begins):
                    stand_in(page)


@pytest.mark.image
@pytest.mark.timeout(120)
def test_every_check_is_made_without_network_or_account(parties: Parties) -> None:
    """A document, a receipt and a proof bundle verify where there is no network and no credential."""
    folder, shared = parties.folder / "buyer-1", parties.shared
    plain = {name: parties.environments["buyer-1"][name] for name in ("PATH", "HOME", "COATTEST_CONFIG")}
    trust = ["--root", parties.root, "--profile", "local"]
    live = ["deploy-from-attestation", "live", "--address", parties.enclave, "--nonce", "ab" * 32]
    (folder / "document").write_text(run_program(folder, plain, live))
    (folder / "measurements").write_text(run_program(folder, plain, ["eif", "measure", str(parties.image)]))
    attestations = ["--attestations", str(shared / "attestations")]
    run_program(folder, plain, ["verify", "release", "bundle", "--out", "proof.json", *attestations])
    receipt = [str(shared / "result.cbor"), "--manifest", str(shared / "manifest.cbor"), *attestations]
    for command in (
        ["verify", "attestation", "document", "--expect", "measurements", "--root", "local"],
        ["verify", "receipt", *receipt, *trust],
        ["verify", "quorum", "--bundle", "proof.json", *trust],
    ):
        run_program(folder, plain, ["unshare", "--map-root-user", "--net", *command])


def run_program(folder: Path, environment: dict[str, str], command: list[str]) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.image
@pytest.mark.timeout(120)
def test_the_last_step_ends_the_enclave(parties: Parties) -> None:
    """The tutorials' enclave runs until then, and not after it."""
    assert parties.enclave
    for block in STEPS:
        if block.step == LAST:
            parties.step(SERVICE, block)
    assert not parties.enclave
