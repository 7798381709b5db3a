"""The project's own attestations: they decide for the committed claim, and stock in-toto agrees."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from coattest.files import Folder
from coattest_verify.quorum.decision import decide
from coattest_verify.quorum.links import joined_layout, layout_of, members_signatures
from coattest_verify.quorum.log.entries import parse_entry
from coattest_verify.quorum.log.examine import read_quorum_log
from coattest_verify.quorum.members.file import MembersFile
from coattest_verify.quorum.memory import Roots
from coattest_verify.quorum.statements.claim import Claimed

ATTESTATIONS = Path(__file__).parents[3] / "attestations"
RELEASE = ATTESTATIONS / "releases" / "0.1.0"
REMEDY = "the claim changed after the ceremony: make attestations"


@pytest.fixture(scope="module")
def members() -> MembersFile:
    """The committed quorum.toml. Here its own digest is the root: that is no trust, see README.md."""
    members = MembersFile.decode((ATTESTATIONS / "quorum.toml").read_bytes())
    assert members.version == 1
    return members


@pytest.mark.parametrize("profile", ["aws", "local"])
def test_the_committed_attestations_decide_for_the_committed_claim(
    members: MembersFile, profile: str, tmp_path: Path
) -> None:
    """Both members agree with claim.json in everything, nothing is refused, and it lasts a year more."""
    for now in (datetime.now(timezone.utc), datetime.now(timezone.utc) + timedelta(days=365)):
        outcome = decide(
            ATTESTATIONS, root=bytes.fromhex(members.sha256), profile=profile, now=now, roots=Roots(tmp_path)
        )
        assert outcome.reasons == (), REMEDY
        assert outcome.refused == ()
        assert outcome.warnings == ()
        assert outcome.agree == members.names
        assert outcome.decision is not None
        claim = Claimed.decode((RELEASE / "claim.json").read_bytes())
        assert tuple(outcome.decision.pcrs.values()) == claim.profiles[profile].pcrs
        assert (outcome.decision.tree_sha256, outcome.decision.lock_sha256) == (
            claim.tree_sha256,
            claim.lock_sha256,
        )


def test_both_members_cosigned_the_committed_log(members: MembersFile) -> None:
    """attestations/log/ holds the publication and both members' statements as they are here, nothing else."""
    with Folder(ATTESTATIONS) as folder:
        log = read_quorum_log(folder, bytes.fromhex(members.sha256), members)
    assert log is not None
    entries = [parse_entry(entry) for entry in log.entries]
    (published,) = RELEASE.glob("publish.*")
    files = [published, *(RELEASE / f"rebuild.{name}.intoto.json" for name in members.names)]
    assert sorted((entry.kind, entry.member, entry.sha256) for entry in entries) == sorted(
        (*path.name.split(".")[:2], hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
    )
    assert sorted(log.times) == sorted(members.names)


def test_stock_in_toto_verify_accepts_the_committed_attestations(
    members: MembersFile, tmp_path: Path
) -> None:
    """in-toto's own program, on the committed links and the layout with both members' signatures, exits 0."""
    with Folder(ATTESTATIONS) as folder:
        signatures = members_signatures(folder, members)
    layout = tmp_path / "root.layout"
    layout.write_bytes(joined_layout(layout_of(members), signatures))
    assert len(signatures) == len(members.names)
    keys = [str(ATTESTATIONS / f"{name}.pub") for name in members.names]
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "in-toto-verify"),
            "--layout",
            str(layout),
            "--link-dir",
            str(RELEASE),
            "--verification-keys",
            *keys,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr} ({REMEDY})"
