"""A recorded run as the console reads it, its replay, and its comparison with a fork; for tests of looking back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from support.fake_deck import NODES, RUN, FakeDeck, entry, mission, run_summary

from runtime.events.facts import Comparison, Divergence, EntryAppended, ReplayReport, StepPair
from runtime.host.api import RunStatus

_Told = tuple[str, float, dict[str, Any]]
FORK: Final = "77aa0000-0000-4000-8000-000000000002"


def at(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"2026-01-02T12:{int(minutes):02d}:{rest:09.6f}Z"


def _start(name: str, block: str, when: float) -> _Told:
    members = {"step_id": name, "operation_type": block, "attempt": 1, "started_at": at(when)}
    return "step_started", when, {**members, "status": "running", "inputs": {"value": {"goal": name}}}


def _end(name: str, block: str, status: str, begun: float, when: float, **more: Any) -> _Told:
    members = {"step_id": name, "operation_type": block, "attempt": 1, "started_at": at(begun)}
    return "step_finished", when, {**members, "status": status, "completed_at": at(when), **more}


def _receipt(name: str, when: float, status: str = "success") -> _Told:
    return "receipt", when, {"receipt": {"operation_id": f"{name}.0", "step_id": name, "status": status}}


def recorded() -> list[EntryAppended]:
    """Tests fail as expected, a refusal, an operator's pause, a question that waits four minutes, a failure."""
    told: list[_Told] = [
        ("journal_opened", 0.0, {"mission_id": "fix-the-build"}),
        ("plan", 0.1, {"contract_hash": "sha256:9c1e77aa", "steps": 6}),
        ("signal", 0.2, {"signals": [{"signal": "admit"}, {"signal": "turn_open"}]}),
        _start("red", "run_tests", 0.3),
        (
            "operation_started",
            0.4,
            {"step_id": "red", "operation_id": "red.0", "operation_type": "run_tests", "effect": "execute"},
        ),
        _receipt("red", 2.0, "failed"),
        _end("red", "run_tests", "failed", 0.3, 2.1, code="op.test_failed", accepted=True),
        _start("propose", "llm_call", 2.2),
        ("operation_denied", 2.4, {"step_id": "propose", "operation_id": "propose.0", "code": "ENV_TOOL", "path": "x"}),
        ("operator_action", 2.6, {"action": "pause", "actor": "mk"}),
        ("operator_action", 3.9, {"action": "resume", "actor": "mk"}),
        _end("propose", "llm_call", "completed", 2.2, 4.4),
        _start("apply", "tool_invoke", 4.5),
        (
            "escalation",
            4.6,
            {"phase": "asked", "step_id": "apply", "reason": "Write?", "blocking": True, "escalation_id": "q"},
        ),
        (
            "escalation",
            254.6,
            {"phase": "answered", "resolution": "approved", "resolved_by": "mk", "escalation_id": "q"},
        ),
        _receipt("apply", 254.9),
        _end("apply", "tool_invoke", "completed", 4.5, 255.0),
        _start("green", "run_tests", 255.1),
        _end("green", "run_tests", "failed", 255.1, 257.0, code="op.test_failed"),
        ("signal", 257.2, {"signals": [{"signal": "abort", "reason": "node_timeout_or_failure"}, {"signal": "close"}]}),
        ("journal_closed", 257.3, {"status": "failed", "reason": "node_timeout_or_failure"}),
    ]
    return [replace(entry(seq, kind, **members), at=at(when)) for seq, (kind, when, members) in enumerate(told)]


def _pair(step: str, block: str, seq: int, ms: int, **changes: Any) -> StepPair:
    output = f"sha256:{sum(step.encode()):08x}".ljust(71, "0")
    members: dict[str, Any] = {
        "step_id": step,
        "block_type": block,
        "base_status": "completed",
        "other_status": "completed",
        "base_ms": ms,
        "other_ms": ms + 20,
        "base_output": output,
        "other_output": output,
        "base_seq": seq,
        "other_seq": seq,
    }
    return StepPair(**{**members, **changes})


_FIRST: Final = Divergence(
    kind="OUTCOME_DIVERGENCE",
    scope="step:apply",
    field="output",
    detail="src/ledger.py was written with other content",
    step_id="apply",
    expected="sha256:88d2" + "0" * 60,
    actual="sha256:91aa" + "0" * 60,
    base_seq=16,
    other_seq=15,
)
_LATE: Final = Divergence(
    kind="TIMING_DIVERGENCE",
    scope="step:green",
    field="duration",
    detail="beyond the tolerance of 15 ms",
    step_id="green",
    base_seq=18,
    other_seq=17,
    diff_ms=410,
)


def diverged(other: str = FORK, *, reused: bool = False) -> Comparison:
    """``apply`` has another outcome, ``green`` another time, ``commit`` ran on one side only."""
    kept = {"reused_from": RUN} if reused else {}
    return Comparison(
        base=RUN,
        other=other,
        equivalent=False,
        divergences=(_FIRST, _LATE),
        first=_FIRST,
        downstream=("green", "commit"),
        steps=(
            _pair("red", "run_tests", 3, 1700, base_status="failed", other_status="failed", **kept),
            _pair("propose", "llm_call", 7, 2200, **kept),
            _pair(
                "apply", "tool_invoke", 12, 250_500, kind="OUTCOME_DIVERGENCE", other_output="sha256:91aa" + "0" * 60
            ),
            _pair(
                "green",
                "run_tests",
                17,
                1900,
                kind="TIMING_DIVERGENCE",
                base_status="failed",
                base_code="op.test_failed",
            ),
            _pair("commit", "tool_invoke", 0, 0, base_status=None, base_ms=None, base_output=None, base_seq=None),
        ),
    )


def equal(other: str = FORK) -> Comparison:
    whole = diverged(other)
    steps = tuple(replace(pair, kind=None, other_output=pair.base_output) for pair in whole.steps[:3])
    return Comparison(base=RUN, other=other, equivalent=True, steps=steps, drift="version_drift")


def report(comparison: Comparison) -> ReplayReport:
    return ReplayReport(
        run_id=RUN,
        fidelity="recorded",
        mode="playback_recorded_provider_outputs",
        mission_source="current",
        comparison=comparison,
        operations_answered=3,
        operations_total=3,
        questions_answered=1,
        duration_ms=12.4,
    )


def lookback_deck(store: object, **changes: Any) -> FakeDeck:
    """A failed run and a fork of it, in a store that can be written."""
    entries = recorded()
    run = run_summary(
        status=RunStatus.FAILED,
        code="op.test_failed",
        entries=len(entries),
        violations=1,
        steps_done=3,
        duration_ms=7300,
    )
    fork = run_summary(
        run_id=FORK,
        parent_run_id=RUN,
        status=RunStatus.SUCCEEDED,
        entries=30,
        steps_done=6,
        created_at="2026-01-02T13:00:00.000000Z",
        cause="forked from 8b3f0000 at apply",
    )
    members: dict[str, Any] = {
        "store_path": str(store),
        "missions_list": [mission()],
        "runs_list": [fork, run],
        "nodes_list": NODES,
        "entries_list": entries,
        "comparison": diverged(reused=True),
        "replay_report": report(diverged("replay")),
    }
    return FakeDeck(**{**members, **changes})
