"""A writer killed at any instant loses nothing it acknowledged, and the next holder takes over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import SequenceIds
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10

CHILD = """
import asyncio, sys
from pathlib import Path
from runtime.kernel.clock import SystemClock
from runtime.kernel.ids import SystemIds
from runtime.kernel.ports import StoredEntry
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

async def main():
    store = await Store.open(StateDir(Path(sys.argv[1])), SystemClock(), SystemIds())
    head = await store.journals.head("j")
    seq = head.seq + 1 if head else 0
    journal = store.journal("j")
    while True:
        group = [journal.append(StoredEntry(seq + n, "k", "t", "p", "h", b"x" * 300)) for n in range(7)]
        seq += len(group)
        await group[-1]
        print(seq - 1, flush=True)

asyncio.run(main())
"""


async def test_kill_nine_loses_nothing_acknowledged(state: StateDir) -> None:
    acknowledged = -1
    for round_number in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(state.root)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        with child:
            assert child.stdout is not None
            for _ in range(1 + round_number * 7):
                acknowledged = int(child.stdout.readline())
            child.kill()
            # What it printed before dying was acknowledged as well; a torn last line was not.
            rest = child.stdout.read()
            whole = rest[: rest.rfind("\n") + 1].split()
            acknowledged = int(whole[-1]) if whole else acknowledged
        observer = await Store.observe(state)
        found = [entry.seq async for entry in observer.journals.stream("j")]
        await observer.close()
        assert found == list(range(len(found)))
        assert len(found) > acknowledged
    last = await Store.open(state, ManualClock(), SequenceIds())
    assert last.epoch == KILLS + 1
    await last.close()
