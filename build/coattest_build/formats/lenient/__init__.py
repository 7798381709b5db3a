"""Images as other builders make them, read to explain and compare them, never to trust or write them.

``layout.read_found_layout(file)`` gives an image's sections and every rule of ours that it breaks;
``initramfs.unpack_ramdisks(file, layout)`` the tree that Linux makes of all ramdisks. What coattest writes,
signs or decides on goes through the strict readers of ``coattest_build.formats``.
"""
