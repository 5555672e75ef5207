"""The world as one block attempt may see it: governed operations, questions to a human, and nothing else.

Implements `runtime.blocks.running.AttemptHost`. Operation ids follow ruling R13, so a block retry is new work under
new keys while a resumed attempt repeats the same keys and is answered from its receipts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

from runtime.blocks.errors import BlockRuntimeError, BlockValidationError
from runtime.blocks.projection import project
from runtime.blocks.running import NodeCall, no_pause
from runtime.blocks.sanitise import redact
from runtime.blocks.values import BlockValue
from runtime.execution.attempt_undo import AttemptKey, Executes, Undo
from runtime.execution.leavings import left_by
from runtime.execution.pause import PauseGate
from runtime.execution.questions import Asks
from runtime.execution.stream_keeper import TELEMETRY, DataItem, TextItem
from runtime.flow.streams import StreamEdges, StreamStalled
from runtime.kernel.errors import Halted, JournalError, ModelError, StorageError
from runtime.kernel.ids import operation_id
from runtime.kernel.model import CompensationType, Envelope, ExecutionContext, Operation, OperationResult
from runtime.kernel.outcomes import block_code
from runtime.kernel.redaction import Redactor
from runtime.orchestration.operations import InvalidCompensation


class AttemptWorld:
    """The host side of ``ctx`` for one attempt. ``rest`` gives its worker back while a person is asked."""

    def __init__(
        self,
        *,
        call: NodeCall,
        key: AttemptKey,
        executor: Executes,
        context: ExecutionContext,
        stack: tuple[Envelope, ...],
        role: str,
        gate: PauseGate,
        questions: Asks,
        undo: Undo,
        streams: StreamEdges,
        redactor: Redactor | None = None,
        rest: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self._call = call
        self._key = key
        self._executor = executor
        self._context = replace(context, acting_role=role)
        self._stack = stack
        self._gate = gate
        self._questions = questions
        self._undo = undo
        self._streams = streams
        self._redactor = Redactor() if redactor is None else redactor
        self._rest = rest
        self._operations = 0
        self._asked = 0

    def go_on(self, key: AttemptKey) -> None:
        """The stream this attempt opened is asked for its next item: what it does from now on belongs to ``key``."""
        if key != self._key:
            self._key, self._operations, self._asked = key, 0, 0

    async def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
        waiting: Callable[[str], AbstractContextManager[None]] = no_pause,
    ) -> OperationResult:
        """Run one governed operation; waits while the run is paused, and starts nothing once it is fenced."""

        @asynccontextmanager
        async def asked(prompt: str) -> AsyncIterator[None]:
            with waiting(prompt):
                async with self._rest():
                    yield

        await self._gate.passed()
        index: int | str = key if key is not None else self._operations
        self._operations += key is None
        operation = self._operation(operation_type, params, index, compensation)
        try:
            result = await self._executor.execute(
                operation,
                self._context,
                self._stack,
                fill_default=operation.compensation_type is CompensationType.NONE,
                on_output=self._tell,
                waiting=asked,
            )
        except InvalidCompensation as error:
            raise BlockValidationError(block_code(error.code), error.message) from error
        except StorageError as error:
            raise Halted(error.code, error.message) from error
        except asyncio.CancelledError:
            self._undo.leave(self._key, left_by(operation, None))
            raise
        if result.receipt is not None:
            self._undo.note(self._key, result.receipt)
        self._undo.leave(self._key, left_by(operation, result))
        return result

    def _operation(
        self, operation_type: str, params: Mapping[str, Any], index: int | str, compensation: tuple[str, str] | None
    ) -> Operation:
        path, tick, visit, attempt = self._key
        declared = compensation or self._declared()
        try:
            return Operation(
                operation_id(path, index, tick=tick, visit=visit, attempt=attempt),
                operation_type,
                dict(params),
                CompensationType(declared[0]) if declared else CompensationType.NONE,
                declared[1] if declared else "",
            )
        except ModelError as error:
            raise BlockValidationError(block_code(error.code), error.message) from error
        except ValueError as error:
            raise BlockValidationError("op.comp_type", f"unknown compensation type: {error}") from error

    def _declared(self) -> tuple[str, str] | None:
        kind = self._call.options.extra.get("compensation_type")
        command = self._call.options.extra.get("compensation_command", "")
        return (str(kind), str(command)) if kind else None

    async def wait(
        self,
        prompt: str,
        *,
        kinds: Sequence[str] = (),
        choices: Sequence[str] = (),
        subject: BlockValue | None = None,
        index: str | None = None,
    ) -> BlockValue:
        """Ask a human; returns a MAP ``{choice, by, notes}``. ``index`` names the question, else it is counted."""
        path, tick, visit, attempt = self._key
        if index is None:
            index = f"ask{self._asked}"
            self._asked += 1
        try:
            reply = await self._questions.ask(
                question_id=operation_id(path, index, tick=tick, visit=visit, attempt=attempt),
                step_id=path,
                prompt=self._redactor.text(prompt),
                choices=tuple(choices) or ("approved", "rejected"),
                subject=None if subject is None else project(subject.without_secrets(self._redactor))[0],
            )
        except (JournalError, StorageError) as error:
            raise Halted(error.code, error.message) from error
        if reply.resolution == "rejected":
            note = f": {reply.notes}" if reply.notes else ""
            raise BlockRuntimeError(
                "approval.refused", f"{prompt!r} was rejected by {reply.by}{note}", retry_disposition="never"
            )
        return BlockValue.of({"choice": reply.resolution, "by": reply.by, "notes": reply.notes})

    async def send(self, value: BlockValue) -> None:
        """A Data item: kept and then shown; waits for room (ruling R29).

        Raises `BlockValidationError` ``validation.stream_item`` for one the edge can never hold, `BlockRuntimeError`
        ``runtime.stream_stalled`` when there was no room in time, `Halted` once the run is fenced.
        """
        path = self._call.node_path
        item = DataItem.of(path, value.without_secrets(self._redactor))
        if len(item.body) > self._streams.max_item:
            raise BlockValidationError(
                "validation.stream_item",
                f"a stream item of {len(item.body)} bytes exceeds {self._streams.max_item}; emit it in parts,"
                " or write a file and emit its name",
            )
        try:
            await self._streams.send(self._key, item, len(item.body))
        except StreamStalled as stalled:
            raise BlockRuntimeError(
                "runtime.stream_stalled",
                f"a stream item of {path} was not taken: {stalled.message}; emit less, or more slowly",
            ) from stalled
        except (JournalError, StorageError) as error:
            raise Halted(error.code, error.message) from error

    def offer(self, value: BlockValue) -> None:
        """A Telemetry item, for the live view only: dropped and counted when there is no room (ruling R29)."""
        self._tell_of(value.text())

    def log(self, level: str, event: str, value: object) -> None:
        """A block's own diagnostics, for the live view."""
        plain = value.to_python() if isinstance(value, BlockValue) else value
        shown = "" if value is None else redact(self._redactor.value(plain))
        self._tell_of(f"{level} {event} {shown}")

    def _tell_of(self, line: str) -> None:
        try:
            self._tell(TELEMETRY, self._redactor.text(line) + "\n")
        except (JournalError, StorageError) as error:
            raise Halted(error.code, error.message) from error

    def _tell(self, stream: str, text: str) -> None:
        """Called from the runner's own callbacks as well, where only ordinary exceptions may come out."""
        self._streams.offer(
            self._key, TextItem(self._call.node_path, stream, text), len(text.encode("utf-8", "replace"))
        )
