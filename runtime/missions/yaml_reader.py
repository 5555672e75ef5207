"""Strict YAML 1.2 that keeps positions: the subset of YAML that means one thing to every reader.

The general library composes recursively (50 000 open brackets crash the interpreter), lets duplicate keys win
silently, reads ``no`` as false and ``12:30`` as 750, and expands aliases without end. So only its iterative event
parser is used; values are built here, with limits checked before anything grows. Refused, all at once and by
position: anchors, aliases, tags, merge keys, duplicate keys, keys that are not text, implicit booleans, several
documents. Plain ``true``, ``false``, ``null`` and YAML 1.2 numbers are typed; every other scalar is text.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from runtime.kernel.canonical import MAX_INT
from runtime.missions.problems import MissionInvalid, Report, shown

# Limits that hold everywhere (dependency research §8b).
MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 20_000

#: Where a value stands in the document: mapping keys and sequence indices from the root.
Where = tuple[str | int, ...]

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NEWLINE: Final = re.compile(r"\r\n|\n")
#: Other line and control characters are counted differently by every tool; inside quotes they can be escaped.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff]|\r(?!\n)")
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_BASED: Final = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_ZERO_PADDED: Final = re.compile(r"[-+]?0[0-9]+\Z")
_MEANS_BOOLEAN: Final = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
#: ``int()`` refuses longer digit strings; anything near it is far beyond 2**53 anyway.
_MAX_DIGITS: Final = 32


@dataclass(slots=True)
class _Frame:
    """One open collection while its events arrive."""

    where: Where
    value: dict[str, Any] | list[Any]
    key: str | None = None
    seen_key: bool = False


class Document:
    """The parsed value with the position of every key and value in it."""

    def __init__(self, text: str, path: Path | str) -> None:
        self.text = text
        self.lines = _NEWLINE.split(text)
        self.report = Report(path, self.lines)
        self.data: Any = None
        #: Values that could not be read; later stages stay silent about them.
        self.broken: set[Where] = set()
        self._starts = [0, *(match.end() for match in _NEWLINE.finditer(text))]
        #: Offset and length in the source of each value (a collection's length is that of its first mark).
        self._values: dict[Where, tuple[int, int]] = {}
        self._keys: dict[Where, int] = {}
        self._verbatim: dict[Where, int | None] = {}

    def note_value(self, where: Where, start: int, end: int) -> None:
        """Remember where a value stands; the first one wins when a key is written twice."""
        self._values.setdefault(where, (start, end - start))

    def note_key(self, where: Where, start: int) -> None:
        """Remember where a mapping key stands."""
        self._keys[where] = start

    def place(self, index: int) -> tuple[int, int]:
        """``(line, column)`` from 1 of a character offset."""
        line = bisect.bisect_right(self._starts, index)
        return line, index - self._starts[line - 1] + 1

    def at(self, where: Where, *, key: bool = False) -> tuple[int, int]:
        """Where a value (or its key) stands; for one that does not exist, its nearest existing parent."""
        if key and where in self._keys:
            return self.place(self._keys[where])
        while where and where not in self._values:
            where = where[:-1]
        if where in self._keys and not self._values[where][1]:
            return self.place(self._keys[where])
        return self.place(self._values.get(where, (0, 0))[0])

    def within(self, where: Where, offset: int, needle: str = "") -> tuple[int, int]:
        """Position of ``offset`` inside the text at ``where``: exact when the source holds the text verbatim,
        else the first ``needle`` in the source of that scalar, else its start."""
        if where not in self._values:
            return self.at(where)
        start, size = self._values[where]
        if where not in self._verbatim:
            self._verbatim[where] = self._opening(where, start, size)
        opening = self._verbatim[where]
        if opening is not None:
            return self.place(start + opening + offset)
        found = self.text.find(needle, start, start + size) if needle else -1
        return self.place(max(found, start))

    def _opening(self, where: Where, start: int, size: int) -> int | None:
        """How many characters stand before a text that the source holds verbatim; None when it does not."""
        value: Any = self.data
        for part in where:
            value = value[part]
        quote = int(self.text[start : start + 1] in ("'", '"'))
        holds = isinstance(value, str) and len(value) <= size and self.text.startswith(value, start + quote)
        return quote if holds else None

    def problem(
        self, code: str, message: str, where: Where, *, key: bool = False, hint: str = "", severity: str = "error"
    ) -> None:
        """Report a problem at ``where`` unless the value there is already known to be unreadable."""
        if not any(where[:size] in self.broken for size in range(len(where) + 1)):
            self.report.add(code, message, self.at(where, key=key), hint=hint, severity=severity)


def read(source: bytes, path: Path | str) -> Document:
    """Parse ``source``; problems are in the returned document's ``report``. Raises `MissionInvalid` when no value
    could be built at all: not UTF-8, too large, too deep, or not YAML."""
    document = Document(_decode(source, path), path)
    control = _CONTROL.search(document.text)
    if control:
        code = f"U+{ord(control[0]):04X}"
        _fatal(
            document,
            "MISSION_YAML_SYNTAX",
            f"raw control character {code}",
            document.place(control.start()),
            hint="inside double quotes it can be written as an escape",
        )
    try:
        _Builder(document).run()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = document.place(min(mark.index, len(document.text))) if mark else (1, 1)
        text = getattr(error, "problem", None) or str(error).partition("\n")[0]
        _fatal(document, "MISSION_YAML_SYNTAX", f"not valid YAML: {text}", place)
    return document


def _decode(source: bytes, path: Path | str) -> str:
    if len(source) > MAX_BYTES:
        _fatal(Document("", path), "MISSION_TOO_LARGE", f"the file is larger than {MAX_BYTES // 1024} KiB", (1, 1))
    try:
        return source.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        head = source[: error.start].decode("utf-8")
        document = Document(head.removeprefix("\ufeff"), path)
        _fatal(
            document,
            "MISSION_ENCODING",
            f"byte 0x{source[error.start]:02x} is not UTF-8 text",
            document.place(len(document.text)),
            hint="save the file as UTF-8",
        )


def _fatal(document: Document, code: str, message: str, place: tuple[int, int], *, hint: str = "") -> NoReturn:
    document.report.add(code, message, place, hint=hint)
    raise MissionInvalid(document.report.problems())


class _Builder:
    """Turns the event stream into plain values; one frame per open collection, no recursion."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._report = document.report
        self._open: list[_Frame] = []
        self._nodes = 0
        self._documents = 0

    def run(self) -> None:
        for event in self._events():
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    self._note(
                        "MISSION_YAML_DOCUMENTS", "a mission file holds one document", event, "remove this '---'"
                    )
                    return
            elif isinstance(event, yaml.CollectionEndEvent):
                self._open.pop()
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)

    def _events(self) -> Iterator[Any]:
        loader = _LOADER(self._document.text)
        try:
            while loader.check_event():
                yield loader.get_event()
        finally:
            loader.dispose()

    def _node(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values")
        if len(self._open) >= MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
            self._stop(event, f"nested more than {MAX_DEPTH} levels deep")
        frame = self._open[-1] if self._open else None
        if isinstance(frame, _Frame) and isinstance(frame.value, dict) and not frame.seen_key:
            self._key(frame, event)
        else:
            self._place(frame, event)

    def _stop(self, event: Any, message: str) -> None:
        place = self._document.place(event.start_mark.index)
        _fatal(self._document, "MISSION_TOO_DEEP", f"the file is {message}", place)

    def _key(self, frame: _Frame, event: Any) -> None:
        """Take ``event`` as the next key of a mapping; a bad one still takes its value, under no name."""
        frame.seen_key, frame.key = True, None
        scalar = isinstance(event, yaml.ScalarEvent)
        if not scalar:
            self._note("MISSION_YAML_KEY", "keys must be plain text", event)
            if isinstance(event, yaml.CollectionStartEvent):
                self._open.append(_Frame((*frame.where, "?"), [] if isinstance(event, yaml.SequenceStartEvent) else {}))
            return
        if not self._refuse_marks(event):
            return
        text = event.value
        if event.implicit[0] and text == "<<":
            self._note(
                "MISSION_YAML_MERGE", "merge keys are not part of the mission subset", event, "write the keys out"
            )
        elif event.implicit[0] and not self._is_text(text):
            self._note("MISSION_YAML_KEY", f"the key {shown(text)} is not text", event, "put it in quotes")
        elif text in frame.value:
            self._note("MISSION_DUPLICATE_KEY", f"the key {shown(text)} appears twice", event, "keep one of them")
        else:
            frame.key = text
            self._document.note_key((*frame.where, text), event.start_mark.index)

    def _place(self, frame: _Frame | None, event: Any) -> None:
        """Store one value in its parent and open it if it is a collection."""
        where: Where = ()
        if frame is not None:
            part = len(frame.value) if isinstance(frame.value, list) else frame.key
            where = (*frame.where, "?" if part is None else part)
        value = self._convert(event, where)
        if frame is None:
            self._document.data = value
        elif isinstance(frame.value, list):
            frame.value.append(value)
        else:
            if frame.key is not None:
                frame.value[frame.key] = value
            frame.seen_key = False
        self._document.note_value(where, event.start_mark.index, event.end_mark.index)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_Frame(where, value))

    def _convert(self, event: Any, where: Where) -> Any:
        fine = self._refuse_marks(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return []
        if isinstance(event, yaml.MappingStartEvent):
            return {}
        if not fine:
            self._document.broken.add(where)
            return None
        return self._scalar(event, where) if event.implicit[0] else event.value

    def _refuse_marks(self, event: Any) -> bool:
        """Refuse alias, anchor and tag; True when there was none."""
        if isinstance(event, yaml.AliasEvent):
            self._note("MISSION_YAML_ALIAS", f"alias *{event.anchor}: aliases are not allowed", event, "write it out")
        elif event.anchor is not None:
            self._note("MISSION_YAML_ALIAS", f"anchor &{event.anchor}: anchors are not allowed", event, "remove it")
        elif event.tag is not None:
            self._note("MISSION_YAML_TAG", f"tag {shown(event.tag)}: tags are not allowed", event, "remove it")
        else:
            return True
        return False

    def _scalar(self, event: Any, where: Where) -> Any:
        text = event.value
        if text in ("", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if not self._is_text(text):
            number = self._number(text)
            if number is not None:
                return number
        elif not self._is_implicit(text):
            return text
        self._document.broken.add(where)
        if self._is_implicit(text):
            meant = _MEANS_BOOLEAN.get(text.lower(), "null")
            self._note(
                "MISSION_IMPLICIT_VALUE",
                f"{text} is text to some readers and {meant} to others",
                event,
                f"write {meant}, or '{text}' in quotes for the text",
            )
        else:
            self._note(
                "MISSION_YAML_NUMBER",
                f"{shown(text)} is not a number every reader agrees on",
                event,
                "use a plain finite number up to 2**53, or put it in quotes",
            )
        return None

    @staticmethod
    def _is_implicit(text: str) -> bool:
        return text == "~" or (text.lower() in (*_MEANS_BOOLEAN, "null") and text not in ("true", "false", "null"))

    @staticmethod
    def _is_text(text: str) -> bool:
        """Would YAML 1.2 read this plain scalar as text? (Implicit booleans are judged separately.)"""
        typed = (_INTEGER, _BASED, _FLOAT, _NOT_FINITE, _ZERO_PADDED)
        return text not in ("", "null", "true", "false") and not any(form.match(text) for form in typed)

    @staticmethod
    def _number(text: str) -> int | float | None:
        """The number written as ``text``, or None when it has no portable value."""
        if len(text) > _MAX_DIGITS or _ZERO_PADDED.match(text) or _NOT_FINITE.match(text):
            return None
        if _INTEGER.match(text) or _BASED.match(text):
            whole = int(text, 0)
            return whole if abs(whole) <= MAX_INT else None
        real = float(text)
        portable = math.isfinite(real) and not (real == 0 and math.copysign(1, real) < 0)
        return real if portable else None

    def _note(self, code: str, message: str, event: Any, hint: str = "") -> None:
        self._report.add(code, message, self._document.place(event.start_mark.index), hint=hint)
