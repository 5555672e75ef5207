"""What a pack's author writes, ``PACK = Pack("name", "1.0", [MyBlock])``, and the byte interface made from it.

::

    abi_version() -> int                                     2
    manifest() -> bytes                                      the MANIFEST frame, equal to ``pack.bin``
    create(request) -> (handle, frame)                       CREATE → OK | ERROR
    validate(handle, value, context) -> frame                OK | ERROR
    run(handle, value, context, host) -> async iterator      ONCE | MULTIPLE | ERROR, or OK STREAM_ITEM* STREAM_END
    drop(handle)

Only bytes cross, besides handles and the host (`runtime.blocks.packs.links.PackHost`). A hand-written object with these
six methods is a pack as well. Whatever a block raises is an answer, an ERROR frame; methods raise for broken calls only.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable
from inspect import isasyncgen
from typing import cast

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockValidateContext
from runtime.blocks.errors import BlockDefinitionError, BlockError, BlockInternalError, engine_error
from runtime.blocks.execute import Attempt, Authored, failure_from, refused_return, run_body
from runtime.blocks.packs.frames import (
    OK,
    STREAM_END,
    Effective,
    effective_frame,
    error_frame,
    payload_of,
    read_context,
    read_create,
    value_frame,
)
from runtime.blocks.packs.inside import InsideAttempt
from runtime.blocks.packs.links import PackHost, close
from runtime.blocks.packs.manifest import ABI, PackBlockInfo, PackManifest, encode_manifest
from runtime.blocks.registry import BlockRegistry
from runtime.blocks.results import BlockRunResult, Multiple, Once, Recurring, normalise
from runtime.blocks.sanitise import clean_text
from runtime.blocks.wire import FrameType


class Pack:
    """A named group of block classes. ``module`` and ``symbol`` say where this object is found below the pack's folder.

    Raises `BlockDefinitionError` ``definition.not_exportable`` for classes that cannot cross as bytes, `PackError` for
    names a manifest refuses.
    """

    def __init__(
        self, name: str, version: str, blocks: Iterable[type[Block]], *, module: str = "", symbol: str = "PACK"
    ) -> None:
        self.classes = tuple(sorted(blocks, key=lambda block_class: block_class.spec.type_id))
        for block_class in self.classes:
            _check_exportable(block_class)
        self.about = PackManifest(
            name=name,
            version=version,
            module=module or name.replace("-", "_"),
            symbol=symbol,
            blocks=tuple(block_info(block_class) for block_class in self.classes),
        )
        self._manifest = encode_manifest(self.about)
        self._registry = BlockRegistry()
        for block_class in self.classes:
            self._registry.register(block_class)
        self._blocks: dict[int, Block] = {}
        self._handles = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Pack {self.about.name} {self.about.version}: {', '.join(self.about.type_ids)}>"

    def abi_version(self) -> int:
        return ABI

    def manifest(self) -> bytes:
        return self._manifest

    def create(self, request: bytes) -> tuple[int, bytes]:
        """Build a block; handle 0 comes with an ERROR frame."""
        type_id, config = read_create(request)
        try:
            block = self._registry.create(type_id, config)
            answer = effective_frame(effective(block))
        except Exception as error:  # noqa: BLE001 - whatever the author's class raised is an answer
            return 0, error_frame(_as_told(type_id, error), "validate")
        handle = next(self._handles)
        self._blocks[handle] = block
        return handle, answer

    def validate(self, handle: int, value: bytes, context: bytes) -> bytes:
        """Ask the author whether the value can be worked on."""
        payload = payload_of(value, FrameType.VALUE)[1]
        attempt = InsideAttempt(self._blocks[handle], payload, read_context(context), None)
        block = attempt.block
        try:
            if cast(Authored, block).validate(payload, BlockValidateContext(attempt, block)) is not None:
                raise refused_return(block)
        except Exception as error:  # noqa: BLE001 - whatever the author raised is an answer
            return _failure(attempt, error)
        finally:
            attempt.open = False
        return OK

    async def run(self, handle: int, value: bytes, context: bytes, host: PackHost) -> AsyncIterator[bytes]:
        """Do the work once."""
        payload = payload_of(value, FrameType.VALUE)[1]
        attempt = InsideAttempt(self._blocks[handle], payload, read_context(context), host)
        try:
            try:
                result = await _result(attempt)
            finally:
                attempt.forward_annotations()
            if isinstance(result, Once):
                yield value_frame(FrameType.ONCE, result.value)
            elif isinstance(result, Multiple):
                yield value_frame(FrameType.MULTIPLE, result.data)
            else:
                attempt.go_on()
                yield OK
                stream = result.as_stream()
                try:
                    async for item in stream:
                        yield value_frame(FrameType.STREAM_ITEM, item)
                finally:
                    await close(stream)
                yield STREAM_END
        except Exception as error:  # noqa: BLE001 - whatever the author raised is an answer
            yield _failure(attempt, error)
        finally:
            attempt.open = False

    def drop(self, handle: int) -> None:
        self._blocks.pop(handle, None)


async def _result(attempt: InsideAttempt) -> BlockRunResult:
    returned = await run_body(attempt, attempt.block)
    attempt.phase = "result"
    try:
        return normalise(returned, attempt.block.output_contract)
    except BlockError:
        if isinstance(returned, Recurring) or isasyncgen(returned):
            await returned.aclose()
        raise


def _failure(attempt: Attempt, error: Exception) -> bytes:
    told = failure_from(attempt, error).error or error
    return error_frame(cast(BlockError, told), attempt.phase)


def _as_told(type_id: str, error: Exception) -> BlockError:
    if isinstance(error, BlockError):
        return error
    text = clean_text(f"{type_id}: {type(error).__name__}: {error}")
    details = {"error_class": type(error).__name__}
    return engine_error(BlockInternalError, "runtime.internal", text, details=details)


def effective(block: Block) -> Effective:
    """What holds for this very instance."""
    return Effective(
        input=block.input_contract,
        output=block.output_contract,
        output_count=block.output_count,
        side_effects=block.config_side_effects,
    )


def block_info(block_class: type[Block]) -> PackBlockInfo:
    """What a manifest says about a block class."""
    spec = block_class.spec
    return PackBlockInfo(
        type_id=spec.type_id,
        display_name=spec.display_name,
        summary=spec.summary,
        version=spec.version,
        input=spec.input,
        output=spec.output,
        config=block_class.declared_config(),
        side_effects=spec.side_effects,
        timeout=spec.timeout,
        retry=spec.retry,
        reads=spec.reads,
        free_form=block_class.free_form_field,
        operation=block_class.is_operation,
    )


def _check_exportable(block_class: type[Block]) -> None:
    spec = block_class.spec
    why = next((text for found, text in _obstacles(block_class) if found), None)
    if why is not None:
        raise BlockDefinitionError(
            "definition.not_exportable", f"block class {block_class.__name__} ({spec.type_id}) {why}"
        )


def _obstacles(block_class: type[Block]) -> Iterable[tuple[bool, str]]:
    spec = block_class.spec
    return (
        (spec.abstract, "is abstract; export what is made from it"),
        (spec.local, "is local: its config holds functions, which no bytes can carry"),
        (
            spec.recovery is not None or block_class.get_policy_stack is not Block.get_policy_stack,
            "chooses recovery by exception classes, which no manifest can name; declare retry= instead",
        ),
    )
