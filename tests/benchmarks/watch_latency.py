"""How long from saving a watched file to the launch of its rerun, with as many watched files as asked for.

Prints one JSON line: milliseconds from the write to the first journal entry of the run (``launch``) and to its end
(``done``), and how long arming took. The mission's debounce is part of it.
Run it with ``PYTHONPATH=. python tests/benchmarks/watch_latency.py [files] [saves] [debounce ms]``; it is not part of
the suite.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from runtime.host.api import Watch
from runtime.kernel.clock import timestamp
from tests.support.hosting import hosting, until, write_mission

MISSION = """\
mission: latency
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["src/**"], allowed_tools: [filesystem.read_file]}
blocks: {read: {type: tool_invoke, tool: filesystem.read_file, path: src/0/0.txt}}
links: []
watch: {paths: ["src/**"]}
"""


async def measure(folder: Path, files: int, saves: int, debounce: int) -> dict[str, object]:
    root = folder / "tree"
    for number in range(files):
        path = root / "src" / str(number // 100) / f"{number % 100}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number) * 100)
    mission = write_mission(folder / "mission", MISSION)
    async with hosting(folder / "store") as host:
        started = time.perf_counter()
        state = await host.watch(Watch(path=mission, inputs={"root": str(root)}, debounce_ms=debounce))
        armed = time.perf_counter() - started
        launches, ends = [], []
        for number in range(1, saves + 1):
            await asyncio.sleep(2 * debounce / 1000)
            now = host._shared.clock.now()
            (root / "src" / "0" / "0.txt").write_text(f"save {number}")
            await until(lambda number=number: host._watches.states[0].runs == number)
            await until(lambda: host._watches.states[0].status == "armed")
            run = await host.find(str(host._watches.states[0].last_run_id))
            opened = (await host.entries(run.run_id, limit=1))[0].at
            launches.append(_milliseconds(timestamp(now), opened))
            ends.append(_milliseconds(timestamp(now), str(run.finished_at)))
        return {
            "files": state.files,
            "debounce_ms": debounce,
            "arming_ms": round(armed * 1000),
            "launch_ms": {"median": round(statistics.median(launches)), "worst": round(max(launches))},
            "done_ms": {"median": round(statistics.median(ends)), "worst": round(max(ends))},
        }


def _milliseconds(start: str, end: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000


def main() -> None:
    files, saves, debounce = (
        int(sys.argv[at]) if len(sys.argv) > at else other for at, other in ((1, 500), (2, 10), (3, 300))
    )
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(folder), files, saves, debounce))))


if __name__ == "__main__":
    main()
