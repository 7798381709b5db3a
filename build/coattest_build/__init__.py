"""Builds enclave images from pinned inputs, reproducibly, and explains them.

``builder.build(source, out)`` makes the images of a source tree and returns a report.
``explain.describe`` and ``explain.diff`` read any image; ``formats.measure`` computes its PCRs.
Of our packages it imports ``coattest`` only.
"""
