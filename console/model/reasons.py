"""Why a key is off just now. A disabled key always has an answer to "why?", in the help and when it is pressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from console.model.bundles import obstacle
from console.model.compare import REPLAY
from console.model.fold import RunState
from console.model.home import HomeState, holder_text, watch_of_mission, watch_stands
from console.model.replay import Replay, step_at
from console.model.rows import bad_place
from console.model.words import status_word
from runtime.events.facts import BundlePlan, Comparison, Escalation, RunSummary, Verification, WatchState
from runtime.host.api import MissionInfo, RunStatus

_MUTATIONS = frozenset({"cancel", "terminate", "stop", "pause", "resume", "answer", "launch", "again", "fork"}) | {
    "toggle_watch",
    "undo",
    "rearm",
    "unwatch",
}
NO_JOURNAL: Final = "this run has no journal: it was refused"


def observer_reason(action: str, home: HomeState) -> str | None:
    """Why an observing console may not do this."""
    if action in _MUTATIONS and home.read_only:
        return f"this console only observes: {holder_text(home.holder)}"
    return None


def run_reason(action: str, choice: str, state: RunState | None) -> str | None:
    """Why an action on the open run is off; None when it is on."""
    if state is None:
        return "the run is still being opened"
    if action in ("cancel", "terminate", "stop", "pause"):
        return _control_reason(action, state.run)
    if action == "resume":
        return resume_reason(state.run)
    if action == "answer" and state.run.resumable:
        return "nobody holds the run; r resumes it, and it asks again"
    if action == "answer":
        return answer_reason(state.waiting, choice)
    return None


def _control_reason(action: str, run: RunSummary) -> str | None:
    if run.status.terminal:
        return f"the run has ended: {status_word(run.status)}"
    if run.resumable and action in ("stop", "pause"):
        return "nobody holds the run; r resumes it"
    if run.status is RunStatus.STOPPING and action != "terminate":
        return "the run is stopping already"
    return None


def journal_reason(action: str, entries: int) -> str | None:
    """Why a journal cannot be searched or checked; None when it can."""
    if action in ("filter", "seek", "verdicts", "proof") and not entries:
        return NO_JOURNAL
    return None


def verdicts_reason(run: RunSummary | None) -> str | None:
    """Why there is no journal to judge; None when there is one."""
    if run is None:
        return "select a run first"
    return NO_JOURNAL if run.status is RunStatus.REFUSED else None


def evidence_reason(action: str, verdict: Verification | None, *, checking: bool) -> str | None:
    """Why an action of the verify view is off; None when it is on."""
    if action == "check" and checking:
        return "the check is running"
    if action == "bad" and (verdict is None or bad_place(verdict) is None):
        return "not checked yet" if verdict is None else "no entry is known to be bad"
    if action == "proof" and verdict is not None and not verdict.checkpoint_size:
        return "no checkpoint covers an entry yet: there is nothing to prove one by"
    return None


def export_reason(run: RunSummary | None) -> str | None:
    """Why a run cannot be handed on; None when it may be."""
    if run is None:
        return "select a run first"
    if run.resumable:
        return "nobody holds the run, and it has not ended; r resumes it, x cancels it"
    if not run.status.terminal:
        return f"the run has not ended: {status_word(run.status)}"
    return lookback_reason(run)


def sheet_reason(action: str, plan: BundlePlan | None, *, planning: bool, exporting: bool) -> str | None:
    """Why an action of the export sheet is off; None when it is on."""
    if action in ("export", "plan") and exporting:
        return "it is being exported"
    if action == "export" and planning:
        return "what it would hold is being worked out"
    if action == "export" and plan is None:
        return "what it would hold is not known; ctrl+r tries again"
    stopped = obstacle(plan) if action == "export" and plan is not None else None
    return f"it cannot be exported: {stopped.detail} [{stopped.code}]" if stopped is not None else None


def run_selected_reason(run: RunSummary | None) -> str | None:
    """Why nothing can be looked at; None when a run is selected."""
    return "select a run first" if run is None else None


def resume_reason(run: RunSummary | None) -> str | None:
    """Why a run cannot be resumed; None when it can."""
    if run is None:
        return "select a run first"
    if run.resumable or run.status is RunStatus.PAUSED:
        return None
    if run.status.terminal:
        return f"the run has ended: {status_word(run.status)}"
    return f"the run is {status_word(run.status)}; only paused and resumable runs resume"


def again_reason(run: RunSummary | None, mission: MissionInfo | None) -> str | None:
    """Why a run cannot be run again or forked; None when it can. ``mission`` is its file as far as it was looked at."""
    if run is None:
        return "select a run first"
    if run.resumable:
        return "nobody holds the run, and it has not ended; r resumes it"
    if not run.status.terminal:
        return f"the run has not ended: {status_word(run.status)}"
    if mission is not None and mission.problems:
        return f"its mission cannot be run now: {mission.problems[0].message}"
    return None


def undo_reason(run: RunSummary | None) -> str | None:
    """Why a run cannot be undone; None when it may be, if anything it wrote stands."""
    if run is None:
        return "select a run first"
    if run.resumable or not run.status.terminal:
        return "the run has not ended; x cancels it and undoes what it did"
    if not run.entries:
        return "it has no journal: it never began"
    return "it undid another run; F runs the mission again" if run.trigger == "undo" else None


def answer_reason(questions: Sequence[Escalation], choice: str) -> str | None:
    """Why the first open question cannot be answered so; None when it can."""
    waiting = [item for item in questions if item.blocking]
    if not waiting:
        return "no question is open"
    if choice and waiting[0].choices and choice not in waiting[0].choices:
        return f"this question offers {', '.join(waiting[0].choices)}; enter chooses"
    return None


def launch_reason(mission: MissionInfo | None) -> str | None:
    """Why a mission cannot be launched; None when it can."""
    if mission is None:
        return "no mission is selected"
    if mission.problems:
        return "this mission does not load; the preview lists its problems"
    return None


def lookback_reason(run: RunSummary | None) -> str | None:
    """Why a run can be neither replayed nor compared; None when it can."""
    if run is None:
        return "select a run first"
    if not run.entries:
        return f"it has no journal: {run.code or status_word(run.status, resumable=run.resumable)}"
    return None


def position_reason(action: str, replay: Replay, *, checking: bool) -> str | None:
    """Why an action of the replay screen is off at this position; None when it is on."""
    if action == "bookmarks" and not replay.bookmarks:
        return "no bookmarks yet; b sets one"
    if action == "check" and checking:
        return "the check is running"
    if action == "report" and replay.report is None:
        return "R runs the recorded check first"
    if action == "fork" and step_at(replay) is None:
        return "no step has begun here"
    return None


def comparison_reason(action: str, choice: str, comparison: Comparison) -> str | None:
    """Why an action of the compare screen is off; None when it is on."""
    if comparison.other == REPLAY and (action == "swap" or (action == "open" and choice == "other")):
        return "the other side is a replay in memory: there is no run to stand on"
    return None


def toggle_watch_reason(mission: MissionInfo | None, home: HomeState) -> str | None:
    """Why a mission can be neither watched with its default inputs nor let go; None when it can."""
    if mission is None:
        return "no mission is selected"
    if watch_of_mission(mission.path, home.watches) is not None:
        return None
    if mission.problems:
        return "this mission does not load; the preview lists its problems"
    if not mission.watch:
        return "this mission has no `watch:` section: it does not say which files to watch"
    needed = [item.name for item in mission.inputs if item.required]
    if needed:
        return f"this mission needs {', '.join(needed)}: `quarterdeck watch PATH --input {needed[0]}=…` watches it"
    return None


def rearm_reason(state: WatchState | None) -> str | None:
    """Why a watch need not be resumed; None when it stands still."""
    if state is None:
        return "no watch is selected"
    return None if watch_stands(state) else f"it is {state.status}: only suspended and failed watches resume"


def watch_reason(action: str, state: WatchState | None) -> str | None:
    """Why nothing else can be done with a watch; None when it can."""
    if state is None:
        return "no watch is selected"
    if action == "open" and state.active_run_id is None and state.last_run_id is None:
        return "no change has started a run yet"
    return None
