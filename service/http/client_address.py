"""Whose request it is: an address that is forwarded is believed from trusted proxies only."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from service.settings import Network

Address = IPv4Address | IPv6Address
# What one client is given as a rule (RFC 6177): whoever has it has 2**64 addresses.
IPV6_PREFIX = 64


def client_address(scope: Scope, trusted: Sequence[Network]) -> str:
    """Return the client's address: the nearest that no trusted proxy vouches for.

    X-Forwarded-For is read from the right, since every proxy appends the peer that it saw; one
    address has one spelling, with or without a port.
    """
    peer: str = scope["client"][0] if scope["client"] else ""
    if not trusted or not _trusts(trusted, _address(peer)):
        return peer
    forwarded = b",".join(v for n, v in scope["headers"] if n == b"x-forwarded-for")
    for hop in reversed(forwarded.decode("latin-1").split(",")):
        address = _address(hop.strip())
        if address is None:
            break
        if not _trusts(trusted, address):
            return str(address)
    return peer


def rate_limit_key(client: str) -> str:
    """Return what is counted as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = _address(client)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def _trusts(trusted: Sequence[Network], address: Address | None) -> bool:
    return address is not None and any(address in network for network in trusted)


def _address(text: str) -> Address | None:
    """Read an address with or without a port or a zone; one mapped into IPv6 is what it maps."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
