"""Does a long storm leave memory flat? Figures only; run it by hand:

    .venv/bin/python tests/benchmarks/storm_memory.py --items 200000 --telemetry 800000

A real host in this process runs bursts of data and telemetry on a temporary store. Printed: resident memory at the
start and at every quarter of the data items delivered, items per second, what was dropped, and the store's size.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from runtime.events.facts import LaneState, StreamEvent
from runtime.host.api import Launch
from runtime.host.runtime_host import RuntimeHost
from tests.support.hosting import hosting, plain

BLOCKS: Final = 4
LOOK: Final = 0.05
MIB: Final = 1024 * 1024


def memory() -> str:
    """What this process holds, and beside it the files it has mapped, which are the system's to drop.

    Freed memory the allocator keeps for reuse is given back first, where it can be told to.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, files = (int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return f"{own + files:8.1f} MiB resident, of it {own:7.1f} own, {files:6.1f} files"


def mission(folder: Path, options: argparse.Namespace) -> str:
    burst = (
        f"{{type: burst, items: {options.items // BLOCKS}, telemetry: {options.telemetry // BLOCKS},"
        f" volleys: {options.volleys}, text: {'x' * options.text!r}}}"
    )
    blocks = "\n".join(["  go: {type: echo}", *(f"  b{n}: {burst}" for n in range(BLOCKS)), "  end: {type: echo}"])
    return plain(folder, blocks, "[" + ", ".join(f"go -> b{n} -> end" for n in range(BLOCKS)) + "]")


async def measure(folder: Path, options: argparse.Namespace) -> None:
    async with hosting(folder / "store") as host:
        feed = host.subscribe()
        run_id = (await host.launch(Launch(path=mission(folder / "mission", options)))).run_id
        edges = host._runs[run_id].parts.streams
        ending = asyncio.create_task(host.wait(run_id))
        marks = iter(_marks(options.items))
        print(f"start {memory()}")
        began, mark, peak = time.monotonic(), next(marks), 0
        while not ending.done():
            await asyncio.wait({ending}, timeout=LOOK)
            _drain(feed.drain(100_000))
            data = edges.states()[0]
            peak = max(peak, *(state.depth for state in edges.states()))
            while mark is not None and data.dispatched >= mark:
                print(f"{mark / options.items:>5.0%} {memory()}")
                mark = next(marks, None)
        seconds = time.monotonic() - began
        done = await ending
        print(f"{done.status.value} in {seconds:.1f} s, deepest edge seen {peak} items")
        _report(edges.states(), seconds)
        await _verify(host, run_id)
    print(f"store  {(folder / 'store' / 'quarterdeck.db').stat().st_size / MIB:8.1f} MiB")


def _marks(items: int) -> Iterator[int | None]:
    yield from (items * quarter // 4 for quarter in range(1, 5))


def _drain(events: Sequence[StreamEvent]) -> None:
    """A face that reads along and forgets."""


def _report(states: Sequence[LaneState], seconds: float) -> None:
    for state in states:
        rate = state.dispatched / seconds
        print(f"{state.lane:<14} delivered {state.dispatched:>9,}  dropped {state.dropped:>9,}  {rate:>9,.0f} items/s")


async def _verify(host: RuntimeHost, run_id: str) -> None:
    began = time.monotonic()
    verdict = await host.verify(run_id)
    print(f"verify {'ok' if verdict.ok else 'FAILED'}: {verdict.entries} entries in {time.monotonic() - began:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000, help="data items in all")
    parser.add_argument("--telemetry", type=int, default=800_000, help="telemetry items in all")
    parser.add_argument("--volleys", type=int, default=200, help="bursts per block")
    parser.add_argument("--text", type=int, default=40, help="characters of each item")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), options))


if __name__ == "__main__":
    main()
