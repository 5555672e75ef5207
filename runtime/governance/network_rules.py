"""Which hosts a confined process may reach: pure decisions over text and addresses, no socket.

A mission lists hosts (``sandbox.hosts``) as exact names or IPv4 addresses, each with or without a port. A request
passes two checks. Its host and port must be listed as written; nothing is expanded, so ``127.1`` is a name like any
other. Then the address behind a listed name must be public: otherwise whoever answers for that name could lead a
process to the console's own machine, to its network or to a cloud's metadata service (DNS rebinding). An address that
is listed itself is meant, and so is loopback for the name ``localhost``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

#: The ports of a host listed without one: HTTP and HTTPS.
DEFAULT_PORTS: Final = frozenset({80, 443})
_MAX_PORT: Final = 65535
_AUTHORITY: Final = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?\Z"
)
_LINE: Final = re.compile(rb"(?P<method>[A-Z]{1,20}) (?P<target>[!-~]{1,8000}) (?P<version>HTTP/1\.[01])\Z")
#: Today's only range of global unicast addresses (RFC 4291 §2.4, IANA).
_UNICAST: Final = IPv6Network("2000::/3")
#: The well-known prefix of addresses translated to IPv4 on the way (RFC 6052).
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
#: About one hop only (RFC 9110 §7.6.1), or replaced by ours.
_DROPPED: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization", b"te", b"upgrade", b"host"}
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request wants to go. ``host`` is in lower case, without brackets and without a final dot."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def rule(self) -> str:
        """What a mission would have to list."""
        return self.host if self.port in DEFAULT_PORTS else str(self)


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the proxy. ``opening`` goes to the host first; a tunnel (``CONNECT``) has none."""

    target: Target
    opening: bytes

    @property
    def tunnel(self) -> bool:
        return not self.opening


def is_listed(target: Target, hosts: Sequence[str]) -> bool:
    """Does the mission list this host as written, with this port?"""
    return any(_covers(rule, target) for rule in hosts)


def is_reachable(target: Target, address: str, hosts: Sequence[str]) -> bool:
    """May a listed ``target`` be reached at ``address``, a literal address its host resolved to?"""
    found = _embedded(ip_address(address))
    if target.host == address or is_listed(Target(str(found), target.port), hosts):
        return True
    return _is_public(found) or (target.host == "localhost" and found.is_loopback)


def is_literal(host: str) -> bool:
    """Is ``host`` an address, so that there is nothing to resolve?"""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_target(text: str, default: int | None = None) -> Target | None:
    """``host:port``, or ``host`` where there is a ``default`` port; None when it is neither."""
    match = _AUTHORITY.match(text)
    port = default if match is None or match["port"] is None else int(match["port"])
    if match is None or port is None or not 0 < port <= _MAX_PORT:
        return None
    return Target(match["host"].strip("[]").lower().removesuffix("."), port)


def parse_request(head: bytes) -> Request:
    """Read a request's head, up to and with its empty line. Raises `ValueError` saying what is wrong with it."""
    first, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    line = _LINE.match(first)
    if line is None:
        raise ValueError("the request line is not HTTP/1")
    method, text = line["method"], line["target"].decode("ascii")
    if method == b"CONNECT":
        target = parse_target(text)
        if target is None:
            raise ValueError("CONNECT needs host:port")
        return Request(target, b"")
    authority, _, path = text.removeprefix("http://").partition("/")
    target = parse_target(authority, 80) if text.startswith("http://") else None
    if target is None:
        raise ValueError("this is a proxy: ask for http://host/path, or CONNECT host:port")
    return Request(target, _opening(b"%s /%s %s" % (method, path.encode("ascii"), line["version"]), target, fields))


def _opening(line: bytes, target: Target, fields: Sequence[bytes]) -> bytes:
    """The head as the host itself expects it. One request only, or a second could name another host unjudged."""
    kept = [field for field in fields if field.partition(b":")[0].strip().lower() not in _DROPPED]
    named = target.host if target.port == 80 else str(target)
    return b"\r\n".join([line, b"Host: " + named.encode("ascii"), *kept, b"Connection: close", b"", b""])


def _covers(rule: str, target: Target) -> bool:
    return any(parse_target(rule, port) == target for port in DEFAULT_PORTS)


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address a packet to ``address`` really ends at, where IPv6 only carries it."""
    if isinstance(address, IPv4Address):
        return address
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return address in _UNICAST and address.is_global
    return address.is_global and not address.is_multicast
