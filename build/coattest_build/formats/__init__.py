"""File formats, read strictly and written deterministically: EIF, its signature, ramdisks, packages.

``measure.measure(path)`` gives an image's PCRs, ``eif.read_structure`` its sections, ``cpio.read_entries``
the entries of a ramdisk. Nothing here knows how an image is built.
"""
