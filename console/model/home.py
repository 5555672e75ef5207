"""What the home screen and the attention bar show: missions, recent runs, open questions, who holds the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from console.model.rows import Piece, Role, Row, clock, piece, run_role
from console.model.safe import SafeText, safe
from console.model.words import RESUMABLE_GLYPH, WARNING_GLYPH, status_glyph, status_word
from runtime.events.facts import (
    EntryAppended,
    Escalation,
    Holder,
    HolderChanged,
    InboxChanged,
    RunChanged,
    RunSummary,
    StreamEvent,
    WatchesChanged,
    WatchState,
)
from runtime.host.api import MissionInfo, MissionPack

RUNS_KEPT: Final = 5000
LOOKED_UP_KEPT: Final = 64
_ANSWERS_KEPT: Final = 512
LOOP_GLYPH: Final = "∞"
WATCH_WORDS: Final[dict[str, tuple[str, str, Role]]] = {
    "arming": ("…", "arming", "dim"),
    "armed": ("◉", "armed", "good"),
    "settling": ("◌", "settling", "accent"),
    "running": ("●", "running", "accent"),
    "suspended": (LOOP_GLYPH, "suspended", "warn"),
    "failed": ("✗", "failed", "bad"),
    "stopped": ("○", "stopped", "dim"),
}
_WIDE: Final = 96  # cells from which a run's row shows when it started


@dataclass(slots=True)
class HomeState:
    """The store as a whole, newest run first."""

    store: str
    read_only: bool
    missions: tuple[MissionInfo, ...] = ()
    runs: dict[str, RunSummary] = field(default_factory=dict)
    inbox: tuple[Escalation, ...] = ()
    watches: tuple[WatchState, ...] = ()
    holder: Holder | None = None
    loading: bool = True
    problem: str | None = None
    oldest: tuple[str, str] | None = None
    complete: bool = False
    base: str | None = None
    """The run, by full id, that the next comparison starts from."""
    revision: int = 0
    looked_up: dict[str, MissionInfo] = field(default_factory=dict)
    _answered: deque[str] = field(default_factory=lambda: deque(maxlen=_ANSWERS_KEPT))
    _sorted: tuple[int, list[RunSummary]] = (-1, [])

    def load(self, missions: Iterable[MissionInfo], runs: Iterable[RunSummary], inbox: Iterable[Escalation]) -> None:
        """Start from what the store says now."""
        self.missions = tuple(missions)
        self.looked_up.clear()
        self.inbox = self._open(inbox)
        self.loading, self.problem = False, None
        self.add(runs)

    def add(self, runs: Iterable[RunSummary]) -> None:
        """Take a page of runs in."""
        for run in runs:
            self._keep(run)
        self.revision += 1

    def page(self, runs: Sequence[RunSummary], limit: int) -> None:
        """Take the next older page in; a short one is the last."""
        self.complete = len(runs) < limit
        if runs:
            self.oldest = (runs[-1].created_at, runs[-1].run_id)
        self.add(runs)

    def set_base(self, run_id: str | None) -> None:
        """Mark the run the next comparison starts from, or none."""
        self.base = run_id
        self.revision += 1

    def apply(self, event: StreamEvent) -> None:
        """Take one event in."""
        match event:
            case RunChanged():
                self._keep(event.run)
            case InboxChanged():
                self.inbox = self._open(event.escalations)
            case WatchesChanged():
                self.watches = event.watches
            case HolderChanged():
                self.holder, self.read_only = event.holder, event.read_only
            case EntryAppended(kind="escalation") if event.entry["phase"] == "answered":
                # The inbox says so too, but only after the entry: an answered question must not linger.
                self._answered.append(str(event.entry["escalation_id"]))
                self.inbox = self._open(self.inbox)
            case _:
                return
        self.revision += 1

    def _open(self, questions: Iterable[Escalation]) -> tuple[Escalation, ...]:
        return tuple(
            item for item in questions if item.resolved_at is None and item.escalation_id not in self._answered
        )

    def _answerable(self, item: Escalation) -> bool:
        """A question of a run that has ended, or that nobody holds, cannot be answered; whether to undo it can."""
        run = self.runs.get(item.run_id)
        return item.offers_undo or run is None or not (run.status.terminal or run.resumable)

    def _keep(self, run: RunSummary) -> None:
        self.runs[run.run_id] = run
        if len(self.runs) > RUNS_KEPT:
            oldest = min(self.runs.values(), key=_age)
            del self.runs[oldest.run_id]

    def recent(self, text: str = "") -> list[RunSummary]:
        """Runs, newest first, whose mission, id or status contains ``text``."""
        if self._sorted[0] != self.revision:
            self._sorted = (self.revision, sorted(self.runs.values(), key=_age, reverse=True))
        rows = self._sorted[1]
        wanted = text.casefold()
        return [row for row in rows if wanted in _haystack(row)] if wanted else rows

    def matching(self, text: str = "") -> list[MissionInfo]:
        """Missions whose name or description contains ``text``."""
        wanted = text.casefold()
        return [item for item in self.missions if wanted in f"{item.name} {item.description}".casefold()]

    def mission_at(self, path: str) -> MissionInfo | None:
        """The mission of that file, as it was last looked at; None when nobody did."""
        return self.looked_up.get(path) or next((item for item in self.missions if item.path == path), None)

    def look_up(self, path: str, mission: MissionInfo) -> None:
        """Remember a mission that was looked at since the catalogue was read."""
        if len(self.looked_up) >= LOOKED_UP_KEPT:
            self.looked_up.pop(next(iter(self.looked_up)))
        self.looked_up[path] = mission
        self.revision += 1

    def last_runs(self) -> dict[str, RunSummary]:
        """The newest run of each mission."""
        return {run.mission: run for run in reversed(self.recent())}

    def live(self) -> list[RunSummary]:
        """Runs this store's holder is working on, newest first."""
        return [run for run in self.recent() if not run.status.terminal and not run.resumable]

    def blocking(self) -> list[Escalation]:
        """Questions that hold a run up, oldest first."""
        waiting = (item for item in self.inbox if item.blocking and self._answerable(item))
        return sorted(waiting, key=lambda item: item.created_at)

    def notices(self) -> list[Escalation]:
        """What asks nothing but must be seen, such as a journal that lost entries, oldest first."""
        return sorted((item for item in self.inbox if not item.blocking), key=lambda item: item.created_at)


def _age(run: RunSummary) -> tuple[str, str]:
    return run.created_at, run.run_id


def _haystack(run: RunSummary) -> str:
    return f"{run.mission} {run.run_id} {status_word(run.status, resumable=run.resumable)}".casefold()


def attention_row(state: HomeState) -> Row:
    """The bar on top of every screen: what needs a human, and who may write."""
    running, questions, resumable, refused = counts(state)
    pieces: list[Piece] = [piece("quarterdeck", "accent"), piece(f"  {running} running", "plain" if running else "dim")]
    if state.read_only:
        writer = "nobody writes" if state.holder is None else f"writer pid {state.holder.pid}"
        pieces.append(piece(f"  {WARNING_GLYPH} observing ({writer})", "warn"))
    behind = sum(item.severity == "critical" for item in state.notices())
    if behind:
        pieces.append(
            piece(f"  {WARNING_GLYPH} {behind} journal{'s' if behind > 1 else ''} behind: see the inbox", "bad")
        )
    if questions:
        pieces.append(piece(f"  ! {questions} waiting for you", "warn"))
    if resumable:
        pieces.append(piece(f"  {RESUMABLE_GLYPH} {resumable} resumable", "warn"))
    if refused:
        pieces.append(piece(f"  {WARNING_GLYPH} {refused} refused", "dim"))
    stuck = sum(watch_stands(item) for item in state.watches)
    if stuck:
        pieces.append(piece(f"  {LOOP_GLYPH} {stuck} watch{'es' if stuck > 1 else ''} stopped", "warn"))
    return tuple(pieces)


def watch_stands(state: WatchState) -> bool:
    """Does a watch stand still until somebody acts?"""
    return state.status in ("suspended", "failed")


def watch_glyph(state: WatchState) -> tuple[str, str, Role]:
    """Glyph, word and role of a watch; an armed one whose mission is in trouble is amber."""
    glyph, word, role = WATCH_WORDS.get(state.status, ("?", state.status, "plain"))
    if state.code is not None and state.status in ("armed", "settling"):
        return WARNING_GLYPH, word, "warn"
    return glyph, word, role


def watch_of_mission(path: str, watches: Iterable[WatchState]) -> WatchState | None:
    """The watch of the mission listed under ``path``, if it is watched."""
    return next((item for item in watches if path in (item.mission_path, item.mission_path.rpartition("/")[0])), None)


def counts(state: HomeState) -> tuple[int, int, int, int]:
    """Running runs, open questions, resumable runs, refused operations of the runs listed."""
    runs = state.recent()
    return (
        len(state.live()),
        len(state.blocking()),
        sum(run.resumable for run in runs),
        sum(run.violations for run in runs),
    )


def title_text(state: HomeState) -> SafeText:
    """The terminal's title: the same counts, for a console in the background."""
    running, questions, resumable, refused = counts(state)
    stuck = sum(watch_stands(item) for item in state.watches)
    marks = (
        ("!", questions),
        (LOOP_GLYPH, stuck),
        (RESUMABLE_GLYPH, resumable),
        (WARNING_GLYPH, refused),
        ("●", running),
    )
    return safe(" ".join(["quarterdeck", *(f"{mark}{count}" for mark, count in marks if count)]))


def holder_text(holder: Holder | None) -> str:
    """Who may write, in words."""
    if holder is None:
        return "the store is read-only here"
    return f"writer is pid {holder.pid} on {holder.host}, since {holder.started_at[:19].replace('T', ' ')}"


def run_header(width: int) -> Row:
    """Column names of the runs list."""
    return (piece(_run_line("run", "mission", "status", "steps", "time", "started", width), "dim"),)


def run_row(run: RunSummary, width: int) -> Row:
    """One run: id, mission, status and why, steps, time, and with room when it started."""
    word = status_word(run.status, resumable=run.resumable)
    why = f" {run.code or run.reason}" if (run.code or run.reason) and run.status.terminal else ""
    wide = width >= _WIDE
    name = fitted(run.mission, 20 if wide else 16)
    state = fitted(f"{status_glyph(run.status, resumable=run.resumable)} {word}{why}", 36 if wide else 26)
    return (
        piece(f"{run.run_id[:8]}  ", "dim"),
        piece(f"{name}  "),
        piece(f"{state}  ", run_role(run)),
        piece(f"{f'{run.steps_done}/{run.steps_total}':>7}  "),
        piece(f"{clock(run.duration_ms):>7}", "dim"),
        *((piece(f"  {run.created_at[5:16].replace('T', ' ')}", "dim"),) if wide else ()),
    )


def _run_line(run: str, mission: str, status: str, steps: str, time: str, started: str, width: int) -> str:
    if width >= _WIDE:
        return f"{run:<8}  {mission:<20}  {status:<36}  {steps:>7}  {time:>7}  {started}"
    return f"{run:<8}  {mission:<16}  {status:<26}  {steps:>7}  {time:>7}"


def fitted(text: str, width: int) -> SafeText:
    """Safe text cut or padded to a column."""
    return SafeText(f"{safe(text, limit=width):<{width}}")


def question_row(item: Escalation, mission: str) -> Row:
    """One open question: severity, run, step, and what is asked."""
    role: Role = "bad" if item.severity in ("critical", "error", "high") else "warn"
    return (
        piece("◐ " if item.blocking else "· ", role),
        piece(f"{item.severity:<8} ", role),
        piece(f"{item.run_id[:8]} {fitted(mission, 16)} ", "dim"),
        piece(f"{fitted(item.step_id, 12)} "),
        piece(item.reason),
    )


def question_details(item: Escalation, about: SafeText) -> list[Row]:
    """A question in full, with the value that reached the step asking it."""
    rows: list[Row] = [
        (piece(item.reason),),
        (),
        *(
            (piece(f"{label:<10}", "dim"), piece(value))
            for label, value in (
                ("run", item.run_id),
                ("step", item.step_id),
                ("severity", item.severity),
                ("asked", item.created_at),
                ("subject", f"{item.subject_digest[:23]}…"),
            )
        ),
    ]
    if about:
        rows.extend([(), (piece("input of the step", "dim"),)])
        rows.extend((piece("⟦mission⟧ ", "mark"), piece(line)) for line in about.splitlines())
    return rows


def mission_rows(missions: list[MissionInfo], state: HomeState) -> list[Row]:
    """The missions as list rows, names in one column."""
    width = min(24, max((len(item.name) for item in missions), default=0))
    last = state.last_runs()
    watches = [watch_of_mission(item.path, state.watches) for item in missions]
    column = any(watch is not None for watch in watches)
    return [
        (*(_watch_mark(watch) if column else ()), *_mission_row(item, last.get(item.name), width))
        for item, watch in zip(missions, watches, strict=True)
    ]


def _watch_mark(watch: WatchState | None) -> Row:
    if watch is None:
        return (piece("  "),)
    glyph, _, role = watch_glyph(watch)
    return (piece(f"{glyph} ", role),)


def _mission_row(mission: MissionInfo, last: RunSummary | None, width: int) -> Row:
    if mission.problems:
        count = len(mission.problems)
        state = piece(f"✗ {count} problem{'s' if count != 1 else ''}", "bad")
    elif last is None:
        state = piece("never run", "dim")
    else:
        word = status_word(last.status, resumable=last.resumable)
        state = piece(f"{status_glyph(last.status, resumable=last.resumable)} {word}", run_role(last))
    return (piece(f"{mission.name:<{width}}  "), state)


#: How the code of a pack may run, in words.
PACK_TRUST: Final[dict[str, tuple[str, Role]]] = {
    "none": ("nobody trusts it, so a launch is refused", "bad"),
    "confined": ("trusted, in a confined process", "plain"),
    "in_process": ("trusted, inside this program", "warn"),
}


def preview_rows(mission: MissionInfo) -> list[Row]:
    """What a mission is and may touch, for the preview beside the list."""
    rows: list[Row] = [(piece(mission.name, "accent"), piece(f"  v{mission.version}", "dim"))]
    if mission.problems:
        rows.extend(
            (piece(f"{item.line}:{item.column} ", "dim"), piece(f"{item.message} [{item.code}]", "bad"))
            for item in mission.problems
        )
        rows.extend([(), (piece(mission.path, "dim"),)])
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
            ("budget", _budget(int(envelope.get("max_budget_micros", 0)))),
            ("timeout", f"{envelope.get('timeout_seconds', '–')} s per operation"),
            *((("watch", ", ".join(mission.watch)),) if mission.watch else ()),
        )
    )
    rows.extend(
        (piece(f"{'packs':<10}" if index == 0 else " " * 10, "dim"), _pack(pack))
        for index, pack in enumerate(mission.packs)
    )
    rows.append(())
    rows.append((piece(f"blocks ({len(mission.nodes)})", "dim"),))
    rows.extend(
        (
            piece(f"  {node.node_id:<14} "),
            piece(f"{node.block_type:<12}", "dim"),
            piece(f"{safe(node.inside)}  " if node.inside else "", "dim"),
            piece(f"after {', '.join(node.after)}" if node.after else "", "dim"),
        )
        for node in mission.nodes
    )
    return rows


def _pack(pack: MissionPack) -> Piece:
    words, role = PACK_TRUST[pack.trust]
    return piece(f"{pack.name} {pack.version}: {words}", role)


def untrusted_line(mission: MissionInfo) -> str:
    """Why a launch would be refused, and what to do; empty when every pack it uses is trusted."""
    paths = [pack.path for pack in mission.packs if pack.trust == "none"]
    return f"nobody trusts a pack it uses; look at it, then: quarterdeck packs trust {paths[0]}" if paths else ""


def _budget(micros: int) -> str:
    return f"${micros / 1_000_000:.2f}" if micros else "none: no paid calls"


def _listing(value: object) -> str:
    items = list(value) if isinstance(value, list | tuple) else []
    return ", ".join(safe(item) for item in items) if items else "nothing"
