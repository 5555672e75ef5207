"""The verb for a journal that is behind what is remembered of it."""

from __future__ import annotations

import argparse
from typing import Final

from console.verbs.output import print_json, say
from console.verbs.running import deck_for
from runtime.host.api import Exit

#: Names the store's own journal where a run is expected otherwise.
STORE: Final = "store"


async def accept_loss(options: argparse.Namespace) -> int:
    """``quarterdeck accept-loss store|RUN --reason TEXT``: go on without the entries that are missing."""
    async with deck_for(options, writing=True) as deck:
        named = options.journal
        journal_id = named if named == STORE else (await deck.find(named)).run_id
        ack = await deck.accept_loss(journal_id, options.reason)
        if options.json:
            print_json(ack)
        else:
            say(ack.message)
        return Exit.OK if ack.done else Exit.FAILED
