"""``verify policy``: one module per verb."""
