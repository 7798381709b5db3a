"""Every pin of ``build/image.lock`` against the archive's signed indexes and the package index.

``clearsign``, ``release``, ``packages`` and ``check`` are pure: bytes and a time in, values out.
``gather`` and ``wheels`` fetch. ``document`` is the result on disk.
"""
