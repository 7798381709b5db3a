"""The systemd units of the parent instance, as text. Pure.

Each unit may do what its program needs and nothing else; docs/deployment.md has the figures of
``systemd-analyze security``. The enclave's unit is a template whose instances are releases, so that the next
release starts beside the running one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from coattest_parent.deployment.stack.settings import ENCLAVES, Settings

RELEASES = "/var/lib/coattest/releases"
PROGRAMS = "/opt/coattest/bin"
LOGS = "/var/log/coattest"
ALLOCATOR = "coattest-allocator.service"
ENCLAVE = "coattest-enclave@.service"
PROXY, COURIER = "coattest-proxy.service", "coattest-courier.service"
ENCLAVE_ENV = "enclave.env"
"""In a release's folder: the CID and the address of its enclave."""
ATTENDED = "/etc/coattest/enclave.env"
"""The CID and address of the courier's enclave: written once a release was verified."""

USER = "coattest"

Section = Sequence[tuple[str, str]]

_CLOSED: Section = (
    ("LimitCORE", "0"),
    ("NoNewPrivileges", "yes"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("PrivateTmp", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHome", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectProc", "invisible"),
    ("ProtectSystem", "strict"),
    ("RemoveIPC", "yes"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    ("UMask", "0077"),
)
"""What no unit here needs is closed (systemd.exec(5), "Sandboxing")."""


def units(settings: Settings) -> dict[str, str]:
    """Every unit by its file name."""
    machine = {ALLOCATOR: _allocator(), ENCLAVE: _enclave(settings)}
    return {**machine, PROXY: _proxy(), COURIER: _courier()} if settings.programs else machine


def allocator_yaml(settings: Settings) -> str:
    """/etc/nitro_enclaves/allocator.yaml: room for two enclaves, as an upgrade runs both for a while."""
    return f"---\nmemory_mib: {ENCLAVES * settings.memory}\ncpu_count: {ENCLAVES * settings.cpus}\n"


def _allocator() -> str:
    """AWS's allocator reserves CPUs and huge pages, in sysfs, as root, once per boot."""
    return _unit(
        {
            "Unit": [("Description", "CPUs and memory for the enclaves"), ("Before", "multi-user.target")],
            "Service": [
                ("Type", "oneshot"),
                ("RemainAfterExit", "yes"),
                ("ExecStart", "/usr/bin/nitro-enclaves-allocator"),
                *_CLOSED,
                ("CapabilityBoundingSet", "CAP_SYS_ADMIN CAP_SYS_MODULE CAP_DAC_OVERRIDE"),
                # It offlines CPUs and takes huge pages: sysfs stays writable, and modprobe works.
                ("ProtectKernelTunables", "no"),
                ("ProtectKernelModules", "no"),
                ("PrivateNetwork", "yes"),
                ("IPAddressDeny", "any"),
                ("RestrictAddressFamilies", "AF_UNIX"),
                ("SystemCallFilter", "@system-service @module"),
                ("ReadWritePaths", "-/var/log/nitro_enclaves -/run/nitro_enclaves"),
            ],
            "Install": [("WantedBy", "multi-user.target")],
        }
    )


def _enclave(settings: Settings) -> str:
    """One release; never in debug mode, in which nitro-cli's enclaves attest zeros."""
    release = f"{RELEASES}/%i"
    return _unit(
        {
            "Unit": [
                ("Description", "Enclave of release %i"),
                ("Requires", ALLOCATOR),
                ("After", f"{ALLOCATOR} network-online.target"),
            ],
            "Service": [
                ("Type", "oneshot"),
                ("RemainAfterExit", "yes"),
                ("WorkingDirectory", release),
                ("EnvironmentFile", f"{release}/{ENCLAVE_ENV}"),
                ("ExecStartPre", "/usr/bin/sha384sum --check --strict --status image.sha384"),
                (
                    "ExecStart",
                    f"/usr/bin/nitro-cli run-enclave --enclave-name %i --enclave-cid $COATTEST_ENCLAVE_CID "
                    f"--eif-path {release}/image.eif --cpu-count {settings.cpus} --memory {settings.memory}",
                ),
                ("ExecStop", "/usr/bin/nitro-cli terminate-enclave --enclave-name %i"),
                *_CLOSED,
                ("CapabilityBoundingSet", "CAP_DAC_OVERRIDE CAP_IPC_LOCK"),
                ("ProtectKernelModules", "yes"),
                ("ProtectKernelTunables", "yes"),
                ("DevicePolicy", "closed"),
                ("DeviceAllow", "/dev/nitro_enclaves rw"),
                # The enclave's process goes on as nitro-cli's child; it speaks vsock and a Unix socket. No
                # PrivateNetwork: newer kernels separate vsock by network namespaces too.
                ("IPAddressDeny", "any"),
                ("RestrictAddressFamilies", "AF_UNIX AF_VSOCK"),
                ("SystemCallFilter", "@system-service"),
                ("ReadWritePaths", "-/var/log/nitro_enclaves -/run/nitro_enclaves"),
            ],
            "Install": [("WantedBy", "multi-user.target")],
        }
    )


_PARENT: Section = (
    ("Environment", "HOME=/nonexistent"),
    ("StandardError", f"append:{LOGS}/%N.log"),
)
"""What an instance adds to the package's units, which are closed themselves."""


def _proxy() -> str:
    return _packaged(PROXY, ())


def _courier() -> str:
    """It serves the enclave that was verified last, and waits while there is none."""
    text = _packaged(COURIER, (("EnvironmentFile", ATTENDED),))
    text = text.replace("[Unit]\n", f"[Unit]\nConditionPathExists={ATTENDED}\n", 1)
    return text.replace(
        " $COATTEST_COURIER_ARGUMENTS", " --enclave $COATTEST_ENCLAVE $COATTEST_COURIER_ARGUMENTS", 1
    )


def _packaged(name: str, more: Section) -> str:
    """A unit of the package, with the path of the installed program and the lines that close the unit."""
    text = resources.files("coattest_parent").joinpath("units").joinpath(name).read_text("utf-8")
    lines = "".join(f"{key}={value}\n" for key, value in (*_PARENT, *more))
    text = text.replace("ExecStart=/usr/bin/env auction ", f"ExecStart={PROGRAMS}/auction ", 1)
    return text.replace("[Service]\n", f"[Service]\n{lines}", 1)


def _unit(sections: Mapping[str, Section]) -> str:
    return "\n".join(
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in entries), ""])
        for name, entries in sections.items()
    )
