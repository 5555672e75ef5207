"""Opening the deck a face needs: as the holder, through the holder, or only looking (rulings R33, R35)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from runtime.host.api import Deck
from runtime.host.observer import Observer, RemoteDeck
from runtime.host.reads import StoreReads
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import QuarterdeckError, StorageError
from runtime.kernel.ids import SystemIds
from runtime.storage.layout import StateDir, default_root
from runtime.storage.lock import read_holder
from runtime.storage.store import Store


def state_dir(store: str | None) -> StateDir:
    """Where the state lives: ``--store``, else ``QUARTERDECK_HOME``, else the platform's state folder."""
    return StateDir(Path(store).expanduser().absolute() if store else default_root(os.environ))


async def open_deck(store: str | None, *, writing: bool, missions: Sequence[str] = ()) -> Deck:
    """The deck for one command.

    To act: as the holder when nobody is, else through the holder. To read: the database alone; a store that does not
    exist yet is created empty. Raises `StorageError` ``STORE_*``.
    """
    state, folders, clock = state_dir(store), mission_folders(missions), SystemClock()
    if not writing:
        try:
            return Observer(await Store.observe(state, clock), missions=folders, clock=clock)
        except StorageError as error:
            if error.code != "STORE_MISSING":
                raise
    try:
        return await _host(state, folders, clock)
    except StorageError as error:
        if error.code != "STORE_LOCKED":
            raise
    return await _through_holder(state, folders, clock)


async def _host(state: StateDir, folders: tuple[Path, ...], clock: SystemClock) -> Deck:
    # Most of the runtime; a command that only reads must not wait for it.
    from runtime.host.runtime_host import RuntimeHost

    return await RuntimeHost.open(state, missions=folders, clock=clock, ids=SystemIds())


async def _through_holder(state: StateDir, folders: tuple[Path, ...], clock: SystemClock) -> RemoteDeck:
    try:
        return await RemoteDeck.connect(state, missions=folders, clock=clock, socket=_socket_of(state))
    except StorageError as error:
        holder = read_holder(state.lock)
        if error.code != "STORE_UNRESPONSIVE" or holder is None:
            raise
        raise StorageError(
            error.code,
            f"process {holder.pid} on {holder.host}, which holds the store since {holder.started_at}, does not answer",
            where=error.where,
            hint=error.hint,
        ) from error


async def open_console_deck(store: str | None, *, missions: Sequence[str] = ()) -> Deck:
    """The deck for a console: the holder's, or an observer's when another process holds the store."""
    state, folders, clock = state_dir(store), mission_folders(missions), SystemClock()
    try:
        return await _host(state, folders, clock)
    except StorageError as error:
        if error.code != "STORE_LOCKED":
            raise
    return Observer(await Store.observe(state, clock), missions=folders, clock=clock)


def _socket_of(state: StateDir) -> Path | None:
    holder = read_holder(state.lock)
    return Path(holder.socket) if holder is not None and holder.socket else None


def mission_folders(chosen: Sequence[str]) -> tuple[Path, ...]:
    """The folders missions are listed from: those given, else ``sample_missions`` here, else none."""
    return tuple(Path(item).expanduser().absolute() for item in chosen)


async def exported_lines(deck: Deck, run_id: str) -> AsyncIterator[bytes]:
    """A run's journal as JSON lines: the stored bytes, unchanged. Raises on damage instead of exporting a part."""
    async for item in _reading(deck).stored(run_id):
        yield item.body + b"\n"


async def exported_completion(deck: Deck, run_id: str, *, force: bool) -> bytes:
    """A run's completion export. Raises `Refused` ``J_EXPORT_UNVERIFIED``, ``BUNDLE_LIVE``, ``BUNDLE_TOO_LARGE``."""
    return await _reading(deck).completion(run_id, force=force)


def _reading(deck: Deck) -> StoreReads:
    if not isinstance(deck, StoreReads):
        raise QuarterdeckError("EXPORT_IO", "this deck cannot read the store directly")
    return deck
