"""Enters the sandbox: run as a program by `coattest_build.sandbox.isolate`, never imported by it.

It uses the standard library only and is started with ``python -I -S``. It reads a JSON specification from a
pipe, makes the namespaces and the root, gives up every privilege and runs the command as process 2 under a
reaper that is process 1. A failure before the command starts is written to the status pipe as JSON; on
success that pipe has one "+" and closes when the command is executed.

The mounts are made as bubblewrap makes them: a tmpfs base, the host's tree moved to /oldroot by pivot_root,
the new root composed from bind mounts, then a second pivot_root that drops the host's tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000
# System call numbers: the first is shared by all architectures (asm-generic/unistd.h).
SYS_MOUNT_SETATTR = 442
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_SOCKET = {"x86_64": 41, "aarch64": 198}
SYS_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
SYS_MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}
SYS_SHMGET = {"x86_64": 29, "aarch64": 194}
SYS_KEYS = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}  # add_key, request_key, keyctl
SYS_IO_URING_SETUP = 425
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
# linux/prctl.h, linux/securebits.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 22, 24, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
SECCOMP_MODE_FILTER = 2
# linux/seccomp.h, linux/filter.h
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND = 0xC0502100, 0xC0182101
NOTIFICATION = struct.Struct("=QIIiIQQ40x")  # id, pid, flags, nr, arch, ip, the first argument
ANSWER = struct.Struct("=QqiI")  # id, val, error, flags
LOAD, JUMP_EQ, JUMP_GE, RETURN = 0x20, 0x15, 0x35, 0x06
SECUREBITS = 0xEF  # NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE, each locked
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_LIMIT = 64  # a capability set is 64 bits wide
EINVAL, ENOSYS, EPERM, ELOOP, EINTR, ENOENT = 22, 38, 1, 40, 4, 2
AF_VSOCK = 40
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DEVICES = ("null", "zero", "full", "random", "urandom")
HOST = "/oldroot"
ROOT = "/newroot"
TEMPORARY = "/tmp"  # noqa: S108 - every host has it, and a private tmpfs covers it at once

TMPFS_FILES = 65_536
"""Files of each limited tmpfs: they take the kernel's memory, not the size."""

STARTED = b"+"
"""Written to the status pipe just before the command is executed: an empty pipe means failure."""

libc = ctypes.CDLL(None, use_errno=True)


class SetupError(Exception):
    """A step of the set-up failed; ``args`` are the step and the errno."""


def checked(step: str, result: int) -> int:
    """``result`` of a C function. Raises SetupError, which names ``step``, when it is -1."""
    if result == -1:
        raise SetupError(step, ctypes.get_errno())
    return result


def mount(  # noqa: PLR0917 - the order of mount(2)
    step: str, source: str, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    """mount(2)."""
    arguments = [None if value is None else os.fsencode(value) for value in (source, target, kind, data)]
    checked(step, libc.mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3]))


def pivot(new: str, old: str) -> None:
    """pivot_root(2), which the C library does not wrap."""
    number = SYS_PIVOT_ROOT[os.uname().machine]
    checked(f"pivot_root {new}", libc.syscall(number, os.fsencode(new), os.fsencode(old)))


def opened(base: str, name: str, create: str | None = None) -> int:
    """An O_PATH descriptor of ``name`` below ``base``; no component of ``name`` may be a link.

    ``create`` ("directory" or "file") makes what is missing. What is mounted is composed from trees that
    somebody else wrote: a link on the way would lead to the host's own tree.
    """
    handle = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parts = [part for part in name.split("/") if part]
    for number, part in enumerate(parts, 1):
        if part in (".", ".."):
            raise SetupError(f"the path {name}", EINVAL)
        if create:
            with contextlib.suppress(FileExistsError):
                if number < len(parts) or create == "directory":
                    os.mkdir(part, 0o755, dir_fd=handle)
                else:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(part, flags, 0o644, dir_fd=handle))
        below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        os.close(handle)
        handle = below
        if stat.S_ISLNK(os.fstat(handle).st_mode):
            raise SetupError(f"a link on the way to {name}", ELOOP)
    return handle


def by_handle(handle: int) -> str:
    """A path that leads to what a descriptor is of, whatever its names lead to by now."""
    return f"{HOST}/proc/self/fd/{handle}"


def restrict(target: str, writable: bool) -> None:
    """Make the mounts at and below ``target`` nosuid, nodev and, unless ``writable``, read-only."""
    bits = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (0 if writable else MOUNT_ATTR_RDONLY)
    attributes = struct.pack("=QQQQ", bits, 0, 0, 0)
    handle = opened(ROOT, target)
    arguments = (handle, b"", AT_RECURSIVE | AT_EMPTY_PATH, attributes, len(attributes))
    if libc.syscall(SYS_MOUNT_SETATTR, *arguments) == -1:
        if ctypes.get_errno() != ENOSYS:
            raise SetupError(f"mount_setattr {target}", ctypes.get_errno())
        # Before Linux 5.12: a remount, which must keep the flags that the outer namespace locked.
        locked = os.statvfs(handle).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | locked | (0 if writable else MS_RDONLY)
        mount(f"remount {target}", "none", by_handle(handle), None, flags)
    os.close(handle)


def bind(source: str, target: str, *, writable: bool, device: bool = False) -> None:
    """Bind-mount the host's ``source`` on ``target`` of the root, which is created when it is missing."""
    origin = opened(HOST, source)
    directory = stat.S_ISDIR(os.fstat(origin).st_mode)
    place = opened(ROOT, target, "directory" if directory else "file")
    mount(f"bind {target}", by_handle(origin), by_handle(place), None, MS_BIND | MS_REC)
    os.close(origin)
    os.close(place)
    if not device:
        restrict(target, writable)


def mount_tmpfs(target: str, flags: int, data: str) -> None:
    """Mount a tmpfs on ``target`` of the root, which is created when it is missing."""
    place = opened(ROOT, target, "directory")
    mount(f"tmpfs {target}", "tmpfs", by_handle(place), "tmpfs", flags, data)
    os.close(place)


def map_ids(uid: int, gid: int, inner: int) -> None:
    """Map ``inner`` in the new namespace to the caller's own ids: the one mapping that needs no privilege."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inner} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{inner} {gid} 1")


def compose_root(spec: dict[str, Any]) -> None:
    """Build the new root at ROOT from the root directory, the devices, /proc, the tmpfs and the binds."""
    mount("private mounts", "none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs base", "tmpfs", TEMPORARY, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    Path(TEMPORARY + HOST).mkdir()
    Path(TEMPORARY + ROOT).mkdir()
    pivot(TEMPORARY, TEMPORARY + HOST)
    os.chdir("/")
    source = spec["root"]
    if spec["writable_root"]:
        bind(source, "", writable=True)
    else:
        # A tmpfs whose entries are the root's own, so that mount points can be made without touching it.
        mount("tmpfs root", "tmpfs", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
        for entry in sorted(Path(HOST + source).iterdir()):
            if entry.name in ("dev", "proc", "tmp") or f"/{entry.name}" in spec["tmpfs"]:
                continue
            if entry.is_symlink():
                Path(f"{ROOT}/{entry.name}").symlink_to(entry.readlink())
            else:
                bind(f"{source}/{entry.name}", entry.name, writable=False)
    limit = f",size={spec['tmpfs_size']},nr_inodes={TMPFS_FILES}" if spec["tmpfs_size"] else ""
    for target in (TEMPORARY, *spec["tmpfs"]):
        mode = "1777" if target == TEMPORARY else "0755"
        mount_tmpfs(target, MS_NOSUID | MS_NODEV, f"mode={mode}{limit}")
    make_devices()
    make_proc(spec["proc"])
    for entry in spec["binds"]:
        bind(entry["source"], entry["target"], writable=entry["writable"])
    if not spec["writable_root"]:
        mount("read-only root", "none", ROOT, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def make_devices() -> None:
    """A read-only /dev with five harmless devices of the host and nothing else."""
    target = f"{ROOT}/dev"
    mount_tmpfs("/dev", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k")
    for name in DEVICES:
        bind(f"/dev/{name}", f"/dev/{name}", writable=True, device=True)
    Path(f"{target}/fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        Path(f"{target}/{name}").symlink_to(f"/proc/self/fd/{number}")
    mount("read-only /dev", "none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC)


def make_proc(wanted: bool) -> None:
    """/proc with the sandbox's own processes only, or empty.

    subset=pid leaves out /proc/sys and its like, which global root could write without any capability;
    hidepid=ptraceable hides process 1, whose command line names paths of the host.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if wanted:
        place = opened(ROOT, "/proc", "directory")
        try:
            mount("proc", "proc", by_handle(place), "proc", flags, "subset=pid,hidepid=ptraceable")
        except SetupError:
            pass  # a host that masks its own /proc refuses new ones; then an empty one is mounted
        else:
            return
        finally:
            os.close(place)
    mount_tmpfs("/proc", flags | MS_RDONLY, "mode=0555,size=4k")


def enter_root() -> None:
    """Make ROOT the root directory and let go of the host's tree."""
    checked("leave the host's tree", libc.umount2(os.fsencode(HOST), MNT_DETACH))
    os.chdir(ROOT)
    pivot(".", ".")
    checked("leave the base", libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def loopback_up() -> None:
    """Bring up ``lo`` of the own network namespace (netdevice(7)): TCP between the sandbox's processes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def seccomp_filter(limited: bool) -> bytes:
    """A BPF program that refuses AF_VSOCK sockets, keyrings, and io_uring (which makes sockets unseen by it).

    A network namespace does not cover AF_VSOCK: without this a command could talk to the hypervisor. No
    namespace covers the session keyring that a process inherits (keyrings(7)), with the user's secrets in it.
    Of a ``limited`` command it refuses memory that is no process's own, as nothing would count it.
    """
    machine = os.uname().machine
    missing = SECCOMP_RET_ERRNO | ENOSYS
    numbers = [SYS_IO_URING_SETUP, *SYS_KEYS[machine]]
    numbers += [SYS_MEMFD_CREATE[machine], SYS_SHMGET[machine]] * limited
    return assembled(
        [
            (LOAD, 0, 0, 4),  # seccomp_data.arch
            (JUMP_EQ, 1, 0, AUDIT_ARCH[machine]),
            (RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS),
            (LOAD, 0, 0, 0),  # seccomp_data.nr
            (JUMP_GE, 0, 1, X32_BIT),
            (RETURN, 0, 0, missing),
            *where_equal(numbers, missing),
            (JUMP_EQ, 0, 3, SYS_SOCKET[machine]),
            (LOAD, 0, 0, 16),  # low half of the first argument: the address family
            *where_equal([AF_VSOCK], SECCOMP_RET_ERRNO | EPERM),
            (RETURN, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )


def lacking_filter(lacks: list[dict[str, Any]], *, asked: bool) -> bytes:
    """A BPF program for calls and address families that an image's kernel lacks, on top of the filter above.

    They end with their errno at once, or when ``asked``, once the listener has answered.
    """
    machine = os.uname().machine
    jumps: list[tuple[int, int, int, int]] = []
    families: list[tuple[int, int, int, int]] = []
    for lack in lacks:
        action = SECCOMP_RET_USER_NOTIF if asked else SECCOMP_RET_ERRNO | lack["errno"]
        jumps += where_equal(lack["calls"], action)
        families += where_equal(lack["families"], action)
    allow = (RETURN, 0, 0, SECCOMP_RET_ALLOW)
    sockets = [(JUMP_EQ, 2, 0, SYS_SOCKET[machine]), (JUMP_EQ, 1, 0, SYS_SOCKETPAIR[machine]), allow]
    return assembled([(LOAD, 0, 0, 0), *jumps, *sockets, (LOAD, 0, 0, 16), *families, allow])


def where_equal(values: list[int], action: int) -> list[tuple[int, int, int, int]]:
    """The instructions that return ``action`` where what is loaded is one of the values."""
    return [step for value in values for step in ((JUMP_EQ, 0, 1, value), (RETURN, 0, 0, action))]


def assembled(program: list[tuple[int, int, int, int]]) -> bytes:
    """The bytes of instructions (struct sock_filter)."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def refuse_lacking(lacks: list[dict[str, Any]]) -> int | None:
    """Refuse what the image's kernel lacks; a listener that is asked each time, or None without one.

    A host that has a listener of its own above us allows no second one (seccomp(2), EBUSY).
    """
    for asked in (True, False):
        program = lacking_filter(lacks, asked=asked)
        buffer = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
        number, flags = SYS_SECCOMP[os.uname().machine], SECCOMP_FILTER_FLAG_NEW_LISTENER * asked
        result = libc.syscall(number, SECCOMP_SET_MODE_FILTER, flags, header)
        if result != -1:
            return result if asked else None
    raise SetupError("seccomp for what the kernel lacks", ctypes.get_errno())


def answer_lacking(listener: int, lacks: list[dict[str, Any]], console: int) -> None:
    """Answer the listener for ever: each lack is told once on the console, before its call ends."""
    sockets = (SYS_SOCKET[os.uname().machine], SYS_SOCKETPAIR[os.uname().machine])
    told = set()
    while True:
        notification = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notification)
            known, _, _, number, _, _, family = NOTIFICATION.unpack(notification)
            where, value = ("families", family & 0xFFFFFFFF) if number in sockets else ("calls", number)
            lack = next(lack for lack in lacks if value in lack[where])
            if lack["what"] not in told:
                told.add(lack["what"])
                tell_lacking(console, lack["what"])
            fcntl.ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, ANSWER.pack(known, 0, -lack["errno"], 0))
        except OSError as error:
            if error.errno not in (EINTR, ENOENT):  # whoever asked has ended or was interrupted
                os._exit(125)  # without answers its calls would wait for ever


def tell_lacking(console: int, what: str) -> None:
    """One line on the console, as far as somebody reads it."""
    with contextlib.suppress(OSError):
        os.write(console, f"software host: the image's kernel lacks {what}: refused here too\n".encode())


def drop_privileges(limited: bool) -> None:
    """Give up every capability and the ways to regain one, and set the seccomp filter."""
    checked("securebits", libc.prctl(PR_SET_SECUREBITS, SECUREBITS, 0, 0, 0))
    for capability in range(CAP_LIMIT):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
            if ctypes.get_errno() != EINVAL:
                raise SetupError("capability bounding set", ctypes.get_errno())
            break
    checked("ambient capabilities", libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0)
    checked("capset", libc.capset(header, bytes(24)))
    checked("no_new_privs", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    program = seccomp_filter(limited)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    checked("seccomp", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def exit_like(status: int) -> NoReturn:
    """End with the exit code of a wait status, 128 + n for a signal, as shells do."""
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def reap(child: int) -> NoReturn:
    """Process 1: wait for every orphan of the namespace, and end when the command ends."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            exit_like(status)


def first_process(spec: dict[str, Any], go: int, status: int) -> NoReturn:
    """Process 1 of the new namespaces: set them up, start the command and reap."""
    checked("parent death signal", libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.read(go, 1) != b"g":  # the parent has ended already, so its death sends no signal
        os._exit(1)
    # Nested user namespaces would bring capabilities back; a read-only /proc/sys leaves them possible.
    with contextlib.suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    if spec["loopback"]:
        loopback_up()
    compose_root(spec)
    enter_root()
    checked("host name", libc.sethostname(b"coattest", 8))
    checked("domain name", libc.setdomainname(b"localdomain", 11))
    os.setsid()
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, wanted in spec["rlimits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (most, most))
    drop_privileges(bool(spec["rlimits"]))
    lacks, console, listener = spec["lacks"], -1, None
    if lacks:
        console, listener = os.dup(2), refuse_lacking(lacks)
    checked("dumpable", libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
    child = os.fork()
    if child:
        os.close(status)
        if lacks and listener is None:
            tell_lacking(console, ", ".join(lack["what"] for lack in lacks))
        elif lacks:
            threading.Thread(target=answer_lacking, args=(listener, lacks, console), daemon=True).start()
        for descriptor in (0, 1, 2, *spec["pass_fds"]):
            os.close(descriptor)  # so that a reader sees the end when the command closes its own
        reap(child)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, commands expect them
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.chdir(spec["cwd"])
        os.write(status, STARTED)
        os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - never a shell
    except OSError as error:
        raise SetupError(f"run {spec['argv'][0]}", error.errno) from error


def supervise(child: int, parent: int, told: int) -> NoReturn:
    """Outside the new PID namespace: end with the command, and end it when our own parent ends or one of us
    is told to (``told`` is readable)."""
    ours = os.pidfd_open(child)
    poll = select.poll()
    for descriptor in (ours, parent, told):
        poll.register(descriptor, select.POLLIN)
    if ours not in dict(poll.poll()):
        os.kill(child, signal.SIGKILL)  # the kernel then ends every process of the namespace
    exit_like(os.waitpid(child, 0)[1])


def enter(spec: dict[str, Any], status: int) -> NoReturn:
    """Make the namespaces, fork process 1 into them and supervise it."""
    parent = os.pidfd_open(spec["parent"])
    if os.getppid() != spec["parent"]:
        os._exit(1)
    uid, gid = os.geteuid(), os.getegid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    checked("unshare", libc.unshare(flags | (0 if spec["network"] else CLONE_NEWNET)))
    map_ids(uid, gid, spec["uid"])
    ready, go = os.pipe()
    # The byte is written at once, in C; a handler of Python's would wait for a poll that has just begun.
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(tell)
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(told)
        os.close(tell)
        os.close(go)
        first_process(spec, ready, status)
    os.close(ready)
    os.close(status)
    os.write(go, b"g")
    for descriptor in (0, 1, 2, *spec["pass_fds"]):
        os.close(descriptor)
    supervise(child, parent, told)


def main() -> None:
    """Read the specification from one descriptor, report a failed set-up on the other."""
    source, status = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(status, False)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with os.fdopen(source) as file:
            spec = json.load(file)
        enter(spec, status)
    except SetupError as error:
        report: dict[str, Any] = {"step": error.args[0], "errno": error.args[1]}
    except OSError as error:
        report = {"step": str(error.filename or error.strerror), "errno": error.errno}
    except BaseException as error:  # the child must never run on in the caller's code
        report = {"step": repr(error), "errno": 0}
    os.write(status, json.dumps(report).encode())
    os._exit(125)


if __name__ == "__main__":
    main()
