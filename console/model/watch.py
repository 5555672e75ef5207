"""What is shown of watches: rows for the console's screens, and the tale of one watch for the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from console.model.home import fitted, watch_glyph, watch_stands
from console.model.rows import Piece, Row, piece, run_role
from console.model.safe import SafeText, safe
from console.model.words import status_glyph, status_word
from runtime.events.facts import (
    FileChange,
    IgnoredChange,
    RunChanged,
    RunSummary,
    StreamEvent,
    WatchesChanged,
    WatchState,
)

_WHY: Final = {
    "same_content": "same content",
    "own_write": "written by the mission",
    "busy": "a run was at work",
    "excluded": "excluded",
}
_RUNS_REMEMBERED: Final = 64
_WIDE: Final = 96


def watch_header(width: int) -> Row:
    """Column names of the list."""
    when = f"  {'last fire':<8}" if width >= _WIDE else ""
    return (piece(f"  {'mission':<18}  {'state':<11}{'files':>7}{'events':>8}{'runs':>6}{when}  why not", "dim"),)


def watch_row(state: WatchState, width: int) -> Row:
    """One watch: its mission, state, figures, and what keeps it from running."""
    glyph, word, role = watch_glyph(state)
    when = (piece(f"  {(state.last_fired_at or '')[11:19]:<8}", "dim"),) if width >= _WIDE else ()
    return (
        piece(f"{glyph} ", role),
        piece(fitted(state.mission, 18)),
        piece(f"  {word:<11}", role),
        piece(f"{state.files:>7}{state.events:>8}{state.runs:>6}", "dim"),
        *when,
        piece(f"  {state.code or ''}", role),
    )


def details(state: WatchState, runs: Mapping[str, RunSummary]) -> list[Row]:
    """One watch in full; the ignored changes are a list of their own."""
    _, word, role = watch_glyph(state)
    excluded = f"   exclude {'  '.join(state.excludes)}" if state.excludes else ""
    figures = f"files {state.files}   events {state.events} → runs {state.runs}"
    fired = f"   last fire {state.last_fired_at[11:19]}" if state.last_fired_at else ""
    skipped = f"   skipped {state.skipped}" if state.skipped else ""
    rows: list[Row] = [
        (
            piece(f"{state.mission}  ", "accent"),
            piece(word, role),
            piece(f"   debounce {state.debounce_ms}ms   on-busy: {state.overlap}", "dim"),
        ),
        _labelled("root", state.root),
        _labelled("paths", f"{'  '.join(state.paths)}{excluded}"),
        _labelled("seen", f"{figures}{fired}{skipped}{'   one more waits' if state.pending else ''}"),
    ]
    if state.reason:
        label = "LOOP" if state.code == "WATCH_LOOP" else "trouble"
        action = "   u resume" if watch_stands(state) else ""
        rows.append((piece(f"{label:<9}", role), piece(state.reason, role), piece(action, "accent")))
    return [*rows, *_because(state, runs)]


def _labelled(label: str, text: str) -> Row:
    return (piece(f"{label:<9}", "dim"), piece(text))


def _because(state: WatchState, runs: Mapping[str, RunSummary]) -> list[Row]:
    """Files → the run they started → what became of it."""
    if state.last_run_id is None:
        return [_labelled("because", "nothing has started a run yet")]
    run = runs.get(state.last_run_id)
    became: Piece = piece("opening", "dim")
    if run is not None:
        word = status_word(run.status, resumable=run.resumable)
        became = piece(f"{status_glyph(run.status, resumable=run.resumable)} {word}", run_role(run))
    arrow: Row = (piece("  → run ", "dim"), piece(state.last_run_id[:8]), piece("  "), became)
    changes = state.last_changes
    if not changes:
        return [(*_labelled("because", "the watch began"), *arrow)]
    rows = [_labelled("because" if index == 0 else "", change_text(item)) for index, item in enumerate(changes)]
    return [*rows[:-1], (*rows[-1], *arrow)]


def change_text(change: FileChange) -> SafeText:
    """``src/a.py 51c2…→e09b…``; ``new`` and ``gone`` where there is only one side."""
    return safe(f"{change.path} {_hash(change.before) or 'new'}→{_hash(change.after) or 'gone'}")


def _hash(content: str | None) -> str:
    return "" if content is None else f"{content.removeprefix('sha256:')[:4]}…"


def ignored_row(item: IgnoredChange) -> Row:
    """One change that started nothing, and why."""
    where = f" (run {item.run_id[:8]}, entry {item.seq})" if item.run_id else ""
    return (
        piece(f"{item.at[11:19]}  ", "dim"),
        piece(f"{item.path}  "),
        piece(f"{_WHY.get(item.why, item.why)}{where}", "accent" if item.why == "own_write" else "dim"),
    )


@dataclass(slots=True)
class WatchTale:
    """The events of one watch in the order they are worth telling: ``(event, members)`` pairs, ready to print."""

    state: WatchState
    over: bool = False
    _told: dict[str, bool] = field(default_factory=dict)

    def take(self, events: Iterable[StreamEvent]) -> list[tuple[str, dict[str, Any]]]:
        """What a batch tells. What changed comes before the run it started, and the end of the watch last."""
        batch = list(events)
        told: list[tuple[str, dict[str, Any]]] = []
        for event in batch:
            if isinstance(event, WatchesChanged):
                told += self._watch(event)
        for event in batch:
            if isinstance(event, RunChanged) and event.run.session_id == self.state.session_id:
                told += self._run(event.run)
        return sorted(told, key=lambda item: item[0] == "disarmed")

    def _watch(self, event: WatchesChanged) -> list[tuple[str, dict[str, Any]]]:
        if self.over:
            return []
        now = next((item for item in event.watches if item.watch_id == self.state.watch_id), None)
        if now is None:
            self.over = True
            return [("disarmed", {"watch_id": self.state.watch_id})]
        before, self.state = self.state, now
        told: list[tuple[str, dict[str, Any]]] = []
        fresh = now.ignored - before.ignored
        for item in now.recent_ignored[-fresh:] if fresh else ():
            told.append(("ignored", {"path": item.path, "why": item.why, "run_id": item.run_id, "entry": item.seq}))
        if now.skipped > before.skipped:
            told.append(("skipped", {"skipped": now.skipped}))
        if now.runs > before.runs:
            told.append(("changed", {"changes": list(now.last_changes)}))
        if (now.status, now.code) != (before.status, before.code):
            told += self._status(before, now)
        return told

    def _status(self, before: WatchState, now: WatchState) -> list[tuple[str, dict[str, Any]]]:
        if watch_stands(now):
            return [(now.status, {"code": now.code, "reason": now.reason})]
        if now.code is not None and now.code != before.code:
            return [("problem", {"code": now.code, "reason": now.reason})]
        return [("armed", armed_record(now))] if watch_stands(before) else []

    def _run(self, run: RunSummary) -> list[tuple[str, dict[str, Any]]]:
        ended = run.status.terminal or run.resumable
        known = self._told.get(run.run_id)
        self._told[run.run_id] = ended
        if len(self._told) > _RUNS_REMEMBERED:
            del self._told[next(iter(self._told))]
        told: list[tuple[str, dict[str, Any]]] = [] if known is not None else [("launch", {"run": run})]
        return [*told, ("done", {"run": run})] if ended and not known else told


def armed_record(state: WatchState) -> dict[str, Any]:
    """The members of an ``armed`` line."""
    return {
        "watch_id": state.watch_id,
        "mission": state.mission,
        "session_id": state.session_id,
        "root": state.root,
        "paths": list(state.paths),
        "exclude": list(state.excludes),
        "files": state.files,
        "debounce_ms": state.debounce_ms,
        "overlap": state.overlap,
    }
