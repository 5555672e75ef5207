"""What a step emitted, read back chunk by chunk from the index its journal entry names. Never all of it in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from runtime.blocks.errors import BlockInputError
from runtime.blocks.wire import decode_value
from runtime.kernel.errors import JournalError
from runtime.orchestration.stream_index import MAX_LEVELS, IndexNode, read_node

#: How bodies are got, checked against their digest; None: not stored any more.
Fetch = Callable[[str], Awaitable[bytes | None]]


async def stream_texts(fetch: Fetch, index: str) -> AsyncIterator[list[str] | None]:
    """The items of each chunk in order, as text; None stands for a part that is no longer stored.

    Raises what ``fetch`` raises for a damaged body, `JournalError` ``J_SCHEMA`` for one that is malformed.
    """
    async for chunk in _chunks(fetch, index, MAX_LEVELS):
        yield await _texts(fetch, chunk) if chunk is not None else None


async def last_texts(fetch: Fetch, index: str) -> list[str]:
    """The items of the last chunk, for a look at how it ended; empty when it is no longer stored."""
    below = MAX_LEVELS
    while (node := await _node(fetch, index, below)) is not None and node.parts:
        index, below = node.parts[-1], node.level
        if below == 0:
            return await _texts(fetch, index) or []
    return []


async def _chunks(fetch: Fetch, index: str, below: int) -> AsyncIterator[str | None]:
    node = await _node(fetch, index, below)
    if node is None:
        yield None
        return
    for part in node.parts:
        if node.level == 0:
            yield part
        else:
            async for chunk in _chunks(fetch, part, node.level):
                yield chunk


async def _node(fetch: Fetch, index: str, below: int) -> IndexNode | None:
    body = await fetch(index)
    return None if body is None else read_node(body, below=below)


async def _texts(fetch: Fetch, chunk: str) -> list[str] | None:
    body = await fetch(chunk)
    try:
        return None if body is None else [item.text() for item in decode_value(body).expect_list()]
    except BlockInputError as error:
        raise JournalError("J_SCHEMA", f"{chunk} is no chunk of stream items: {error.message}") from error
