"""Our three changes to QEMU's source, as exact edits that must each fit once.

Debian's source lacks EDK2's blobs, so they are not unpacked (as in Debian's patch skip-unpack-edk2-blobs).
One machine is built, with the devices that it selects: a third less to compile.

QEMU's NSM signs nothing: algorithm -1, zeros for signature and certificates. With the third change it hands
the finished unsigned document to a signer on a Unix socket and returns the answer, when the environment names
one (``coattest_local.qemu.signer``). What the document says, above all the registers, is QEMU's own; so the
rest of the chain (KMS, liveness, receipts) verifies QEMU's documents with the same code as any other
(docs/adr/0070-qemus-documents-are-signed-by-us.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coattest.errors import EnvironmentFailure

_SIGNER = """\
/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hand the unsigned document in buf to the signer that the environment names and take back the signed one:
 * u32 big-endian length and bytes, both ways. Returns the new length, 0 on failure, len without a signer.
 */
static bool coattest_exchange(int fd, uint8_t *buf, size_t len, bool out)
{
    while (len > 0) {
        ssize_t done = out ? write(fd, buf, len) : read(fd, buf, len);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        buf += done;
        len -= done;
    }
    return true;
}

static size_t coattest_sign(uint8_t *buf, size_t len, size_t size)
{
    const char *path = g_getenv("COATTEST_NSM_SIGNER");
    struct timeval limit = { .tv_sec = 10 };
    uint8_t header[4];
    size_t got = 0;
    int fd;

    if (!path) {
        return len;
    }
    fd = unix_connect(path, NULL);
    if (fd < 0) {
        return 0;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    stl_be_p(header, len);
    if (coattest_exchange(fd, header, 4, true) && coattest_exchange(fd, buf, len, true) &&
        coattest_exchange(fd, header, 4, false)) {
        got = ldl_be_p(header);
        if (got > size || !coattest_exchange(fd, buf, got, false)) {
            got = 0;
        }
    }
    close(fd);
    return got;
}

"""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace ``before``, which occurs exactly once in ``file``, by ``after``."""

    file: str
    before: str
    after: str


_NSM = "hw/virtio/virtio-nsm.c"
_SIGNATURE = "static bool handle_attestation("
_SERIALIZED = """\
    len = cbor_serialize(cose, buf, buf_len);
    if (len == 0) {
        goto err;
    }

    root = cbor_new_definite_map(1);
"""

EDITS = (
    Edit("pc-bios/meson.build", "if unpack_edk2_blobs\n", "if unpack_edk2_blobs and false\n"),
    Edit(
        "configs/devices/x86_64-softmmu/default.mak",
        "include ../i386-softmmu/default.mak\n",
        "include ../i386-softmmu/default.mak\nCONFIG_NITRO_ENCLAVE=y\n",
    ),
    Edit(
        _NSM,
        '#include "qemu/iov.h"\n',
        '#include "qemu/bswap.h"\n#include "qemu/iov.h"\n#include "qemu/sockets.h"\n',
    ),
    Edit(_NSM, _SIGNATURE, _SIGNER + _SIGNATURE),
    Edit(
        _NSM,
        _SERIALIZED,
        _SERIALIZED.replace(
            "\n    root",
            "    len = coattest_sign(buf, len, buf_len);\n"
            "    if (len == 0) {\n        goto err;\n    }\n\n    root",
        ),
    ),
)


def apply_edits(source: Path) -> None:
    """Make the edits in an unpacked source tree.

    Raises EnvironmentFailure (patch-does-not-fit) for source that is not of the version they were made for.
    """
    for edit in EDITS:
        path = source / edit.file
        text = path.read_text() if path.is_file() else ""
        if text.count(edit.before) != 1:
            raise EnvironmentFailure(
                "QEMU's source is not as expected",
                where=edit.file,
                hint="build the pinned version",
                code="patch-does-not-fit",
            )
        path.write_text(text.replace(edit.before, edit.after))
