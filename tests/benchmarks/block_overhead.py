"""What a workflow adds per block: a chain of 100 trivial blocks without a journal, beside burr and langgraph.

    make bench-blocks                      # makes an environment with the peers first
    python tests/benchmarks/block_overhead.py --rounds 40

Every engine runs the same chain (each step hands a number on, nothing is persisted, no tracing) a few times per round, all of
them in turn, so that a noisy machine is noisy for everybody. Printed are the medians of the rounds' best runs in µs per block,
and their ratio to the best peer. A peer that is not installed is left out, and said to be.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypedDict

from runtime.blocks.block import Block
from runtime.blocks.workflow import Workflow

BLOCKS = 100
#: Runs of one engine in its turn; the best counts, because whatever else the machine does only ever adds.
REPEATS = 3
Chain = Callable[[], Awaitable[None]]


class Inline(Block, side_effects="none", inline=True):
    """Hands its input on."""

    def validate(self, input: Any, ctx: Any) -> None:
        """Anything goes."""

    def run(self, input: Any, ctx: Any) -> Any:
        return input


class Async(Block, side_effects="none"):
    """Hands its input on, as a coroutine."""

    def validate(self, input: Any, ctx: Any) -> None:
        """Anything goes."""

    async def run(self, input: Any, ctx: Any) -> Any:
        return input


async def quarterdeck(kind: type[Block]) -> Chain:
    workflow = Workflow("chain").link(*[kind() for _ in range(BLOCKS)])

    async def chain() -> None:
        report = await workflow.run_async(1)
        assert report.value.payload == 1
        assert len(report.nodes) == BLOCKS

    return chain


async def burr(*, coroutines: bool) -> Chain:
    from burr.core import ApplicationBuilder, action

    @action(reads=["i"], writes=["i"])
    def step(state: Any) -> Any:
        return state.update(i=state["i"])

    @action(reads=["i"], writes=["i"])
    async def async_step(state: Any) -> Any:
        return state.update(i=state["i"])

    names = [f"n{index}" for index in range(BLOCKS)]
    chosen = async_step if coroutines else step
    builder = (
        ApplicationBuilder().with_actions(**dict.fromkeys(names, chosen)).with_transitions(*itertools.pairwise(names))
    )
    builder = builder.with_entrypoint(names[0]).with_state(i=1)
    application = await builder.abuild() if coroutines else builder.build()
    fresh = application.state

    async def chain() -> None:
        # One application is walked again from its entry; building it is not what is measured.
        application.update_state(fresh)
        ended = application.arun(halt_after=names[-1:]) if coroutines else application.run(halt_after=names[-1:])
        _, _, state = (await ended) if coroutines else ended
        assert state["i"] == 1

    return chain


async def langgraph(*, coroutines: bool) -> Chain:
    from langgraph.graph import END, START, StateGraph

    def step(state: dict[str, Any]) -> dict[str, Any]:
        return {"i": state["i"]}

    async def async_step(state: dict[str, Any]) -> dict[str, Any]:
        return {"i": state["i"]}

    graph = StateGraph(TypedDict("Held", {"i": int}))
    for index in range(BLOCKS):
        graph.add_node(f"n{index}", async_step if coroutines else step)
        graph.add_edge(START if index == 0 else f"n{index - 1}", f"n{index}")
    graph.add_edge(f"n{BLOCKS - 1}", END)
    compiled, config = graph.compile(), {"recursion_limit": 2 * BLOCKS}

    async def chain() -> None:
        held = (await compiled.ainvoke({"i": 1}, config)) if coroutines else compiled.invoke({"i": 1}, config)
        assert held["i"] == 1

    return chain


async def main() -> None:
    options = _options()
    makers: dict[str, Callable[[], Awaitable[Chain]]] = {
        "quarterdeck inline": lambda: quarterdeck(Inline),
        "quarterdeck async": lambda: quarterdeck(Async),
        "burr": lambda: burr(coroutines=False),
        "burr async": lambda: burr(coroutines=True),
        "langgraph": lambda: langgraph(coroutines=False),
        "langgraph async": lambda: langgraph(coroutines=True),
    }
    chains: dict[str, Chain] = {}
    for name, make in makers.items():
        try:
            chains[name] = await make()
        except ImportError as error:
            print(f"{name}: not installed ({error.name}); `make bench-blocks` installs it")
    took: dict[str, list[float]] = {name: [] for name in chains}
    gc.freeze()  # what the imported libraries hold is not looked through again and again in somebody's round
    for turn in range(options.rounds + 2):
        for name, chain in chains.items():
            best = min([await _timed(chain) for _ in range(REPEATS)])
            if turn >= 2:  # two rounds to warm up
                took[name].append(best)
    _report(took)


async def _timed(chain: Chain) -> float:
    """µs per block of one run."""
    started = time.perf_counter()
    await chain()
    return (time.perf_counter() - started) / BLOCKS * 1e6


def _report(took: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(times) for name, times in took.items()}
    peers = {name: median for name, median in medians.items() if not name.startswith("quarterdeck")}
    best = min(peers, key=peers.__getitem__, default=None)
    versions = ", ".join(f"{name} {_version(name)}" for name in ("burr", "langgraph"))
    print(
        f"chain of {BLOCKS} blocks, median of {len(next(iter(took.values())))} rounds; Python {platform.python_version()}, {versions}"
    )
    for name, median in medians.items():
        beside = "" if best is None else f"  {median / peers[best]:5.2f} of {best}"
        print(f"  {name:<20} {median:7.1f} µs/block (best {min(took[name]):.1f}){beside}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
