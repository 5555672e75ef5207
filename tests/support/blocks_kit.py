"""Small blocks and scopes for the block tests: behaviour is a function, time and ids are scripted."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple
from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.running import DirectRunner, NodeCall, Scope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SequenceIds
from runtime.kernel.model import OperationResult, OperationStatus


class Step(Block, local=True, input=multiple()):
    """Runs ``action(value, ctx)``, which may be async; counts its executions."""

    action: Callable[[BlockValue, BlockContext], Any]
    calls: list[BlockValue]
    takes: BlockValueContract | None = None
    gives: BlockValueContract | None = None
    effects: SideEffects | None = SideEffects.NONE
    count: int | None = None

    @property
    def input_contract(self) -> BlockValueContract:
        return self.takes or self.spec.input

    @property
    def output_contract(self) -> BlockValueContract:
        return self.gives or self.spec.output

    @property
    def config_side_effects(self) -> SideEffects | None:
        return self.effects

    @property
    def output_count(self) -> int | None:
        return self.count

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Nothing to refuse."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> Any:
        self.calls.append(input)
        result = self.action(input, ctx)
        return await result if inspect.isawaitable(result) else result


def step(
    name: str,
    action: Callable[[BlockValue, BlockContext], Any] = lambda value, ctx: value,
    *,
    takes: BlockValueContract | None = None,
    gives: BlockValueContract | None = None,
    effects: SideEffects | str | None = "none",
    count: int | None = None,
) -> Step:
    """A named block from a function; the default passes its input on."""
    known = None if effects is None else SideEffects.parse(effects)
    return Step(action=action, calls=[], takes=takes, gives=gives, effects=known, count=count).named(name)


def tagged(name: str) -> Step:
    """Returns its own name."""
    return step(name, lambda value, ctx: name)


def failing(
    name: str, times: int = 1_000_000, code: str = "demo.broken", effects: str | None = "none", **fields: Any
) -> Step:
    """Fails its first ``times`` executions, then returns the number of the attempt."""
    left = [times]

    def action(value: BlockValue, ctx: BlockContext) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise BlockRuntimeError(code, f"{name} broke", **fields)
        return ctx.attempt

    return step(name, action, effects=effects)


class Events:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Any]]] = []

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        self.seen.append((event, fields))

    def names(self, prefix: str = "") -> list[str]:
        return [name for name, _ in self.seen if name.startswith(prefix)]


def scope(clock: ManualClock | None = None, observer: Events | None = None) -> Scope:
    """A scope whose clock stands still and whose ids count up."""
    return Scope(services=Services(clock=clock or ManualClock(), ids=SequenceIds()), observer=observer)


class Recorder(DirectRunner):
    """A runner that keeps every call and response, and scripts what `undo` answers."""

    def __init__(self, undone: SideEffects | None = None, host: Any = None) -> None:
        super().__init__(host)
        self.calls: list[NodeCall] = []
        self.responses: list[Response] = []
        self.undone: list[tuple[str, int]] = []
        self._answer = undone

    async def attempt(self, call: NodeCall) -> Response:
        self.calls.append(call)
        response = await super().attempt(call)
        self.responses.append(response)
        return response

    async def undo(self, call: NodeCall, failure: Response) -> SideEffects | None:
        self.undone.append((call.node_path, call.attempt))
        return self._answer

    def sequence(self) -> list[tuple[str, int, int]]:
        return [(call.node_path, call.visit, call.attempt) for call in self.calls]


class FakeHost:
    """An attempt host answering from scripted results."""

    def __init__(self, results: Sequence[OperationResult] = (), answer: object = "approved") -> None:
        self.results = list(results)
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.questions: list[tuple[str, tuple[str, ...], Any]] = []
        self.answer = answer
        self.emitted: list[tuple[str, BlockValue]] = []
        self.logged: list[tuple[str, str, object]] = []

    async def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
        **options: Any,
    ) -> OperationResult:
        self.operations.append((operation_type, dict(params)))
        return self.results.pop(0)

    async def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: BlockValue | None = None
    ) -> BlockValue:
        self.questions.append((prompt, tuple(choices), subject))
        if isinstance(self.answer, Exception):
            raise self.answer
        return BlockValue.of(self.answer)

    async def send(self, value: BlockValue) -> None:
        self.emitted.append(("data", value))

    def offer(self, value: BlockValue) -> None:
        self.emitted.append(("telemetry", value))

    def log(self, level: str, event: str, value: object) -> None:
        self.logged.append((level, event, value))


def operation(code: str | None = None, status: OperationStatus | None = None, **output: Any) -> OperationResult:
    """An operation result: successful, or failed with ``code``."""
    return OperationResult(
        operation_id="step.0",
        operation_id_audit="audit",
        type="tool_invoke",
        status=status or (OperationStatus.SUCCESS if code is None else OperationStatus.FAILED),
        output=output,
        evidence={},
        receipt=None,
        reason_code=code,
    )


async def respond(block: Block, value: object = None, **options: Any) -> Response:
    """Execute a block once."""
    return await block.execute(Request(BlockValue.of(value)), **{"scope": scope(), **options})


def single(block: Block, **options: Any) -> Workflow:
    """A workflow of one block, configured with ``options``."""
    return Workflow("one").add(block).configure(block, **options)


class Threaded(Block, local=True):
    """A plain run, in a worker thread."""

    action: Callable[[BlockValue, BlockingContext], Any]

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None: ...

    def run(self, input: BlockValue, ctx: BlockingContext) -> Any:
        return self.action(input, ctx)


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    """An action that raises."""

    def action(value: Any, ctx: Any) -> Any:
        raise error

    return action


async def stuck(value: Any, ctx: Any) -> None:
    """An action that only ends by cancellation."""
    await asyncio.Event().wait()


def stack(*policies: object) -> Mapping[type[Exception], Sequence[object]]:
    """A recovery mapping for every failure."""
    return {Exception: policies}


async def attempts(
    block: Block, *policies: object, runner: Recorder | None = None, **options: Any
) -> tuple[Response, list[int]]:
    """The last word of a node with these policies, and the attempts of that node (not of what is inside it)."""
    runner = runner or Recorder()
    response = await respond(single(block, recovery=stack(*policies), **options), runner=runner)
    return response, [call.attempt for call in runner.calls if "/" not in call.node_path]
