"""What each turn reason means: snake-case reasons of admission, arbitration, lanes, pools and the egress fence.

Data only, in the order of the turn runtime specification's closed list, with what rulings R4 and R6 add.
`runtime.kernel.codes` is the door to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_ADMISSION: Final = {
    "admission_capacity_allow": "There was room, and the turn was admitted.",
    "admission_capacity_reject": "There was no room for the turn.",
    "admission_capacity_defer": "There is no room for the turn yet.",
    "admission_quota_reject": "A quota is used up.",
    "admission_quota_defer": "A quota is used up for now.",
    "snapshot_invalid_or_missing": "The facts needed to open the turn are missing or stale.",
    "turn_start_bundle_resolution_failed": "The inputs of the turn's plan could not be resolved.",
    "plan_materialization_failed": "The turn's plan is not valid.",
    "plan_identity_mismatch": "A plan was used with a turn, version or epoch that is not its own.",
    "turn_overlap_rejected": "Another turn of the session is running.",
    "turn_overlap_deferred": "Another turn is running and the queue behind it is full.",
    "open_path_internal_error": "Opening the turn failed unexpectedly.",
    "scheduling_point_shed": "Work was refused at a scheduling point.",
    "cp_admission_allowed": "Policy admits the turn.",
    "cp_admission_defer_capacity": "Policy defers the turn for lack of room.",
    "cp_admission_reject_policy": "Policy refuses the turn.",
    "cp_admission_reject_quota": "Policy refuses the turn because a quota is used up.",
    "cp_admission_invalid_input": "Policy was asked about an invalid turn.",
    "lease_authorized": "The lease allows the turn.",
    "lease_stale_epoch": "The lease belongs to an earlier epoch.",
    "lease_deauthorized": "The lease was withdrawn.",
    "lease_invalid_input": "The lease was asked about an invalid turn.",
    "lease_expired": "The lease has expired.",
}

_AUTHORITY: Final = {
    "authority_epoch_mismatch": "The writer's epoch is not the current one.",
    "authority_revoked_before_open": "Authority was withdrawn before the turn opened.",
    "authority_revoked_in_turn": "Authority was withdrawn while the turn ran.",
    "authority_validation_failed": "The epoch could not be checked.",
    "authority_epoch_rotation": "The epoch was advanced.",
    "region_failover_start": "Another runtime begins to take the session over.",
    "region_failover_complete": "Another runtime has taken the session over.",
    "authoritative_handoff": "The session was handed over in order.",
}

_TERMINAL: Final = {
    "authority_loss": "The runtime lost its authority over the session.",
    "cancelled": "The turn was cancelled.",
    "budget_exhausted": "A budget of time, money, tokens or calls was used up.",
    "provider_failure": "No provider could answer.",
    "node_timeout_or_failure": "A block failed and nothing allowed going on without it.",
    "transport_disconnect_or_stall": "The operator's channel was lost or stalled for too long.",
    "recording_evidence_unavailable": "The end of the turn could not be recorded.",
    "no_legal_path": "The plan allowed no way to go on.",
    "control_lane_overflow": "The control lane overflowed, which must never happen.",
    "sync_unrecoverable": "Coupled streams could not be brought together again.",
    "runtime_internal_error": "The runtime itself failed.",
    "policy_refused": "An operation was refused by the envelope or a policy.",
    "approval_refused": "A needed approval was refused or nobody could be asked.",
    "halted": "The run stopped in a state a person must look at.",
}

_CANCEL: Final = {
    "operator_cancel": "The operator cancelled.",
    "barge_in": "The operator interrupted with something new.",
    "preempted": "A newer turn took this one's place.",
    "timeout": "A time limit passed.",
    "provider_error": "A provider failed.",
    "session_end": "The session ended.",
    "kill_switch": "The kill switch was used.",
    "cancel_scope_limit": "Too many cancellation scopes are open at once.",
    "output_accepted": "The output was accepted.",
    "cancel_fence_applied": "The output came after its scope was cancelled.",
    "turn_not_active": "The output came for a turn that is not running.",
}

_PRESSURE: Final = {
    "lane_queue_high_watermark": "A lane's queue reached its high mark.",
    "edge_watermark_high": "An edge's buffer reached its high mark.",
    "backpressure_asserted": "Producers were told to wait.",
    "lane_queue_capacity_exceeded": "A lane's queue is full.",
    "telemetry_best_effort_drop": "Telemetry was dropped because its lane is full.",
    "queue_pressure_drop": "Items were dropped under pressure.",
    "max_block_time_exceeded": "A producer waited as long as it may.",
    "max_queue_ms_exceeded": "Items waited as long as they may.",
    "max_latency_contribution_exceeded": "An edge added more delay than it may.",
    "credit_exhausted": "A producer had no credits left.",
    "cancel_flush": "Queued items were cleared because their scope was cancelled.",
    "execution_pool_saturated": "The execution pool's queue is full.",
    "execution_pool_closed": "The execution pool takes no more work.",
    "node_concurrency_limited": "As many attempts of this block run as may.",
    "execution_plan_denied": "The plan does not allow this execution.",
}

_BUDGETS: Final = {
    "within_budget": "The budget is fine.",
    "budget_warning": "The budget is nearly used up.",
    "node_budget_threshold_exceeded": "A block used more than its warning threshold.",
    "node_forced_termination": "A block was stopped by force.",
    "adapter_invoke_error": "A provider adapter failed.",
    "cancel_requested_before_invoke": "The call was cancelled before it started.",
    "provider_timeout": "A provider took too long.",
    "provider_overload": "A provider is overloaded.",
    "external_execution_timeout": "An external block took too long.",
    "external_resource_limit_exceeded": "An external block used more than it may.",
    "sandbox_denied": "The sandbox refused an external block.",
}

_STREAMS: Final = {
    "sync_atomic_drop": "Coupled items were dropped together.",
    "sync_drop_with_discontinuity": "Items were dropped and the gap was marked.",
    "sync_domain_partial_loss": "Some of the coupled streams lost items.",
    "timebase_rebase": "A time base was set anew.",
    "timebase_unstable": "A time base is unstable.",
    "stage_a_detail_overflow": "Details were left out of the record for lack of room.",
    "timeline_queue_pressure": "The recorder's queue is under pressure.",
    "export_lag": "The export is behind.",
}

_SESSION: Final = {
    "session_turn_intent": "Someone wants a turn.",
    "session_not_found": "There is no such session.",
    "drain_requested": "The session takes no new turns.",
    "disconnect_deadline": "The operator's channel did not come back in time.",
    "drain_deadline": "The session did not empty in time.",
    "runtime_shutdown": "The runtime is shutting down.",
}

_REPLAY: Final = {
    "replay_cursor_not_found": "The recorded run never came to the place the replay is to begin at.",
}

_ERROR_CLASSES: Final = {
    "schema_validation_error": "An event or signal is malformed.",
    "invalid_transition": "The state does not allow this step; nothing changed.",
}

TURNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **_ADMISSION,
        **_AUTHORITY,
        **_TERMINAL,
        **_CANCEL,
        **_PRESSURE,
        **_BUDGETS,
        **_STREAMS,
        **_SESSION,
        **_REPLAY,
        **_ERROR_CLASSES,
    }
)
