"""The ``auction`` program: buyers bid and seal, the service makes the manifest and opens the auction."""

from __future__ import annotations

import click

from coattest.shell import LazyGroup, run
from coattest_parent.cli.memory import keep_private

VERBS = {
    "bid": "coattest_parent.cli.auction.bid:bid_command",
    "certify": "coattest_parent.cli.auction.certify:certify_command",
    "keygen": "coattest_parent.cli.auction.keygen:auction_keygen_command",
    "manifest": "coattest_parent.cli.auction.manifest:manifest_command",
    "open": "coattest_parent.cli.auction.open:open_command",
    "proxy": "coattest_parent.cli.auction.serve:proxy_command",
    "seal": "coattest_parent.cli.auction.seal:seal_command",
    "serve": "coattest_parent.cli.auction.serve:serve_command",
    "show": "coattest_parent.cli.auction.show:show_command",
    "withdraw": "coattest_parent.cli.auction.withdraw:withdraw_command",
}

HEADINGS = {
    "A buyer": ("keygen", "certify", "bid", "seal", "withdraw"),
    "The service": ("manifest", "open", "serve", "proxy"),
    "Anyone": ("show",),
}


@click.group(cls=LazyGroup, lazy=VERBS, headings=HEADINGS)
@click.version_option(package_name="coattest")
def cli() -> None:
    """Run a sealed-bid auction that only the decided enclave can open."""
    keep_private()


def main() -> None:
    """Console script entry point."""
    run(cli, "auction")
