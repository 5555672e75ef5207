"""For authors' tests: one attempt of one block, without a run, a store or a network (blocks spec §6.3, §20.7).

::

    response = run_block_for_test(Shout(), "hello", answers=["approved"])
    assert response.data == BlockValue.of("HELLO")
    assert [question.prompt for question in response.questions] == ["Really?"]

What the block asks of its surroundings is answered from what the test gave, and is readable afterwards. A block that
asks for more fails the test with `Ungiven`, which says what to give.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from runtime.blocks.block import Block
from runtime.blocks.contracts import BlockMode, BlockValueContract, BlockValueKindSet
from runtime.blocks.envelope import Request, Response, failed
from runtime.blocks.errors import BlockError, BlockSkip
from runtime.blocks.fakes import FakeAi, FakeClock, FakeFiles, FakeHttp, FakeMailer
from runtime.blocks.results import Recurring, normalise
from runtime.blocks.running import Scope, no_pause
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.blocks.watch import watched
from runtime.kernel.ids import SequenceIds
from runtime.kernel.model import OperationResult, OperationStatus

#: What answers an operation: its output, what it raises, or a function of its parameters giving the output.
Answer = Mapping[str, Any] | Exception | Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Ungiven(AssertionError):
    """The block asked for something the test did not give."""


@dataclass(frozen=True, slots=True)
class Operated:
    """One `ctx.operate`: what was asked and the answer."""

    name: str
    params: Mapping[str, Any]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One `ctx.wait`."""

    prompt: str
    choices: tuple[str, ...] = ()
    subject: BlockValue | None = None


@dataclass(frozen=True, slots=True)
class Trial(Response):
    """The response of the attempt, and what the block did on the way.

    ``emitted`` holds ``(lane, value)``, ``logged`` ``(level, event, value)``; ``items`` is what was drawn of a stream.
    """

    operated: tuple[Operated, ...] = ()
    questions: tuple[Asked, ...] = ()
    emitted: tuple[tuple[str, BlockValue], ...] = ()
    logged: tuple[tuple[str, str, object], ...] = ()
    items: tuple[BlockValue, ...] = field(default=())


def run_block_for_test(
    block: Block,
    value: object = None,
    *,
    services: Services | None = None,
    state: Mapping[str, object] | None = None,
    sources: Sequence[str] = (),
    answers: Iterable[object] = (),
    operations: Mapping[str, Answer] | None = None,
    take: int = 0,
) -> Trial:
    """Run one attempt of ``block`` to its end; inside a running loop use `try_block`.

    ``state`` is what ``ctx.state`` shows, ``sources`` the predecessors (two or more: ``value`` is the joined list).
    ``answers`` go to ``ctx.wait`` in order, an exception among them is raised there. ``operations`` answers
    ``ctx.operate``, by ``tool.action`` or by operation type. ``take`` items are drawn of a RECURRING result at most.
    Without ``services`` time stands still except for sleeping, and ids count up.

    ``validate`` that acts fails with ``validation.side_effect``. Raises `Ungiven` for what was not given.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(
            try_block(
                block,
                value,
                services=services,
                state=state,
                sources=sources,
                answers=answers,
                operations=operations,
                take=take,
            )
        )
    raise RuntimeError("a loop is running already; use 'await try_block(...)' with the same arguments")


async def try_block(
    block: Block,
    value: object = None,
    *,
    services: Services | None = None,
    state: Mapping[str, object] | None = None,
    sources: Sequence[str] = (),
    answers: Iterable[object] = (),
    operations: Mapping[str, Answer] | None = None,
    take: int = 0,
) -> Trial:
    """`run_block_for_test` on the current loop."""
    host = _Surroundings(tuple(answers), operations or {})
    scope = Scope(services=services or Services(clock=FakeClock(), ids=SequenceIds()))
    request = Request(
        BlockValue.of(value),
        context={key: BlockValue.of(item) for key, item in (state or {}).items()},
        sources=tuple(sources),
    )
    subject = block if block.is_workflow else watched(block)
    response = await subject.execute(request, host=host, scope=scope)
    response, items = await _drawn(response, block, take)
    if host.ungiven is not None:
        raise Ungiven(f"{block.block_name} {host.ungiven}")
    known = {item.name: getattr(response, item.name) for item in fields(Response)}
    return Trial(
        **known,
        operated=tuple(host.operated),
        questions=tuple(host.questions),
        emitted=tuple(host.emitted),
        logged=tuple(host.logged),
        items=items,
    )


async def _drawn(response: Response, block: Block, take: int) -> tuple[Response, tuple[BlockValue, ...]]:
    """At most ``take`` items of a stream, which is closed; a block error on the way is the response."""
    if not isinstance(response.result, Recurring):
        return response, ()
    one = BlockValueContract(BlockMode.ONCE, block.output_contract.kinds)
    items: list[BlockValue] = []
    stream = response.result.as_stream()
    try:
        while len(items) < take:
            items.append(normalise(await anext(stream), one).as_once())
    except StopAsyncIteration:
        pass
    except (BlockError, BlockSkip) as error:
        return failed(response.metadata, error, "run"), tuple(items)
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    return response, tuple(items)


class _Surroundings:
    """An attempt host made of the test's answers."""

    def __init__(self, answers: tuple[object, ...], operations: Mapping[str, Answer]) -> None:
        self._answers = list(answers)
        self._operations = operations
        self.operated: list[Operated] = []
        self.questions: list[Asked] = []
        self.emitted: list[tuple[str, BlockValue]] = []
        self.logged: list[tuple[str, str, object]] = []
        #: What the block asked for in vain; kept, because the block may swallow what is raised.
        self.ungiven: str | None = None

    async def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
        waiting: Callable[[str], AbstractContextManager[None]] = no_pause,
    ) -> OperationResult:
        name = operation_name(operation_type, params)
        self.operated.append(Operated(name, MappingProxyType(dict(params)), key))
        answer = self._operations.get(name, self._operations.get(operation_type))
        if answer is None:
            raise self._missing(f"performs {name}; give its output as operations={{{name!r}: {{...}}}}")
        if isinstance(answer, Exception):
            raise answer
        output = answer if isinstance(answer, Mapping) else answer(params)
        return OperationResult(
            operation_id=f"test.{len(self.operated) - 1}",
            operation_id_audit="test",
            type=operation_type,
            status=OperationStatus.SUCCESS,
            output=output,
            evidence={},
            receipt=None,
        )

    async def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: BlockValue | None = None
    ) -> BlockValue:
        self.questions.append(Asked(prompt, tuple(choices), subject))
        if not self._answers:
            raise self._missing(f"asks {prompt!r}; give one more of answers=[...]")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        value = BlockValue.of(answer)
        if kinds and not BlockValueKindSet.from_names(*kinds).contains(value.kind):
            kind = value.kind.name.lower()
            raise self._missing(f"asks {prompt!r} for {' or '.join(kinds)}, but the given answer is a {kind}")
        return value

    async def send(self, value: BlockValue) -> None:
        self.emitted.append(("data", value))

    def offer(self, value: BlockValue) -> None:
        self.emitted.append(("telemetry", value))

    def log(self, level: str, event: str, value: object) -> None:
        self.logged.append((level, event, value))

    def _missing(self, what: str) -> Ungiven:
        self.ungiven = self.ungiven or what
        return Ungiven(what)


def operation_name(operation_type: str, params: Mapping[str, Any]) -> str:
    """``tool.action`` of a tool's operation, else its type."""
    tool, action = params.get("tool"), params.get("action")
    if operation_type != "tool_invoke" or not isinstance(tool, str):
        return operation_type
    return f"{tool}.{action}" if action and "." not in tool else tool


__all__ = [
    "Asked",
    "FakeAi",
    "FakeClock",
    "FakeFiles",
    "FakeHttp",
    "FakeMailer",
    "Operated",
    "Trial",
    "Ungiven",
    "operation_name",
    "run_block_for_test",
    "try_block",
]
