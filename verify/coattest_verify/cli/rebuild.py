"""``verify rebuild``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from coattest.errors import EnvironmentFailure, UsageError
from coattest.files import Folder, make_folder
from coattest.jsontext import emit_json
from coattest.parser import NEW_FOLDER
from coattest.progress import Terminal
from coattest.shell import err, json_option, judged_folder, needs_extra
from coattest_build import builder
from coattest_build.cli.options import (
    cache_option,
    container_option,
    fresh_kernel_option,
    jobs_option,
    mirror_option,
)
from coattest_build.ownwork import CONFIRMED, OwnWork, remove_reports
from coattest_verify.cli.options import FOLDER, attestations_option, release_option
from coattest_verify.quorum.statements.claim import Claimed
from coattest_verify.quorum.statements.statement import RebuildReport
from coattest_verify.rebuild.answer import built_elsewhere, read_claim, write_report
from coattest_verify.rebuild.claimed_images import explain_differences, save_claimed_images
from coattest_verify.rebuild.claimed_source import inspect_source, source_differences

MAX_EXPLAINED = 10
"""Differences shown to a person; ``--json`` has them all."""

OTHER_SOURCE = (
    "the source that was built is not the claim's, so this says nothing about the claim: check out the"
    " release's commit, and rebuild"
)
OTHER_BYTES = (
    "the claim's source builds to other bytes here. A dissent stays, so look at the differences first, and"
    " rebuild with --fresh-kernel, on another machine if you can; if they remain, verify sign-pcrs --dissent"
    " tells the others"
)
"""What to do about a difference. A dissent from a mistake of one's own blocks everybody."""


@needs_extra("build")
@click.command("rebuild")
@judged_folder(
    click.option("--source", type=FOLDER, default=Path(), help="The checkout; only read, never run.")
)
@click.option(
    "--out", "target", type=NEW_FOLDER, default=Path("out"), show_default=True, help="Folder for the images."
)
@click.option(
    "--profile", "profiles", multiple=True, help="Only this profile (repeatable); default: the claim's."
)
@cache_option
@mirror_option
@jobs_option
@click.option(
    "--claimed",
    type=FOLDER,
    help="A folder with the claimed images, to explain a difference with (besides OUT).",
)
@fresh_kernel_option
@container_option
@attestations_option
@release_option
@json_option
def rebuild_command(
    *,
    source: Path,
    target: Path,
    profiles: tuple[str, ...],
    claimed: Path | None,
    attestations: Path,
    release: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Rebuild the image from the source and compare it with the claim.

    Writes OUT/image.eif (OUT/image.PROFILE.eif for other profiles) and OUT/rebuild.json. Exit code 1: the
    claim's source builds to other bytes here. 3: it was not the claim's source that was built (wrong-source),
    or the source has changes that are not committed (dirty-tree), which says nothing about the claim.

    A difference is shown down to the file and byte where the claimed images are at hand: in OUT from an
    earlier rebuild, or in the folder that --claimed names. Otherwise it is shown by section.

    The result is recorded on this machine as its own work, compared with this claim. A report that lay in OUT
    before is removed first.
    """
    own = OwnWork()
    own.prepare()
    with Folder(attestations) as folder:
        claim, _ = read_claim(folder, attestations, release)
    _inspect(source, claim)
    make_folder(target)
    remove_reports(target)
    with tempfile.TemporaryDirectory(prefix=".claimed-", dir=target) as scratch:
        saved = save_claimed_images(claim, [claimed] if claimed else [], Path(scratch))
        if claimed and not saved:
            raise UsageError(
                "has no claimed image", where=str(claimed), hint="leave --claimed out, or correct it"
            )
        saved |= save_claimed_images(claim, [target], Path(scratch))
        built = builder.build(
            source, target, profiles=profiles or tuple(sorted(claim.profiles)), progress=Terminal(), **options
        )
        document = built.to_json()
        write_report(target, document, claim, own)
        report = RebuildReport.read(document)
        explained = explain_differences(saved, report.profiles, target)
    differences = report.differences(claim)
    if profiles:
        differences = tuple(item for item in differences if item.code != "not-built")
    elsewhere = built_elsewhere(report, claim)
    if as_json:
        emit_json(
            {
                "matches": not differences,
                "code": None if not differences else "wrong-source" if elsewhere else "mismatch",
                "differences": [finding.to_json() for finding in differences],
                "explained": {profile: found.to_json() for profile, found in explained.items()},
                "rebuild": document,
            }
        )
    elif differences:
        for difference in differences:
            err().print(str(difference), style="red")
        for profile, comparison in explained.items():
            for found in comparison.findings[:MAX_EXPLAINED]:
                err().print(f"{profile}: {comparison.line(found)}", style="red")
        err().print(OTHER_SOURCE if elsewhere else OTHER_BYTES)
    else:
        for profile, result in sorted(report.profiles.items()):
            err().print(f"{profile}: {target / result.name} is what is claimed, PCR0 {result.pcrs[0]}")
        kernel = "compiled here" if report.built.kernel_compiled else "from this machine's cache"
        err().print(f"kernel {kernel}; next: verify sign-pcrs --rebuild {target}")
        if not own.made(CONFIRMED, report.lock_sha256):
            err().print("inputs not confirmed yet: verify inputs")
    if differences and elsewhere:
        return EnvironmentFailure.exit_code
    return 1 if differences else 0


def _inspect(source: Path, claim: Claimed) -> None:
    """Refuse uncommitted changes, and warn when the build cannot match, before minutes of building."""
    snapshot = inspect_source(source)
    if snapshot.dirty:
        first, *others = snapshot.changed
        more = f" and {len(others)} more" if others else ""
        raise EnvironmentFailure(
            f"has changes that are not committed: {first}{more}",
            where=str(source),
            hint="commit or discard them; see git status",
            code="dirty-tree",
        )
    for difference in source_differences(snapshot, claim):
        err().print(f"{difference.detail}: building anyway", style="yellow")
