"""``verify release``: review, revoke, bundle, links."""
