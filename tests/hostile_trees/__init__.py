"""Random hostile checkouts against every command that takes one (``python -m hostile_trees``)."""
