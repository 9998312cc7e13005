"""What the egress guard says of a URL by itself, before any name is resolved."""

from __future__ import annotations

import pytest

from workers.delivery.egress import EgressPolicy, host_matches, target_of
from workers.http import FailureCause, HttpFailure, Sent

OPEN = EgressPolicy(allow_private=True, allow_http=True)
STRICT = EgressPolicy(allow_http=True)  # http, so that no vector is refused for its scheme alone


def assert_refused(outcome: object) -> None:
    assert isinstance(outcome, HttpFailure)
    assert (outcome.sent, outcome.cause) == (Sent.NOT_SENT, FailureCause.FORBIDDEN_ADDRESS)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "example.com",
        "",
        "http:example.com",
        "http:/example.com",
        "http:///example.com",
        "http:////127.0.0.1/",
        "http://a@127.0.0.1/",
        "http://user:pass@example.com/",
        "http://@example.com/",
        "http://127.0.0.1\\@good.example/",
        "http://good.example\\@127.0.0.1/",
        "http://exam\tple.com/",
        "http://example.com/\n",
        " http://example.com/",
        "http://example.com /",
        "http://exam\x00ple.com/",
        "http://%31%32%37.0.0.1/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://example.com:99999/",
        "http://example.com:0/",
        "http://" + "a" * 300 + ".example/",
        "http://example.com/" + "a" * 9000,
    ],
)
def test_urls_that_parsers_read_differently_are_refused(url: str) -> None:
    """Even where private addresses are allowed: no second opinion, no surprise."""
    assert_refused(target_of(url, OPEN))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "127.1",
        "0",
        "017700000001",
        "0xA9FEA9FE",
        "\uff11\uff12\uff17.0.0.1",
        "\u2460\u2461\u2466.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "100.100.100.200",
        "224.0.0.1",
    ],
)
def test_addresses_in_urls_are_judged_as_the_client_reads_them(host: str) -> None:
    """The numeric spellings of loopback and metadata are addresses to the client, so they are to the guard."""
    assert_refused(target_of(f"http://{host}/", STRICT))


def test_ports_and_schemes_are_those_of_the_web() -> None:
    """Other ports are other services; a policy may name its own."""
    assert_refused(target_of("http://example.com/", EgressPolicy()))
    assert_refused(target_of("https://example.com:8443/", EgressPolicy()))
    assert_refused(target_of("https://example.com:6379/", EgressPolicy()))
    assert not isinstance(target_of("https://example.com/", EgressPolicy()), HttpFailure)
    chosen = EgressPolicy(allowed_ports=frozenset({8443}))
    assert not isinstance(target_of("https://example.com:8443/", chosen), HttpFailure)
    assert_refused(target_of("https://example.com/", chosen))
    assert not isinstance(target_of("http://127.0.0.1:6543/", OPEN), HttpFailure)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("cdn.example.com", True),
        ("CDN.example.com.", True),
        ("a.images.example", True),
        ("images.example", False),
        ("badimages.example", False),
        ("cdn.example.com.evil.example", False),
        ("evilcdn.example.com", False),
    ],
)
def test_the_allowlist_takes_exact_names_and_dotted_suffixes(host: str, expected: bool) -> None:
    """A suffix without its dot would match names that others can register."""
    hosts = ("cdn.example.com", ".Images.Example")
    assert isinstance(target_of(f"https://{host}/", STRICT, hosts), HttpFailure) is not expected
    policy = EgressPolicy(allowed_hosts=hosts)
    assert isinstance(target_of(f"https://{host}/", policy), HttpFailure) is not expected


def test_both_allowlists_must_agree() -> None:
    """The request's list narrows the policy's and never widens it."""
    assert host_matches("a.example", ("a.example",))
    policy = EgressPolicy(allowed_hosts=(".example",))
    assert_refused(target_of("https://a.test/", policy, ("a.test",)))
    assert_refused(target_of("https://a.example/", policy, ("b.example",)))
