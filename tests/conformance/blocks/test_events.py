"""Events of library runs: complete, well-formed under any course of events, and empty of contents (blocks spec §19.1)."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings

from runtime.blocks.debug import DebugSession
from runtime.blocks.errors import BlockRuntimeError, BlockSkip
from runtime.blocks.policies import DebugPolicy, RetryPolicy
from runtime.blocks.running import Scope
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Halted
from tests.support.blocks_kit import Events, Threaded, failing, raising, scope, step, stuck
from tests.support.loop_time import leap, turns
from tests.support.random_workflows import SECRET, driven, told, turns_to_live, waits_once, workflows

#: The table of §19.1; ticks and packs have tests of their own.
NAMES = {
    *("run.created", "run.started", "run.plan_validated"),
    *("run.succeeded", "run.failed", "run.timed_out", "run.canceled", "run.skipped"),
    *("level.started", "level.completed"),
    *("block.started", "block.succeeded", "block.failed", "block.skipped", "block.canceled", "block.abandoned"),
    *("block.waiting", "block.resumed", "block.retry_scheduled"),
    *("recovery.started", "recovery.policy_started", "recovery.policy_exhausted"),
    *("recovery.succeeded", "recovery.failed"),
    *("ledger.checkpoint_created", "ledger.rolled_back"),
    *("on_error.dispatch_started", "on_error.handler_started", "on_error.handler_succeeded"),
    *("on_error.handler_failed", "on_error.dispatch_completed"),
}
TERMINAL = ("run.succeeded", "run.failed", "run.timed_out", "run.canceled", "run.skipped")


# -- well-formed, whatever happens ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(workflows(), turns_to_live)
def test_streams_are_well_formed_under_any_course_of_events(workflow: Workflow, end: int) -> None:
    _, events = asyncio.run(driven(workflow, end))
    names = [event["event"] for event in events]
    assert set(names) <= NAMES
    assert names[0] == "run.created"
    assert [name for name in names if name in TERMINAL] == [names[-1]]
    assert names[1:3] in (["run.plan_validated", "run.started"], ["run.canceled"])
    by_attempt: dict[tuple[Any, ...], list[str]] = {}
    attempts: dict[tuple[Any, ...], list[int]] = {}
    spans: dict[str, Any] = {}
    for event in events:
        assert {"ts", "workflow_id", "run_id", "trace_id"} <= set(event)
        if not event["event"].startswith("block.") or event["event"] == "block.retry_scheduled":
            continue
        assert {"span_id", "block_name", "block_type", "attempt", "visit"} <= set(event)
        by_attempt.setdefault((event.get("node_path"), event["span_id"]), []).append(event["event"])
        if event["event"] == "block.started":
            spans[event["span_id"]] = event.get("node_path")
            place = (event.get("parent_span_id"), event.get("node_path"), event["visit"])
            attempts.setdefault(place, []).append(event["attempt"])
            assert event.get("parent_span_id") is None or event["parent_span_id"] in spans
    for course in by_attempt.values():
        assert re.fullmatch(r"started( waiting resumed)* (succeeded|failed|skipped|canceled)", _short(course)), course
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in attempts.values())
    assert names.count("on_error.handler_started") >= names.count("on_error.handler_failed")
    assert SECRET not in repr(events)


def _short(course: list[str]) -> str:
    return " ".join(name.removeprefix("block.") for name in course)


# -- each name of the table -----------------------------------------------------------------------------------------


async def test_every_event_of_the_table_is_emitted() -> None:
    seen: set[str] = set()

    async def run(workflow: Workflow, *, cancel: bool = False, late: bool = False) -> None:
        handle = workflow.start()
        collecting = told(handle)
        await turns(60)
        for ticket in handle.waits:
            handle.answer(ticket.wait_id, "yes")
        if late:
            leap(61)
        if cancel:
            handle.cancel()
        await handle.result()
        seen.update(event["event"] for event in await collecting)

    def back(session: DebugSession) -> str:
        session.rollback()
        return "resume"

    one = Workflow("w").add(failing("f", 2)).configure("f", recovery={Exception: (RetryPolicy(2), DebugPolicy(back))})
    await run(one.link("f", step("ask", waits_once)))
    await run(
        Workflow("w").on_error(failing("f"), step("a")).on_error("f", failing("b")).configure("f", retry=RetryPolicy(2))
    )
    await run(Workflow("w").add(step("s", raising(BlockSkip()))))
    await run(Workflow("w").add(step("s", stuck)).with_timeout(60), late=True)
    await run(Workflow("w").add(step("s", stuck)), cancel=True)
    assert seen == NAMES - {"block.abandoned"}, "of a thread: see the test of timeouts"


async def test_an_abandoned_thread_is_told_when_it_ends() -> None:
    started, release = threading.Event(), threading.Event()

    def action(value: Any, ctx: Any) -> None:
        started.set()
        release.wait(5)

    events = Events()
    workflow = Workflow("w").add(Threaded(action=action).named("t").with_timeout(60))
    handle = workflow.start(scope=scope(observer=events))
    while not started.is_set():
        await asyncio.sleep(0)
    leap(61)
    await handle.result()
    assert "block.abandoned" not in events.names()
    release.set()
    async with asyncio.timeout(5):
        while "block.abandoned" not in events.names():
            await asyncio.sleep(0)
    fields = events.seen[-1][1]
    assert (fields["node_path"], fields["attempt"], fields["block_name"]) == ("t", 1, "t")


# -- fields ---------------------------------------------------------------------------------------------------------


async def test_a_run_in_full() -> None:
    clock = ManualClock()

    async def slow(value: Any, ctx: Any) -> list[int]:
        clock.advance(2.0)
        return [1, 2, 3]

    workflow = Workflow("outer").add(Workflow("inner").add(step("s", slow)))
    events = await told(workflow.start("four", scope=scope(clock)))
    assert [event["event"] for event in events] == [
        *("run.created", "run.plan_validated", "run.started"),
        *("block.started", "level.started", "ledger.checkpoint_created"),
        *("block.started", "level.started", "ledger.checkpoint_created"),
        *("block.started", "block.succeeded"),
        *("level.completed", "block.succeeded"),
        *("level.completed", "block.succeeded"),
        "run.succeeded",
    ]
    by_name = {(event["event"], event.get("node_path")): event for event in events}
    root, inner, leaf = (by_name["block.started", path] for path in (None, "inner", "inner/s"))
    assert (root["input_kind"], root["input_size"]) == ("string", 4)
    assert "parent_span_id" not in root
    assert (inner["parent_span_id"], leaf["parent_span_id"]) == (root["span_id"], inner["span_id"])
    assert {event["workflow_id"] for event in events} == {"outer"}
    ended = by_name["block.succeeded", "inner/s"]
    assert dict(ended) == {
        "event": "block.succeeded",
        "ts": "2026-01-01T00:00:02.000000Z",
        "workflow_id": "outer",
        "run_id": root["run_id"],
        "trace_id": root["trace_id"],
        "span_id": leaf["span_id"],
        "parent_span_id": inner["span_id"],
        "node_path": "inner/s",
        "block_name": "s",
        "attempt": 1,
        "visit": 1,
        "block_type": leaf["block_type"],
        "reason": None,
        "code": None,
        "output_kind": "list",
        "output_size": 3,
        "duration_ms": 2000.0,
    }
    level = by_name["level.started", "inner"]
    assert (level["index"], level["nodes"]) == (0, ["s"])
    last = events[-1]
    assert (last["status"], last["reason"], last["code"], last["duration_ms"]) == ("succeeded", None, None, 2000.0)
    plan = by_name["run.plan_validated", None]
    assert (plan["errors"], plan["warnings"]) == (0, 0)


@pytest.mark.parametrize(
    ("action", "status", "reason", "code"),
    [
        (raising(BlockRuntimeError("demo.broken", "no")), "failed", "demo.broken", "demo.broken"),
        (raising(BlockSkip()), "skipped", "skipped", "skip.no_new_items"),
        (raising(Halted("KILL_SWITCH")), "canceled", "canceled", "KILL_SWITCH"),
    ],
)
async def test_the_last_event_says_how_the_run_ended(action: Any, status: str, reason: str, code: str) -> None:
    handle = Workflow("w").add(step("s", action)).start()
    last = (await told(handle))[-1]
    assert (last["event"], last["status"], last["reason"], last["code"]) == (f"run.{status}", status, reason, code)
    if status == "canceled":
        with pytest.raises(Halted):
            await handle.result()


async def test_a_run_cancelled_before_it_began_has_two_events() -> None:
    handle = Workflow("w").add(step("s")).start()
    stream = handle.events()
    handle.cancel()
    await handle.result()
    assert [event["event"] async for event in stream] == ["run.created", "run.canceled"]


async def test_a_wait_is_told_with_its_question() -> None:
    handle = Workflow("w").add(step("ask", lambda value, ctx: ctx.wait("use Bearer abcdefgh12345678?"))).start()
    collecting = told(handle)
    await turns()
    (ticket,) = handle.waits
    handle.answer(ticket.wait_id, SECRET)
    events = await collecting
    asked, answered = (event for event in events if event["event"] in ("block.waiting", "block.resumed"))
    assert (asked["wait_id"], asked["prompt"], answered["wait_id"]) == (
        ticket.wait_id,
        "use <redacted>?",
        ticket.wait_id,
    )
    assert SECRET not in repr(events)


# -- whoever listens changes nothing --------------------------------------------------------------------------------


async def test_a_slow_reader_loses_the_oldest_and_sees_how_many() -> None:
    workflow = Workflow("w").link(*(step(f"s{number}") for number in range(20)))
    handle = workflow.start()
    slow, quick = handle.events(limit=5), handle.events()
    assert (await handle.result()).status == "succeeded"
    all_events, last = [event async for event in quick], [event async for event in slow]
    assert (quick.dropped, slow.dropped) == (0, len(all_events) - 5)
    assert last == all_events[-5:]
    assert last[-1]["event"] == "run.succeeded"


async def test_an_observer_that_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def angry(event: str, fields: Mapping[str, Any]) -> None:
        raise ValueError("no more")

    handle = Workflow("w").add(failing("f", 1)).configure("f", retry=RetryPolicy(2)).start(scope=Scope(observer=angry))
    stream = handle.events()
    with caplog.at_level(logging.WARNING):
        assert (await handle.result()).status == "succeeded"
    assert [event["event"] async for event in stream][-1] == "run.succeeded"
    assert caplog.records[0].getMessage() == "an observer failed at run.created"


async def test_the_observer_of_the_scope_goes_on_hearing_beside_readers() -> None:
    events = Events()
    handle = Workflow("w").add(step("s")).start(scope=scope(observer=events))
    read = await told(handle)
    assert [fields for _, fields in events.seen] == read
    with pytest.raises(TypeError):
        events.seen[0][1]["event"] = "other"  # type: ignore[index]


async def test_a_reader_that_comes_late_reads_the_rest_and_one_after_the_end_reads_nothing() -> None:
    gate = asyncio.Event()

    async def action(value: Any, ctx: Any) -> None:
        await gate.wait()

    handle = Workflow("w").add(step("s", action)).start()
    await turns()
    stream = handle.events()
    gate.set()
    await handle.result()
    assert [event["event"] async for event in stream] == [
        *("block.succeeded", "level.completed", "block.succeeded", "run.succeeded")
    ]
    assert await told(handle) == []


async def test_a_scope_may_serve_one_run_after_another() -> None:
    events = Events()
    shared = scope(observer=events)
    for name in ("first", "second"):
        handle = Workflow(name).add(step(name)).start(scope=shared)
        handle.stop()
        read = await told(handle)
        report = await handle.result()
        assert list(report.nodes) == [name]
        assert report.ledger is not None
        assert list(report.ledger) == ["$input", name]
        assert {event["run_id"] for event in read} == {report.run_id}
        assert shared.observer is events


async def test_without_anybody_listening_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("an event was built")

    monkeypatch.setattr("runtime.blocks.execute.sizes", never)
    monkeypatch.setattr("runtime.blocks.telemetry.timestamp", never)
    workflow = Workflow("w").link(step("a"), failing("f", 1)).configure("f", retry=RetryPolicy(2))
    assert (await workflow.start().result()).status == "succeeded"
