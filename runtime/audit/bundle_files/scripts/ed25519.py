"""Does a signature hold? Ed25519 verification (RFC 8032 §5.1.7) in plain Python, for readers who have nothing else.

It answers as OpenSSL does for every key a key generator makes: S below the group's order, R compared as bytes, no
cofactor. It is stricter with keys: an encoding that is not canonical, or a point of small order, for which one
signature fits many texts, is no key. Public data only: nothing here runs in constant time. About two milliseconds
per signature. Standard library only.
"""

from __future__ import annotations

import hashlib

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_TWICE_D = 2 * _D % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

#: A point as (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z (RFC 8032 §5.1.4).
_Point = tuple[int, int, int, int]
_NEUTRAL: _Point = (0, 1, 1, 0)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Is ``signature`` (64 bytes) that of ``message`` by the key ``public`` (32 bytes)? Wrong lengths are just False."""
    key = _decoded(public) if len(public) == 32 and len(signature) == 64 else None
    if key is None or _is_neutral(_doubled(_doubled(_doubled(key)))):
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= _ORDER:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _ORDER
    # R = S·B - k·A. Compared as bytes, so that no second spelling of R passes.
    x, y, z, t = key
    return _encoded(_sum_of_products(s, _BASE, k, _table((_P - x, y, z, _P - t)))) == signature[:32]


def _add(a: _Point, b: _Point) -> _Point:
    x1, y1, z1, t1 = a
    x2, y2, z2, t2 = b
    m, n = (y1 - x1) * (y2 - x2) % _P, (y1 + x1) * (y2 + x2) % _P
    c, d = t1 * t2 % _P * _TWICE_D % _P, 2 * z1 * z2 % _P
    e, f, g, h = n - m, d - c, d + c, n + m
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _doubled(a: _Point) -> _Point:
    x, y, z, _ = a
    xx, yy = x * x % _P, y * y % _P
    h = xx + yy
    e = h - (x + y) * (x + y)
    g = xx - yy
    f = 2 * z * z + g
    e, f = e % _P, f % _P
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _is_neutral(a: _Point) -> bool:
    x, y, z, _ = a
    return x % _P == 0 and (y - z) % _P == 0


def _table(a: _Point) -> list[_Point]:
    """0·a to 15·a."""
    multiples = [_NEUTRAL, a]
    while len(multiples) < 16:
        multiples.append(_add(multiples[-1], a))
    return multiples


def _sum_of_products(s: int, first: list[_Point], k: int, second: list[_Point]) -> _Point:
    """s times the first table's point plus k times the second's, four bits of both at a time."""
    total = _NEUTRAL
    for shift in range(252, -4, -4):
        total = _doubled(_doubled(_doubled(_doubled(total))))
        if s >> shift & 15:
            total = _add(total, first[s >> shift & 15])
        if k >> shift & 15:
            total = _add(total, second[k >> shift & 15])
    return total


def _encoded(a: _Point) -> bytes:
    x, y, z, _ = a
    inverse = pow(z, -1, _P)
    x, y = x * inverse % _P, y * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decoded(data: bytes) -> _Point | None:
    """The point of a canonical encoding (RFC 8032 §5.1.3); None when it is none."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _ROOT_OF_MINUS_ONE % _P
        if v * x * x % _P != u:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE = _table(
    (
        15112221349535400772501151409588531511454012693041857206046113283949847762202,
        46316835694926478169428394003475163141307993866256225615783033603165251855960,
        1,
        46827403850823179245072216630277197565144205554125654976674165829533817101731,
    )
)
