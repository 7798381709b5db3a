"""What a container image is and runs, what Docker decides of it, and what an enclave does not give it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from coattest.findings import Finding
from coattest_build.containers.application import ContainerTree, undecided_finding
from coattest_build.containers.errors import ContainerError
from coattest_build.containers.image import OpenedImage
from coattest_build.containers.layertar import FILE
from coattest_build.containers.manifests import ContainerConfig
from coattest_build.containers.nitrocli import command_of
from coattest_build.containers.own.plan import RunPlan
from coattest_build.containers.own.starting import check_starts, nitro_cli_lacks
from coattest_build.containers.own.tree import own_tree

MEMORY_RATIO = 4
"""nitro-cli asks for at least this many times the size of the image file (``MEMORY_TO_EIF_SIZE_RATIO``)."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image as it is shown. Sizes are in bytes.

    ``runs`` is nitro-cli's command, None where the image does not decide it or has none; ``why`` says so in
    words, and where it would not start. ``entries`` and ``content`` count the container's export. ``plan`` is
    what style coattest runs, or why it runs nothing; ``own_not_given`` is for that style, ``not_given`` for
    nitro-cli's.
    """

    image: OpenedImage
    runs: tuple[str, ...] | None
    why: str
    entries: int
    content: int
    undecided: tuple[Finding, ...]
    not_given: tuple[str, ...]
    plan: RunPlan | str
    own_not_given: tuple[str, ...]

    @property
    def memory(self) -> int:
        """Bytes that an enclave needs at least, without the kernel and boot ramdisk."""
        return MEMORY_RATIO * self.content

    def to_json(self) -> dict[str, Any]:
        """The document of ``eif container inspect --json``."""
        config = self.image.config
        return {
            "form": self.image.form,
            "names": list(self.image.names),
            "manifest": _prefixed(self.image.manifest),
            "config_digest": _prefixed(self.image.config_sha256),
            "platform": str(config.platform) if config else None,
            "layers": [
                {
                    "diff_id": _prefixed(layer.diff_id),
                    "compression": layer.compression,
                    "size": layer.content.size,
                }
                for layer in self.image.layers
            ],
            "config": _config_json(config) if config else None,
            "nitro_cli": {"command": list(self.runs) if self.runs is not None else None, "why": self.why},
            "entries": self.entries,
            "content_bytes": self.content,
            "memory_bytes": self.memory,
            "undecided": [finding.to_json() for finding in self.undecided],
            "not_given": list(self.not_given),
            "coattest": {
                "runs": self.plan.to_json() if isinstance(self.plan, RunPlan) else None,
                "why_not": self.plan if isinstance(self.plan, str) else None,
                "not_given": list(self.own_not_given),
            },
        }


def _prefixed(digest: str | None) -> str | None:
    return None if digest is None else f"sha256:{digest}"


def _config_json(config: ContainerConfig) -> dict[str, Any]:
    """What a configuration says of how the image runs."""
    values = asdict(config)
    return {name: value for name, value in values.items() if name not in ("platform", "diff_ids")}


def inspect_container(tree: ContainerTree) -> Inspection:
    """What is to be said of an image whose layers were applied. Raises ContainerError."""
    entries = content = 0
    for entry in tree.exported():
        entries += 1
        content += entry.size if entry.kind == FILE else 0
    runs, why = _runs(tree.image.config)
    lacks = nitro_cli_lacks(tree)
    why = why if lacks is None else f"{why}; nothing would start: {lacks}"
    findings = [undecided_finding(item) for item in tree.undecided]
    config = tree.image.config
    if config is not None and config.cmd == ():
        findings.append(
            Finding(
                "undecidable", "config: Cmd", "it is empty, which Docker 20 shows and Docker 29 leaves out: "
                "nitro-cli runs a shell or the Entrypoint; set CMD in the image, or remove it"
            )
        )  # fmt: skip
    return Inspection(
        tree.image,
        runs,
        why,
        entries,
        content,
        tuple(findings),
        _not_given(config, tree.attributes),
        _plan(tree.image),
        _own_not_given(config, tree.attributes),
    )


def _plan(image: OpenedImage) -> RunPlan | str:
    try:
        tree = own_tree(image)
        plan = tree.plan
        plan.encode()  # within init's limits
        check_starts(tree)
    except ContainerError as error:
        return error.what
    return plan


def _runs(config: ContainerConfig | None) -> tuple[tuple[str, ...] | None, str]:
    if config is None:
        return None, "a file system has no command; give it with --cmd"
    if config.cmd is None and config.entrypoint is None:
        return None, "neither Cmd nor Entrypoint: nitro-cli refuses the image"
    runs = command_of(config, None)
    if runs is None:
        return None, "Cmd is empty: the Docker that nitro-cli asks decides between a shell and the Entrypoint"
    if config.cmd is None:
        return runs, "the Entrypoint, as there is no Cmd"
    if config.entrypoint:
        return runs, "Cmd alone: nitro-cli drops the Entrypoint where there is a Cmd"
    return runs, "Cmd"


def _not_given(config: ContainerConfig | None, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """What the image asks for and nitro-cli's enclave does not have."""
    found: list[str] = []
    if config is not None:
        if config.user not in ("", "0", "root", "0:0", "root:root"):
            found.append(f"USER {config.user}: the program runs as root")
        if config.working_dir not in ("", "/"):
            found.append(f"WORKDIR {config.working_dir}: the program starts in /")
        found += _of_docker(config, "an enclave has no network, only vsock")
        words = [*(config.cmd or ()), *(config.entrypoint or ()), *config.env]
        if any("\n" in word for word in words):
            found.append("a newline in a word of the command or environment: it becomes two words")
    found += _of_files(attributes)
    return (*found, "DNS and a resolver: /etc/resolv.conf leads to a file that nothing writes")


def _own_not_given(config: ContainerConfig | None, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """What the image asks for and an enclave of style coattest does not have."""
    found = (
        _of_docker(config, "on the loopback only, until --listen carries a vsock port to it")
        if config
        else []
    )
    return (
        *found,
        *_of_files(attributes),
        "times of files: all are one, so that Python compiles its modules again at the start",
        "DNS: there is no name server, and no network beside the loopback",
        "a way out other than CONNECT to the names of --connect: no plain HTTP through a proxy, no UDP",
    )


def _of_docker(config: ContainerConfig, network: str) -> list[str]:
    """What Docker does for a container, and no enclave."""
    found = [
        f"VOLUME {name}: what is written there is in memory, and gone at the end" for name in config.volumes
    ]
    found += [f"EXPOSE {name}: {network}" for name in config.exposed_ports]
    if config.stop_signal:
        found.append(f"STOPSIGNAL {config.stop_signal}: an enclave is terminated without one")
    if config.healthcheck:
        found.append("HEALTHCHECK: nothing runs it")
    return found


def _of_files(attributes: tuple[str, ...]) -> list[str]:
    """What files have in a layer, and not in a ramdisk."""
    found = ["file capabilities: a ramdisk has none"] if "security.capability" in attributes else []
    others = [name for name in attributes if name != "security.capability"]
    if others:
        found.append(f"{len(others)} kinds of extended attributes: a ramdisk has none")
    return found
