"""Whose request it is: an address that is forwarded is believed from trusted proxies only."""

from collections.abc import Sequence
from ipaddress import ip_address

from starlette.types import Scope

from handlers.runtime.settings import Network


def client_of(scope: Scope, trusted: Sequence[Network]) -> str:
    """Return the client's address: the nearest that no trusted proxy vouches for.

    X-Forwarded-For is read from the right, since every proxy appends the peer that it saw.
    """
    peer = scope["client"][0] if scope["client"] else ""
    if not trusted or not _trusts(trusted, peer):
        return peer
    forwarded = b",".join(v for n, v in scope["headers"] if n == b"x-forwarded-for")
    for hop in reversed(forwarded.decode("latin-1").split(",")):
        address = hop.strip()
        if not _is_address(address):
            break
        if not _trusts(trusted, address):
            return address
    return peer


def _trusts(trusted: Sequence[Network], address: str) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in trusted)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
