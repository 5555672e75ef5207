"""What a run returns becomes one of three variants, checked against the declared contract (blocks spec §4)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contracts import BlockValueContract, multiple, once, recurring
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockInputError
from runtime.blocks.results import Multiple, Once, Recurring
from runtime.blocks.values import NULL, BlockValue
from tests.support.blocks_kit import respond, step


class Strict(Block, input=once("string"), output=once("string")):
    """Refuses empty text by the given means."""

    def validate(self, input: BlockValue, ctx: Any) -> Any:
        if input.payload == "":
            raise BlockInputError("input.path_required", "empty")
        return False if input.payload == "false" else None

    async def run(self, input: BlockValue, ctx: Any) -> Any:
        return 1 if input.payload == "one" else input


async def items() -> Any:
    yield 1


RESULTS: list[tuple[Any, BlockValueContract, Any]] = [
    ("x", once(), "x"),
    (None, once("null"), None),
    ([1, 2], once("list"), [1, 2]),
    (Once({"a": 1}), once(), {"a": 1}),
    (Multiple([1, "b"]), multiple(), [1, "b"]),
    (Multiple([]), multiple(), []),
    (Recurring(items()), recurring(), None),
]


@pytest.mark.parametrize(("returned", "contract", "data"), RESULTS)
async def test_each_return_style_becomes_its_variant(returned: Any, contract: BlockValueContract, data: Any) -> None:
    response = await respond(step("s", lambda value, ctx: returned, gives=contract))
    assert response.success
    assert response.result is not None
    assert response.result.mode is contract.mode
    assert response.data.to_python() == data
    if isinstance(response.result, Recurring):
        await response.result.aclose()


class Streams(Block, output=recurring("int"), side_effects="none"):
    """Written as an async generator."""

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    async def run(self, input: BlockValue, ctx: Any) -> Any:
        yield 1
        yield 2


async def test_an_async_generator_is_a_stream_taken_once() -> None:
    response = await respond(Streams())
    assert isinstance(response.result, Recurring)
    assert response.data == NULL
    assert [item async for item in response.result.as_stream()] == [1, 2]


async def test_a_stream_nobody_may_have_is_closed() -> None:
    closed: list[bool] = []

    async def stream() -> Any:
        try:
            yield 1
        finally:
            closed.append(True)

    running = stream()
    await anext(running)
    response = await respond(step("s", lambda value, ctx: Recurring(running), gives=once()))
    assert response.code == "runtime.bad_result"
    assert closed == [True]


@pytest.mark.parametrize(
    ("returned", "contract"),
    [("x", multiple()), (Multiple([1]), once()), (1, once("string")), (Multiple(["a", 1]), multiple("string"))],
)
async def test_a_result_outside_the_contract_is_bad(returned: Any, contract: BlockValueContract) -> None:
    response = await respond(step("s", lambda value, ctx: returned, gives=contract))
    assert (response.reason, response.code) == ("bad_result", "runtime.bad_result")
    assert response.metadata["phase"] == "result"
    assert {"expected", "actual"} <= set(response.details)


async def test_reading_a_result_as_another_variant_is_an_ordinary_error() -> None:
    readings = ("as_once", "as_multiple", "as_stream")
    for result, own in ((Once(1), 0), (Multiple([1]), 1), (Recurring(items()), 2)):
        for reading in readings[:own] + readings[own + 1 :]:
            with pytest.raises(TypeError, match="holds no"):
                getattr(result, reading)()
    stream = Recurring(items())
    taken = stream.as_stream()
    with pytest.raises(TypeError, match="taken"):
        stream.as_stream()
    await taken.aclose()  # type: ignore[attr-defined]


async def test_the_gates_stand_in_order() -> None:
    block = Strict()
    cases = {
        5: ("input.kind_mismatch", "input"),
        "": ("input.path_required", "validate"),
        "false": ("validation.returned_value", "validate"),
        "one": ("runtime.bad_result", "result"),
    }
    for value, (code, phase) in cases.items():
        response = await respond(block, value)
        assert (response.code, response.metadata["phase"]) == (code, phase)
    assert (await respond(block, "fine")).data == BlockValue.of("fine")


async def test_a_joined_input_is_gated_element_by_element() -> None:
    block = step("s", takes=multiple("string"))
    joined = BlockValue.of(["a", "b"])
    assert (await block.execute(Request(joined, sources=("x", "y")))).success
    assert (await block.execute(Request(joined))).code == "input.kind_mismatch"
