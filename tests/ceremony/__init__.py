"""Seven members and one git repository: whole ceremonies in seeded orders (tox -e ceremony)."""
