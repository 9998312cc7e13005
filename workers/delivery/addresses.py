"""Which IP addresses a worker may talk to on behalf of others. Pure: text in, verdict out.

`ipaddress.is_global` alone is no filter: it calls multicast, NAT64 of loopback, Azure's and Oracle's metadata
addresses and more "global", and its tables move between Python versions. So this is an allowlist: global IPv4 unicast
and 2000::/3, less what is denied here. The nets are those of IANA's special-purpose address registries.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# Whoever reaches one of these may get the machine's credentials: refused even where private addresses are allowed.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, GCP, Azure, Oracle, OpenStack, ...; link-local, so refused twice over
        "169.254.170.2",  # AWS ECS task credentials
        "100.100.100.200",  # Alibaba Cloud, within 100.64.0.0/10
        "168.63.129.16",  # Azure's wire server, a public address
        "192.0.0.192",  # Oracle Cloud Classic
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # GCP
        "fd00:42::42",  # Scaleway
    )
)

_PRIVATE_V4 = tuple(
    IPv4Network(net)
    for net in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_PRIVATE_V6 = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))

_DENIED_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8",  # "this host": Linux connects to loopback
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_DENIED_V6 = (
    IPv6Network("2001::/23"),  # protocol assignments; Teredo, which wraps an IPv4 address, is among them
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
)
_NAT64 = IPv6Network("64:ff9b::/96")


@lru_cache(maxsize=4096)
def refusal(text: str, *, allow_private: bool = False) -> str | None:
    """Tell why this address is refused, or None if it is allowed. What is not an address is refused.

    `allow_private` admits loopback, RFC 1918, RFC 6598 and unique local addresses; never link-local or metadata ones.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "not an IP address"
    if isinstance(address, IPv4Address):
        return _refusal_v4(address, allow_private)
    return _refusal_v6(address, allow_private)


def _refusal_v4(address: IPv4Address, allow_private: bool) -> str | None:
    if address in _METADATA:
        return "a metadata address"
    if any(address in net for net in _PRIVATE_V4):
        return None if allow_private else "a private address"
    if any(address in net for net in _DENIED_V4) or not address.is_global:
        return "a special-purpose address"
    return None


def _refusal_v6(address: IPv6Address, allow_private: bool) -> str | None:
    if address.scope_id is not None:
        return "an address with a zone"
    inner = _wrapped(address)
    if inner is not None:  # packets end up at the inner address
        return _refusal_v4(inner, allow_private)
    if address in _METADATA:
        return "a metadata address"
    if any(address in net for net in _PRIVATE_V6):
        return None if allow_private else "a private address"
    if address not in _GLOBAL_V6 or any(address in net for net in _DENIED_V6) or not address.is_global:
        return "a special-purpose address"
    return None


def _wrapped(address: IPv6Address) -> IPv4Address | None:
    """Give the IPv4 address inside a mapped, 6to4 or NAT64 one.

    The other wrappings (IPv4-compatible, IPv4-translated, local-use NAT64, Teredo) are refused whatever is inside.
    """
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
