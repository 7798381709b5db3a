"""One HTTP/1.1 reply, read strictly: a status line, headers, and as many bytes as one Content-Length says.

Source: RFC 9112. Whatever KMS has no reason to send is refused: interim replies, chunks, encodings, a length
that is given twice or not at all, and bytes after the body.
"""

from __future__ import annotations

import re
from collections.abc import Callable

HEAD_MAX = 16 * 1024
"""Bytes of status line and headers."""

_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [ -~]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\t]*?)[ \t]*")
_LENGTH = re.compile(rb"[0-9]{1,9}")
_END = b"\r\n\r\n"


def read(receive: Callable[[int], bytes], body_max: int) -> tuple[int, bytes]:
    """Status and body of a reply whose pieces ``receive`` gives, empty at its end.

    Raises ValueError when it is no such reply or larger than it may be, ConnectionError when it ends early,
    and what ``receive`` raises.
    """
    data = b""
    while _END not in data:
        data += _piece(receive, HEAD_MAX)
        if len(data) > HEAD_MAX and _END not in data[:HEAD_MAX]:
            raise ValueError("no head of a reply")
    head, _, body = data.partition(_END)
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise ValueError("not a final status")
    fields = []
    for line in lines:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise ValueError("not a header")
        fields.append((field[1].lower(), field[2]))
    if any(name in (b"transfer-encoding", b"content-encoding") for name, _ in fields):
        raise ValueError("an encoding")
    lengths = [value for name, value in fields if name == b"content-length"]
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]) or int(lengths[0]) > body_max:
        raise ValueError("not one length in bounds")
    size = int(lengths[0])
    while len(body) < size:
        body += _piece(receive, size - len(body))
    if len(body) > size:
        raise ValueError("more bytes than announced")
    return int(status[1]), body


def _piece(receive: Callable[[int], bytes], size: int) -> bytes:
    if not (piece := receive(size)):
        raise ConnectionError("the reply ends early")
    return piece
