"""The formats of an image: EIF, its signature, cpio ramdisks, Debian packages, tar; and the measurements."""
