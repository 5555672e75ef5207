"""`run_block_for_test`: an author's block is tried without a run, and what it asks is answered and kept."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockingContext
from runtime.blocks.contracts import recurring
from runtime.blocks.errors import BlockRuntimeError, OperationFailed
from runtime.blocks.testing import Ungiven, run_block_for_test, try_block
from runtime.blocks.values import BlockValue
from tests.support.blocks_kit import step


class Publish(Block, side_effects="non_idempotent", reads=("title",)):
    """Asks, reads a file, writes another."""

    path: str

    def validate(self, input: BlockValue, ctx: Any) -> None:
        Path(__file__).read_text()  # reading is allowed

    def run(self, input: BlockValue, ctx: BlockingContext) -> dict[str, Any]:
        ctx.sleep(3600)
        ctx.log_info("asking")
        ctx.emit("telemetry", "soon")
        if ctx.wait("Publish?", kinds=("string",), choices=("yes", "no")).text() == "no":
            raise BlockRuntimeError("demo.declined", "no")
        body = ctx.operate("tool_invoke", {"tool": "filesystem", "action": "read", "path": self.path})
        ctx.operate("tool_invoke", {"tool": "filesystem.write", "path": "out", "content": body["text"].text()})
        return {"title": ctx.state["title"], "from": list(ctx.sources)}


ANSWERS = {"filesystem.read": {"text": "hello"}, "tool_invoke": lambda params: {"written": params["path"]}}


def test_a_block_is_tried_with_given_answers_and_what_it_did_is_readable() -> None:
    trial = run_block_for_test(
        Publish(path="a.txt"), answers=["yes"], operations=ANSWERS, state={"title": "T"}, sources=["x"]
    )
    assert trial.data.to_python() == {"title": "T", "from": ["x"]}
    assert [item.name for item in trial.operated] == ["filesystem.read", "filesystem.write"]
    assert trial.operated[1].params["content"] == "hello"
    assert [(item.prompt, item.choices) for item in trial.questions] == [("Publish?", ("yes", "no"))]
    assert trial.emitted == (("telemetry", BlockValue.of("soon")),)
    assert trial.logged == (("info", "asking", None),)
    assert trial.metadata["duration_ms"] == 3_600_000.0


def test_what_an_answer_raises_reaches_the_block() -> None:
    refused = {"filesystem.read": OperationFailed("op.path_denied", "not yours")}
    assert run_block_for_test(Publish(path="a"), answers=["yes"], operations=refused).code == "op.path_denied"
    nobody = [BlockRuntimeError("runtime.no_operator", "nobody")]
    assert run_block_for_test(Publish(path="a"), answers=nobody).code == "runtime.no_operator"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "publish asks 'Publish\\?'; give one more of answers"),
        ({"answers": [5]}, "asks 'Publish\\?' for string, but the given answer is a int"),
        ({"answers": ["yes"]}, "performs filesystem.read; give its output as operations={'filesystem.read'"),
    ],
)
def test_asking_for_more_than_was_given_fails_the_test_and_says_what_to_give(given: dict[str, Any], told: str) -> None:
    with pytest.raises(Ungiven, match=told):
        run_block_for_test(Publish(path="a"), **given)


def test_a_stream_is_drawn_as_far_as_asked_and_closed() -> None:
    closed: list[bool] = []

    class Short(Block, output=recurring(), side_effects="none"):
        def validate(self, input: BlockValue, ctx: Any) -> None: ...

        async def run(self, input: BlockValue, ctx: Any) -> Any:
            yield "only"

    class Count(Block, output=recurring("int"), side_effects="none"):
        def validate(self, input: BlockValue, ctx: Any) -> None: ...

        async def run(self, input: BlockValue, ctx: Any) -> Any:
            try:
                for number in range(3):
                    yield number if number < 2 else "two"
            finally:
                closed.append(True)

    assert [item.payload for item in run_block_for_test(Count(), take=2).items] == [0, 1]
    assert run_block_for_test(Count()).items == ()
    assert run_block_for_test(Short(), take=9).items == (BlockValue.of("only"),)
    assert run_block_for_test(Count(), take=9).code == "runtime.bad_result"
    assert closed == [True, True]  # a stream nobody began has nothing to close


async def test_data_items_and_operations_that_are_no_tool_are_kept_too() -> None:
    async def action(value: BlockValue, ctx: Any) -> Any:
        await ctx.emit("data", "item")
        return await ctx.operate("llm_call", {"prompt": "hi"}, key="k")

    trial = await try_block(step("s", action), operations={"llm_call": {"text": "said"}})
    assert trial.data.to_python() == {"text": "said"}
    assert [(item.name, item.key) for item in trial.operated] == [("llm_call", "k")]
    assert trial.emitted == (("data", BlockValue.of("item")),)


async def test_inside_a_loop_the_awaitable_twin_is_named() -> None:
    with pytest.raises(RuntimeError, match="try_block"):
        run_block_for_test(step("s"))
    assert (await try_block(step("s"), 1)).data == BlockValue.of(1)


class Judge(Block, side_effects="none", local=True):
    """Validates by doing."""

    act: Callable[[], Any]
    swallows: bool = False

    def validate(self, input: BlockValue, ctx: Any) -> None:
        try:
            self.act()
        except Exception:
            if not self.swallows:
                raise

    async def run(self, input: BlockValue, ctx: Any) -> None:
        self.act()


ACTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "writes": (lambda folder: (folder / "x").write_text("x"), "write a file"),
    "makes": (lambda folder: (folder / "d").mkdir(), "change its surroundings"),
    "removes": (lambda folder: (folder / "gone").unlink(), "change its surroundings"),
    "connects": (lambda folder: socket.socket().close(), "use the network"),
    "runs": (lambda folder: subprocess.run(["true"], check=True), "start a process"),
    "shell": (lambda folder: os.system("true"), "start a process"),
}


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize("name", ACTS)
def test_validate_must_not_act_and_what_it_tried_does_not_happen(name: str, swallows: bool, tmp_path: Path) -> None:
    act, told = ACTS[name]
    (tmp_path / "gone").touch()
    trial = run_block_for_test(Judge(act=lambda: act(tmp_path), swallows=swallows))
    assert (trial.code, trial.metadata["phase"]) == ("validation.side_effect", "validate")
    assert told in trial.message
    assert [item.name for item in tmp_path.iterdir()] == ["gone"]


def test_only_validate_is_watched(tmp_path: Path) -> None:
    tries = iter([lambda: None, (tmp_path / "made").touch])
    assert run_block_for_test(Judge(act=lambda: next(tries)())).success
    assert (tmp_path / "made").exists()
