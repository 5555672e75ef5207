"""Why a key is off just now. A disabled key always has an answer to "why?", in the help and when it is pressed."""

from __future__ import annotations

from collections.abc import Sequence

from console.model.fold import RunState
from console.model.home import HomeState, holder_text
from console.model.words import status_word
from runtime.events.facts import Escalation, RunSummary
from runtime.host.api import MissionInfo, RunStatus

_MUTATIONS = frozenset({"cancel", "terminate", "pause", "resume", "answer", "launch"})


def observer_reason(action: str, home: HomeState) -> str | None:
    """Why an observing console may not do this."""
    if action in _MUTATIONS and home.read_only:
        return f"this console only observes: {holder_text(home.holder)}"
    return None


def run_reason(action: str, choice: str, state: RunState | None) -> str | None:
    """Why an action on the open run is off; None when it is on."""
    if state is None:
        return "the run is still being opened"
    if action in ("cancel", "terminate", "pause"):
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
    if run.resumable and action == "pause":
        return "nobody holds the run; r resumes it"
    if run.status is RunStatus.STOPPING and action != "terminate":
        return "the run is stopping already"
    return None


def detail_reason(action: str, state: RunState | None) -> str | None:
    """Why something about the run in detail is off; None when it is on."""
    if state is None:
        return "the run is still being opened"
    return resume_reason(state.run) if action == "resume" else None


def journal_reason(action: str, entries: int) -> str | None:
    """Why a journal cannot be searched or checked; None when it can."""
    if action in ("filter", "seek", "verify") and not entries:
        return "this run has no journal: it was refused"
    return None


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
