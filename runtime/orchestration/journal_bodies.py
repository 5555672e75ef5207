"""The bodies entries name by digest: which they are, and whether they are there and are what they are called.

Bodies are looked up by whoever holds them, so this only says which it wants next and judges what it is given: a verifier
of a large store fetches them in batches, one with a folder asks it at once. Bounded in memory: of what was looked up it
forgets the oldest, and looks it up again. Standard library, kernel and sibling modules only: the evidence bundle carries
this module.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.canonical import CanonicalizationError, digest, digest_bytes, parse_strict
from runtime.kernel.errors import JournalError
from runtime.kernel.ids import HASH
from runtime.orchestration.stream_index import MAX_LEVELS, read_node, root_of

_RECEIPT_ARTIFACTS: Final = ("params_hash", "output_hash", "evidence_hash")
#: An empty object is its own proof; nobody needs to keep its body.
_EMPTY: Final = digest({})
#: Digests remembered as looked up: some 10 MiB.
_REMEMBERED: Final = 50_000
_STEPS: Final = frozenset({"step_started", "step_finished"})
#: Kinds of entries that name bodies, and what marks one inside a value.
_NAMING: Final = _STEPS | {"receipt", "plan", "journal_opened", "operation_denied"}
_MARK: Final = b'"$artifact":'
#: How params name content too long for them (`runtime.kernel.model.Operation.hashed`). Quotes inside canonical strings
#: are escaped: these bytes can only be a member.
_LONG_CONTENT: Final = b'"content":{"$artifact":"sha256:'

#: Tells what was found: code, detail, severity, entry, and the position of that entry.
Tell = Callable[[str, str, str, int, int], None]


@dataclass(frozen=True, slots=True)
class Want:
    """A body to look up. ``below`` is the level a stream index has at most, None for a body that is none; ``params``
    says that it may name further content. ``position`` counts entries from 0, ``seq`` is what the entry says."""

    digest: str
    seq: int
    position: int
    below: int | None = None
    params: bool = False


@dataclass(slots=True)
class Bodies:
    """``wanted`` is what to look up, by digest. Give each to `take`; more may be wanted then, until there is nothing."""

    tell: Tell
    withheld: Container[str] = ()
    wanted: dict[str, list[Want]] = field(default_factory=dict)
    _seen: dict[str, None] = field(default_factory=dict)
    _nodes: dict[tuple[str, int], int | None] = field(default_factory=dict)
    _sums: list[tuple[Want, int, list[tuple[str, int]]]] = field(default_factory=list)

    def of_entry(self, entry: Mapping[str, Any], body: bytes, position: int) -> None:
        """Want what ``entry``, stored as ``body``, names."""
        kind, seq = entry["kind"], entry["seq"]
        if kind not in _NAMING or (kind in _STEPS and _MARK not in body and "stream" not in entry):
            return
        params = entry["receipt"].get("params_hash") if kind == "receipt" else None
        for name in artifact_references(entry):
            if name not in self._seen:
                self._want(Want(name, seq, position, params=name == params))
        root = root_of(entry) if kind == "step_finished" else None
        if root is not None:
            node = Want(root, seq, position, MAX_LEVELS)
            self._want(node)
            self._sums.append((node, entry["stream"].get("items"), [(root, MAX_LEVELS)]))

    def take(self, name: str, body: bytes | None) -> None:
        """Judge the body found under ``name``; None when there is none."""
        wants = self.wanted.pop(name)
        whole = body is not None and digest_bytes(body) == name
        if name not in self._seen:
            self._remember(name)
            self._judge(wants[0], body, whole)
        for want in wants:
            if want.below is not None:
                self._nodes[name, want.below] = self._read_node(want, body) if body is not None and whole else None
            elif want.params and body is not None and whole:
                self._read_params(want, body)

    def settle(self) -> None:
        """Once nothing is wanted: do the stream indexes add up?"""
        for want, items, parts in self._sums:
            counts = [self._nodes.get(part) for part in parts]
            if None in counts or sum(count or 0 for count in counts) == items:
                continue
            what = (
                f"the stream's index {want.digest}" if want.below == MAX_LEVELS else f"the stream index {want.digest}"
            )
            detail = f"{what} does not add up to {items} items"
            self.tell("J_SCHEMA", detail, "error", want.seq, want.position)
        self._sums.clear()
        if len(self._nodes) > _REMEMBERED:
            self._nodes.clear()

    def _want(self, want: Want) -> None:
        known = want.digest in self._seen if want.below is None else (want.digest, want.below) in self._nodes
        if known:
            return
        waiting = self.wanted.setdefault(want.digest, [])
        if all((item.below, item.params) != (want.below, want.params) for item in waiting):
            waiting.append(want)

    def _remember(self, name: str) -> None:
        self._seen[name] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _judge(self, want: Want, body: bytes | None, whole: bool) -> None:
        where = (want.seq, want.position)
        if body is None and want.digest in self.withheld:
            self.tell("J_ARTIFACT_WITHHELD", f"{want.digest} was not handed on", "warning", *where)
        elif body is None and want.digest != _EMPTY:
            self.tell("J_ARTIFACT_MISSING", f"{want.digest} is not stored", "error", *where)
        elif body is not None and not whole:
            self.tell("J_ARTIFACT_HASH", f"the body stored as {want.digest} is another one", "error", *where)

    def _read_node(self, want: Want, body: bytes) -> int | None:
        """How many items a stream index says it has, None when it is none; wants what hangs below it."""
        try:
            node = read_node(body, below=want.below or 0)
        except (JournalError, CanonicalizationError) as error:
            self.tell("J_SCHEMA", error.message, "error", want.seq, want.position)
            return None
        for part in node.parts:
            self._want(Want(part, want.seq, want.position, node.level or None))
        if node.level and node.parts:
            self._sums.append((want, node.items, [(part, node.level) for part in node.parts]))
        return node.items

    def _read_params(self, want: Want, body: bytes) -> None:
        content = long_content(body)
        if content is not None:
            self._want(Want(content, want.seq, want.position))


def artifact_references(entry: Mapping[str, Any]) -> Iterator[str]:
    """Digests of the artifacts an entry names; of what a step emitted, the root of its index."""
    kind = entry["kind"]
    named: list[object]
    if kind == "receipt":
        receipt = entry["receipt"]
        named = [receipt.get(name) for name in _RECEIPT_ARTIFACTS]
    elif kind == "step_started" or kind == "step_finished":
        named = [*_markers(entry["inputs"]), *_markers(entry["outputs"]), root_of(entry)]
    elif kind == "plan":
        named = [entry.get("document")]
    elif kind == "journal_opened":
        fork, files = entry.get("fork"), entry.get("files")
        named = [
            *(files.values() if isinstance(files, Mapping) else ()),
            entry.get("environment"),
            fork.get("document") if isinstance(fork, Mapping) else None,
        ]
    elif kind == "operation_denied":
        named = [entry["evidence_hash"]]
    else:
        return
    yield from (name for name in named if isinstance(name, str) and HASH.match(name))


def long_content(params: bytes) -> str | None:
    """The digest of the content that the stored params of an operation name instead of holding it; None mostly."""
    if _LONG_CONTENT not in params:
        return None
    try:
        record = parse_strict(params)
    except CanonicalizationError:
        return None  # no record of ours
    content = record.get("content") if isinstance(record, Mapping) else None
    name = content.get("$artifact") if isinstance(content, Mapping) else None
    return name if isinstance(name, str) and HASH.match(name) else None


def _markers(value: object) -> Iterator[object]:
    """The ``$artifact`` marks inside a projected value (ruling R40)."""
    if isinstance(value, Mapping):
        if "$artifact" in value:
            yield value["$artifact"]
        for item in value.values():
            yield from _markers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _markers(item)
