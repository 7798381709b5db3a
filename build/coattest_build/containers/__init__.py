"""Container images without Docker: read from a path, checked by digest, and what nitro-cli makes of them.

``image.open_container_image(path)`` opens an OCI layout or an archive of ``docker save`` or ``docker
export``; ``application.container_tree(image)`` applies its layers in memory; ``application_ramdisk`` gives
the bytes of nitro-cli's application ramdisk, or says which paths the image alone does not decide. Nothing is
unpacked.
"""
