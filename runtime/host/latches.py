"""Clearing the halt latch of a work tree: an operator's act, with a reason on record (operations spec §10.3)."""

from __future__ import annotations

from pathlib import Path

from runtime.host.api import Ack
from runtime.host.store_journal import StoreJournal
from runtime.kernel.clock import Clock
from runtime.orchestration.git import find_toplevel
from runtime.orchestration.run_controller import HaltLatch
from runtime.storage.store import Store


async def unlatch(store: Store, journal: StoreJournal, clock: Clock, path: str, reason: str) -> Ack:
    """Clear the latch of the work tree at ``path``, durably recorded.

    Raises `Refused` ``LATCH_REASON`` without a reason, ``ROOT_MISSING`` when there is no such folder.
    """
    root = find_toplevel(Path(path)) or Path(path)
    record = HaltLatch(store.state.latches, root, clock=clock).clear(reason)
    if record is None:
        return Ack(done=False, run_id="", message=f"{root} is not latched")
    told = journal.append(
        "latch", action="cleared", code=record.code, run_id=record.run_id, root=str(root), reason=reason
    )
    await told.durable
    return Ack(done=True, run_id=record.run_id, message=f"the latch of {root} is cleared: {record.message}")
