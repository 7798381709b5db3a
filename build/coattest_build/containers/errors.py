"""What is wrong with a container image, in one error with a code for each kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from coattest.errors import CoattestError, FoundFalse, Rejected, UsageError


class ContainerError(UsageError):
    """The image cannot be read, or no Docker makes a container of it; ``code`` says which kind."""

    default_code = "container-malformed"


def unloadable(what: str, name: bytes | None = None) -> ContainerError:
    """Docker does not load the image, or its stores make different trees of it: ``container-unloadable``."""
    where = None if name is None else path_text(name)
    return ContainerError(what, where=where, code="container-unloadable")


def beyond_limit(what: str, *, where: str | None = None, hint: str | None = None) -> ContainerError:
    """More than a limit: ``container-limit``."""
    return ContainerError(what, where=where, hint=hint, code="container-limit")


def not_read(what: str, *, where: str | None = None, hint: str | None = None) -> ContainerError:
    """A kind of image or layer that is not read here: ``container-unsupported``."""
    return ContainerError(what, where=where, hint=hint, code="container-unsupported")


def two_readings(what: str, *, where: str | None = None) -> ContainerError:
    """Two programs would see two images: ``container-two-readings``."""
    return ContainerError(what, where=where, code="container-two-readings")


def ambiguous(what: str, *, hint: str | None = None) -> ContainerError:
    """Not one image, but none or several: ``container-ambiguous``."""
    return ContainerError(what, hint=hint, code="container-ambiguous")


def wrong_digest(what: str, *, where: str) -> FoundFalse:
    """Content is not what its digest says: ``container-digest``."""
    return FoundFalse(what, where=where, code="container-digest")


@contextlib.contextmanager
def malformed(where: str | None = None) -> Iterator[None]:
    """Within the block, what is rejected makes the image malformed."""
    try:
        yield
    except Rejected as error:
        raise ContainerError(error.what, where=where) from None


@contextlib.contextmanager
def naming(place: str, kind: type[CoattestError] = CoattestError) -> Iterator[None]:
    """Put a place, such as the image's path, before where an error of this kind is."""
    try:
        yield
    except kind as error:
        if error.where is None or not error.where.startswith(place):
            error.where = f"{place}: {error.where}" if error.where else place
        raise


def path_text(name: bytes) -> str:
    """A path for a message: as an absolute path, quoted, control characters escaped, cut."""
    text = "/" + name.decode("utf-8", "backslashreplace").strip("/")
    return ascii(text if len(text) <= 120 else text[:120] + "...")
