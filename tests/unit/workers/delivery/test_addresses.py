"""The vectors of the SSRF guard: every address that fooled `ipaddress`, and those that must stay reachable."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.delivery.addresses import refusal


def words(text: str) -> list[str]:
    return text.split()


METADATA = words("""
169.254.169.254 169.254.170.2 fd00:ec2::254 fd20:ce::254 fd00:42::42 100.100.100.200 168.63.129.16 192.0.0.192
::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: 64:ff9b::a83f:8110
""")

# `ipaddress` of at least one supported Python calls these global; they reach something else.
WRONGLY_GLOBAL = words("""
224.0.0.1 239.255.255.250 192.0.0.192 168.63.129.16 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
64:ff9b:1::7f00:1 2002:7f00:1:: 2002:a9fe:a9fe:: fec0::1 ff02::1 3fff::1 5f00::1 100:0:0:1::1
""")

SPECIAL = words("""
0.0.0.0 0.1.2.3 169.254.1.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 240.0.0.1 255.255.255.255
:: ::2 fe80::1 fe80::1%eth0 2001:db8::1 2001::1 2001:0:7f00:1:0:0:8000:fffe ff0e::1 100::1 4000::1 ::ffff:0.0.0.0
2002:e000:1:: 64:ff9b::e000:1 64:ff9b:1::1 ::8.8.8.8
""")

PRIVATE = words("""
127.0.0.1 127.255.0.9 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.254 ::1 fc00::1 fd12:3456::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:7f00:1 64:ff9b::a00:1 2002:c0a8:101::
""")

PUBLIC = words("""
8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.1 172.15.255.255 172.32.0.1 192.167.255.255 223.255.255.255 169.253.0.1
2606:4700:4700::1111 2a00:1450:4001::1 3ffe:ffff::1 2400::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
""")

# getaddrinfo turns these into loopback or metadata; as addresses they are nothing.
NO_ADDRESS = [
    "0x7f000001",
    "2130706433",
    "0177.0.0.1",
    "127.1",
    "0",
    "017700000001",
    "0xA9FEA9FE",
    "",
    "localhost",
]


@pytest.mark.parametrize("address", sorted({*METADATA, *WRONGLY_GLOBAL, *SPECIAL, *PRIVATE}))
def test_what_is_not_public_is_refused(address: str) -> None:
    """By default nothing but public unicast is reachable."""
    assert refusal(address) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    """Also behind the IPv6 wrappings that networks really use, and at the edges of the refused nets."""
    assert refusal(address) is None
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_can_be_allowed(address: str) -> None:
    """For development, where the endpoints are on this machine."""
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize(
    "address", sorted({*METADATA, *WRONGLY_GLOBAL, *SPECIAL} - {"2002:7f00:1::", "64:ff9b::7f00:1"})
)
def test_metadata_and_special_addresses_are_always_refused(address: str) -> None:
    """A development setting left on in a cloud must not give the machine's credentials away."""
    assert refusal(address, allow_private=True) is not None


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Names are judged by what they resolve to, never by how they look."""
    assert refusal(text, allow_private=True) is not None


@given(st.ip_addresses(v=4))
def test_every_wrapping_is_judged_as_its_inner_address(inner: ipaddress.IPv4Address) -> None:
    """An IPv6 spelling opens nothing that the IPv4 address does not."""
    wrapped = (
        ipaddress.IPv6Address(0xFFFF << 32 | int(inner)),
        ipaddress.IPv6Address(0x64FF9B << 96 | int(inner)),
        ipaddress.IPv6Address(0x2002 << 112 | int(inner) << 80),
    )
    for allow_private in (False, True):
        expected = refusal(str(inner), allow_private=allow_private)
        assert [refusal(str(outer), allow_private=allow_private) for outer in wrapped] == [expected] * 3


@given(st.ip_addresses())
def test_nothing_is_allowed_that_python_knows_to_be_local(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Our own list is never laxer than the interpreter's, wrappings aside."""
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    if refusal(str(address)) is None and address not in ipaddress.ip_network("64:ff9b::/96", strict=False):
        assert inner.is_global
        assert not inner.is_multicast
