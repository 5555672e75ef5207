"""What an HTTP request asks for and what its answer says: pure rules over text and bytes, no socket (ruling R42).

URLs, header values and redirects come from models, feeds and servers. They are read here once, strictly, and only
what was read goes on: the host that is judged is the host that is asked.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from runtime.governance.network_rules import Target, parse_target
from runtime.governance.secrets import REFERENCE
from runtime.kernel.errors import Refused

#: Asking twice is as good as asking once (RFC 9110 §9.2.1).
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
MAX_URL: Final = 8_000
MAX_HEADERS: Final = 64
MAX_VALUE: Final = 8_192
_PORTS: Final = {"http": 80, "https": 443}
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")
#: Any text of one line that HTTP carries as it is (RFC 9110 §5.5, without the obsolete bytes).
_VALUE: Final = re.compile(r"[\t -~]*\Z")
#: Said by us alone, or about one connection only: two voices on these are how requests are smuggled.
_OURS: Final = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
#: Credentials, which belong into no record.
_WITHHELD: Final = frozenset({"set-cookie", "set-cookie2", "www-authenticate", "authentication-info"})
#: A secret as a header's value, after the name of a scheme where there is one: ``Bearer env://TOKEN``.
_SECRET: Final = re.compile(rf"(?P<scheme>[A-Za-z][A-Za-z0-9-]{{0,31}} +)?(?P<reference>{REFERENCE.pattern})\Z")
_TEXTUAL: Final = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml)|application/(?:javascript|x-www-form-urlencoded|yaml)"
)
_CHARSET: Final = re.compile(r"""charset\s*=\s*["']?([A-Za-z0-9._:-]{1,40})""", re.IGNORECASE)
_PROLOG: Final = re.compile(rb"""\A\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
#: Python calls these text encodings, but no server means them.
_ODD: Final = ("idna", "punycode", "escape", "utf_7", "utf-7", "undefined", "mbcs", "oem")


@dataclass(frozen=True, slots=True)
class Address:
    """One absolute URL, read. ``path`` begins with a slash and holds the query; there is no fragment."""

    scheme: str
    target: Target
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """The host as the server expects it: with its port where that is not the scheme's own."""
        if self.target.port != _PORTS[self.scheme]:
            return str(self.target)
        return f"[{self.target.host}]" if ":" in self.target.host else self.target.host

    @property
    def origin(self) -> tuple[str, Target]:
        return (self.scheme, self.target)

    def at(self, address: str) -> str:
        """The URL of the same thing at a literal address."""
        host = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{host}:{self.target.port}{self.path}"


def read_url(text: str) -> Address:
    """Raises `Refused` ``HTTP_URL``; the message does not repeat the URL, which may hold what should not be shown."""
    if len(text) > MAX_URL or not text.isprintable() or " " in text:
        raise _no(f"has spaces, control characters or more than {MAX_URL} characters")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise _no("is malformed") from None
    if parts.scheme not in _PORTS:
        raise _no("begins with neither http:// nor https://")
    if "@" in parts.netloc:
        raise _no("holds a user name or password", "send them as a header that refers to a secret")
    if "\\" in text:
        raise _no("holds a backslash")
    target = parse_target(parts.netloc, _PORTS[parts.scheme])
    if target is None:
        raise _no("names no host", "write names beyond ASCII in their xn-- form")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=-._~?[]{}|^\"`<>") if parts.query else ""
    return Address(parts.scheme, target, f"{path}?{query}" if query else path)


def redirect_of(status: int, method: str, here: Address, location: str | None) -> Address | None:
    """Where an answer sends the asker; None when it is an answer in itself.

    Only ``GET`` and ``HEAD`` are sent on: whether a body may be said again, elsewhere, is for the mission to decide.
    Raises `Refused` ``HTTP_URL`` for a place that cannot be read, or that gives up encryption.
    """
    if status not in _MOVED or method not in SAFE_METHODS or not location:
        return None
    try:
        place = read_url(urljoin(str(here), location))
    except ValueError:
        raise _no("the server redirects to is malformed") from None
    if (here.scheme, place.scheme) == ("https", "http"):
        raise _no("the server redirects to is not encrypted, and the first was")
    return place


def read_headers(given: Mapping[str, object]) -> dict[str, str]:
    """Header lines by lower-case name, secrets still references. Raises `Refused` ``OP_PARAMS``."""
    if len(given) > MAX_HEADERS:
        raise _bad(f"more than {MAX_HEADERS} headers")
    lines: dict[str, str] = {}
    for name, value in given.items():
        plain = name.lower()
        if not _NAME.match(name) or plain in _OURS or plain.startswith("proxy-"):
            raise _bad(f"{name[:70]!r} is no header a mission may set")
        if not isinstance(value, str) or len(value) > MAX_VALUE or not _VALUE.match(value):
            raise _bad(f"the value of {plain} must be one line of ASCII text, at most {MAX_VALUE} characters")
        if plain in lines:
            raise _bad(f"{plain} is given twice")
        lines[plain] = value
    return lines


def secret_in(value: str) -> tuple[str, str] | None:
    """What stands before a reference to a secret, and the reference; None for a plain value."""
    found = _SECRET.match(value)
    return None if found is None else (found["scheme"] or "", found["reference"])


def shown_headers(received: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers of an answer as they are recorded: bounded, by lower-case name, without credentials."""
    lines: dict[str, str] = {}
    for name, value in received:
        plain = name.lower()
        if plain in _WITHHELD or (plain not in lines and len(lines) >= MAX_HEADERS):
            continue
        lines[plain] = (f"{lines[plain]}, {value}" if plain in lines else value)[:MAX_VALUE]
    return lines


def as_text(body: bytes, content_type: str) -> str | None:
    """The body as text, by the charset the server or the document names, else UTF-8; None when it is no text."""
    kind = content_type.partition(";")[0].strip().lower()
    if not (_TEXTUAL.fullmatch(kind) if kind else b"\0" not in body[:4096]):
        return None
    named, prolog = _CHARSET.search(content_type), _PROLOG.match(body)
    wanted = named[1] if named else prolog[1].decode("ascii") if prolog else "utf-8"
    return body.decode(_codec(wanted), "replace").removeprefix("\ufeff")


def _codec(name: str) -> str:
    try:
        found = codecs.lookup(name).name
        b"a".decode(found, "replace")  # some are no text encodings at all
    except LookupError:
        return "utf-8"
    return "utf-8" if any(odd in found for odd in _ODD) else found


def _no(why: str, hint: str | None = None) -> Refused:
    return Refused("HTTP_URL", f"the URL {why}", hint=hint)


def _bad(why: str) -> Refused:
    return Refused("OP_PARAMS", f"http.request: {why}")
