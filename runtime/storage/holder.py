"""The holder row: which process writes, in which epoch, and when it last gave a sign of life.

The lock decides who may write; the row numbers the holders. Each opening for writing takes the next epoch, and
every later transaction checks that the row still carries it, so that a holder which was replaced while it hung
cannot write one more byte.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from runtime.events.facts import Holder
from runtime.storage import lock
from runtime.storage.database import transaction
from runtime.storage.layout import StateDir
from runtime.storage.lock import LockHolder
from runtime.storage.reader import Reader
from runtime.storage.writer import Statement

#: Short enough to notice a hung holder while looking at the screen, long enough to cost nothing.
HEARTBEAT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Who writes now: is the store held by anyone, and in which epoch."""

    held: bool
    epoch: int


def claim(connection: sqlite3.Connection, me: LockHolder) -> int:
    """Write our row with the next epoch and return it. Runs on the writer's thread, under the lock."""
    with transaction(connection):
        row = connection.execute("SELECT epoch FROM holder WHERE slot = 1").fetchone()
        epoch = int(row[0]) + 1 if row else 1
        connection.execute(
            "INSERT OR REPLACE INTO holder (slot, epoch, pid, host, boot_id, process_start, nonce, started_at,"
            " heartbeat_at, socket) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                epoch,
                me.pid,
                me.host,
                me.boot_id,
                me.process_start,
                me.nonce,
                me.started_at,
                me.started_at,
                me.socket,
            ),
        )
    return epoch


def beat(at: str) -> Statement:
    return "UPDATE holder SET heartbeat_at = ? WHERE slot = 1", (at,)


def let_go(at: str) -> Statement:
    return "UPDATE holder SET heartbeat_at = ?, released_at = ? WHERE slot = 1", (at, at)


async def live_holder(reader: Reader, state: StateDir) -> Holder | None:
    """The process that holds the store now, or None when nobody does."""
    if not lock.is_held(state.lock):
        return None
    row = await reader.fetch_one(
        "SELECT pid, host, epoch, started_at, heartbeat_at, socket FROM holder WHERE slot = 1 AND released_at IS NULL"
    )
    if row is not None:
        pid, host, epoch, started_at, heartbeat_at, socket = row
        return Holder(pid=pid, host=host, epoch=epoch, started_at=started_at, heartbeat_at=heartbeat_at, socket=socket)
    return _starting(state)


async def standing(reader: Reader, state: StateDir) -> Standing:
    row = await reader.fetch_one("SELECT epoch FROM holder WHERE slot = 1")
    return Standing(lock.is_held(state.lock), int(row[0]) if row else 0)


def _starting(state: StateDir) -> Holder | None:
    """A holder that has the lock but not yet its row is known by what it wrote into the lock file."""
    found = lock.read_holder(state.lock)
    if found is None:
        return None
    return Holder(
        pid=found.pid,
        host=found.host,
        epoch=0,
        started_at=found.started_at,
        heartbeat_at=found.started_at,
        socket=found.socket,
    )
