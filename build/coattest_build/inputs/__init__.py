"""The inputs of an image: the lock that pins them, Debian's indexes, wheels, downloads and the cache.

``lock.load_lock(source)`` reads the pins, ``locker.make_lock`` makes new ones, ``fetch.fetch_packages`` and
``wheels.fetch_wheels`` download what is pinned.
"""
