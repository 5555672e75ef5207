"""The only owner of session and turn state: two transition tables, and everything not in them is refused.

A refused step raises and changes nothing. Proposing a turn while another runs is not an error but a question the
overlap policy answers. Synchronous, owned by the runtime loop (turn runtime §3.4; rulings R1, R27).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from runtime.events.emitter import DecisionDraft, Draft
from runtime.events.envelope import Role
from runtime.events.outcomes import DecisionScope, OutcomeKind, Phase
from runtime.kernel.clock import Clock
from runtime.kernel.errors import ContractError

#: Turn runtime §11.
LATE_WINDOW: Final = 30.0
MAX_TOMBSTONES: Final = 1024
DRAIN_DEADLINE: Final = 30.0
QUEUE_LIMIT: Final = 8
MAX_SESSIONS: Final = 1024


class SessionState(Enum):
    """Where a session is. `ENDED` is absorbing."""

    CONNECTING = "CONNECTING"
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    ENDED = "ENDED"


class TurnState(Enum):
    """Where a turn is. Pausing is a sub-state of `ACTIVE`."""

    IDLE = "Idle"
    OPENING = "Opening"
    ACTIVE = "Active"
    TERMINAL = "Terminal"
    CLOSED = "Closed"


_DRAIN: Final = ("drain_requested", "authority_revoked", "lease_expired", "disconnect_deadline", "runtime_shutdown")

SESSION_TABLE: Final[Mapping[tuple[SessionState, str], SessionState]] = MappingProxyType(
    {
        (SessionState.CONNECTING, "link_connected"): SessionState.ACTIVE,
        (SessionState.CONNECTING, "open_refused"): SessionState.ENDED,
        (SessionState.CONNECTING, "link_timeout"): SessionState.ENDED,
        **{(SessionState.ACTIVE, trigger): SessionState.DRAINING for trigger in _DRAIN},
        (SessionState.DRAINING, "drained"): SessionState.ENDED,
        (SessionState.DRAINING, "drain_deadline"): SessionState.ENDED,
        **{(state, "session_end"): SessionState.ENDED for state in list(SessionState)[:3]},
    }
)

TURN_TABLE: Final[Mapping[tuple[TurnState, str], TurnState]] = MappingProxyType(
    {
        (TurnState.IDLE, "turn_open_proposed"): TurnState.OPENING,
        (TurnState.OPENING, "turn_open"): TurnState.ACTIVE,
        **{
            (TurnState.OPENING, kind): TurnState.IDLE
            for kind in ("reject", "defer", "stale_epoch_reject", "deauthorized_drain")
        },
        (TurnState.ACTIVE, "commit"): TurnState.TERMINAL,
        (TurnState.ACTIVE, "abort"): TurnState.TERMINAL,
        (TurnState.TERMINAL, "close"): TurnState.CLOSED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step that was taken."""

    entity: str
    id: str
    trigger: str
    before: str
    after: str
    deterministic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """What is kept of a closed turn while late events for it may still arrive."""

    turn_id: str
    outcome: str
    reason: str | None
    epoch: int
    closed_at: float


class OverlapPolicy(Enum):
    """What a proposal meets while another turn is opening or active."""

    REJECT = "reject"
    QUEUE = "queue"
    PREEMPT = "preempt"


class Admission(Enum):
    """What became of a proposal. ``PREEMPTING``: queued first, the current turn is to be cancelled."""

    OPENING = "opening"
    QUEUED = "queued"
    PREEMPTING = "preempting"
    REJECTED = "rejected"
    DEFERRED = "deferred"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalResult:
    """The answer to a proposal; drafts are for the session's emitter."""

    admission: Admission
    transition: Transition | None = None
    decision: DecisionDraft | None = None
    signals: tuple[Draft, ...] = ()
    preempted: str | None = None


class LatePolicy(Enum):
    """What becomes of an event for a closed turn."""

    DROP = "drop"
    REMAP_NEXT_TURN = "remap_next_turn"
    DIAGNOSTICS_ONLY = "diagnostics_only"


class LateVerdict(Enum):
    """The answer about one late event."""

    STALE_EPOCH = "stale_epoch"
    DROPPED = "dropped"
    PROPOSE_NEW_TURN = "propose_new_turn"
    DIAGNOSTICS = "diagnostics"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """What the operator sees of a session: ``connected``, ``running``, ``degraded`` or ``ended``."""

    session_id: str
    status: str
    updated_at: float
    last_reason: str


@dataclass(slots=True)
class _Turn:
    turn_id: str
    state: TurnState = TurnState.IDLE
    epoch: int = 0
    outcome: str = ""
    reason: str | None = None
    paused: bool = False


class Session:
    """One session and its turns. Hard errors are `ContractError` ``invalid_transition`` and change nothing."""

    def __init__(
        self,
        session_id: str,
        *,
        clock: Clock,
        overlap: OverlapPolicy = OverlapPolicy.QUEUE,
        late: LatePolicy = LatePolicy.DIAGNOSTICS_ONLY,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        if not session_id:
            raise ContractError("schema_validation_error", "a session needs an id")
        self.session_id = session_id
        self.state = SessionState.CONNECTING
        self.degraded: set[str] = set()
        self.drain_deadline_at: float | None = None
        self._clock = clock
        self._overlap = overlap
        self._late = late
        self._queue_limit = queue_limit
        self._queue: deque[str] = deque()
        self._turns: dict[str, _Turn] = {}
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()
        self._updated_at = clock.monotonic()
        self._last_reason = "session_open"

    @property
    def current(self) -> str | None:
        """The turn that is opening, active or terminal, if any; there is never more than one."""
        return next(iter(self._turns), None)

    @property
    def queued(self) -> tuple[str, ...]:
        return tuple(self._queue)

    def turn_state(self, turn_id: str) -> TurnState:
        """Idle for a turn nobody knows, Closed while its tombstone lasts."""
        turn = self._turns.get(turn_id)
        if turn is not None:
            return turn.state
        return TurnState.CLOSED if self.tombstone(turn_id) else TurnState.IDLE

    def paused(self, turn_id: str) -> bool:
        turn = self._turns.get(turn_id)
        return turn is not None and turn.paused

    def tombstone(self, turn_id: str) -> Tombstone | None:
        self._bury_old()
        return self._tombstones.get(turn_id)

    def status(self) -> StatusView:
        """The operator's view."""
        word = "connected"
        if self.state is SessionState.ENDED:
            word = "ended"
        elif self.degraded:
            word = "degraded"
        elif self._turns:
            word = "running"
        return StatusView(
            session_id=self.session_id, status=word, updated_at=self._updated_at, last_reason=self._last_reason
        )

    def move(self, trigger: str) -> Transition:
        """Take a step of the session table."""
        after = SESSION_TABLE.get((self.state, trigger))
        if after is None:
            raise _illegal("session", self.session_id, self.state.value, trigger)
        if trigger == "drained" and (self._turns or self._queue):
            raise _illegal("session", self.session_id, f"{self.state.value} with turns left", trigger)
        before, self.state = self.state, after
        if after is SessionState.DRAINING:
            self.drain_deadline_at = self._clock.monotonic() + DRAIN_DEADLINE
            self._queue.clear()
        self._touch(trigger)
        return _step("session", self.session_id, trigger, before.value, after.value)

    def drain_overdue(self) -> bool:
        """Has a draining session used up its deadline?"""
        due = self.drain_deadline_at
        return self.state is SessionState.DRAINING and due is not None and self._clock.monotonic() >= due

    def propose(self, turn_id: str, *, epoch: int = 0, overlap: OverlapPolicy | None = None) -> ProposalResult:
        """Ask for a turn; an operator interrupt asks with ``overlap=PREEMPT``.

        The result is ``OPENING`` when gating may begin. Queued turns are handed out by `next_queued`.
        """
        if self.state is SessionState.DRAINING:
            return _refused(Admission.REJECTED, OutcomeKind.REJECT, "drain_requested", turn_id)
        current = self.current
        if current is None and not self._queue:
            return ProposalResult(admission=Admission.OPENING, transition=self.open_turn(turn_id, epoch=epoch))
        self._check_new(turn_id)
        if turn_id in self._queue:
            raise _illegal("turn", turn_id, "queued", "turn_open_proposed")
        match overlap or self._overlap:
            case OverlapPolicy.REJECT:
                return _refused(Admission.REJECTED, OutcomeKind.REJECT, "turn_overlap_rejected", turn_id)
            case OverlapPolicy.QUEUE:
                return self._enqueue(turn_id)
            case OverlapPolicy.PREEMPT:
                return self._preempt(current, turn_id)

    def next_queued(self) -> str | None:
        """Take the next waiting turn out of the queue, once nothing is current; it re-enters gating."""
        if self._turns or not self._queue or self.state is not SessionState.ACTIVE:
            return None
        return self._queue.popleft()

    def open_turn(self, turn_id: str, *, epoch: int = 0) -> Transition:
        """Idle → Opening, the low-level step; a hard error while another turn is current."""
        self._check_new(turn_id)
        if self.state is not SessionState.ACTIVE or self._turns:
            place = f"{self.state.value} with turn {self.current}" if self._turns else self.state.value
            raise _illegal("turn", turn_id, place, "turn_open_proposed")
        turn = _Turn(turn_id, epoch=epoch)
        self._turns[turn_id] = turn
        return self._step_turn(turn, "turn_open_proposed", None)

    def advance(self, turn_id: str, trigger: str, *, reason: str | None = None) -> Transition:
        """Take a step of the turn table with a turn that is opening, active or terminal."""
        turn = self._known(turn_id, trigger)
        if (turn.state, trigger) not in TURN_TABLE:
            raise _illegal("turn", turn_id, turn.state.value, trigger)
        return self._step_turn(turn, trigger, reason)

    def fail_open(self, turn_id: str) -> Transition:
        """Opening failed unexpectedly: back to Idle by deferral, so the session stays usable."""
        return self.advance(turn_id, "defer", reason="open_path_internal_error")

    def pause(self, turn_id: str) -> bool:
        """Pause an active turn; False when it is paused already."""
        return self._set_paused(turn_id, "pause", True)

    def resume(self, turn_id: str) -> bool:
        """Resume a paused turn; False when it is not paused."""
        return self._set_paused(turn_id, "resume", False)

    def late_event(self, *, epoch: int, current_epoch: int, policy: LatePolicy | None = None) -> LateVerdict:
        """What to do with an event for a closed turn: the epoch is checked before any policy."""
        if epoch != current_epoch:
            return LateVerdict.STALE_EPOCH
        return {
            LatePolicy.DROP: LateVerdict.DROPPED,
            LatePolicy.REMAP_NEXT_TURN: LateVerdict.PROPOSE_NEW_TURN,
            LatePolicy.DIAGNOSTICS_ONLY: LateVerdict.DIAGNOSTICS,
        }[policy or self._late]

    def _step_turn(self, turn: _Turn, trigger: str, reason: str | None) -> Transition:
        before, turn.state = turn.state, TURN_TABLE[turn.state, trigger]
        turn.paused = False
        if turn.state is TurnState.TERMINAL:
            turn.outcome, turn.reason = trigger, reason
        elif turn.state is TurnState.IDLE:
            del self._turns[turn.turn_id]
        elif turn.state is TurnState.CLOSED:
            self._bury(turn)
        self._touch(reason or trigger)
        return _step("turn", turn.turn_id, trigger, before.value, turn.state.value)

    def _set_paused(self, turn_id: str, trigger: str, paused: bool) -> bool:
        turn = self._known(turn_id, trigger)
        if turn.state is not TurnState.ACTIVE:
            raise _illegal("turn", turn_id, turn.state.value, trigger)
        changed = turn.paused is not paused
        turn.paused = paused
        return changed

    def _enqueue(self, turn_id: str) -> ProposalResult:
        if len(self._queue) >= self._queue_limit:
            return _refused(Admission.DEFERRED, OutcomeKind.DEFER, "turn_overlap_deferred", turn_id)
        self._queue.append(turn_id)
        return ProposalResult(admission=Admission.QUEUED)

    def _preempt(self, current: str | None, turn_id: str) -> ProposalResult:
        if len(self._queue) >= self._queue_limit:
            return _refused(Admission.DEFERRED, OutcomeKind.DEFER, "turn_overlap_deferred", turn_id)
        self._queue.appendleft(turn_id)
        if current is None:
            return ProposalResult(admission=Admission.QUEUED)
        why = {"reason": "preempted"}
        signals = (
            Draft("barge_in", Role.CANCEL, current, why),
            Draft("cancel", Role.CANCEL, current, {**why, "scope": "turn"}),
        )
        return ProposalResult(admission=Admission.PREEMPTING, signals=signals, preempted=current)

    def _check_new(self, turn_id: str) -> None:
        if not turn_id:
            raise ContractError("schema_validation_error", "a turn needs an id")
        state = self.turn_state(turn_id)
        if state is not TurnState.IDLE:
            raise _illegal("turn", turn_id, state.value, "turn_open_proposed")
        if self.state is not SessionState.ACTIVE:
            raise _illegal("session", self.session_id, self.state.value, "turn_open_proposed")

    def _known(self, turn_id: str, trigger: str) -> _Turn:
        turn = self._turns.get(turn_id)
        if turn is None:
            raise _illegal("turn", turn_id, self.turn_state(turn_id).value, trigger)
        return turn

    def _bury(self, turn: _Turn) -> None:
        del self._turns[turn.turn_id]
        self._tombstones[turn.turn_id] = Tombstone(
            turn_id=turn.turn_id,
            outcome=turn.outcome,
            reason=turn.reason,
            epoch=turn.epoch,
            closed_at=self._clock.monotonic(),
        )
        self._bury_old()

    def _bury_old(self) -> None:
        horizon = self._clock.monotonic() - LATE_WINDOW
        while self._tombstones:
            oldest = next(iter(self._tombstones.values()))
            if len(self._tombstones) <= MAX_TOMBSTONES and oldest.closed_at > horizon:
                return
            self._tombstones.popitem(last=False)

    def _touch(self, reason: str) -> None:
        self._updated_at = self._clock.monotonic()
        self._last_reason = reason


class SessionManager:
    """The sessions of this process. Ended ones are forgotten oldest first when there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def open(
        self,
        session_id: str,
        *,
        overlap: OverlapPolicy = OverlapPolicy.QUEUE,
        late: LatePolicy = LatePolicy.DIAGNOSTICS_ONLY,
    ) -> Session:
        """A new session in CONNECTING; its id must be new."""
        if session_id in self._sessions:
            raise _illegal("session", session_id, self._sessions[session_id].state.value, "session_open")
        self._make_room()
        session = Session(session_id, clock=self._clock, overlap=overlap, late=late)
        self._sessions[session_id] = session
        return session

    def get(self, session_id: str) -> Session:
        """The session; raises `ContractError` ``session_not_found``."""
        session = self._sessions.get(session_id)
        if session is None:
            raise ContractError("session_not_found", f"there is no session {session_id!r}")
        return session

    def status(self, session_id: str) -> StatusView:
        """The operator's view; an unknown session has ended."""
        session = self._sessions.get(session_id)
        if session is not None:
            return session.status()
        now = self._clock.monotonic()
        return StatusView(session_id=session_id, status="ended", updated_at=now, last_reason="session_not_found")

    def _make_room(self) -> None:
        if len(self._sessions) < MAX_SESSIONS:
            return
        ended = next((name for name, item in self._sessions.items() if item.state is SessionState.ENDED), None)
        if ended is None:
            raise ContractError("admission_capacity_reject", f"{MAX_SESSIONS} sessions are open; end some first")
        del self._sessions[ended]


def _step(entity: str, id: str, trigger: str, before: str, after: str) -> Transition:
    return Transition(entity=entity, id=id, trigger=trigger, before=before, after=after)


def _illegal(entity: str, id: str, state: str, trigger: str) -> ContractError:
    return ContractError("invalid_transition", f"{entity} {id} is {state}; {trigger} is not possible there")


def _refused(admission: Admission, kind: OutcomeKind, reason: str, turn_id: str) -> ProposalResult:
    decision = DecisionDraft(
        kind=kind,
        emitted_by=Role.ADMISSION,
        phase=Phase.PRE_TURN,
        scope=DecisionScope.TURN,
        reason=reason,
        turn_id=turn_id,
    )
    signal = Draft(kind.value, Role.ADMISSION, turn_id, {"reason": reason})
    return ProposalResult(admission=admission, decision=decision, signals=(signal,))
