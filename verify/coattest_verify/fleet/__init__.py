"""Many enclaves looked at together: does each still run a decided release, and what changed since the last
look?

``file`` is FLEET.toml, ``reach`` fetches documents, ``judge`` is the pure core, ``changes`` compares two
looks, ``metrics`` writes them for Prometheus, ``look`` does it all. What is decided it is told by its caller.
"""
