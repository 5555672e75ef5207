"""Which signals exist, who may say them, and what each must carry.

The registry is closed: a name that is not here is refused, and adding one changes the schema version. Keeping the
rules as one table lets the gateway stay a dozen lines and a test walk every row (turn runtime §2.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runtime.events.envelope import EventScope
from runtime.events.envelope import Role as Role

#: What a cancel, and any other signal, may be about.
SIGNAL_SCOPES: Final = frozenset({"session", "turn", "node", "provider_invocation"})


@dataclass(frozen=True, slots=True)
class SignalRule:
    """Who may emit a signal, the members it needs, and the event scope it is bound to (None: either)."""

    emitters: frozenset[Role]
    required: tuple[str, ...] = ()
    event_scope: EventScope | None = None


_REASON: Final = ("reason",)
_EDGE: Final = ("edge_id", "target_lane")
_SESSION: Final = EventScope.SESSION
_TURN: Final = EventScope.TURN


def _rows(
    names: str, emitters: Iterable[Role], required: tuple[str, ...] = (), scope: EventScope | None = None
) -> dict[str, SignalRule]:
    rule = SignalRule(frozenset(emitters), required, scope)
    return dict.fromkeys(names.split(), rule)


SIGNALS: Final[Mapping[str, SignalRule]] = MappingProxyType(
    {
        **_rows("turn_open_proposed", {Role.PRELUDE}, (), _SESSION),
        **_rows("turn_open commit close", {Role.ARBITER}, (), _TURN),
        **_rows("abort", {Role.ARBITER}, _REASON, _TURN),
        **_rows("barge_in stop", {Role.LANES, Role.CANCEL}),
        **_rows("cancel", {Role.LANES, Role.CANCEL}, ("scope",)),
        **_rows("watermark", {Role.WATERMARK}, (*_EDGE, "reason")),
        **_rows("flow_xoff", {Role.FLOW}, (*_EDGE, "reason")),
        **_rows("flow_xon", {Role.FLOW}, _EDGE),
        **_rows("credit_grant", {Role.FLOW}, (*_EDGE, "amount")),
        **_rows("drop_notice", {Role.BUFFER, Role.WATERMARK}, (*_EDGE, "reason", "seq_range")),
        **_rows("discontinuity", {Role.SYNC}, ("sync_domain", "discontinuity_id", "reason")),
        **_rows("budget_warning budget_exhausted", {Role.BUDGET}, _REASON),
        **_rows("degrade fallback", {Role.WATERMARK, Role.BUDGET}, _REASON),
        **_rows("provider_error circuit_event provider_switch", {Role.INVOCATION}, _REASON),
        **_rows("admit reject defer", {Role.ADMISSION, Role.CP_ADMISSION}, _REASON, _SESSION),
        **_rows("shed", {Role.ADMISSION}, _REASON),
        **_rows("stale_epoch_reject deauthorized_drain", {Role.GUARD}, _REASON),
        **_rows(
            "lease_issued lease_rotated migration_start migration_finish session_handoff",
            {Role.CP_LEASE, Role.CP_ROUTING},
        ),
        **_rows("connected reconnecting disconnected ended silence stall", {Role.CONNECTION}),
        **_rows(
            "output_accepted playback_started playback_completed playback_cancelled",
            {Role.EGRESS, Role.CONNECTION},
            (),
            _TURN,
        ),
        **_rows("recording_level_downgraded", {Role.RECORDER}, _REASON),
    }
)
