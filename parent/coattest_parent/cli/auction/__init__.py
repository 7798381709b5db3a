"""The ``auction`` program: buyers bid and seal, the service makes the manifest and opens."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run

VERBS = {
    "bid": "coattest_parent.cli.auction.bid:bid",
    "certify": "coattest_parent.cli.auction.certify:certify",
    "keygen": "coattest_parent.cli.auction.keygen:keygen",
    "manifest": "coattest_parent.cli.auction.manifest:manifest",
    "open": "coattest_parent.cli.auction.open:open_",
    "proxy": "coattest_parent.cli.auction.serve:proxy",
    "seal": "coattest_parent.cli.auction.seal:seal",
    "serve": "coattest_parent.cli.auction.serve:serve",
    "show": "coattest_parent.cli.auction.show:show",
}

HEADINGS = {
    "A buyer": ("keygen", "certify", "bid", "seal"),
    "The service": ("manifest", "open", "serve", "proxy"),
    "Anyone": ("show",),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Run a sealed-bid auction that only a decided enclave can open."""


def main() -> None:
    """Console script entry point."""
    run(cli, "auction")
