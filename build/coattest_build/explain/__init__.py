"""Explains images: what is in one, why two differ, and what one is made of.

``describe.describe_image(path, now=now, files=True)``, ``diff.compare(a, b)`` and ``sbom.bill_of_materials``.
"""
