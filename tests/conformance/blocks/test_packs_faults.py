"""Packs that misbehave, are slow, far away or not exportable (blocks spec §20.5)."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from support.blocks_kit import Events, FakeHost
from support.pack_paths import BYTES, FAST, as_it_is, drained, services, spoken_to
from support.pack_samples import PACK, Ticks

from runtime.blocks.block import Block
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request
from runtime.blocks.errors import (
    BlockDefinitionError,
    BlockError,
    BlockInternalError,
    BlockRuntimeError,
)
from runtime.blocks.packs.frames import (
    OK,
    STREAM_END,
    error_frame,
    payload_of,
    read_error,
    value_frame,
)
from runtime.blocks.packs.local import LocalLink
from runtime.blocks.packs.outside import MAX_ANNOTATIONS, MAX_ENTRY, OutsideHost
from runtime.blocks.packs.pack import Pack
from runtime.blocks.packs.packed import packed_class
from runtime.blocks.registry import BlockRegistry
from runtime.blocks.results import Recurring
from runtime.blocks.running import Scope
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameType
from runtime.kernel.errors import Halted


class Hand:
    """A pack written by hand: each method answers what it was told to; exceptions are raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"create": PACK.create, "validate": OK, "run": [], **answers}
        self.dropped: list[int] = []

    def create(self, request: bytes) -> Any:
        return self._answer("create", request)

    def validate(self, handle: int, value: bytes, context: bytes) -> Any:
        return self._answer("validate")

    def run(self, handle: int, value: bytes, context: bytes, host: Any) -> Any:
        answer = self._answer("run", host)
        return self._frames(answer) if isinstance(answer, list) else answer

    def drop(self, handle: int) -> None:
        self.dropped.append(handle)
        raise RuntimeError("nobody waits for this")

    def _answer(self, name: str, *args: Any) -> Any:
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer(*args) if callable(answer) else answer

    @staticmethod
    async def _frames(frames: list[Any]) -> Any:
        for item in frames:
            if isinstance(item, Exception):
                raise item
            yield item


NUL = value_frame(FrameType.VALUE, None)
ONCE = value_frame(FrameType.ONCE, 1)
WRONG = error_frame(BlockRuntimeError("demo.x", "no"))
NO_CLASS = value_frame(FrameType.ERROR, {**payload_of(WRONG)[1].to_python(), "class": "other"})
NO_CODE = value_frame(FrameType.ERROR, {**payload_of(WRONG)[1].to_python(), "code": "Not A Code"})
FAULTS: list[tuple[str, Any, str]] = [
    ("validate", RuntimeError("oops"), "plugin.fault"),
    ("validate", b"junk", "plugin.bad_frame"),
    ("validate", "text", "plugin.bad_frame"),
    ("validate", ONCE, "plugin.bad_frame"),
    ("validate", NO_CLASS, "plugin.bad_frame"),
    ("validate", NO_CODE, "plugin.bad_frame"),
    ("validate", value_frame(FrameType.ERROR, {"class": "input"}), "plugin.bad_frame"),
    ("validate", value_frame(FrameType.ERROR, None), "plugin.bad_frame"),
    ("run", RuntimeError("oops"), "plugin.fault"),
    ("run", [RuntimeError("oops")], "plugin.fault"),
    ("run", [], "plugin.bad_frame"),
    ("run", [b""], "plugin.bad_frame"),
    ("run", [3], "plugin.bad_frame"),
    ("run", [ONCE[:-1]], "plugin.bad_frame"),
    ("run", [value_frame(FrameType.MULTIPLE, 1)], "plugin.bad_frame"),
    ("run", [value_frame(FrameType.STREAM_ITEM, 1)], "plugin.bad_frame"),
    ("run", [WRONG], "demo.x"),
]


@pytest.mark.parametrize(("method", "answer", "code"), FAULTS)
async def test_a_pack_that_misbehaves_fails_its_attempt_and_stays_loaded(method: str, answer: Any, code: str) -> None:
    pack = Hand(**{method: answer})
    block = spoken_to(pack).create("where", {})
    response = await block.execute(Request())
    assert response.code == code
    if code.startswith("plugin."):
        assert response.error_type is BlockInternalError
        assert response.error is not None
        assert response.error.retry_disposition == ("never" if code == "plugin.bad_frame" else None)
    pack.answers.update(validate=OK, run=[value_frame(FrameType.ONCE, {})])
    assert (await block.execute(Request())).success


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (RuntimeError("oops"), "plugin.fault"),
        ((1, b"junk"), "plugin.bad_frame"),
        (None, "plugin.bad_frame"),
        ((1, NUL), "plugin.bad_frame"),
        ((1, OK), "plugin.bad_frame"),
        ((0, PACK.create(value_frame(FrameType.CREATE, {"type_id": "where", "config": {}}))[1]), "plugin.bad_frame"),
        ((0, WRONG), "demo.x"),
    ],
)
def test_a_pack_that_cannot_create_refuses_construction(answer: Any, code: str) -> None:
    with pytest.raises(BlockError) as caught:
        spoken_to(Hand(create=answer)).create("where", {})
    assert caught.value.code == code


async def test_run_may_be_a_coroutine_of_one_frame() -> None:
    async def run() -> bytes:
        return value_frame(FrameType.ONCE, {"a": 1})

    response = await spoken_to(Hand(run=lambda host: run())).create("where", {}).execute(Request())
    assert response.data == BlockValue.of({"a": 1})


@pytest.mark.parametrize("broken", [STREAM_END, OK, b"junk", RuntimeError("oops"), None])
async def test_a_stream_ends_in_order_or_fails(broken: Any) -> None:
    frames = [OK, value_frame(FrameType.STREAM_ITEM, 1), *([] if broken is None else [broken])]
    response = await spoken_to(Hand(run=frames)).create("ticks", {}).execute(Request())
    seen = await drained(response)
    assert seen is not None
    assert seen[0] == BlockValue.of(1)
    expected = (
        "end" if broken is STREAM_END else "plugin.fault" if isinstance(broken, Exception) else "plugin.bad_frame"
    )
    assert (seen[1] if broken is STREAM_END else seen[1][1]) == expected


async def test_a_pack_that_answered_is_not_asked_further() -> None:
    ended: list[str] = []

    async def run() -> Any:
        try:
            yield value_frame(FrameType.ONCE, {})
            ended.append("went on")
        finally:
            ended.append("closed")

    assert (await spoken_to(Hand(run=lambda host: run())).create("where", {}).execute(Request())).success
    assert ended == ["closed"]


async def test_a_pack_cannot_claim_that_its_run_never_began() -> None:
    early = error_frame(BlockRuntimeError("demo.x", "no"), "validate")
    response = await spoken_to(Hand(run=[early])).create("fails", {"how": "x"}).execute(Request())
    assert response.metadata["phase"] == "run"
    assert response.metadata["side_effect_class"] == "idempotent"


@pytest.mark.parametrize(
    ("name", "method", "args", "code"),
    [
        ("files", "delete", {}, "runtime.unknown_service"),
        ("nobody", "read", {}, "runtime.unknown_service"),
        ("files", "read", {}, "plugin.bad_frame"),
        ("files", "read", {"path": "a", "mode": "x"}, "plugin.bad_frame"),
        ("operations", "operate", {"type": "x"}, "plugin.bad_frame"),
        ("clock", "sleep", {"seconds": "long"}, "input.expected_float"),
        ("clock", "sleep", None, "plugin.bad_frame"),
        ("http", "get", {"url": "https://nowhere/"}, None),
    ],
)
async def test_a_malformed_call_of_a_pack_is_answered_with_an_error(
    name: str, method: str, args: Any, code: str | None
) -> None:
    async def run(host: OutsideHost) -> bytes:
        kind, value = payload_of(await host.service(name, method, value_frame(FrameType.VALUE, args)))
        told = read_error(value)[0].code if kind is FrameType.ERROR else None
        return value_frame(FrameType.ONCE, {"code": told})

    scope = Scope(services=services())
    response = await spoken_to(Hand(run=run)).create("where", {}).execute(Request(), scope=scope)
    assert response.data == BlockValue.of({"code": code})


async def test_what_a_pack_tells_unasked_is_checked() -> None:
    entries: list[Any] = [None, {"kind": "log"}, {"kind": "log", "level": "__class__", "event": "x", "value": 1}]

    async def run(host: OutsideHost) -> bytes:
        host.log(b"junk")
        for entry in [*entries, {"kind": "annotate", "key": "demo.ok", "value": 1}]:
            host.log(value_frame(FrameType.VALUE, entry))
        host.log(value_frame(FrameType.VALUE, {"kind": "log", "level": "error", "event": "e", "value": 1}))
        return value_frame(FrameType.ONCE, {})

    host = FakeHost()
    response = await spoken_to(Hand(run=run)).create("where", {}).execute(Request(), host=host)
    assert [(level, event) for level, event, _ in host.logged] == [("warn", "pack_entry_dropped")] * 4 + [
        ("error", "e")
    ]
    assert response.metadata["demo.ok"] == 1


async def test_what_a_pack_tells_unasked_is_bounded() -> None:
    async def run(host: OutsideHost) -> bytes:
        host.log(value_frame(FrameType.VALUE, {"kind": "annotate", "key": "demo.long", "value": "x" * MAX_ENTRY}))
        for number in (*range(1000), 0):
            host.log(value_frame(FrameType.VALUE, {"kind": "annotate", "key": f"demo.{number}", "value": number}))
        return value_frame(FrameType.ONCE, {})

    response = await spoken_to(Hand(run=run)).create("where", {}).execute(Request(), host=FakeHost())
    told = [key for key in response.metadata if key.startswith("demo.")]
    assert told == [f"demo.{number}" for number in range(MAX_ANNOTATIONS)]


@pytest.mark.parametrize("registry", [FAST, BYTES])
async def test_a_halt_of_the_run_stays_control_flow(registry: BlockRegistry) -> None:
    class Halting(FakeHost):
        async def wait(self, *args: Any, **options: Any) -> BlockValue:
            raise Halted("HALTED", "the fence is up")

    with pytest.raises(Halted):
        await registry.create("asks", {}).execute(Request(), host=Halting())


# -- time and life ---------------------------------------------------------------------------------------------


class Slow(Block, type_id="slow", side_effects="none"):
    """Wait until told, in a coroutine or a thread."""

    def validate(self, input: BlockValue, ctx: Any) -> None:
        """Anything goes."""

    async def run(self, input: BlockValue, ctx: Any) -> None:
        ctx.annotate("demo.began", True)
        try:
            await asyncio.Event().wait()
        finally:
            ENDED.append(ctx.cancelled)


class SlowThread(Block, type_id="slow_thread", side_effects="none"):
    """Post to the loop until refused."""

    def validate(self, input: BlockValue, ctx: Any) -> None:
        """Anything goes."""

    def run(self, input: BlockValue, ctx: Any) -> None:
        ctx.services.clock.sleep(1000)


ENDED: list[bool] = []
SLOW = Pack("slow", "1", [Slow, SlowThread])


@pytest.mark.parametrize("registry", [as_it_is(SLOW.classes), spoken_to(SLOW, SLOW.about.blocks)])
@pytest.mark.parametrize("type_id", ["slow", "slow_thread"])
async def test_a_deadline_ends_the_work_inside_the_pack(registry: BlockRegistry, type_id: str) -> None:
    ENDED.clear()
    events = Events()
    block = registry.create(type_id, {}).with_timeout(0.01)
    response = await block.execute(Request(), scope=Scope(observer=events))
    assert response.code == "runtime.timeout"
    if type_id == "slow":
        assert (response.metadata["demo.began"], len(ENDED)) == (True, 1)
        return
    async with asyncio.timeout(10):
        while "block.abandoned" not in events.names():
            await asyncio.sleep(0)


async def test_cancelling_the_attempt_ends_the_work_inside_the_pack() -> None:
    ENDED.clear()
    task = asyncio.create_task(spoken_to(SLOW, SLOW.about.blocks).create("slow", {}).execute(Request()))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ENDED == [False]


async def test_a_stream_nobody_reads_is_closed_inside_the_pack() -> None:
    response = await BYTES.create("ticks", {}).execute(Request(BlockValue.of(2)))
    assert isinstance(response.result, Recurring)
    await response.result.aclose()
    stream = (await BYTES.create("ticks", {}).execute(Request(BlockValue.of(2)))).result
    assert isinstance(stream, Recurring)
    taken: Any = stream.as_stream()
    with pytest.raises(ValueError, match="enough"):
        await taken.athrow(ValueError("enough"))
    with pytest.raises(BlockError, match="too early"):
        await anext(taken)


def test_a_block_nobody_holds_is_dropped() -> None:
    pack = Hand()
    block = spoken_to(pack).create("where", {})
    twin = block.named("twin")
    del block
    gc.collect()
    assert pack.dropped == []
    del twin
    gc.collect()
    assert len(pack.dropped) == 1


async def test_a_pack_elsewhere_is_asked_to_build_at_the_first_attempt() -> None:
    class Far(LocalLink):
        created = 0

        def create_now(self, request: bytes) -> Any:
            return None

        async def create(self, request: bytes) -> tuple[int, bytes]:
            self.created += 1
            return super().create_now(request)

    link, registry = Far(PACK), BlockRegistry()
    for info in PACK.about.blocks:
        registry.register(packed_class(info, link))
    block = registry.create("sized", {"as_bytes": True})
    assert (block.input_contract, block.output_contract) == (block.spec.input, block.spec.output)
    assert (block.output_count, block.side_effects, link.created) == (None, SideEffects.NONE, 0)
    response = await block.execute(Request(BlockValue.of(b"a")))
    assert response.data == BlockValue.of(b"a")
    assert (str(block.output_contract), block.side_effects) == ("once bytes", SideEffects.IDEMPOTENT)
    await block.named("again").execute(Request(BlockValue.of(b"a")))
    assert link.created == 1
    refused = await registry.create("picky", {"how": "config"}).execute(Request())
    assert (refused.code, refused.metadata["phase"]) == ("validation.bad_config", "validate")


# -- what can be exported --------------------------------------------------------------------------------------


class Functional(Block, local=True):
    """Config that cannot travel."""

    function: Any

    def validate(self, input: BlockValue, ctx: Any) -> None:
        """Anything goes."""

    def run(self, input: BlockValue, ctx: Any) -> None:
        """Nothing."""


class Recovering(Ticks, type_id="recovering", recovery={BlockError: ()}, side_effects="none"):
    """Recovery by class."""


class Choosing(Ticks, type_id="choosing"):
    """Recovery by code."""

    def get_policy_stack(self, error_type: type[Exception]) -> tuple[object, ...]:
        return ()


class Base(Block, abstract=True):
    """No block yet."""


@pytest.mark.parametrize("block_class", [Functional, Recovering, Choosing, Base])
def test_what_cannot_cross_cannot_be_exported(block_class: type[Block]) -> None:
    with pytest.raises(BlockDefinitionError) as caught:
        Pack("p", "1", [block_class])
    assert caught.value.code == "definition.not_exportable"
    assert block_class.__name__ in caught.value.message


def test_details_that_fit_no_frame_travel_as_text() -> None:
    deep: Any = 1
    for _ in range(63):
        deep = [deep]
    for details in ({"deep": deep}, {"odd": {1, 2}}, {"\ud800": object()}):
        error = read_error(payload_of(error_frame(BlockRuntimeError("demo.x", "a\ud800b", details=details)))[1])[0]
        assert error.code == "demo.x"
        assert all(isinstance(item, str) for item in error.details.values())
