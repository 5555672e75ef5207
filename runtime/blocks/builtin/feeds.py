"""News from a feed, and each of them once: pure blocks over text and lists (blocks spec §21).

A feed is somebody else's text. The XML parser of the standard library reads it first and refuses what is malformed,
declares a document type (the way to external entities and entity bombs) or is nested without end; only then does the
feed library look at it, from memory, with nothing to fetch. Markup inside an item stays the text it is: whoever shows
it escapes or strips it.
"""

from __future__ import annotations

import calendar
import io
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final
from xml.parsers import expat

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple, once
from runtime.blocks.errors import BlockInputError, BlockRuntimeError
from runtime.blocks.sanitise import clean_text
from runtime.blocks.values import NULL, BlockValue

MAX_FEED_BYTES: Final = 4 * 1024 * 1024
MAX_ITEMS: Final = 10_000
MAX_DEPTH: Final = 100
#: Of one element, and name spaces of a feed; the feed library compares each with all others.
MAX_ATTRIBUTES: Final = 100
#: Characters that name one person, in which the library looks for an address, slowly and letting nobody else work.
MAX_PERSON: Final = 1000
_PERSONS: Final = frozenset(
    {"author", "contributor", "creator", "email", "managingeditor", "name", "owner", "publisher", "webmaster"}
)
#: What may stand before a document by mistake; an XML parser would refuse it.
_LEADING: Final = "\ufeff \t\r\n"
#: The library would change markup otherwise, slowly for hostile texts, and only part of it.
_AS_IT_IS: Final = {"sanitize_html": False, "resolve_relative_uris": False}
_UTF8: Final = {"content-type": "application/xml; charset=utf-8"}


class RssParse(Block, display_name="Parse a feed", input=multiple(), output=once("list"), side_effects="none"):
    """Read an RSS or Atom feed: a list of maps with id, url, title, source, published_at and snippet."""

    text: str | None = field(default=None, metadata={"help": "The feed's text; the input when silent."})

    @property
    def input_contract(self) -> BlockValueContract:
        return once("string") if self.text is None else multiple()

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The kind gate says everything there is to check."""

    def run(self, input: BlockValue, ctx: BlockingContext) -> list[dict[str, Any]]:
        return parse_feed(input.expect_string() if self.text is None else self.text)


class Deduplicate(
    Block, display_name="Deduplicate", input=multiple(), output=once("list"), side_effects="none", inline=True
):
    """Keep the first map of each key value, in order; a map without the key is like no other and stays."""

    key: str = field(metadata={"help": "The member that tells maps apart."})
    items: Any = field(default=None, metadata={"help": "The list; the input when silent."})
    seen: list[Any] = field(default_factory=list, metadata={"help": "Key values to leave out from the start."})

    @property
    def input_contract(self) -> BlockValueContract:
        return once("list") if self.items is None else multiple()

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The kind gate says everything there is to check."""

    def run(self, input: BlockValue, ctx: BlockContext) -> list[BlockValue]:
        items = (input if self.items is None else BlockValue.of(self.items)).expect_list()
        if len(items) > MAX_ITEMS:
            raise BlockInputError("transform.invalid_input", f"{len(items)} items are more than {MAX_ITEMS}")
        known, kept = {BlockValue.of(value) for value in self.seen}, []
        for item in items:
            if not item.is_map:
                raise BlockInputError("input.element_kind", "every element must be a map")
            value = item.get(self.key, NULL)
            if value not in known:
                kept.append(item)
                if not value.is_null:
                    known.add(value)
        return kept


def parse_feed(text: str) -> list[dict[str, Any]]:
    """The items of an RSS or Atom feed in its order; absent texts are empty, an unreadable date is None.

    Raises `BlockRuntimeError` ``transform.parse_failed``, `BlockInputError` ``transform.invalid_input`` for one that
    is too large.
    """
    data = text.lstrip(_LEADING).encode()
    if len(data) > MAX_FEED_BYTES:
        raise BlockInputError("transform.invalid_input", f"a feed of {len(data)} bytes exceeds {MAX_FEED_BYTES}")
    _check(data)
    import feedparser  # a quarter of a second that missions without feeds need not wait for

    # From a stream: a plain text it would try to open as an address or a file.
    read = feedparser.parse(io.BytesIO(data), response_headers=_UTF8, **_AS_IT_IS)
    if read.bozo or not read.version:
        why = read.bozo_exception if read.bozo else "the document is XML, but no RSS or Atom feed"
        raise _failed(str(why))
    if len(read.entries) > MAX_ITEMS:
        raise BlockInputError("transform.invalid_input", f"{len(read.entries)} items are more than {MAX_ITEMS}")
    source = _text(read.feed, "title")
    return [_item(entry, source) for entry in read.entries]


def _check(data: bytes) -> None:
    parser, check = expat.ParserCreate(encoding="utf-8"), _Check()
    parser.StartElementHandler, parser.EndElementHandler = check.begin, check.end
    parser.CharacterDataHandler = check.text
    parser.StartDoctypeDeclHandler = check.refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _failed(str(error)) from None


class _Check:
    """What the feed library must not see. ``person`` is the depth of the element that names one, 0 outside."""

    def __init__(self) -> None:
        self.depth = self.person = self.named = 0
        self.spaces: set[tuple[str, str]] = set()

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _failed(f"elements are nested more than {MAX_DEPTH} deep")
        self.spaces.update(item for item in attributes.items() if item[0].startswith("xmlns"))
        if max(len(attributes), len(self.spaces)) > MAX_ATTRIBUTES:
            raise _failed(f"an element has more than {MAX_ATTRIBUTES} attributes, or the feed more name spaces")
        if not self.person and name.rpartition(":")[2].lower() in _PERSONS:
            self.person, self.named = self.depth, 0

    def end(self, name: str) -> None:
        if self.person == self.depth:
            self.person = 0
        self.depth -= 1

    def text(self, data: str) -> None:
        self.named += len(data)
        if self.person and self.named > MAX_PERSON:
            raise _failed(f"a person is named with more than {MAX_PERSON} characters")

    def refuse(self, *declared: object) -> None:
        raise _failed("it declares a document type; such declarations are refused")


def _failed(why: str) -> BlockRuntimeError:
    return BlockRuntimeError("transform.parse_failed", f"this is no readable feed: {clean_text(why)}", effects="none")


def _item(entry: Mapping[str, Any], source: str) -> dict[str, Any]:
    url, title = _text(entry, "link"), _text(entry, "title")
    bodies = [_text(body, "value") for body in _member(entry, "content") or ()]
    return {
        "id": _text(entry, "id") or url or title,
        "url": url,
        "title": title,
        "source": source,
        "published_at": _date(entry, "published_parsed") or _date(entry, "updated_parsed"),
        "snippet": _text(entry, "summary") or next((body for body in bodies if body), ""),
    }


def _member(found: Mapping[str, Any], name: str) -> Any:
    """The member itself: the library's own look-up would offer another one in its place."""
    return dict(found).get(name)


def _text(found: Mapping[str, Any], name: str) -> str:
    value = _member(found, name)
    return value.strip() if isinstance(value, str) else ""


def _date(found: Mapping[str, Any], name: str) -> str | None:
    moment = _member(found, name)
    if moment is None:
        return None
    try:
        return datetime.fromtimestamp(calendar.timegm(moment), UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None  # a date no calendar has
