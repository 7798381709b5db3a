"""``verify inputs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coattest.files import write_atomic
from coattest.jsontext import emit_json
from coattest.parser import NEW_FILE
from coattest.progress import Terminal
from coattest.shell import err, json_option, judged_folder, needs_extra, out, utc_now
from coattest_build import image
from coattest_build.cli.options import mirror_option
from coattest_build.inputs import apt, lock
from coattest_build.ownwork import CONFIRMED, INPUTS, OwnWork, sha256_hex
from coattest_verify.cli.options import FOLDER
from coattest_verify.cli.words import TAKEN_AS_GIVEN
from coattest_verify.rebuild.inputs import archive_keys
from coattest_verify.rebuild.inputs.check import LockVerdict
from coattest_verify.rebuild.inputs.document import inputs_to_json
from coattest_verify.rebuild.inputs.gather import check_lock

if TYPE_CHECKING:
    from coattest.console import Cell


@needs_extra("build")
@click.command("inputs")
@judged_folder(
    click.option("--source", type=FOLDER, default=Path(), help="The checkout; only its lock is read.")
)
@mirror_option
@click.option(
    "--out", "target", type=NEW_FILE, help="Write the result here, for verify release review --inputs."
)
@json_option
def inputs_command(*, source: Path, mirror: str | None, target: Path | None, as_json: bool) -> int:
    """Check every pin of image.lock against the archive's signed index and the package index.

    The index must be signed by an archive key that is pinned in this tool. Wheels are fetched again through
    pip, from the index that pip is configured with. Exit code 0 when all is confirmed, 1 when something
    contradicts an index, 3 when not everything could be asked. When all is confirmed, this machine
    remembers it, and verify sign-pcrs says so.
    """
    own = OwnWork()
    own.prepare()
    spec = image.load_spec(source)
    locked, digest = lock.load_lock(source)
    locked.check_against(spec)
    verdict = check_lock(
        locked,
        digest,
        spec,
        apt.mirrors(spec.suites, spec.component, mirror=mirror),
        archive_keys.bookworm(),
        now=utc_now(),
        reporter=Terminal(),
    )
    document = inputs_to_json(verdict)
    if verdict.confirmed:
        own.note(CONFIRMED, digest)
    elif verdict.exit_code == 1:
        own.forget(CONFIRMED, digest)
    if target:
        content = (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
        write_atomic(target, content)
        own.note(INPUTS, sha256_hex(content))
    if as_json:
        emit_json(document)
    else:
        _show(verdict)
        if locked.container:
            err().print(f"the container image is {TAKEN_AS_GIVEN}: no index says what it should be")
    return verdict.exit_code


def _show(verdict: LockVerdict) -> None:
    suites: list[tuple[Cell, ...]] = []
    for suite in verdict.suites:
        release = suite.release
        until = f"{release.valid_until:%Y-%m-%d}" if release and release.valid_until else "no end is set"
        suites.append(
            (
                suite.name,
                f"{release.date:%Y-%m-%d %H:%M}" if release else "-",
                until if release else "-",
                list(suite.signers) or "-",
            )
        )
    pins = []
    for kind in sorted({pin.kind for pin in verdict.pins}):
        same = [pin for pin in verdict.pins if pin.kind == kind]
        pins.append((kind, str(len(same)), str(sum(not pin.findings for pin in same))))
    out().show_rows(("suite", "dated", "valid until", "signed by (pinned key)"), suites)
    out().show_rows(("kind", "pins", "confirmed"), pins)
    for finding in verdict.findings:
        err().print(f"{finding}", style="red")
    for suite in verdict.suites:
        if suite.release and suite.release.valid_until is None:
            err().print(
                f"{suite.name} has no Valid-Until: a mirror could show an old index; see its date",
            )
    word = "confirmed" if verdict.confirmed else "not confirmed"
    err().print(f"lock {verdict.lock_sha256}: {word}")
