"""``verify release``: publish, review, revoke, unrevoke, withdraw, excuse, bundle, archive, links, which."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup

VERBS = {
    "archive": "coattest_verify.cli.release.archive:archive_command",
    "bundle": "coattest_verify.cli.release.bundle:bundle_command",
    "excuse": "coattest_verify.cli.release.objection:excuse_command",
    "links": "coattest_verify.cli.release.links:links_command",
    "publish": "coattest_verify.cli.release.publish:publish_command",
    "review": "coattest_verify.cli.release.review:review_command",
    "revoke": "coattest_verify.cli.release.revoke:revoke_command",
    "unrevoke": "coattest_verify.cli.release.revoke:unrevoke_command",
    "which": "coattest_verify.cli.release.which:which_command",
    "withdraw": "coattest_verify.cli.release.objection:withdraw_dissent_command",
}

HEADINGS = {
    "A release": ("publish", "review", "which"),
    "Object, and take it back": ("revoke", "unrevoke", "withdraw", "excuse"),
    "Hand on the evidence": ("bundle", "archive", "links"),
}


@click.group("release", cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
def release_command() -> None:
    """A release and its history: publish, review, revoke, and hand on the evidence."""
