"""What the run detail screen shows beside graph and timeline: attempts, values, files, and the selected step."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from console.model.describe import short
from console.model.fold import Attempt, RunState, StepRow, Write
from console.model.graph import Look
from console.model.rows import Piece, Role, Row, clock, piece, step_role, thawed, took
from console.model.words import RESUMABLE_GLYPH, glyph
from runtime.events.facts import NodeInfo

VALUE_LINES: Final = 2_000
ARTIFACT_BYTES: Final = 64 * 1024
_ARTIFACT: Final = re.compile(r'"(?:\$|[a-z_]*)artifact": "(sha256:[0-9a-f]{64})"')
_UNDONE: Final[Mapping[bool | None, tuple[str, Role]]] = {
    None: ("kept", "dim"),
    True: ("undone, verified", "warn"),
    False: ("NOT undone", "bad"),
}


def look(row: StepRow | None, *, held: bool) -> Look:
    """A block in the drawn graph: its state, and how long its latest attempt took."""
    if row is None:
        return Look(glyph("pending"), "", "dim")
    if not held and row.status in ("running", "waiting"):
        return Look(RESUMABLE_GLYPH, "", "warn")
    role: Role = "warn" if row.accepted else step_role(row.status)
    return Look(glyph(row.status, accepted=row.accepted), brief(row.started_at, row.completed_at), role)


def brief(started: str | None, completed: str | None) -> str:
    """A duration in at most six cells; empty while it is not known."""
    text = took(started, completed) if completed else ""
    if len(text) <= len("99.9s"):
        return text
    seconds = int(float(text.removesuffix("s")))
    return clock(seconds * 1000) if seconds < 3600 else f"{seconds // 3600}h{seconds // 60 % 60:02d}"


def node_row(node: NodeInfo, row: StepRow | None, width: int, *, held: bool) -> Row:
    """A block of a graph that is too large to draw: what it is and what it follows."""
    seen = look(row, held=held)
    return (
        piece(f"{seen.glyph} ", seen.role),
        piece(f"{node.node_id:<{width}} "),
        piece(f"{seen.note:>6}  ", "dim"),
        piece(f"after {', '.join(node.after)}" if node.after else "first", "dim"),
    )


def attempt_header(width: int) -> Row:
    """Column names of the attempts."""
    return (piece(f"  {'step':<{width}} visit  try  {'status':<11} {'time':>8}  why", "dim"),)


def attempt_row(item: Attempt, width: int) -> Row:
    """One attempt: where, which, how it ended, how long it took, and why."""
    role: Role = "warn" if item.accepted else step_role(item.status)
    word = "expected" if item.accepted else item.status
    return (
        piece(f"{glyph(item.status, accepted=item.accepted)} ", role),
        piece(f"{item.step_id:<{width}} "),
        piece(f"{item.visit:>5} {item.attempt:>4}  ", "dim"),
        piece(f"{word:<11} ", role),
        piece(f"{took(item.started_at, item.completed_at):>8}  ", "dim"),
        *_why(item, role),
    )


def _why(item: Attempt, role: Role) -> tuple[Piece, ...]:
    reused = (piece(f"reused from {item.reused_from}  ", "mark"),) if item.reused_from else ()
    code = (piece(f"{item.code}  ", role),) if item.code else ()
    return (*reused, *code, piece(item.message or "", "dim"))


def attempt_details(item: Attempt) -> list[Row]:
    """One attempt in full."""
    members = (
        ("step", f"{item.step_id} ({item.block_type})"),
        ("attempt", f"{item.attempt}, visit {item.visit}, tick {item.tick}"),
        ("status", f"{item.status}{' (as the mission expects)' if item.accepted else ''}"),
        ("started", f"{item.started_at}  entry #{item.started_seq:04d}"),
        ("ended", f"{item.completed_at}  entry #{item.finished_seq:04d}" if item.finished_seq is not None else "–"),
        ("took", took(item.started_at, item.completed_at) or "–"),
        ("reused", item.reused_from or "–"),
        ("code", item.code or "–"),
        ("message", item.message or "–"),
    )
    return [(piece(f"{label:<10}", "dim"), piece(value)) for label, value in members]


def step_pane(state: RunState, step_id: str) -> list[Row]:
    """The selected step in a few lines: how it stands, what it follows and what follows it, and why it failed."""
    row = state.steps.get(step_id)
    if row is None:
        return [(piece("no step is selected", "dim"),)]
    tries = state.attempts_of(step_id)
    after = next((node.after for node in state.nodes if node.node_id == step_id), ())
    before = [node.node_id for node in state.nodes if step_id in node.after]
    role: Role = "warn" if row.accepted else step_role(row.status)
    head = (
        piece(f"{glyph(row.status, accepted=row.accepted)} {step_id}  ", role),
        piece(f"{row.block_type}  ", "dim"),
        piece(f"{'expected' if row.accepted else row.status}  ", role),
        piece(f"{took(row.started_at, row.completed_at)}  " if row.completed_at else "", "dim"),
        piece(f"{len(tries)} attempts" if len(tries) > 1 else "", "dim"),
    )
    links: Row = (piece("after ", "dim"), piece(_names(after)), piece("   before ", "dim"), piece(_names(before)))
    why = tuple(part for part in (row.code, row.message) if part)
    inner = state.inside(step_id)
    if inner:
        count = Counter("expected" if item.accepted else item.status for item in inner)
        told = ", ".join(f"{number} {status}" for status, number in sorted(count.items()))
        links = (*links, piece("   inside ", "dim"), piece(told))
    return [head, links, (piece("  ".join(why) if why else "", role),)]


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"


@dataclass(frozen=True, slots=True)
class ValueLine:
    """One line of a printed value; ``digest`` when it names an artifact."""

    row: Row
    digest: str | None = None


def value_lines(title: str, value: object, *, absent: str) -> list[ValueLine]:
    """A projected value as JSON, under a title; at most `VALUE_LINES` lines. ``absent`` stands for None."""
    head = ValueLine((piece(title, "accent"),))
    if value is None:
        return [head, ValueLine((piece(f"  {absent}", "dim"),))]
    lines = json.dumps(thawed(value), ensure_ascii=False, indent=2, sort_keys=True).splitlines()
    shown = [_value_line(line) for line in lines[:VALUE_LINES]]
    if len(lines) > VALUE_LINES:
        shown.append(ValueLine((piece(f"  … {len(lines) - VALUE_LINES:,} more lines", "dim"),)))
    return [head, *shown]


def _value_line(line: str) -> ValueLine:
    found = _ARTIFACT.search(line)
    if found is None:
        return ValueLine((piece(f"  {line}"),))
    digest = found.group(1)
    shown = line.replace(digest, f"sha256:{short(digest)}")
    return ValueLine((piece(f"  {shown}"), piece("   enter fetches it", "accent")), digest)


def artifact_rows(body: bytes | None) -> list[Row]:
    """An artifact as text, as far as it is bounded."""
    if body is None:
        return [(piece("the store does not hold it any more", "bad"),)]
    text = body[:ARTIFACT_BYTES].decode("utf-8", "replace")
    cut = [(piece(f"… {len(body) - ARTIFACT_BYTES:,} more bytes", "dim"),)] if len(body) > ARTIFACT_BYTES else []
    return [(piece(f"{len(body):,} bytes", "dim"),), (), *((piece(line),) for line in text.splitlines()), *cut]


def recorded_value(entry: Mapping[str, Any] | None, part: str) -> object:
    """The value a step's entry holds: what it was given (``inputs``), or what it gave (``outputs``)."""
    held = (entry or {}).get(part) or {}
    return held.get("value", held.get("output")) if isinstance(held, Mapping) else None


def write_row(item: Write, width: int) -> Row:
    """One operation that wrote: paths, state before and after, and whether it was undone."""
    word, role = _UNDONE[item.undone]
    unfinished = item.after is None
    failed = item.status not in ("success", "running")
    return (
        piece(f"#{item.seq:04d} ", "dim"),
        piece(f"{item.step_id:<{width}} "),
        piece(f"{short(item.before)}→{'?' if unfinished else short(item.after)} ", "dim"),
        piece(f"{'unfinished' if unfinished else item.status if failed else word:<16} ", "bad" if failed else role),
        piece(", ".join(item.paths) or "no path named"),
    )


def write_details(item: Write) -> list[Row]:
    """One write in full."""
    members = (
        ("operation", item.operation_id),
        ("entry", f"#{item.seq:04d}"),
        ("before", item.before),
        ("after", item.after or "–"),
        ("status", item.status),
        ("undone", _UNDONE[item.undone][0]),
    )
    paths: Sequence[Row] = [(piece(f"{'path':<10}", "dim"), piece(path)) for path in item.paths]
    return [*((piece(f"{label:<10}", "dim"), piece(value)) for label, value in members), *paths]
