"""Every block of commands in every page is run, or the page says why not; what is not run is listed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.guides.blocks import (
    INSTALL,
    PAGES,
    ROOT,
    Block,
    Command,
    blocks_of,
    commands_in,
    indented,
    is_command,
)

RUN_BY_CI = {
    # Each with the file and the text in it that shows that CI runs it.
    ("docs/quick-start.md", "make demo"): (".ci/run", "\nmake demo\n"),
    ("docs/attestation.md", "tox -m matrix"): (".ci/run", '--workdir ".tox/$lane" -m corners\n'),
    (
        "docs/fleet.md",
        "verify fleet FLEET.toml --root $ROOT --bundle bundle.json \\\n"
        "    --state fleet.json --prometheus fleet.prom",
    ): ("tests/verify/fleet/test_fleet_command.py", 'blocks_of("docs/fleet.md")'),
    ("docs/boot.md", "python local/qemu-compiler/build.py"): (
        "tox.ini",
        "\n    python local/qemu-compiler/build.py\n",
    ),
    ("docs/boot.md", "nitro-local boot image.eif"): (
        "tests/local/qemu/test_qemu_boot.py",
        '(*NITRO_LOCAL, "boot", str(image), ',
    ),
    # The demo's run-enclave takes --host from COATTEST_LOCAL_HOST.
    (
        "docs/boot.md",
        "nitro-local run-enclave image.eif --host qemu --directory enclave \\\n"
        "    --role-arn arn:aws:iam::111122223333:role/parent --instance-id i-0123456789abcdef0",
    ): ("tox.ini", "\n    nitro-local demo --qemu --this-checkout-is-mine\n"),
    ("docs/reproducible.md", "tox -e reproducible"): (".ci/run", "\n  twice reproducible "),
    ("docs/reproducible.md", "docker build -f Dockerfile.reproducible --output out ."): (
        "tests/support/build/container_route.py",
        'self._docker("build", *more, "--output", str(out), str(context))',
    ),
    (
        "docs/reproducible.md",
        "buildah bud --isolation chroot -f Dockerfile.reproducible -t coattest-images .",
    ): (
        "tests/support/build/container_route.py",
        'build = ("--isolation", "chroot", *arguments, "-f", str(dockerfile), "-t", name, str(context))\n'
        '        self._buildah("bud", *build)',
    ),
    ("docs/reproducible.md", "tox -e container"): (".ci/run", "\n  twice container "),
}
"""Commands that CI runs elsewhere, by page: too long, or another environment's."""

NEVER_RUN = {
    ("docs/quorum.md", 'verify turn --key member.key --member "$ME"'): "it needs a repository of yours",
    ("docs/quorum.md", "verify members enroll --restart-log"): "nobody loses a log on this page",
    **{
        (
            "docs/quorum.md",
            f"verify release {words}",
        ): "it answers an objection, and nobody objects on this page"
        for words in (
            'withdraw --key member.key --member "$ME" --release 0.1.0 --reason "a broken disk"',
            'excuse --key member.key --member "$ME" --release 0.1.0 --whom buyer-3 '
            '--reason "on leave until March"',
        )
    },
    (
        "docs/hardware-smoke.md",
        "deploy-from-attestation smoke --measurements measurements.json --image image.eif \\\n"
        "    --role-arn arn:aws:iam::111122223333:role/parent --instance-id i-0123456789abcdef0",
    ): "it needs a Nitro instance",
    **{
        ("docs/hardware-smoke.md", command): "it needs a Nitro instance"
        for command in (
            "nitro-cli run-enclave --eif-path image.eif --cpu-count 2 --memory 1024 --debug-mode "
            "--attach-console",
            "verify keygen --out smoke.key",
            "deploy-from-attestation smoke --measurements measurements.json --image image.eif "
            "--report smoke.json --key smoke.key",
            "mkdir debug-tree && cp -r build enclave debug-tree",
            "sed -i 's/^cmdline = \"/&earlycon=uart8250,io,0x3f8,115200n8 /' debug-tree/build/image.toml",
            "eif build --source debug-tree --out debug",
            "nitro-cli run-enclave --eif-path debug/image.eif --cpu-count 2 --memory 1024 --debug-mode "
            "--attach-console",
        )
    },
    **{
        ("docs/your-own-enclave.md", command): "it needs a Nitro instance"
        for command in (
            "nitro-cli run-enclave --eif-path mine/image.eif --cpu-count 2 --memory 512 --enclave-cid 16",
            "python ask.py vsock:16:7000 drawn Ada Grace Edsger",
            "python check.py drawn aws",
        )
    },
    **{
        ("docs/other-images.md", command): "it needs a Dockerfile of yours, and Nitro"
        for command in (
            "buildah bud -t server . && buildah push server oci-archive:server.tar",
            "eif container inspect server.tar",
            "eif container build server.tar --style coattest --out server.eif",
            "nitro-cli run-enclave --eif-path server.eif --cpu-count 2 --memory 2048",
        )
    },
    **{
        ("docs/other-images.md", command): "it needs an image of yours, and Nitro"
        for command in (
            "eif container build server.tar --style coattest --listen 5005:8080 "
            "--connect api.example.org:443 --out server.eif",
            "nitro-local run-enclave server.eif --host qemu --directory run \\\n"
            "      --role-arn arn:aws:iam::111122223333:role/parent --instance-id i-0123456789abcdef0",
            "auction proxy --eif server.eif --forward 0.0.0.0:443=vsock:16:5005",
        )
    },
    **{
        ("docs/other-images.md", command): "it needs an image of yours"
        for command in (
            "eif init container mine && cd mine",
            "eif lock --keep --from ../server.tar",
            "eif build --out out --from ../server.tar --claim attestations/releases/0.1.0/claim.json",
            "verify rebuild --out mine --from ../the-same-from-another-place",
        )
    },
    **{
        ("docs/other-images.md", f"eif {command}"): reason
        for commands, reason in (
            (
                ("measure $IMAGE", "describe $IMAGE", "describe $IMAGE --files"),
                "nitro-cli needs Docker. The tests write such images themselves",
            ),
            (("diff $IMAGE $OTHER",), "nitro-cli needs Docker. The tests compare images of its shape"),
            (
                (
                    "container inspect $IMAGE",
                    "container check $IMAGE --eif $EIF --blobs /usr/share/nitro_enclaves/blobs",
                    "container check $IMAGE --expect measurements.json --blobs "
                    "/usr/share/nitro_enclaves/blobs",
                    "container ramdisk $IMAGE --style nitro-cli --out app.cpio",
                ),
                "it needs an image of yours. The tests read images whose ramdisk nitro-cli's own steps made",
            ),
        )
        for command in commands
    },
    (
        "docs/inputs.md",
        "verify inputs",
    ): "it asks Debian's archives and a package index, and the answer depends on the day",
    (
        "docs/inputs.md",
        "verify inputs --mirror https://mirror.example/debian --out out/inputs.json",
    ): "it asks Debian's archives and a package index, and the answer depends on the day",
}
"""Commands that no test runs, with the reason that the page gives."""


def marked(kind: str) -> dict[tuple[str, str], str]:
    """What the pages say below the blocks of that kind, by page and command."""
    return {
        (page, command.text): block.marker[1]
        for page in PAGES
        for block in blocks_of(page)
        if block.marker and block.marker[0] == kind
        for command in block.commands
    }


def test_what_no_test_runs_is_listed() -> None:
    """A page cannot take a command out of the tests alone, nor change the reason."""
    assert marked("Not run by a test") == NEVER_RUN


def test_what_ci_runs_elsewhere_is_there() -> None:
    """The pages' markers are the list above, and each place that it names still runs the command."""
    assert set(marked("Run by CI")) == set(RUN_BY_CI)
    for command, (file, text) in RUN_BY_CI.items():
        assert text in (ROOT / file).read_text(), (command, file)


def test_ci_runs_what_the_readme_says() -> None:
    """`make demo` and `make test` are lines of .ci/run; test_install.py runs the README's other commands."""
    shown = indented(ROOT / "README.md")
    assert [line for line in shown if line not in INSTALL] == ["make demo", "make test"]
    assert {*shown} - {*INSTALL} <= set((ROOT / ".ci" / "run").read_text().splitlines())
    assert [line for line in shown if line in INSTALL] == INSTALL


def test_the_reader_notices_what_it_must(tmp_path: Path) -> None:
    """Codes belong to one command; a line that is no command, or a command elsewhere, is refused."""
    assert commands_in(["# exit 1", "$ a \\", "  b", "$ c"]) == (Command("a \\\n  b", 1), Command("c", 0))
    with pytest.raises(AssertionError):
        commands_in(["verify receipt"])
    assert is_command("    verify quorum --own buyer-1")
    assert not is_command("verify/     quorum of signed rebuilds")
    page = tmp_path / "page.md"
    read = str(page)
    for text in (
        "```\n$ verify receipt result.cbor\n```\n",
        "    verify receipt result.cbor\n",
        "```sh\n$ gpg --version\n```\n",
        "```console\n$ true\n```\n\nText.\n\n*Not run by a test: nobody knows.*\n",
    ):
        page.write_text(text)
        with pytest.raises(AssertionError):
            blocks_of(read)
    page.write_text('```console buyers\n$ A="1 2"\n$ A=1 true\n```\n\n*Not run by a test: why.* More.\n')
    assert blocks_of(read) == [
        Block(
            read, "buyers", 0, (Command('A="1 2"', 0), Command("A=1 true", 0)), ("Not run by a test", "why")
        )
    ]
    assert [command.sets_variables for command in blocks_of(read)[0].commands] == [True, False]
