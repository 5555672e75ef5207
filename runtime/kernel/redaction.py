"""Known values are taken out of whatever is kept or shown, in every form a program may print them in.

A value is looked for as it is, base64 (both alphabets, at each of the three alignments it can have inside a longer
text), percent-encoded, escaped as JSON and as hexadecimal digits; each of its lines counts by itself as well. What is
found becomes ``<secret:NAME>``. Patterns that merely look like keys are another matter (`KEY_LIKE`).

Looking costs one pass, linear in the text and faster the longer the shortest value is, however many there are: 10 MB/s
for 6 characters, 150 for 20, 300 for 40 were measured on clean text. Standard library only: the bundled orchestration
modules use it.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote, quote_plus

#: A shorter value occurs by chance in ordinary text, so it can neither be found nor left alone: it is refused.
MIN_SECRET: Final = 6
#: Longer values are looked for in parts of this many characters, which bounds what a stream must hold back. A multiple
#: of three: base64 of the whole then is the base64 of the parts.
PIECE: Final = 240
#: Values known at once; beyond them the oldest is forgotten. Far more than a run has (64, and one per rotation).
MAX_KNOWN: Final = 1024
#: What is looked at at once; every form is at least as long.
_WINDOW: Final = MIN_SECRET
#: In identifiers of our own (digests, ids, times) a shorter match is chance, and replacing it would break a chain.
_CERTAIN: Final = 16
_OWN: Final = re.compile(r"(?:sha256:)?[0-9a-f-]{36,64}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z")
#: Keys of well-known services and private keys, whoever's they are.
KEY_LIKE: Final = re.compile(
    r"\b(?:sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_BITS: Final = 6
#: What percent-encoders leave as it is, besides letters, digits and ``_.-~``: by default, in paths, in browsers.
_LEFT_ALONE: Final = ("", "/", "!'()*")

Kind = TypeVar("Kind", str, bytes)


class _Found(NamedTuple):
    start: int
    end: int
    mark: str


class _Table(Generic[Kind]):
    """Forms and what replaces them, for text or for bytes. The leftmost form wins, of several there the longest.

    Every form is longer than the distance between two looks, so each occurrence contains the window of one look; the
    windows a form may show there lead back to it. The cost does not grow with the number of forms.
    """

    def __init__(self, forms: Mapping[Kind, str]) -> None:
        self._marks: Mapping[Kind, str] = forms
        self._sorted: list[Kind] = sorted(forms)
        self._longest = max(map(len, forms))
        self._stride = min(map(len, forms)) - _WINDOW + 1
        self._heads: set[Kind] = {form[:_WINDOW] for form in forms}
        self._windows: dict[Kind, list[tuple[int, Kind]]] = {}
        for form in forms:
            for offset in range(self._stride):
                self._windows.setdefault(form[offset : offset + _WINDOW], []).append((offset, form))

    def find(self, data: Kind, start: int = 0, shortest: int = 0) -> _Found | None:
        """The first form at or after ``start`` with at least ``shortest`` characters."""
        windows = self._windows
        for place in range(start, len(data) - _WINDOW + 1, self._stride):
            window = data[place : place + _WINDOW]
            if window in windows:
                here = [
                    (place - offset, -len(form), form)
                    for offset, form in windows[window]
                    if place - offset >= start and len(form) >= shortest and data.startswith(form, place - offset)
                ]
                if here:
                    begin, length, form = min(here)
                    return _Found(begin, begin - length, self._marks[form])
        return None

    def undecided(self, data: Kind, start: int) -> int:
        """Where ``data`` may end in the middle of a form: the first place from which all the rest begins one."""
        first, size = max(start, len(data) - self._longest + 1), len(data)
        for place in range(first, size):
            likely = place > size - _WINDOW or data[place : place + _WINDOW] in self._heads
            if likely and self._begins(data[place:]):
                return place
        return size

    def _begins(self, part: Kind) -> bool:
        index = bisect_left(self._sorted, part)
        following = self._sorted[index : index + 2]
        return any(len(form) > len(part) and form.startswith(part) for form in following)


class _Known(NamedTuple):
    text: _Table[str]
    data: _Table[bytes]


class Redactor:
    """Takes out the values it has learnt. Knows none at first, and then returns everything as it is.

    Learning may happen in any thread; ``also`` learns the same. What was replaced stays: replacing twice is
    replacing once.
    """

    def __init__(self, also: Redactor | None = None) -> None:
        self._also = also
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._known: _Known | None = None

    @property
    def known(self) -> bool:
        """Is there anything to look for?"""
        return self._known is not None

    def learn(self, name: str, value: str) -> None:
        """From now on ``value`` becomes ``<secret:name>``; a value known already keeps its first name.

        Costs milliseconds for long values. Raises `ValueError` when it has fewer than `MIN_SECRET` characters.
        """
        if len(value) < MIN_SECRET:
            raise ValueError(f"a secret needs at least {MIN_SECRET} characters")
        with self._lock:
            if value not in self._names:
                if len(self._names) >= MAX_KNOWN:
                    del self._names[next(iter(self._names))]
                self._names[value] = name
                self._known = _known(self._names)
        if self._also is not None:
            self._also.learn(name, value)

    def text(self, text: str) -> str:
        if self._known is None:
            return text
        return _replaced(self._known.text, text, str, shortest=_CERTAIN if _OWN.fullmatch(text) else 0)

    def data(self, data: bytes) -> bytes:
        return data if self._known is None else _replaced(self._known.data, data, str.encode)

    def value(self, value: Any) -> Any:
        """A JSON-like value: text, bytes and keys in it, at any depth. Read-only views come back as plain containers."""
        if self._known is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.data(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def found(self, value: Any) -> str | None:
        """The mark of the first secret in a JSON-like value, None when there is none."""
        known = self._known
        if known is None:
            return None
        if isinstance(value, str):
            return _first(known.text, value, str)
        if isinstance(value, bytes):
            return _first(known.data, value, str.encode)
        if isinstance(value, Mapping):
            return self.found([*value.keys(), *value.values()])
        if isinstance(value, list | tuple):
            return next((mark for item in value if (mark := self.found(item)) is not None), None)
        return None

    def texts(self) -> Stream[str]:
        """For text that arrives in pieces."""
        return Stream(lambda: None if self._known is None else self._known.text, str)

    def chunks(self) -> Stream[bytes]:
        """For bytes that arrive in pieces."""
        return Stream(lambda: None if self._known is None else self._known.data, str.encode)


class Stream(Generic[Kind]):
    """Replaces in what arrives in pieces, wherever it was cut: all that comes out is what the whole would become.

    Held back is only an end that may be the beginning of a form, so ordinary text passes at once.
    """

    def __init__(self, table: Callable[[], _Table[Kind] | None], marked: Callable[[str], Kind]) -> None:
        self._table: Callable[[], _Table[Kind] | None] = table
        self._marked: Callable[[str], Kind] = marked
        self._held: Kind = marked("")

    def feed(self, piece: Kind) -> Kind:
        """What can be told by now."""
        table, data = self._table(), self._held + piece
        self._held = data[:0]
        if table is None:
            return data
        parts: list[Kind] = []
        place, limit = 0, table.undecided(data, 0)
        while (found := table.find(data, place)) is not None and found.start < limit:
            parts += [data[place : found.start], self._marked(found.mark)]
            place = found.end
            limit = limit if place <= limit else table.undecided(data, place)
        self._held = data[limit:]
        parts.append(data[place:limit])
        return data[:0].join(parts)

    def flush(self) -> Kind:
        """The end has come: what was held back, replaced as it stands."""
        table, data = self._table(), self._held
        self._held = data[:0]
        return data if table is None else _replaced(table, data, self._marked)


def _replaced(table: _Table[Kind], data: Kind, marked: Callable[[str], Kind], shortest: int = 0) -> Kind:
    parts: list[Kind] = []
    place = 0
    while (found := table.find(data, place, shortest)) is not None:
        parts += [data[place : found.start], marked(found.mark)]
        place = found.end
    if not parts:
        return data
    parts.append(data[place:])
    return data[:0].join(parts)


def _first(table: _Table[Kind], data: Kind, marked: Callable[[str], Kind]) -> str | None:
    place = 0
    while (found := table.find(data, place)) is not None:
        # A mark that was put in stands for a secret and is none.
        if data[found.start : found.end] != marked(found.mark):
            return found.mark
        place = found.end
    return None


def _known(names: Mapping[str, str]) -> _Known:
    marks = {value: f"<secret:{name}>" for value, name in names.items()}
    forms: dict[str, str] = {}
    for value, mark in marks.items():
        for piece in pieces(value):
            for form in spellings(piece):
                forms.setdefault(form, mark)
    # A mark stands for itself, should a value be part of it.
    forms |= {mark: mark for mark in marks.values() if any(form in mark for form in forms)}
    data = {form.encode("utf-8", "surrogateescape"): mark for form, mark in forms.items() if _encodable(form)}
    return _Known(_Table(forms), _Table(data))


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def pieces(value: str) -> list[str]:
    """The parts a value is looked for in: its lines, and all of it, cut where it is too long."""
    lines = [line.strip() for line in value.splitlines()]
    whole = [text for text in (value, *lines) if len(text) >= MIN_SECRET]
    return list(dict.fromkeys(part for text in whole for part in _cut(text)))


def _cut(text: str) -> list[str]:
    parts = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    if len(parts) > 1 and len(parts[-1]) < MIN_SECRET:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def spellings(piece: str) -> set[str]:
    """Every form of one part; each has at least `MIN_SECRET` characters because the part has."""
    raw = piece.encode("utf-8", "surrogateescape")
    found = {piece, json.dumps(piece)[1:-1], json.dumps(piece, ensure_ascii=False)[1:-1], raw.hex(), raw.hex().upper()}
    for left_alone in _LEFT_ALONE:
        found |= _either_case(quote(piece, left_alone, errors="surrogateescape"))
    found |= _either_case(quote_plus(piece, errors="surrogateescape"))
    for shift in range(3):
        core = _base64_core(raw, shift)
        found |= {core, core.translate(_URL_SAFE)}
    return found


_URL_SAFE: Final = str.maketrans("+/", "-_")
_ESCAPE: Final = re.compile("%[0-9A-F]{2}")


def _either_case(text: str) -> set[str]:
    return {text, _ESCAPE.sub(lambda match: match[0].lower(), text)}


def _base64_core(raw: bytes, shift: int) -> str:
    """The characters that depend on ``raw`` alone where it begins ``shift`` bytes into a group of three."""
    text = base64.b64encode(bytes(shift) + raw).decode()
    return text[-(-8 * shift // _BITS) : 8 * (shift + len(raw)) // _BITS]
