"""The grammar of an enclave's network: ports, names, and how many."""

from __future__ import annotations

import pytest

from coattest.errors import UsageError
from coattest.network import MAX_CONNECT, MAX_LISTEN, NO_NETWORK, Listen, parse_network, parse_target


def test_a_network_says_what_is_measured() -> None:
    """In the order in which it was given, and as text for people."""
    found = parse_network(
        ["5005:8080", "4294967294:65535"], ["a-b.example.org:443", "localhost:1", "10.0.0.1:80"]
    )
    assert found.listen == (Listen(5005, 8080), Listen(4294967294, 65535))
    assert parse_target(found.connect[0]) == ("a-b.example.org", 443)
    assert str(parse_network(["5005:80"], [])) == "vsock 5005 to 127.0.0.1:80; out to nothing"
    assert str(parse_network([], ["a.b:1", "c:2"])) == "out to a.b:1, c:2"
    assert not NO_NETWORK
    assert parse_network([], []) == NO_NETWORK


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "5005", "5005:", ":80", "0:80", "5005:0", "05:80", "5005:080", "-1:80", "+5:80", "5 :80"),
        *("4294967295:80", "5005:65536", "5005:80:1", "\uff15:80", "5005:3128", "5005:80\n", "9" * 99 + ":1"),
    ],
)
def test_ports_have_one_spelling(text: str) -> None:
    """Digits without zeros in front; the CONNECT listener's port is the program's alone."""
    with pytest.raises(UsageError) as caught:
        parse_network([text], [])
    assert caught.value.code == "bad-network"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:01",
            "a:b",
            "a:1:2",
            "A.b:1",
            "a..b:1",
            ".a:1",
            "a.:1",
        ),
        *(
            "-a:1",
            "a-:1",
            "a_b:1",
            "a b:1",
            "a/b:1",
            "u@a:1",
            "*.a:1",
            "a\n:1",
            "a:1\n",
            "a\0:1",
            "\xe4.de:1",
        ),
        *(
            "1:1",
            "0x7f.1:1",
            "127.1:1",
            "010.0.0.1:1",
            "1.2.3.4.5:1",
            "256.1.1.1:1",
            "a.0x1:1",
            "[::1]:1",
            "::1:1",
        ),
        *("a" * 64 + ":1", ".".join(["a" * 63] * 4) + ":1", "https://a:1", "a.1:1"),
    ],
)
def test_a_name_is_a_name_of_dns_or_a_plain_address(text: str) -> None:
    """Nothing that a resolver would take for an address in another spelling."""
    with pytest.raises(UsageError) as caught:
        parse_network([], [text])
    assert caught.value.code == "bad-network"


@pytest.mark.parametrize(
    ("listen", "connect"),
    [
        (["5:80", "5:81"], []),
        ([], ["a:1", "a:1"]),
        ([f"{port}:80" for port in range(1, MAX_LISTEN + 2)], []),
        ([], [f"a{number}:1" for number in range(MAX_CONNECT + 1)]),
    ],
)
def test_nothing_is_named_twice_or_without_end(listen: list[str], connect: list[str]) -> None:
    """init's tables have a size."""
    with pytest.raises(UsageError) as caught:
        parse_network(listen, connect)
    assert caught.value.code == "bad-network"
