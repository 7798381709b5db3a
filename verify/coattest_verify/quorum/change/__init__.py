"""A change to ``attestations/`` in git, before it is merged: what it adds, whose it is, whether it may.

``tree`` reads two commits by their objects, ``names`` says whose a file is by its name, ``own`` and
``shared`` have the rules for single files, and ``judge`` those for the whole change.
"""
