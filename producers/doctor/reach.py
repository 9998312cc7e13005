"""Whether a host can be reached: name, TCP, TLS. Nothing is asked and nothing is sent."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

WITHIN_S: Final = 5.0
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Reached:
    """`where` is host:port; `trouble` says why not, empty if it was reached; `private`: not a public address."""

    where: str
    trouble: str = ""
    private: bool = False


def reach(url: str, within_s: float = WITHIN_S) -> Reached:
    """Connect and hang up."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=within_s) as connection:
            private = not ip_address(connection.getpeername()[0].partition("%")[0]).is_global
            if parts.scheme == "https":
                ssl.create_default_context().wrap_socket(connection, server_hostname=host).close()
    except (OSError, UnicodeError) as error:
        return Reached(where, _trouble(error, within_s))
    return Reached(where, private=private)


def _trouble(error: Exception, within_s: float) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case ssl.SSLError():
            return "it does not speak TLS"
        case socket.gaierror() | UnicodeError():
            return "its name does not resolve"
        case TimeoutError():
            return f"it does not answer within {within_s:g} s"
        case OSError():
            return (error.strerror or type(error).__name__).lower()
        case _:
            return type(error).__name__
