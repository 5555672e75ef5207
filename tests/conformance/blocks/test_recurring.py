"""Recurring runs: one round of the graph per item of the entry's stream (blocks spec §13, §24)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runtime.blocks import recurring as engine
from runtime.blocks.block import Block
from runtime.blocks.conditions import otherwise, when
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, recurring
from runtime.blocks.debug import DebugSession
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockInputError, BlockRuntimeError, BlockSkip, WorkflowRunFailed
from runtime.blocks.ledger import replay
from runtime.blocks.policies import DebugAction, DebugPolicy, RetryPolicy
from runtime.blocks.results import Recurring
from runtime.blocks.running import NodeCall, Scope
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.errors import Halted
from tests.support.blocks_kit import Events, FakeHost, Recorder, failing, operation, scope, step

Source = Callable[[BlockContext], AsyncIterator[Any]]


class Stream(Block, local=True, output=recurring(), side_effects="none"):
    """Gives the items of ``source(ctx)`` and notes how often it was opened and closed."""

    source: Source
    log: list[str]
    gives: BlockValueContract | None = None

    @property
    def output_contract(self) -> BlockValueContract:
        return self.gives or self.spec.output

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Nothing to refuse."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> AsyncIterator[Any]:
        self.log.append("opened")
        try:
            async for item in self.source(ctx):
                yield item
        finally:
            self.log.append("closed")


def stream(source: Source, gives: BlockValueContract | None = None) -> Stream:
    return Stream(source=source, log=[], gives=gives).named("source")


def items(*values: Any) -> Stream:
    """A finite generator; an exception among the values is raised in its place."""

    async def source(ctx: BlockContext) -> AsyncIterator[Any]:
        for value in values:
            if isinstance(value, Exception):
                raise value
            yield value

    return stream(source)


def endless(then: Callable[[int], Any] = lambda number: None) -> Stream:
    """Counts up for ever; ``then(number)`` is called before each item."""

    async def source(ctx: BlockContext) -> AsyncIterator[int]:
        number = 0
        while True:
            number += 1
            then(number)
            yield number

    return stream(source)


def odd_only(value: BlockValue, ctx: BlockContext) -> Any:
    if int(value.to_python()) % 2 == 0:
        raise BlockSkip("even")
    return value


def broken_at(number: int) -> Callable[[BlockValue, BlockContext], Any]:
    def action(value: BlockValue, ctx: BlockContext) -> Any:
        if ctx.tick == number:
            raise BlockRuntimeError("demo.broken", "no")
        return value

    return action


async def run(workflow: Workflow, **options: Any) -> Response:
    return await workflow.execute(Request(), **{"scope": scope(), **options})


# -- ticks ----------------------------------------------------------------------------------------------------------


async def test_a_finite_generator_runs_the_graph_once_per_item_and_gives_the_last_output() -> None:
    source, seen, runner = items("a", "b", "c"), step("seen"), Recorder()
    report = await Workflow("w").link(source, seen).run_async(runner=runner)
    assert (report.status, report.value.payload) == ("succeeded", "c")
    assert [value.payload for value in seen.calls] == ["a", "b", "c"]
    assert source.log == ["opened", "closed"]
    assert report.response.metadata["tick"] == 3
    assert [(call.node_path, call.tick, call.visit) for call in runner.calls] == [
        ("source", 1, 1),
        ("seen", 1, 1),
        ("seen", 2, 1),
        ("seen", 3, 1),
    ]
    assert [call.request.metadata["tick"] for call in runner.calls] == [1, 1, 2, 3]
    assert {name: (node.status, node.visits) for name, node in report.nodes.items()} == {
        "source": ("succeeded", 3),
        "seen": ("succeeded", 3),
    }


async def test_a_graph_of_the_entry_alone_gives_its_last_item() -> None:
    assert (await run(Workflow("w").add(items(1, 2)))).data.payload == 2


async def test_ticks_never_overlap() -> None:
    running = most = 0

    async def work(value: BlockValue, ctx: BlockContext) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0)
        running -= 1

    await run(Workflow("w").link(items(1, 2, 3), step("a", work), step("b", work)))
    assert most == 1


async def test_a_routed_graph_has_its_steps_and_visits_anew_in_every_tick() -> None:
    runner = Recorder()
    count = step("count", lambda value, ctx: value.payload + 1)
    workflow = Workflow("w", max_steps=4).link(items(1, 1), count)
    workflow.branch(count, when(lambda response: response.data.payload < 3, count), otherwise(step("end")))
    assert (await run(workflow, runner=runner)).data.payload == 3
    walked = [(call.node_path, call.tick, call.visit) for call in runner.calls if call.node_path != "source"]
    assert walked == [
        (name, tick, visit) for tick in (1, 2) for name, visit in (("count", 1), ("count", 2), ("end", 1))
    ]


async def test_ticks_reach_nested_graphs() -> None:
    runner, inner = Recorder(), Workflow("inner").add(step("leaf", lambda value, ctx: ctx.tick))
    assert (await run(Workflow("w").link(items(1, 1), inner), runner=runner)).data.payload == 2
    assert [call.tick for call in runner.calls if call.node_path == "inner/leaf"] == [1, 2]


async def test_the_ledger_persists_across_ticks_and_entries_tell_their_tick() -> None:
    states: list[Any] = []

    def look(value: BlockValue, ctx: BlockContext) -> Any:
        states.append(ctx.state["late"].payload if "late" in ctx.state else None)
        return value

    workflow = Workflow("w", seed={"late": 0}).link(items(1, 2, 3), step("look", look), step("end"))
    workflow.configure("look", reads=["late"]).configure("end", store_as="late")
    report = await workflow.run_async()
    assert states == [0, 1, 2]
    assert report.ledger is not None
    told = {key: entry.metadata.get("tick") for key in report.ledger if (entry := report.ledger.get_entry(key))}
    assert told == {"$input": None, "source": 3, "look": 3, "late": 3}


async def test_the_log_of_a_tick_that_is_over_shrinks_to_the_state_it_left() -> None:
    """However many ticks there were: no gap, the state is what the log replays to, and it tells the last tick whole."""
    reports = [
        await Workflow("w", seed={"late": 0})
        .link(items(*range(ticks)), step("look"), step("end"))
        .configure("end", store_as="late")
        .run_async()
        for ticks in (3, 40)
    ]
    logs = [report.ledger.log() for report in reports if report.ledger is not None]
    assert len(logs[0]) == len(logs[1])
    assert [op.seq for op in logs[1]] == list(range(1, len(logs[1]) + 1))
    assert {key: entry.value.payload for key, entry in replay(logs[1]).items()} == {
        key: value.payload for key, value in (reports[1].ledger or {}).items()
    }
    marks = [op.checkpoint_id for op in logs[1] if op.checkpoint_id]
    assert marks == ["pre:source:1:40", "pre:look:1:40", "pre:end:1:40", "pre:source:1:41"]


async def test_a_debug_hook_of_a_later_tick_rolls_back_to_its_own_tick_only() -> None:
    refused: list[str] = []
    faults = [BlockRuntimeError("demo.broken", "no")]

    def once_in_the_third(value: BlockValue, ctx: BlockContext) -> Any:
        if ctx.tick == 3 and faults:
            raise faults.pop()
        return value

    def hook(session: DebugSession) -> DebugAction:
        for checkpoint in ("pre:look:1:2", "pre:source:1:3"):
            try:
                session.rollback(checkpoint)
            except BlockRuntimeError as error:
                refused.append(error.code)
        session.rollback()
        return DebugAction.RESUME

    workflow = Workflow("w").link(items(1, 2, 3), step("look", once_in_the_third))
    workflow.configure("look", recovery={BlockRuntimeError: (DebugPolicy(hook=hook),)})
    report = await workflow.run_async()
    assert (report.value.payload, refused) == (3, ["ledger.unknown_checkpoint"] * 2)
    assert report.ledger is not None
    assert {key: value.payload for key, value in report.ledger.items()} == {"$input": None, "source": 3, "look": 3}


async def test_every_item_is_checked_against_the_declared_kinds() -> None:
    async def source(ctx: BlockContext) -> AsyncIterator[Any]:
        yield "text"
        yield 5

    seen, wrong = step("seen"), stream(source, recurring("string"))
    response = await run(Workflow("w").link(wrong, seen))
    assert (response.reason, response.code) == ("bad_result", "runtime.bad_result")
    assert response.metadata["failure_path"] == ["source"]
    assert len(seen.calls) == 1
    assert wrong.log == ["opened", "closed"]
    assert (await run(Workflow("w").add(items(object())))).code == "value.unsupported_type"


# -- skips and failures ---------------------------------------------------------------------------------------------


async def test_a_skipped_tick_is_passed_over_and_the_last_successful_output_counts() -> None:
    events, source = Events(), items(1, 2, 3, 4)
    response = await run(Workflow("w").link(source, step("odd", odd_only)), scope=scope(observer=events))
    assert (response.success, response.data.payload) == (True, 3)
    assert [(name, fields["tick"]) for name, fields in events.seen if name.startswith("tick.")] == [
        ("tick.started", 1),
        ("tick.completed", 1),
        ("tick.started", 2),
        ("tick.skipped", 2),
        ("tick.started", 3),
        ("tick.completed", 3),
        ("tick.started", 4),
        ("tick.skipped", 4),
    ]


async def test_a_run_whose_every_tick_was_skipped_is_skipped() -> None:
    report = await Workflow("w").link(items(2, 4), step("odd", odd_only)).run_async()
    assert report.status == "skipped"


async def test_a_failure_in_the_second_tick_ends_the_run_and_closes_the_stream() -> None:
    source, handler, seen = endless(), step("handler"), step("seen")
    workflow = Workflow("w").link(source, seen, step("b", broken_at(2))).on_error("b", handler)
    response = await run(workflow)
    assert (response.code, response.metadata["failure_path"], response.metadata["tick"]) == ("demo.broken", ["b"], 2)
    assert [value.payload for value in seen.calls] == [1, 2]
    assert len(handler.calls) == 1
    assert source.log == ["opened", "closed"]


async def test_no_item_at_all_is_an_empty_stream_and_told_to_the_entrys_handlers() -> None:
    source, handler, seen = items(), step("handler"), step("seen")
    response = await run(Workflow("w").link(source, seen).on_error(source, handler))
    assert (response.reason, response.code) == ("empty_stream", "runtime.empty_stream")
    assert response.metadata["failure_path"] == ["source"]
    assert (len(handler.calls), seen.calls, source.log) == (1, [], ["opened", "closed"])


async def test_a_skip_of_the_stream_itself_is_its_last_tick() -> None:
    source, seen = items(1, BlockSkip("nothing more")), step("seen")
    response = await run(Workflow("w").link(source, seen))
    assert (response.success, response.data.payload, len(seen.calls)) == (True, 1, 1)
    assert (await run(Workflow("w").add(items(BlockSkip("nothing"))))).skipped


async def test_an_error_of_the_stream_is_a_failure_of_the_entry_in_phase_run() -> None:
    runner, source = Recorder(), items(1, BlockRuntimeError("demo.gone", "the line is dead"))
    handler = step("handler", lambda value, ctx: value)
    report = await Workflow("w").link(source, step("x")).on_error(source, handler).start(runner=runner).result()
    assert (report.status, report.response.code, report.nodes["source"].code) == ("failed", "demo.gone", "demo.gone")
    assert report.response.metadata["failure_path"] == ["source"]
    assert handler.calls[0]["block_id"].payload == "source"
    assert (await run(Workflow("w").add(items(ValueError("bug"))))).code == "runtime.internal"


class Flaky:
    """A source that fails after ``good`` items for its first ``times`` openings."""

    def __init__(self, times: int, good: int = 1) -> None:
        self.left, self.good, self.given = times, good, 0
        self.phases: list[Any] = []

    async def __call__(self, ctx: BlockContext) -> AsyncIterator[Any]:
        for _ in range(self.good):
            self.given += 1
            yield (self.given, ctx.tick, ctx.attempt)
        if self.left:
            self.left -= 1
            raise BlockInputError("input.not_object", "lost")


async def test_recovery_opens_the_stream_anew_as_the_next_attempt_of_that_tick() -> None:
    source, seen = stream(Flaky(2)), step("seen")
    workflow = Workflow("w").link(source, seen).configure(source, retry=RetryPolicy(2))
    response = await run(workflow)
    assert response.success
    assert [value.to_python() for value in seen.calls] == [[1, 1, 1], [2, 2, 2], [3, 3, 2]]
    assert source.log == ["opened", "closed"] * 3


async def test_recovery_of_a_stream_asks_for_safety_and_runs_out() -> None:
    source = stream(Flaky(9, good=0))
    response = await run(Workflow("w").add(source).configure(source, retry=RetryPolicy(3)))
    assert (response.code, source.log) == ("input.not_object", ["opened", "closed"] * 3)
    source = stream(Flaky(9))
    workflow = Workflow("w").add(source).configure(source, retry=RetryPolicy(3), side_effects="non_idempotent")
    response = await run(workflow)
    assert (response.code, response.metadata["tick"]) == ("recovery.unsafe_to_retry", 2)
    assert source.log == ["opened", "closed"]


async def test_what_stands_in_for_a_broken_stream_is_its_last_tick() -> None:
    for options, last in (({"optional": True}, None), ({"fallback": step("spare", lambda v, c: "spare")}, "spare")):
        source, seen = stream(Flaky(9)), step("seen")
        workflow = Workflow("w").link(source, seen).configure(source, **options)
        assert (await run(workflow)).data.to_python() == last
        assert len(seen.calls) == 2


async def test_a_stream_that_cannot_be_opened_fails_the_entry() -> None:
    def refuse(value: BlockValue, ctx: BlockContext) -> Any:
        raise BlockRuntimeError("demo.closed", "not now")

    response = await run(Workflow("w").add(step("source", refuse, gives=recurring())))
    assert (response.code, response.metadata["failure_path"]) == ("demo.closed", ["source"])


# -- stopping, cancelling, closing ----------------------------------------------------------------------------------


async def test_stop_during_a_tick_lets_it_finish_and_ends_with_its_output() -> None:
    place, finished = scope(), []

    async def work(value: BlockValue, ctx: BlockContext) -> Any:
        if ctx.tick == 2:
            place.request_stop()
            place.request_stop()
        await asyncio.sleep(0)
        finished.append(ctx.tick)
        return value

    source = endless()
    response = await run(Workflow("w").link(source, step("work", work), step("end")), scope=place)
    assert (response.success, response.data.payload, finished) == (True, 2, [1, 2])
    assert source.log == ["opened", "closed"]


def waiting_after(count: int, asleep: asyncio.Event) -> Stream:
    async def source(ctx: BlockContext) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        asleep.set()
        await asyncio.Event().wait()

    return stream(source)


async def started(workflow: Workflow, place: Scope) -> asyncio.Task[Response]:
    return asyncio.create_task(workflow.execute(Request(), scope=place))


async def test_stop_between_ticks_does_not_wait_for_the_next_item() -> None:
    asleep, place = asyncio.Event(), scope()
    source = waiting_after(2, asleep)
    task = await started(Workflow("w").add(source), place)
    await asleep.wait()
    place.request_stop()
    response = await task
    assert (response.success, response.data.payload) == (True, 1)
    assert source.log == ["opened", "closed"]


async def test_stop_before_the_first_tick_is_canceled_and_skipped_ticks_are_none_the_less_ticks() -> None:
    asleep = asyncio.Event()
    handle = Workflow("w").add(waiting_after(0, asleep)).start(scope=(place := Scope()))
    await asleep.wait()
    place.request_stop()
    assert ((await handle.result()).status, handle.status) == ("canceled", "canceled")
    asleep, place = asyncio.Event(), scope()
    task = await started(Workflow("w").link(waiting_after(1, asleep), step("odd", odd_only)), place)
    await asleep.wait()
    place.request_stop()
    assert (await task).skipped


async def test_stop_means_nothing_to_a_run_that_does_not_recur() -> None:
    place = scope()
    place.request_stop()
    assert (await run(Workflow("w").add(step("s", lambda value, ctx: 1)), scope=place)).success


@pytest.mark.parametrize("ticks", [0, 1])
async def test_cancel_is_immediate_and_closes_the_stream_once(ticks: int) -> None:
    asleep, handler = asyncio.Event(), step("handler")
    source = waiting_after(ticks, asleep)
    handle = Workflow("w").add(source).on_error(source, handler).start()
    await asleep.wait()
    handle.cancel()
    assert (await handle.result()).status == "canceled"
    assert (source.log, handler.calls) == (["opened", "closed"], [])


async def test_a_stream_that_never_waits_can_be_cancelled() -> None:
    def bounded(number: int) -> None:
        assert number < 10_000, "the loop had no turn"

    handle = Workflow("w").link(endless(bounded), step("end")).start()
    await asyncio.sleep(0)
    handle.cancel()
    assert (await handle.result()).status == "canceled"


async def test_cancel_in_a_tick_closes_the_stream() -> None:
    stuck, source = asyncio.Event(), endless()

    async def work(value: BlockValue, ctx: BlockContext) -> None:
        stuck.set()
        await asyncio.Event().wait()

    handle = Workflow("w").link(source, step("work", work)).start()
    await stuck.wait()
    handle.cancel()
    assert (await handle.result()).status == "canceled"
    assert source.log == ["opened", "closed"]


class Hand:
    """A hand-made stream; ``closing`` says what closing it does."""

    def __init__(self, closing: Callable[[], Any]) -> None:
        self.left, self.closed, self.closing = [1], 0, closing

    def __aiter__(self) -> Hand:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()

    async def aclose(self) -> None:
        self.closed += 1
        await self.closing()


async def test_a_stream_that_does_not_close_fails_a_run_that_was_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise OSError("still in use")

    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(engine, "CLOSE_SECONDS", 0.01)
    for closing, code in ((refuse, "runtime.internal"), (hang, "runtime.timeout")):
        hand = Hand(closing)
        source = step("source", lambda value, ctx, hand=hand: Recurring(hand), gives=recurring())  # type: ignore[misc]
        handler = step("handler")
        response = await run(Workflow("w").add(source).on_error(source, handler))
        assert (response.code, response.metadata["failure_path"], hand.closed) == (code, ["source"], 1)
        assert len(handler.calls) == 1
    hand = Hand(refuse)
    source = step("source", lambda value, ctx: Recurring(hand), gives=recurring())
    response = await run(Workflow("w").link(source, failing("f")))
    assert (response.code, hand.closed) == ("demo.broken", 1)  # the first thing that went wrong is the outcome


async def test_a_stream_without_a_way_to_close_it_is_simply_left() -> None:
    class Bare:
        def __init__(self) -> None:
            self.left = [1, 2]

        def __aiter__(self) -> Bare:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    assert (
        await run(Workflow("w").add(step("s", lambda v, c: Recurring(Bare()), gives=recurring())))
    ).data.payload == 1


async def test_a_runner_that_is_late_to_open_the_stream_is_no_stop() -> None:
    class Late(Recorder):
        async def attempt(self, call: NodeCall) -> Response:
            raise TimeoutError("not in time")

    assert (await run(Workflow("w").add(items(1)), runner=Late())).code == "runtime.internal"


async def test_a_halt_closes_the_stream_and_comes_out() -> None:
    def halt(value: BlockValue, ctx: BlockContext) -> None:
        raise Halted("KILL_SWITCH")

    source = endless()
    with pytest.raises(Halted):
        await run(Workflow("w").link(source, step("s", halt)))
    assert source.log == ["opened", "closed"]


# -- deadlines and what the stream may do ---------------------------------------------------------------------------


async def test_the_entrys_deadline_covers_opening_only() -> None:
    async def slow(ctx: BlockContext) -> AsyncIterator[int]:
        assert ctx.deadline is None
        await asyncio.sleep(0.02)
        yield 1

    assert (await run(Workflow("w").add(stream(slow).with_timeout(0.01)))).success

    async def never(value: BlockValue, ctx: BlockContext) -> None:
        await asyncio.Event().wait()

    response = await run(Workflow("w").add(step("s", never, gives=recurring()).with_timeout(0.01)))
    assert response.code == "runtime.timeout"


async def test_the_workflows_own_deadline_covers_the_ticks() -> None:
    source = waiting_after(1, asyncio.Event())
    with pytest.raises(WorkflowRunFailed) as caught:
        await Workflow("w").add(source).with_timeout(0.01).run_async()
    assert (caught.value.report.status, source.log) == ("timed_out", ["opened", "closed"])


async def test_the_stream_uses_its_context_until_it_is_closed() -> None:
    kept: list[BlockContext] = []
    phases: list[BlockPhase] = []
    host = FakeHost([operation(seen=1), operation(seen=2)], answer="go")

    async def source(ctx: BlockContext) -> AsyncIterator[Any]:
        kept.append(ctx)
        for _ in range(2):
            found = await ctx.operate("tool_invoke", {"tool": "look"})
            ctx.annotate("app.tick", ctx.tick)
            answer = await ctx.wait("go on?")
            phases.append(entry.block_phase)
            yield [found["seen"], answer, ctx.tick, ctx.span_id != ""]

    entry = stream(source)
    seen = step("seen", lambda value, ctx: phases.append(entry.block_phase))
    response = await Workflow("w").link(entry, seen).execute(Request(), host=host, scope=scope())
    assert response.success
    assert phases == [BlockPhase.BUSY, BlockPhase.READY] * 2
    assert entry.block_phase is BlockPhase.READY
    assert [value.to_python() for value in seen.calls] == [[1, "go", 1, True], [2, "go", 2, True]]
    assert kept[0].cancelled
    with pytest.raises(Halted):
        await kept[0].operate("tool_invoke", {"tool": "look"})


async def test_a_refused_operation_of_the_stream_is_never_tried_again() -> None:
    async def source(ctx: BlockContext) -> AsyncIterator[Any]:
        yield await ctx.operate("tool_invoke", {})

    refused = operation("PATH_ESCAPE")
    poll = stream(source)
    workflow = Workflow("w").add(poll).configure(poll, retry=RetryPolicy(3))
    response = await workflow.execute(Request(), host=FakeHost([refused]), scope=scope())
    assert response.code == "op.path_escape"
    assert poll.log == ["opened", "closed"]


# -- validation -----------------------------------------------------------------------------------------------------


def test_nothing_may_lead_back_to_a_recurring_entry() -> None:
    source, end = items(1), step("end")
    workflow = Workflow("w").link(source, end).branch(end, otherwise(source)).set_entry(source)
    assert [issue.code for issue in workflow.issues() if issue.is_error] == ["validation.recurring_not_entry"]
