"""A block from one function is a block like any other (blocks spec §6.1, §6.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockingContext
from runtime.blocks.contracts import once, recurring
from runtime.blocks.definition import RunStyle
from runtime.blocks.errors import BlockDefinitionError, BlockInputError
from runtime.blocks.function import block
from runtime.blocks.registry import BlockRegistry
from runtime.blocks.testing import run_block_for_test
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow


@block(type_id="shout", input=once("string"), output=once("string"), side_effects="none")
def shout(value: BlockValue, ctx: BlockingContext, *, mark: str = "!", times: int = 1) -> str:
    """Make text loud.

    Really loud.
    """
    ctx.log_info("shouting")
    return value.text().upper() + mark * times


@shout.validator
def not_too_loud(value: BlockValue, *, times: int) -> None:
    if len(value.text()) * times > 10:
        raise BlockInputError("input.too_loud", "quiet")


@block
async def _follow(value: BlockValue, *, names: list[str] = field(default_factory=list)) -> list[str]:  # noqa: B008
    return [*names, value.text()]


@block(output=recurring("int"), side_effects="none")
async def count_up(value: BlockValue, *, closed: list[str]) -> Any:
    try:
        for number in range(value.expect_int()):
            yield number
    finally:
        closed.append("closed")


def test_the_function_runs_with_value_context_and_config() -> None:
    trial = run_block_for_test(shout(mark="?", times=2), "hey")
    assert trial.data.payload == "HEY??"
    assert trial.logged == (("info", "shouting", None),)
    assert run_block_for_test(_follow(names=["a"]), "b").data.to_python() == ["a", "b"]
    assert run_block_for_test(_follow(), "b").data.to_python() == ["b"]


def test_a_validator_refuses_values_before_the_function_runs() -> None:
    trial = run_block_for_test(shout(times=4), "hello")
    assert (trial.code, trial.metadata["phase"]) == ("input.too_loud", "validate")
    assert not_too_loud(BlockValue.of("x"), times=1) is None  # the function itself stays what it was


def test_an_async_generator_is_a_stream_and_is_closed() -> None:
    assert [item.payload for item in run_block_for_test(count_up(closed=[]), 3, take=2).items] == [0, 1]


def test_it_declares_itself_registers_and_links_like_a_class() -> None:
    assert issubclass(shout, Block)
    assert (shout.spec.type_id, shout.spec.display_name, shout.spec.summary) == ("shout", "Shout", "Make text loud.")
    assert (_follow.spec.type_id, _follow.spec.style) == ("follow", RunStyle.ASYNC)
    assert (shout.__name__, shout.__module__) == ("shout", __name__)
    registry = BlockRegistry()
    registry.register(shout)
    made = registry.create("shout", {"mark": "."})
    assert Workflow("w").link(made, shout(mark="!")).run("a").value.payload == "A.!"
    assert [item.message for item in registry.problems("shout", {"marc": 1})] == ["unknown parameter 'marc'"]


def generator(value: Any) -> Any:
    yield value


def no_value() -> None: ...


def three(value: Any, ctx: Any, more: Any) -> None: ...


def starred(value: Any, **rest: Any) -> None: ...


def unannotated(value: Any, *, size=1) -> None: ...  # type: ignore[no-untyped-def]


def reserved(value: Any, *, validator: str) -> None: ...


def of_block(value: Any, *, execute: str) -> None: ...


def travels_not(value: Any, *, names: set[str]) -> None: ...


async def stream(value: Any) -> Any:
    yield value


FAULTS: dict[Callable[..., Any], tuple[str, str]] = {
    generator: ("bad_signature", "generator must not be a plain generator; use 'async def' with yield"),
    no_value: ("bad_signature", "no_value(): expected '(value)' or '(value, ctx)', and config after '*'"),
    three: ("bad_signature", "three(value: 'Any', ctx: 'Any', more: 'Any'): expected '(value)'"),
    starred: ("bad_signature", "**rest: 'Any'): expected '(value)'"),
    unannotated: ("bad_config", "the config parameter 'size' needs a type: 'size: str'"),
    reserved: ("bad_config", "'validator'"),
    of_block: ("bad_config", "the config field 'execute' is a name of Block itself"),
    travels_not: ("bad_config", "field 'names' has type set[str]"),
    stream: ("mode_mismatch", "an async-generator run needs output=recurring(...)"),
    Block: ("bad_signature", "a class subclasses Block instead"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_refused_by_the_decorator_and_says_what_to_write(fault: Callable[..., Any]) -> None:
    code, told = FAULTS[fault]
    with pytest.raises(BlockDefinitionError) as caught:
        block(fault)
    assert caught.value.code == f"definition.{code}"
    assert told in caught.value.message


async def waits(value: Any) -> None: ...


def asks_for_more(value: Any, *, colour: str) -> None: ...


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (waits, "async_validate", "validator waits must be plain"),
        (generator, "async_validate", "validator generator must be plain"),
        (no_value, "bad_signature", "no_value(): expected '(value)'"),
        (asks_for_more, "bad_signature", "asks for 'colour', which shout does not take as config"),
    ],
)
def test_a_malformed_validator_is_refused(fault: Callable[..., Any], code: str, told: str) -> None:
    with pytest.raises(BlockDefinitionError) as caught:
        shout.validator(fault)
    assert caught.value.code == f"definition.{code}"
    assert told in caught.value.message
