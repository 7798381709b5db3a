"""What goes into an image: the lock, Debian's indexes, wheels, downloads and the cache."""
