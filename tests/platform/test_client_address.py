"""The client's address behind proxies, and which addresses count as one client."""

from ipaddress import ip_network

import pytest

from service.http.client_address import client_address, rate_limit_key

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def client(peer: str, *forwarded: str) -> str:
    headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    return client_address({"client": (peer, 1), "headers": headers}, TRUSTED)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, 10.0.0.9"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.5, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.5", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7:4711"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["2001:DB8:0:0:0:0:0:7"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["::ffff:10.0.0.9"], "10.0.0.1"),
        ("10.0.0.1", ["fe80::2%eth0"], "fe80::2"),
        ("10.0.0.1", ["198.51.100.7, unknown"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_a_trusted_proxy(
    peer: str, forwarded: list[str], expected: str
) -> None:
    assert client(peer, *forwarded) == expected


def test_an_ipv6_client_is_a_64_bit_prefix_and_an_ipv4_client_is_an_address() -> None:
    assert (
        rate_limit_key("2001:db8:0:1::1")
        == rate_limit_key("2001:DB8:0:1:ffff::2")
        == "2001:db8:0:1::/64"
    )
    assert rate_limit_key("2001:db8:0:1::1") != rate_limit_key("2001:db8:0:2::1")
    assert (
        rate_limit_key("192.0.2.1")
        == rate_limit_key("::ffff:192.0.2.1")
        != rate_limit_key("192.0.2.2")
    )
