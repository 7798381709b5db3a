"""``verify release``: review, revoke, bundle, links."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup

VERBS = {
    "bundle": "coattest_verify.cli.release.bundle:bundle_command",
    "links": "coattest_verify.cli.release.links:links_command",
    "review": "coattest_verify.cli.release.votes:review_command",
    "revoke": "coattest_verify.cli.release.votes:revoke_command",
}


@click.group("release", cls=LazyGroup, lazy=VERBS)
def release_command() -> None:
    """A release and its history: review, revoke, and hand on the evidence."""
