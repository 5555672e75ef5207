"""What the home screen and the attention bar show: missions, recent runs, open questions, who holds the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from console.model.rows import Piece, Row, clock, piece, run_role
from console.model.safe import safe
from console.model.words import WARNING_GLYPH, status_glyph, status_word
from runtime.events.facts import Escalation, Holder, HolderChanged, InboxChanged, RunChanged, RunSummary, StreamEvent
from runtime.host.api import MissionInfo

RUNS_KEPT: Final = 500


@dataclass(slots=True)
class HomeState:
    """The store as a whole, newest run first."""

    store: str
    read_only: bool
    missions: tuple[MissionInfo, ...] = ()
    runs: dict[str, RunSummary] = field(default_factory=dict)
    inbox: tuple[Escalation, ...] = ()
    holder: Holder | None = None
    revision: int = 0

    def load(self, missions: Iterable[MissionInfo], runs: Iterable[RunSummary], inbox: Iterable[Escalation]) -> None:
        """Start from what the store says now."""
        self.missions = tuple(missions)
        for run in runs:
            self._keep(run)
        self.inbox = tuple(item for item in inbox if item.resolved_at is None)
        self.revision += 1

    def apply(self, event: StreamEvent) -> None:
        """Take one event in."""
        match event:
            case RunChanged():
                self._keep(event.run)
            case InboxChanged():
                self.inbox = tuple(item for item in event.escalations if item.resolved_at is None)
            case HolderChanged():
                self.holder, self.read_only = event.holder, event.read_only
            case _:
                return
        self.revision += 1

    def _keep(self, run: RunSummary) -> None:
        self.runs[run.run_id] = run
        if len(self.runs) > RUNS_KEPT:
            oldest = min(self.runs.values(), key=lambda item: (item.created_at, item.run_id))
            del self.runs[oldest.run_id]

    def recent(self, text: str = "") -> list[RunSummary]:
        """Runs, newest first, whose mission, id or status contains ``text``."""
        wanted = text.casefold()
        rows = sorted(self.runs.values(), key=lambda item: (item.created_at, item.run_id), reverse=True)
        return [row for row in rows if wanted in _haystack(row)] if wanted else rows

    def matching(self, text: str = "") -> list[MissionInfo]:
        """Missions whose name or description contains ``text``."""
        wanted = text.casefold()
        return [item for item in self.missions if wanted in f"{item.name} {item.description}".casefold()]

    def last_run(self, mission: str) -> RunSummary | None:
        """The newest run of a mission."""
        return next((run for run in self.recent() if run.mission == mission), None)

    def blocking(self) -> list[Escalation]:
        """Questions that hold a run up, oldest first."""
        return sorted((item for item in self.inbox if item.blocking), key=lambda item: item.created_at)


def _haystack(run: RunSummary) -> str:
    return f"{run.mission} {run.run_id} {status_word(run.status, resumable=run.resumable)}".casefold()


def attention_row(state: HomeState) -> Row:
    """The bar on top of every screen: what needs a human, and who may write."""
    running = sum(not run.status.terminal and not run.resumable for run in state.runs.values())
    resumable = sum(run.resumable for run in state.runs.values())
    questions = len(state.blocking())
    pieces: list[Piece] = [piece("quarterdeck", "accent"), piece(f"  {running} running", "plain" if running else "dim")]
    if questions:
        pieces.append(piece(f"  ! {questions} waiting for you", "warn"))
    if resumable:
        pieces.append(piece(f"  ◌ {resumable} resumable", "warn"))
    if state.read_only:
        pieces.append(piece(f"  {WARNING_GLYPH} observing: {holder_text(state.holder)}", "warn"))
    return tuple(pieces)


def holder_text(holder: Holder | None) -> str:
    """Who may write, in words."""
    if holder is None:
        return "the store is read-only here"
    return f"writer is pid {holder.pid} on {holder.host}, since {holder.started_at[:19].replace('T', ' ')}"


def run_cells(run: RunSummary) -> tuple[Piece, ...]:
    """One run as table cells: id, mission, status, steps, time, started."""
    word = status_word(run.status, resumable=run.resumable)
    why = f" {run.code or run.reason}" if (run.code or run.reason) and run.status.terminal else ""
    return (
        piece(run.run_id[:8], "dim"),
        piece(run.mission),
        piece(f"{status_glyph(run.status, resumable=run.resumable)} {word}{why}", run_role(run)),
        piece(f"{run.steps_done}/{run.steps_total}"),
        piece(clock(run.duration_ms), "dim"),
        piece(run.created_at[5:16].replace("T", " "), "dim"),
    )


def mission_rows(missions: list[MissionInfo], state: HomeState) -> list[Row]:
    """The missions as list rows, names in one column."""
    width = min(24, max((len(item.name) for item in missions), default=0))
    return [_mission_row(item, state.last_run(item.name), width) for item in missions]


def _mission_row(mission: MissionInfo, last: RunSummary | None, width: int) -> Row:
    if mission.problems:
        state = piece(f"✗ {len(mission.problems)} problems", "bad")
    elif last is None:
        state = piece("never run", "dim")
    else:
        word = status_word(last.status, resumable=last.resumable)
        state = piece(f"{status_glyph(last.status, resumable=last.resumable)} {word}", run_role(last))
    return (piece(f"{mission.name:<{width}}  "), state)


def preview_rows(mission: MissionInfo) -> list[Row]:
    """What a mission is and may touch, for the preview beside the list."""
    rows: list[Row] = [(piece(mission.name, "accent"), piece(f"  v{mission.version}", "dim"))]
    if mission.problems:
        rows.extend(
            (piece(f"{item.line}:{item.column} ", "dim"), piece(f"{item.message} [{item.code}]", "bad"))
            for item in mission.problems
        )
        return rows
    rows.append((piece(mission.description),))
    rows.append(())
    envelope = mission.envelope
    rows.extend(
        (piece(f"{label:<10}", "dim"), piece(value))
        for label, value in (
            ("workspace", mission.workspace),
            ("paths", _listing(envelope.get("allowed_paths"))),
            ("denied", _listing(envelope.get("denied_paths"))),
            ("tools", _listing(envelope.get("allowed_tools"))),
            ("budget", f"${int(envelope.get('max_budget_micros', 0)) / 1_000_000:.2f}"),
            ("timeout", f"{envelope.get('timeout_seconds', '–')} s per operation"),
        )
    )
    rows.append(())
    rows.append((piece(f"blocks ({len(mission.nodes)})", "dim"),))
    rows.extend(
        (
            piece(f"  {node.node_id:<14} "),
            piece(f"{node.block_type:<12}", "dim"),
            piece(f"after {', '.join(node.after)}" if node.after else "", "dim"),
        )
        for node in mission.nodes
    )
    return rows


def _listing(value: object) -> str:
    items = list(value) if isinstance(value, list | tuple) else []
    return ", ".join(safe(item) for item in items) if items else "nothing"
