"""Every screen at the three sizes operators use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support.fake_deck import AT, NODES, RUN, FakeDeck, entry, good_verdict, lanes, mission, run_summary, streams
from support.pictures import SIZES, sized_picture
from textual.pilot import Pilot
from textual.widgets import Input

from console.app import ConsoleApp
from runtime.events.facts import (
    Escalation,
    Finding,
    Holder,
    JournalVerified,
    LanesChanged,
    MissionEstimate,
    OutputDelta,
    Place,
    Verdict,
    Violation,
)
from runtime.host.api import Problem, RunStatus, StorageError

Step = Callable[[Pilot[Any]], Awaitable[None]]


def entries() -> list[Any]:
    def step(seq: int, kind: str, name: str, status: str, **more: object) -> Any:
        members = {"step_id": name, "operation_type": "run_tests", "status": status, "attempt": 1, "started_at": AT}
        return entry(seq, kind, **members, **more)

    return [
        entry(0, "journal_opened", mission_id="fix-the-build"),
        entry(1, "plan", plan_hash="sha256:1", contract_hash="sha256:9c1e77aa", steps=6),
        entry(2, "signal", signals=[{"signal": "admit"}, {"signal": "turn_open"}]),
        step(3, "step_started", "red", "running"),
        step(4, "step_finished", "red", "failed", code="op.test_failed", accepted=True, completed_at=AT),
        step(5, "step_started", "apply", "running"),
        entry(
            6,
            "operation_denied",
            step_id="apply",
            operation_id="apply.0",
            idempotency_key="k",
            code="PATH_TRAVERSAL",
            reason="PATH_TRAVERSAL: '..' leaves the workspace",
            path="docs/../x",
        ),
    ]


def taken_over() -> list[Any]:
    """The journal of a fork: two steps reused, two run, one of them in vain."""
    origin = "1c200000-0000-4000-8000-000000000003"

    def step(seq: int, kind: str, name: str, status: str, **more: object) -> Any:
        members = {"step_id": name, "operation_type": "run_tests", "status": status, "attempt": 1, "started_at": AT}
        return entry(seq, kind, **members, **more)

    reused = {"reused_from": origin}
    return [
        entry(0, "journal_opened", mission_id="fix-the-build", fork={"run": origin, "step": "apply"}),
        step(1, "step_started", "red", "running", **reused),
        step(2, "step_finished", "red", "failed", code="op.test_failed", accepted=True, completed_at=AT, **reused),
        step(3, "step_started", "propose", "running", **reused),
        step(4, "step_finished", "propose", "completed", completed_at=AT, **reused),
        step(5, "step_started", "apply", "running"),
        step(6, "step_finished", "apply", "completed", completed_at=AT),
        step(7, "step_started", "green", "running"),
        step(8, "step_finished", "green", "failed", code="op.test_failed", completed_at=AT),
    ]


def question() -> Escalation:
    return Escalation(
        escalation_id=f"{RUN}/ask.0",
        run_id=RUN,
        step_id="ask",
        reason="Publish this note?",
        severity="info",
        blocking=True,
        choices=("approved", "rejected"),
        subject_digest="sha256:" + "a" * 64,
        created_at=AT,
    )


def deck(**changes: Any) -> FakeDeck:
    problem = Problem(code="MISSION_KEY_UNKNOWN", message="unknown key 'blocs'", path="broken", line=7, column=1)
    members: dict[str, Any] = {
        "missions_list": [
            mission(),
            mission("hello", inputs=(), nodes=tuple(NODES[:1])),
            mission("broken", problems=(problem,)),
        ],
        "runs_list": [
            run_summary(),
            run_summary(run_id="77aa0000-0000-4000-8000-000000000002", resumable=True, mission="hello"),
            run_summary(
                run_id="1c200000-0000-4000-8000-000000000003",
                status=RunStatus.FAILED,
                code="op.path_traversal",
                mission="guarded",
            ),
        ],
        "nodes_list": NODES,
        "entries_list": entries(),
    }
    return FakeDeck(**{**members, **changes})


async def calm(pilot: Pilot[Any]) -> None:
    await pilot.app.workers.wait_for_complete()
    pilot.app._tick()  # type: ignore[attr-defined]
    await pilot.pause()


async def press(pilot: Pilot[Any], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await calm(pilot)


def verdict(*, ok: bool) -> JournalVerified:
    """Of a live run: the last two entries are in no checkpoint yet. Or of a journal somebody edited."""
    live = replace(
        good_verdict(RUN, 7),
        completeness=Verdict(standing="unknown", words="the run has not ended"),
        anchoring=Verdict(standing="warn", words="2 entries have no checkpoint yet"),
        checkpoint_size=5,
        witnessed_size=3,
        unanchored_tail=2,
    )
    finding = Finding(code="J_ENTRY_HASH", severity="error", seq=4, detail="hash differs")
    edited = replace(
        live,
        ok=False,
        trusted_prefix=4,
        findings=(finding,),
        integrity=Verdict(standing="bad", words="entry 4 differs"),
    )
    return JournalVerified(verification=live if ok else edited)


def live(fake: FakeDeck) -> None:
    fake.publish(
        LanesChanged(run_id=RUN, lanes=lanes(), streams=streams(), pool_running=1, pool_slots=8),
        OutputDelta(run_id=RUN, step_id="red", stream="stdout", text="F..\n1 failed, 2 passed\n"),
        OutputDelta(run_id=RUN, step_id="propose", stream="model", text="count the last entry\n"),
        OutputDelta(run_id=RUN, step_id="apply", stream="data", text="reading 17\n"),
    )


async def show_home(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)


async def show_filter(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "slash", *"guarded")


async def show_broken_mission(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "j", "j")


EXPECTED = MissionEstimate(
    mission="fix-the-build", version="1", samples=7, source="stats", confidence="medium", time_ms=83_400.0,
    time_std_ms=9_000.0, cost_usd=0.0123, cost_std_usd=0.002, llm_calls=1.4, notes=("waiting for people is not counted",),
)  # fmt: skip


async def show_launch(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "n")


async def show_run(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "2", "enter")
    live(fake)
    fake.publish(verdict(ok=True))
    await calm(pilot)


async def show_run_broken(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    fake.publish(verdict(ok=False))
    await calm(pilot)


async def show_violation(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    await press(pilot, "4", "enter")


async def show_terminate(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    await press(pilot, "X")


async def show_help(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    await press(pilot, "question_mark")


async def show_quit(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "ctrl+q")


async def show_answer(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    await press(pilot, "R")


async def show_approvals(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "i")


async def show_violations(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "v")


async def show_violations_filter(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_violations(pilot, fake)
    await press(pilot, "slash", *"git.add")


async def show_again(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await calm(pilot)
    await press(pilot, "2", "enter", "2", "j", "F")


async def show_full(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    await press(pilot, "f")


async def show_entry(pilot: Pilot[Any], fake: FakeDeck) -> None:
    await show_run(pilot, fake)
    await press(pilot, "enter")


def refused(seq: int, code: str, path: str | None, *, accepted: bool, **told: Any) -> Violation:
    return Violation(
        run_id=RUN,
        mission="guarded",
        seq=seq,
        at=AT,
        step_id="outside",
        operation_id="outside.0",
        code=code,
        reason="refused",
        path=path,
        accepted=accepted,
        **told,
    )


HOLDER = Holder(pid=4711, host="bridge", epoch=2, started_at=AT, heartbeat_at=AT)
REFUSED = [
    refused(
        6,
        "POLICY_DENIED",
        "docs/secret/k",
        accepted=True,
        rule="envelope.denied_paths: docs/secret/**",
        attempted="read docs/secret/k with filesystem.read_file",
    ),
    refused(9, "ENV_TOOL", None, accepted=False, rule="envelope.allowed_tools", attempted="git.add docs/notes.md"),
]
_LINE = '      8 |   denied_paths: ["docs/secret/**"]\n        |                  ^'
EXPLAINED = refused(
    6,
    "POLICY_DENIED",
    "docs/secret/k",
    accepted=False,
    rule="envelope.denied_paths: docs/secret/**",
    attempted="read docs/secret/k with filesystem.read_file",
    needed='take "docs/secret/**" out of envelope.denied_paths: no allowed path outweighs a denied one',
    position=Place(
        path="sample_missions/guarded/mission.yaml",
        line=21,
        column=3,
        snippet="   21 |   outside: {type: tool_invoke, tool: filesystem.read_file,\n      |   ^",
        since="changed",
    ),
    rule_position=Place(path="sample_missions/guarded/mission.yaml", line=8, column=18, snippet=_LINE),
    outcome="ended",
)


def pressed(seq: int, signal: str, lane: str, **more: object) -> Any:
    told = {"signal": signal, "edge_id": f"stream/{lane.lower()}", "target_lane": f"{lane}Lane", **more}
    return entry(seq, "signal", signals=[told])


STORM = [
    entry(0, "journal_opened", mission_id="storm"),
    pressed(1, "watermark", "Data", reason="lane_queue_high_watermark"),
    pressed(2, "watermark", "Telemetry", reason="lane_queue_high_watermark"),
    pressed(3, "drop_notice", "Telemetry", reason="telemetry_best_effort_drop", amount=256),
    pressed(4, "watermark", "Telemetry", reason="lane_queue_high_watermark"),
    entry(
        5,
        "step_finished",
        step_id="north",
        operation_type="burst",
        status="completed",
        attempt=1,
        started_at=AT,
        completed_at=AT,
        stream={"items": 8000, "bytes": 123456, "content": "sha256:1", "index": "sha256:2"},
    ),
]
CALM = run_summary(status=RunStatus.SUCCEEDED, mission="storm", entries=6)
FORKED = run_summary(
    status=RunStatus.FAILED,
    code="op.test_failed",
    message="2 failed, 1 passed",
    cause="fork of 1c200000 from apply; goal changed",
    inputs={"goal": "Make the failing tests pass, gently."},
    parent_run_id="1c200000-0000-4000-8000-000000000003",
)
FAILED = run_summary(status=RunStatus.FAILED, code="op.test_failed", message="2 failed, 1 passed", entries=40)
SCREENS: dict[str, tuple[Callable[[Pilot[Any], FakeDeck], Awaitable[None]], dict[str, Any]]] = {
    "home": (show_home, {}),
    "run": (show_run, {}),
    "approvals": (show_approvals, {"inbox": [question()]}),
    "violations": (show_violations, {"violations_list": REFUSED}),
    "launch": (show_launch, {"expected": EXPECTED}),
    "again": (show_again, {"runs_list": [FORKED], "entries_list": taken_over()}),
    "violation": (show_violation, {"violations_list": [EXPLAINED]}),
    "entry": (show_entry, {}),
    "terminate": (show_terminate, {}),
    "answer": (show_answer, {"inbox": [question()]}),
    "quit": (show_quit, {}),
    "help": (show_help, {}),
}
STATES: dict[str, tuple[Callable[[Pilot[Any], FakeDeck], Awaitable[None]], dict[str, Any]]] = {
    "home-empty": (show_home, {"missions_list": [], "runs_list": []}),
    "home-filter": (show_filter, {}),
    "home-broken-mission": (show_broken_mission, {}),
    "home-error": (show_home, {"refuse_reads": StorageError("STORE_IO", "the disk is gone")}),
    "home-observer": (show_home, {"read_only": True, "holder_info": HOLDER}),
    "run-broken": (show_run_broken, {}),
    "run-question": (show_run, {"inbox": [question()]}),
    "run-resumable": (show_run, {"runs_list": [run_summary(resumable=True)]}),
    "run-unreadable": (show_run, {"runs_list": [FAILED]}),
    "run-full": (show_full, {}),
    "run-storm-over": (show_run, {"runs_list": [CALM], "nodes_list": [], "entries_list": STORM}),
    "run-reused": (show_run, {"runs_list": [FORKED], "entries_list": taken_over()}),
    "approvals-empty": (show_approvals, {}),
    "violations-empty": (show_violations, {}),
    "violations-filter": (show_violations_filter, {"violations_list": REFUSED}),
}


def check(snap_compare: Any, shown: Any, size: tuple[int, int], theme: str | None = None) -> None:
    show, changes = shown
    fake = deck(**changes)
    app = ConsoleApp(fake, theme=theme, clock=lambda: 0.0)
    app.animation_level = "none"

    async def prepare(pilot: Pilot[Any]) -> None:
        await show(pilot, fake)

    assert snap_compare(app, terminal_size=size, run_before=prepare)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.journal_reader.FRUITLESS_PAUSE", 0.0)


@pytest.fixture(autouse=True)
def steady_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine would otherwise photograph the dark half of a blink that began before anyone could stop it."""
    monkeypatch.setattr(Input, "_toggle_cursor", lambda box: None)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCREENS)
def test_screen(still: None, snap_compare: Any, name: str, size: tuple[int, int]) -> None:
    show, changes = SCREENS[name]
    fake = deck(**changes)
    sized_picture(
        snap_compare, name, size, lambda: ConsoleApp(fake, clock=lambda: 0.0), lambda pilot: show(pilot, fake)
    )


@pytest.mark.parametrize("name", STATES)
def test_state(still: None, snap_compare: Any, name: str) -> None:
    """What differs in a state shows at any size; the smallest is where it may not fit."""
    check(snap_compare, STATES[name], (80, 24))


def test_light_theme(still: None, snap_compare: Any) -> None:
    check(snap_compare, SCREENS["run"], (120, 40), theme="daybreak")
