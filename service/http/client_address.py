"""The client's address: X-Forwarded-For counts only when it comes from a trusted proxy."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import Scope

from service.settings import Network

Address = IPv4Address | IPv6Address
# The usual allocation to one client (RFC 6177): it has 2**64 addresses to choose from.
IPV6_PREFIX = 64


def client_address(scope: Scope, trusted_proxies: Sequence[Network]) -> str:
    """Return the nearest address that is not a trusted proxy, or else the peer's.

    X-Forwarded-For is read from the right, because every proxy appends the peer that it saw. A
    forwarded address is normalized, and returned without its port.
    """
    peer: str = scope["client"][0] if scope["client"] else ""
    if not trusted_proxies or not _is_trusted(_parse(peer), trusted_proxies):
        return peer
    forwarded = b",".join(v for n, v in scope["headers"] if n == b"x-forwarded-for")
    for hop in reversed(forwarded.decode("latin-1").split(",")):
        address = _parse(hop.strip())
        if address is None:
            break
        if not _is_trusted(address, trusted_proxies):
            return str(address)
    return peer


def rate_limit_key(client: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = _parse(client)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def _is_trusted(address: Address | None, trusted_proxies: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted_proxies)


def _parse(text: str) -> Address | None:
    """Parse an address with or without port or zone; an IPv4-mapped one becomes IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
