"""Decides whether a turn opens and how it ends. Pure: facts in, one predictable answer out.

Opening checks run in a fixed order and the first refusal wins, so a full house of faults still has one outcome.
Ending picks the strongest of everything that would end the turn; the rest is kept as superseded. Session state
lives elsewhere, and signals are drafts until the session's emitter stamps them (turn runtime §3.5; rulings R4,
R22, R25).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import Any, Final

from runtime.events.emitter import DecisionDraft, Draft
from runtime.events.envelope import EventScope, Role
from runtime.events.outcomes import DecisionScope, OutcomeKind, Phase
from runtime.kernel.errors import ContractError
from runtime.kernel.outcomes import Ending, Exit, RunStatus, failed_ending, operation_code
from runtime.turns.plan import PlanInputs, ResolvedTurnPlan, build_plan
from runtime.turns.profiles import PlanError

EVIDENCE_LOST: Final = "recording_evidence_unavailable"
#: Why a turn was cancelled that the operator's stop file ended.
KILL_SWITCH: Final = "kill_switch"
#: The operator action that lets a recurring run end after its current tick.
LAST_TICK: Final = "stop"


class Capacity(Enum):
    """Is there room for a turn? A busy work tree is ``DEFER`` (ruling R22)."""

    ALLOW = "allow"
    REJECT = "reject"
    DEFER = "defer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Facts of the session's lease. ``epoch`` 0 leaves the request's epoch in force."""

    epoch: int = 0
    valid: bool = True
    authorised: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAdmission:
    """The answer of policy admission; ``kind`` is admit, reject or defer."""

    kind: OutcomeKind
    reason: str
    scope: DecisionScope = DecisionScope.SESSION


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFacts:
    """Everything opening is decided from. ``plan`` None means the bundle could not be resolved.

    The failure policies accept only `Capacity.REJECT`; anything else defers.
    """

    session_id: str
    turn_id: str
    authority_epoch: int
    plan: PlanInputs | None
    snapshot_valid: bool = True
    capacity: Capacity = Capacity.ALLOW
    quota: Capacity = Capacity.ALLOW
    epoch_valid: bool = True
    authorised: bool = True
    lease: Lease | None = None
    policy_admission: PolicyAdmission | None = None
    snapshot_failure_policy: Capacity = Capacity.DEFER
    plan_failure_policy: Capacity = Capacity.DEFER


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenResult:
    """Opened with a frozen plan, or refused; ``trigger`` is the turn-table step the session takes.

    ``signals`` are ``admit``, ``turn_open`` or the one refusal. ``diagnostic`` says what a failed plan lacked.
    """

    trigger: str
    decision: DecisionDraft
    signals: tuple[Draft, ...]
    plan: ResolvedTurnPlan | None = None
    diagnostic: str = ""

    @property
    def opened(self) -> bool:
        return self.plan is not None


def open_turn(facts: OpenFacts) -> OpenResult:
    """Decide on a proposal. Raises `ContractError` only for facts that break their contract."""
    if not facts.session_id or not facts.turn_id:
        raise ContractError("schema_validation_error", "opening needs a session id and a turn id")
    refusal = _before_plan(facts)
    if refusal is not None:
        return refusal
    assert facts.plan is not None  # _before_plan refuses a missing bundle
    try:
        plan = build_plan(replace(facts.plan, authority_epoch=_effective_epoch(facts)))
        plan.verify(turn_id=facts.turn_id)
    except PlanError as error:
        kind = _by_policy(facts.plan_failure_policy)
        return replace(_refuse(facts, kind, "plan_materialization_failed"), diagnostic=error.message)
    reason = "admission_capacity_allow"
    return OpenResult(
        trigger="turn_open",
        decision=_decision(facts, OutcomeKind.ADMIT, reason, Role.ADMISSION, DecisionScope.TURN),
        signals=(
            Draft("admit", Role.ADMISSION, facts.turn_id, {"reason": reason}),
            Draft("turn_open", Role.ARBITER, facts.turn_id, {"scope": "turn"}),
        ),
        plan=plan,
    )


def _before_plan(facts: OpenFacts) -> OpenResult | None:
    if not facts.snapshot_valid:
        return _refuse(facts, _by_policy(facts.snapshot_failure_policy), "snapshot_invalid_or_missing")
    for what, room in (("capacity", facts.capacity), ("quota", facts.quota)):
        if room is not Capacity.ALLOW:
            return _refuse(facts, _by_policy(room), f"admission_{what}_{room.value}")
    authority = _authority(facts, facts.epoch_valid, facts.authorised)
    if authority is not None:
        return authority
    if facts.plan is None:
        return _refuse(facts, _by_policy(facts.plan_failure_policy), "turn_start_bundle_resolution_failed")
    lease = facts.lease or Lease()
    authority = _authority(facts, facts.epoch_valid and lease.valid, facts.authorised and lease.authorised)
    if authority is not None:
        return authority
    policy = facts.policy_admission
    if policy is None or policy.kind is OutcomeKind.ADMIT:
        return None
    return _refuse(facts, policy.kind, policy.reason, Role.CP_ADMISSION, policy.scope)


def _authority(facts: OpenFacts, epoch_valid: bool, authorised: bool) -> OpenResult | None:
    if not epoch_valid:
        return _refuse(facts, OutcomeKind.STALE_EPOCH_REJECT, "authority_epoch_mismatch", Role.GUARD)
    if not authorised:
        return _refuse(facts, OutcomeKind.DEAUTHORIZED_DRAIN, "authority_revoked_before_open", Role.GUARD)
    return None


def _effective_epoch(facts: OpenFacts) -> int:
    return facts.lease.epoch if facts.lease and facts.lease.epoch > 0 else facts.authority_epoch


def _by_policy(policy: Capacity) -> OutcomeKind:
    return OutcomeKind.REJECT if policy is Capacity.REJECT else OutcomeKind.DEFER


def _refuse(
    facts: OpenFacts,
    kind: OutcomeKind,
    reason: str,
    role: Role = Role.ADMISSION,
    scope: DecisionScope = DecisionScope.TURN,
) -> OpenResult:
    turn_id = facts.turn_id if scope is DecisionScope.TURN else None
    # The decision may be about the turn; its signal is the session's, because a refused turn never existed.
    members: dict[str, Any] = {"reason": reason, "event_scope": EventScope.SESSION}
    return OpenResult(
        trigger=kind.value,
        decision=_decision(facts, kind, reason, role, scope),
        signals=(Draft(kind.value, role, turn_id, members),),
    )


def _decision(facts: OpenFacts, kind: OutcomeKind, reason: str, role: Role, scope: DecisionScope) -> DecisionDraft:
    turn_id = facts.turn_id if scope is DecisionScope.TURN else None
    return DecisionDraft(kind=kind, emitted_by=role, phase=Phase.PRE_TURN, scope=scope, reason=reason, turn_id=turn_id)


class Rank(IntEnum):
    """What can end a turn, strongest first."""

    AUTHORITY_LOSS = 1
    CANCELLED = 2
    BUDGET_EXHAUSTED = 3
    PROVIDER_FAILURE = 4
    NODE_FAILURE = 5
    CHANNEL_LOST = 6
    EVIDENCE_LOST = 7
    NO_LEGAL_PATH = 8
    SUCCESS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One thing that would end the turn.

    ``reason`` says why in the vocabulary of its rank: a cancel reason, or the abort reason of rank 8. ``code`` is
    the innermost operation or block code, if any. Use the constructors below.
    """

    rank: Rank
    reason: str = ""
    code: str | None = None
    ending: Ending


def authority_lost(reason: str = "authority_revoked_in_turn") -> Trigger:
    ending = Ending(RunStatus.FAILED, "authority_loss", Exit.FAILED)
    return Trigger(rank=Rank.AUTHORITY_LOSS, reason=reason, ending=ending)


def cancelled(reason: str = "operator_cancel", *, terminated: bool = False, code: str | None = None) -> Trigger:
    """Cancel was accepted for the turn or its session; ``terminated``: this process got SIGTERM (exit 143)."""
    ending = Ending(RunStatus.CANCELLED, "cancelled", Exit.TERMINATED if terminated else Exit.INTERRUPTED)
    return Trigger(rank=Rank.CANCELLED, reason=reason, code=code, ending=ending)


def budget_exhausted(*, by_time: bool, code: str | None = None) -> Trigger:
    """The turn's budget is used up: time (exit 124), or money, tokens or calls (exit 5)."""
    status, exit_code = (RunStatus.TIMED_OUT, Exit.TIMED_OUT) if by_time else (RunStatus.FAILED, Exit.BUDGET)
    ending = Ending(status, "budget_exhausted", exit_code)
    return Trigger(rank=Rank.BUDGET_EXHAUSTED, reason="budget_exhausted", code=code, ending=ending)


def provider_failed(code: str | None = None) -> Trigger:
    ending = Ending(RunStatus.FAILED, "provider_failure", Exit.FAILED)
    return Trigger(rank=Rank.PROVIDER_FAILURE, code=code, ending=ending)


def node_failed(code: str | None) -> Trigger:
    """The workflow returned failed with ``code``; what stands behind the code decides rank and ending.

    A failure caused by a fence or the kill switch is that cancel (ruling R27), never a node failure of its own.
    """
    match operation_code(code or ""):
        case "KILL_SWITCH":
            return cancelled(KILL_SWITCH, code=code)
        case "OP_CANCELLED" | "runtime.canceled":
            return cancelled(code=code)
    return Trigger(rank=Rank.NODE_FAILURE, code=code, ending=failed_ending(code))


def channel_lost(reason: str = "disconnect_deadline") -> Trigger:
    ending = Ending(RunStatus.FAILED, "transport_disconnect_or_stall", Exit.FAILED)
    return Trigger(rank=Rank.CHANNEL_LOST, reason=reason, ending=ending)


def evidence_lost() -> Trigger:
    return Trigger(rank=Rank.EVIDENCE_LOST, ending=Ending(RunStatus.FAILED, EVIDENCE_LOST, Exit.FAILED))


def no_legal_path(reason: str = "no_legal_path", *, code: str | None = None) -> Trigger:
    """Nothing may go on; also the rank of faults such as ``control_lane_overflow`` or ``runtime_internal_error``."""
    ending = Ending(RunStatus.FAILED, reason, Exit.FAILED)
    return Trigger(rank=Rank.NO_LEGAL_PATH, reason=reason, code=code, ending=ending)


def succeeded(*, skipped: bool = False) -> Trigger:
    status = RunStatus.SKIPPED if skipped else RunStatus.SUCCEEDED
    return Trigger(rank=Rank.SUCCESS, ending=Ending(status, None, Exit.OK))


def work_ended(*, success: bool, skipped: bool = False, code: str | None = None, message: str = "") -> Trigger:
    """The workflow has returned: what that amounts to."""
    if success:
        return succeeded()
    if skipped:
        return replace(succeeded(skipped=True), code=code, reason=message)
    return because(node_failed(code), message)


def because(trigger: Trigger, message: str) -> Trigger:
    """Say why in the work's own words; a stop keeps the reason it is recognised by."""
    return trigger if trigger.rank is Rank.CANCELLED else replace(trigger, reason=message)


def stopped(reason: str) -> Trigger:
    """The trigger behind a journalled cancel, by the reason it was recorded with."""
    return budget_exhausted(by_time=True) if reason == "budget_exhausted" else cancelled(reason)


def journalled_stop(entries: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The stop a journal tells of: its verb (``cancel`` or ``terminate``) and its reason."""
    reason, verb = None, "cancel"
    for entry in entries:
        if entry["kind"] == "signal":
            told = [item for item in entry["signals"] if item["signal"] == "cancel"]
            reason = str(told[0].get("reason")) if told else reason
        elif entry["kind"] == "operator_action" and entry["action"] in ("cancel", "terminate"):
            verb = str(entry["action"])
    return None if reason is None else (verb, reason)


def journalled_last_tick(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Was a recurring run told to end after its tick?"""
    return any(entry["kind"] == "operator_action" and entry["action"] == LAST_TICK for entry in entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """How the turn ends. ``superseded`` lost against it; ``superseded_reason`` is set when evidence was lost."""

    trigger: Trigger
    superseded: tuple[Trigger, ...] = ()
    superseded_reason: str | None = None

    @property
    def ending(self) -> Ending:
        return self.trigger.ending

    @property
    def commits(self) -> bool:
        return self.ending.reason is None

    @property
    def journal_status(self) -> str:
        """The status of the ``journal_closed`` entry (ruling R4)."""
        if self.trigger.rank is Rank.CANCELLED and self.trigger.reason == KILL_SWITCH:
            return "halted"
        return "completed" if self.ending.status is RunStatus.SUCCEEDED else self.ending.status.value

    def record(self) -> dict[str, Any]:
        """What evidence keeps about the choice."""
        lost = [{"rank": int(item.rank), "reason": item.reason or item.ending.reason or ""} for item in self.superseded]
        return {
            "rank": int(self.trigger.rank),
            "reason": self.ending.reason,
            "code": self.trigger.code,
            "superseded_triggers": lost,
            "superseded_reason": self.superseded_reason,
        }


def choose(triggers: Iterable[Trigger]) -> Terminal | None:
    """The strongest of all pending triggers, first come first among equals; None when nothing is pending."""
    ranked = sorted(triggers, key=lambda trigger: trigger.rank)
    return Terminal(trigger=ranked[0], superseded=tuple(ranked[1:])) if ranked else None


def without_evidence(terminal: Terminal) -> Terminal:
    """The end that replaces ``terminal`` when its evidence could not be appended (turn runtime §3.5.3)."""
    kept = terminal.ending.reason or "commit"
    return Terminal(
        trigger=evidence_lost(), superseded=(terminal.trigger, *terminal.superseded), superseded_reason=kept
    )


def preceding_signals(terminal: Terminal, turn_id: str) -> tuple[Draft, ...]:
    """What must be signalled before the terminal itself."""
    trigger = terminal.trigger
    why = {"reason": trigger.reason, "scope": "turn"}
    match trigger.rank:
        case Rank.AUTHORITY_LOSS:
            return (Draft("deauthorized_drain", Role.GUARD, turn_id, why),)
        case Rank.BUDGET_EXHAUSTED:
            return tuple(Draft(name, Role.BUDGET, turn_id, why) for name in ("budget_warning", "budget_exhausted"))
        case Rank.CHANNEL_LOST:
            return tuple(Draft(name, Role.CONNECTION, turn_id, why) for name in ("disconnected", "stall"))
    return ()


def preceding_decision(terminal: Terminal, turn_id: str) -> DecisionDraft | None:
    """The decision that goes with losing authority inside a turn."""
    if terminal.trigger.rank is not Rank.AUTHORITY_LOSS:
        return None
    return DecisionDraft(
        kind=OutcomeKind.DEAUTHORIZED_DRAIN,
        emitted_by=Role.GUARD,
        phase=Phase.ACTIVE_TURN,
        scope=DecisionScope.TURN,
        reason=terminal.trigger.reason,
        turn_id=turn_id,
    )


def terminal_signal(terminal: Terminal, turn_id: str) -> Draft:
    """``commit`` or ``abort``."""
    if terminal.commits:
        return Draft("commit", Role.ARBITER, turn_id)
    return Draft("abort", Role.ARBITER, turn_id, {"reason": terminal.ending.reason})


def close_signal(turn_id: str) -> Draft:
    return Draft("close", Role.ARBITER, turn_id)
