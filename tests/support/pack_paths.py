"""Executing a block on both paths, as it is and spoken to in bytes, and holding one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from support.blocks_kit import Events, FakeHost, operation
from support.pack_samples import BLOCKS, PACK

from runtime.blocks.block import Block
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import (
    BlockError,
    BlockRuntimeError,
)
from runtime.blocks.fakes import FakeAi, FakeClock, FakeFiles, FakeHttp, FakeMailer
from runtime.blocks.packs.local import LocalLink
from runtime.blocks.packs.packed import packed_class
from runtime.blocks.registry import BlockRegistry, builtin_registry
from runtime.blocks.results import Recurring
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.kernel.ids import SequenceIds


def spoken_to(pack: Any, types: Any = PACK.about.blocks) -> BlockRegistry:
    registry = BlockRegistry()
    for info in types:
        registry.register(packed_class(info, LocalLink(pack)))
    return registry


def as_it_is(classes: tuple[type[Block], ...] = BLOCKS) -> BlockRegistry:
    registry = BlockRegistry()
    for block_class in classes:
        registry.register(block_class)
    return registry


FAST, BYTES = as_it_is(), spoken_to(PACK)
BUILTINS_FAST, BUILTINS_BYTES = builtin_registry(), builtin_registry(byte_path=True)


def services() -> Services:
    return Services(
        clock=FakeClock(),
        ids=SequenceIds(),
        files=FakeFiles({"a.txt": "hello", "b/c.txt": "x"}),
        http=FakeHttp({"https://example.org/": "<p>page</p>"}),
        mailer=FakeMailer(),
        ai=FakeAi(["said"]),
        env={"HOME": "/nowhere"},
    )


def results() -> list[Any]:
    return [operation(value=1), operation("OP_TIMEOUT", part=2), operation(value=3)]


class Seen:
    """What one execution did: its response, what the host was asked, what the services were asked, what was observed."""

    def __init__(self) -> None:
        self.host = FakeHost(results(), "yes")
        self.services = services()
        self.events = Events()
        self.response: Response | None = None

    async def of(self, block: Block, request: Request, *, hosted: bool = True) -> dict[str, Any]:
        scope = Scope(services=self.services, observer=self.events, workflow_id="wf")
        response = await block.execute(request, host=self.host if hosted else None, scope=scope)
        stream = await drained(response)
        return {
            **told(response),
            "stream": stream,
            "operations": self.host.operations,
            "questions": self.host.questions,
            "emitted": self.host.emitted,
            "logged": [(level, event, shown(value)) for level, event, value in self.host.logged],
            "events": self.events.names(),
            "mail": self.services.mailer.sent,  # type: ignore[union-attr]
            "files": self.services.files.contents,  # type: ignore[union-attr]
            "slept": self.services.clock.slept,  # type: ignore[attr-defined]
        }


def shown(value: object) -> BlockValue:
    """What cannot cross is logged as its own text."""
    return BlockValue.of(value if not isinstance(value, set) else repr(value))


async def drained(response: Response) -> list[Any] | None:
    if not isinstance(response.result, Recurring):
        return None
    items: list[Any] = []
    stream = response.result.as_stream()
    try:
        while len(items) < 5:
            items.append(BlockValue.of(await anext(stream)))
    except StopAsyncIteration:
        items.append("end")
    except BlockError as error:
        items.append((type(error), error.code, error.message, error.effects))
    await stream.aclose()  # type: ignore[attr-defined]
    return items


def told(response: Response) -> dict[str, Any]:
    error = response.error
    words = ("message", "domain", "provider_status", "retry_disposition", "severity", "effects", "reason")
    return {
        "success": response.success,
        "mode": None if response.result is None else response.result.mode,
        "data": response.data,
        "code": response.code,
        "reason": response.reason,
        "type": response.error_type,
        "details": response.details,
        "output": response.output,
        "error": None if error is None else {word: getattr(error, word) for word in words},
        "metadata": dict(response.metadata),
    }


async def both(
    type_id: str,
    config: Mapping[str, Any],
    request: Request,
    registries: tuple[BlockRegistry, BlockRegistry] = (FAST, BYTES),
    **options: Any,
) -> dict[str, Any]:
    """Execute on both paths, and say what came of it once it is the same."""
    try:
        fast, spoken = (registry.create(type_id, config) for registry in registries)
    except BlockError:
        faults = []
        for registry in registries:
            with pytest.raises(BlockError) as caught:
                registry.create(type_id, config)
            faults.append((type(caught.value), caught.value.code, caught.value.message, caught.value.details))
        assert faults[0] == faults[1]
        return {"fault": faults[0]}
    for name in ("input_contract", "output_contract", "output_count", "side_effects", "attempt_timeout"):
        assert getattr(fast, name) == getattr(spoken, name), name
    assert fast.spec.reads == spoken.spec.reads
    assert fast.get_policy_stack(BlockRuntimeError) == spoken.get_policy_stack(BlockRuntimeError)
    first = await Seen().of(fast, request, **options)
    second = await Seen().of(spoken, request, **options)
    assert second == first
    return first
