"""Block classes made from a manifest: ordinary blocks to everybody, whose work is done over a `PackLink`.

Contracts and side-effect class of an instance are the manifest's until the pack has built it; then they are what its OK
frame told. A pack of this process builds at construction; one that lives elsewhere builds at the first attempt, so that
nobody has to run foreign code to plan a graph. The author's ``validate`` runs with the real value right before ``run``,
as the first part of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, ClassVar, NoReturn

from runtime.blocks.block import Block
from runtime.blocks.config import ConfigField
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockError, BlockInternalError, engine_error
from runtime.blocks.execute import Attempt
from runtime.blocks.packs.frames import (
    Effective,
    context_frame,
    create_frame,
    payload_of,
    read_effective,
    read_error,
)
from runtime.blocks.packs.links import PackLink, close
from runtime.blocks.packs.local import bad_frame
from runtime.blocks.packs.manifest import PackBlockInfo
from runtime.blocks.packs.outside import OutsideHost, told
from runtime.blocks.results import BlockRunResult, Multiple, Once, Recurring
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameType, encode_value


def packed_class(info: PackBlockInfo, link: PackLink) -> type[Block]:
    """The block class for one type of a pack. Raises `BlockDefinitionError` for names a block cannot have."""
    spec = {
        "type_id": info.type_id,
        "display_name": info.display_name,
        "version": info.version,
        "input": info.input,
        "output": info.output,
        "side_effects": info.side_effects,
        "timeout": info.timeout,
        "retry": info.retry,
        "reads": info.reads,
    }
    made: type[Block] = types.new_class(
        "Packed", (_Packed,), spec, lambda namespace: namespace.update(_namespace(info, link))
    )
    made.spec = dataclasses.replace(made.spec, fields=info.config, summary=info.summary)
    return made


def _namespace(info: PackBlockInfo, link: PackLink) -> dict[str, Any]:
    names = (info.free_form,) if info.free_form is not None else tuple(item.name for item in info.config)
    defaults = {} if info.free_form is not None else {item.name: _default(item) for item in info.config}
    return {
        "__annotations__": dict.fromkeys(names, Any),
        "__doc__": info.summary or info.display_name,
        "__module__": __name__,
        "free_form_field": info.free_form,
        "is_operation": info.operation,
        "_packed_link": link,
        **({info.free_form: dataclasses.field(default_factory=dict)} if info.free_form is not None else defaults),
    }


def _default(item: ConfigField) -> Any:
    if item.required:
        return dataclasses.field()
    value = BlockValue.of(item.default)
    return dataclasses.field(default_factory=value.to_python)  # a fresh list or map per instance


class _Held:
    """One block built inside the pack, shared by the variants of an instance; dropped with the last of them."""

    def __init__(self, link: PackLink, request: bytes) -> None:
        self.link = link
        self.handle = 0
        self.effective: Effective | None = None
        self._request = request
        self._turn = asyncio.Lock()
        created = link.create_now(request)
        #: Built after the graph was planned, with what the manifest says.
        self.late = created is None
        if created is not None:
            self._take(*created)

    async def ready(self) -> int:
        """The handle, built now if it has to be. Raises what the pack refuses the config with."""
        async with self._turn:
            if not self.handle:
                self._take(*await self.link.create(self._request))
        return self.handle

    def _take(self, handle: int, answer: bytes) -> None:
        kind, value = reply(answer, FrameType.OK, FrameType.ERROR)
        if kind is FrameType.ERROR:
            raise_told(value)
        try:
            self.effective = read_effective(value)
        except BlockError as error:
            raise bad_frame(error.message, error.code) from None
        if handle < 1:
            raise bad_frame(f"handle {handle} is not positive")
        self.handle = handle
        weakref.finalize(self, self.link.drop, handle).atexit = False


class _Packed(Block, abstract=True):
    """Base of the classes `packed_class` makes."""

    _packed_link: ClassVar[PackLink]

    def __post_init__(self) -> None:
        held = _Held(self._packed_link, create_frame(self.spec.type_id, self._given()))
        object.__setattr__(self, "_packed_held", held)

    def _given(self) -> dict[str, Any]:
        """The config as a mission would write it: what differs from the defaults, which the pack knows itself."""
        if self.free_form_field is not None:
            return dict(getattr(self, self.free_form_field))
        values = {item.name: (item, BlockValue.of(getattr(self, item.name))) for item in self.spec.fields}
        return {
            name: value
            for name, (item, value) in values.items()
            if item.required or value != BlockValue.of(item.default)
        }

    @property
    def _effective(self) -> Effective | None:
        held: _Held = self.__dict__["_packed_held"]
        return held.effective

    @property
    def input_contract(self) -> BlockValueContract:
        found = self._effective
        return self.spec.input if found is None else found.input

    @property
    def output_contract(self) -> BlockValueContract:
        found = self._effective
        return self.spec.output if found is None else found.output

    @property
    def output_count(self) -> int | None:
        found = self._effective
        return None if found is None else found.output_count

    @property
    def config_side_effects(self) -> SideEffects | None:
        found = self._effective
        return self.spec.side_effects if found is None else found.side_effects

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The author's own ``validate`` can only be asked by waiting, hence in `run`."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> BlockRunResult:
        attempt, held = ctx.attempt_state, self.__dict__["_packed_held"]
        attempt.phase = "validate"
        handle = await held.ready()
        if held.late and self.output_contract.mode is not self.spec.output.mode:
            raise _unplanned(self.spec.output, self.output_contract)
        value, context = encode_value(input), context_frame(told(ctx))
        kind, answer = reply(await held.link.validate(handle, value, context), FrameType.OK, FrameType.ERROR)
        if kind is FrameType.ERROR:
            raise_told(answer)
        attempt.phase = "run"
        return await _result(held.link.run(handle, value, context, OutsideHost(ctx)), attempt)


def _unplanned(planned: BlockValueContract, now: BlockValueContract) -> BlockError:
    """Nobody downstream expects what this would give; a stream would be taken for nothing at all."""
    return engine_error(
        BlockInternalError,
        "plugin.manifest_mismatch",
        f"the manifest says that the block gives {planned}, and the pack that built it says {now}",
        retry_disposition="never",
        effects="none",
    )


async def _result(frames: AsyncIterator[bytes], attempt: Attempt) -> BlockRunResult:
    streaming = False
    try:
        kind, value = await _next(frames, FrameType.ONCE, FrameType.MULTIPLE, FrameType.OK, FrameType.ERROR)
        if kind is FrameType.ERROR:
            raise_told(value, attempt)
        if kind is FrameType.ONCE:
            return Once(value)
        if kind is FrameType.MULTIPLE:
            if not value.is_list:
                raise bad_frame("a MULTIPLE frame holds a list")
            return Multiple(value.expect_list())
        streaming = True
        return Recurring(FrameStream(frames))
    finally:
        if not streaming:
            await close(frames)


class FrameStream(AsyncGenerator[BlockValue, None]):
    """The values of STREAM_ITEM frames. Closing it ends the pack's work, also when nothing was read yet."""

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self._frames = frames

    async def asend(self, value: None) -> BlockValue:
        kind, item = await _next(self._frames, FrameType.STREAM_ITEM, FrameType.STREAM_END, FrameType.ERROR)
        if kind is FrameType.STREAM_ITEM:
            return item
        await self.aclose()
        if kind is FrameType.ERROR:
            raise_told(item)
        raise StopAsyncIteration

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> NoReturn:
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        await close(self._frames)


async def _next(frames: AsyncIterator[bytes], *kinds: FrameType) -> tuple[FrameType, BlockValue]:
    try:
        data = await anext(frames)
    except StopAsyncIteration:
        raise bad_frame("it ended too early") from None
    return reply(data, *kinds)


def reply(data: bytes, *kinds: FrameType) -> tuple[FrameType, BlockValue]:
    """Type and value of a pack's answer. Raises `BlockInternalError` ``plugin.bad_frame``."""
    try:
        return payload_of(data, *kinds)
    except BlockError as error:
        raise bad_frame(error.message, error.code) from None


def raise_told(value: BlockValue, attempt: Attempt | None = None) -> NoReturn:
    """Raise what an ERROR frame tells. A pack may say that the fault lay in its result, never that nothing ran."""
    try:
        error, phase = read_error(value)
    except (BlockError, ValueError) as problem:
        raise bad_frame(str(problem)) from None
    if attempt is not None and phase == "result":
        attempt.phase = phase
    raise error
