"""One attempt as the pack's side sees it: the ordinary contexts of a block, over frames (blocks spec §20.5).

Author code meets the very same `BlockContext` and `BlockingContext` as in a workflow; only what lies behind them, the
attempt's host and its services, turns every call into frames for `PackHost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Final, cast

from runtime.blocks.block import Block
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError
from runtime.blocks.execute import Attempt
from runtime.blocks.packs.crossing import CrossingClock, crossing_services
from runtime.blocks.packs.frames import PackContext, payload_of, read_error, value_frame
from runtime.blocks.packs.links import PackHost
from runtime.blocks.running import Scope, no_pause
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameType
from runtime.kernel.model import OperationResult, OperationStatus

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


class InsideHost:
    """The `AttemptHost` of a block in a pack."""

    def __init__(self, host: PackHost) -> None:
        self._host = host

    async def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
        waiting: Callable[[str], AbstractContextManager[None]] = no_pause,
    ) -> OperationResult:
        """The runtime judged the result already: here it is good, or raised. It holds the deadline still, too."""
        args = {"type": operation_type, "params": params, "key": key, "compensation": compensation}
        output = await self.ask("operations", "operate", args)
        return OperationResult(
            operation_id="",
            operation_id_audit="",
            type=operation_type,
            status=OperationStatus.SUCCESS,
            output=output.expect_map(),
            evidence={},
            receipt=None,
        )

    async def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: BlockValue | None = None
    ) -> BlockValue:
        question: dict[str, Any] = {"prompt": prompt, "kinds": list(kinds), "choices": list(choices)}
        if subject is not None:  # null is a subject, too
            question["subject"] = subject
        return answered(await self._host.wait(value_frame(FrameType.VALUE, question)))

    async def send(self, value: BlockValue) -> None:
        await self.ask("stream", "send", {"value": value})

    def offer(self, value: BlockValue) -> None:
        self._tell({"kind": "offer", "value": value})

    def log(self, level: str, event: str, value: object) -> None:
        try:
            told = BlockValue.of(value)
        except BlockInputError:
            told = BlockValue.of(repr(value).encode(errors="replace").decode())
        self._tell({"kind": "log", "level": level, "event": event, "value": told})

    def annotate(self, key: str, value: BlockValue) -> None:
        self._tell({"kind": "annotate", "key": key, "value": value})

    def observe(self, event: str, fields: Mapping[str, Any]) -> None:
        """What the runtime cannot see for itself: a thread that ended after its attempt."""
        if event == "block.abandoned":
            self._tell({"kind": "abandoned"})

    def cancelled(self) -> bool:
        return self._host.cancelled()

    async def ask(self, service: str, method: str, args: Mapping[str, Any]) -> BlockValue:
        """Call a service of the run; raises what it failed with."""
        return answered(await self._host.service(service, method, value_frame(FrameType.VALUE, args)))

    def _tell(self, entry: Mapping[str, Any]) -> None:
        self._host.log(value_frame(FrameType.VALUE, entry))


def answered(reply: bytes) -> BlockValue:
    """The value of a VALUE frame; raises what an ERROR frame tells."""
    kind, value = payload_of(reply, FrameType.VALUE, FrameType.ERROR)
    if kind is FrameType.ERROR:
        raise read_error(value)[0]
    return value


class InsideAttempt(Attempt):
    """The attempt of a block in a pack; it is over when either side says so."""

    __slots__ = ("_inside", "_open")

    def __init__(self, block: Block, value: BlockValue, told: PackContext, host: PackHost | None) -> None:
        self._inside = None if host is None else InsideHost(host)
        if told.block_name != block.block_name:
            block = block.node_variant(name=told.block_name)
        request = Request(value, told.state, sources=told.sources, handling=told.handling)
        super().__init__(block, request, _metadata(told), None, self._inside, _scope(told, self._inside))
        self.phase = "validate" if host is None else "run"
        if told.remaining is not None:
            self.deadline = cast("asyncio.Timeout", _Deadline(told.remaining))

    @property
    def open(self) -> bool:
        return self._open and (self._inside is None or not self._inside.cancelled())

    @open.setter
    def open(self, value: bool) -> None:
        self._open = value

    def go_on(self) -> None:
        """A stream was opened: the attempt outlives the call that began it."""
        clock = self.scope.services.clock
        if isinstance(clock, CrossingClock):
            clock.go_on()

    def forward_annotations(self) -> None:
        """Tell the runtime what the author annotated."""
        if self._inside is not None:
            for key, value in (self.annotations or {}).items():
                self._inside.annotate(key, value)
        self.annotations = None


def _metadata(told: PackContext) -> dict[str, Any]:
    names = ("node_name", "node_path", "run_id", "trace_id", "span_id", "attempt", "visit", "tick")
    return {name: getattr(told, name) for name in names if getattr(told, name)}


def _scope(told: PackContext, host: InsideHost | None) -> Scope:
    if host is None:
        return Scope(workflow_id=told.workflow_id)
    now = datetime.fromisoformat(told.now) if told.now else _NEVER
    services = crossing_services(host.ask, now, told.services, told.env)
    return Scope(services=services, observer=host.observe, workflow_id=told.workflow_id)


class _Deadline:
    """When the attempt will end, as the runtime told at its start. Only the runtime moves it."""

    __slots__ = ("_when",)

    def __init__(self, remaining: float) -> None:
        self._when: float | None = asyncio.get_running_loop().time() + remaining

    def when(self) -> float | None:
        return self._when

    def expired(self) -> bool:
        return False

    def reschedule(self, when: float | None) -> None:
        self._when = when
