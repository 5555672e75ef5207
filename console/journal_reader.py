"""Reading a run's journal into the view state: newest page first, then everything in order, never all at once.

A run may hold a hundred thousand entries. The reader shows the tail as soon as it has one page, folds the rest in
pages with a rest between them, and fills what the live feed left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

from console.model.fold import JOURNAL_TAIL, RunState
from runtime.host.api import Deck
from runtime.host.stream_items import last_texts

PAGE: Final = 250
#: Between pages the reader rests as long as a page took, at most this long: keys come first.
REST_LIMIT: Final = 0.05
#: A gap the store does not fill: the page came back without progress this often, and the journal counts as damaged.
FRUITLESS_READS: Final = 20
FRUITLESS_PAUSE: Final = 0.1
OUTPUT_LINES: Final = 200


class JournalReader:
    """Fills one `RunState` from the deck."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    async def open(self, run_id: str) -> RunState:
        """The state before its entries are folded, with the newest page to look at when there are many."""
        run = await self._deck.find(run_id)
        state = RunState.begin(run, await self._deck.nodes(run.run_id))
        state.behind = run.entries - 1
        if run.entries > PAGE:
            state.preview(
                await self._deck.entries(run.run_id, after=run.entries - 1 - JOURNAL_TAIL, limit=JOURNAL_TAIL)
            )
        return state

    async def catch_up(self, state: RunState) -> None:
        """Read on until nothing is missing, or the store gives no more."""
        fruitless = 0
        state.stalled = False
        while fruitless < FRUITLESS_READS:
            before = state.last_seq
            begun = asyncio.get_running_loop().time()
            page = await self._deck.entries(state.run.run_id, after=before, limit=PAGE)
            state.apply_all(page)
            if not state.missing and len(page) < PAGE:
                return
            # The feed may be ahead of what is committed: the next look finds it. Damage never does.
            fruitless = fruitless + 1 if state.last_seq == before else 0
            rest = min(REST_LIMIT, asyncio.get_running_loop().time() - begun) if state.missing else 0.0
            await asyncio.sleep(FRUITLESS_PAUSE if fruitless else rest)
        state.stalled = True
        state.touch("journal")

    async def outputs(self, state: RunState) -> None:
        """Fill the log of a run whose live output nobody here saw, from what its receipts and its steps' ends keep."""
        for step_id, digest in tuple(state.outputs):
            body = await self._deck.artifact(digest)
            if body is not None:
                await self._replay(state, step_id, json.loads(body))
        for step_id, index in tuple(state.indexes):
            for text in (await last_texts(self._deck.artifact, index))[-OUTPUT_LINES:]:
                for line in text.split("\n"):
                    state.log_line(step_id, "data", line)

    async def _replay(self, state: RunState, step_id: str, output: Any) -> None:
        if not isinstance(output, Mapping):
            return
        for stream in ("stdout", "stderr"):
            kept = output.get(f"{stream}_artifact")
            body = await self._deck.artifact(str(kept)) if kept else None
            text = body.decode("utf-8", "replace") if body is not None else str(output.get(stream) or "")
            for line in text.splitlines()[-OUTPUT_LINES:]:
                state.log_line(step_id, stream, line)
        for line in str(output.get("text") or "").splitlines()[-OUTPUT_LINES:]:
            state.log_line(step_id, "model", line)
