"""``quarterdeck watch``: rerun a mission whenever the files it watches change, until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from console.model.watch import WatchTale, armed_record, change_text
from console.model.words import status_glyph, status_word
from console.verbs.output import duration, print_json, say
from console.verbs.running import absolute, ask_here, deck_for, done_record, given_inputs, progress, stay
from runtime.events.facts import HolderChanged, InboxChanged, RunSummary, StreamEvent, WatchesChanged, WatchState
from runtime.host.api import Deck, Exit, StorageError, Subscription, Watch

_TICK: Final = 0.2
#: How long leaving waits for a cancelled run to be undone.
_LEAVING_SECONDS: Final = 60.0


async def watch(options: argparse.Namespace) -> int:
    """``quarterdeck watch PATH`` watches in this process, or in the one that holds the store, until it is stopped.

    With ``--json`` one line per event on stdout: ``armed`` (``watch_id``, ``session_id``, ``root``, ``paths``, …),
    ``changed`` (``changes``: ``path``, ``before``, ``after``), ``launch`` and ``done`` as `run` prints them, with
    ``cause``; ``ignored`` (``path``, ``why``, ``run_id``, ``entry``), ``skipped``, ``problem`` (the mission does not
    load, a launch was refused or waits: ``code``, ``reason``), ``suspended`` and ``failed`` (``code``, ``reason``),
    ``disarmed``.

    Ctrl-C is how watching ends: the watch is disarmed, a run at work is cancelled as by ``run``, exit 0. SIGTERM does
    the same with exit 143. Disarmed from elsewhere: exit 0. A mission that cannot be watched: the code's own exit.
    A failed or suspended watch stays, shown with its reason, until it is rearmed in a console or stopped.
    """
    attended = not options.no_input and sys.stdin.isatty()
    intent = Watch(
        path=absolute(options.path),
        inputs=given_inputs(options.input),
        overlap=options.overlap,
        debounce_ms=options.debounce,
        unattended=not attended,
        run_now=options.run_now,
        directory=str(Path.cwd()),
    )
    async with deck_for(options, writing=True) as deck:
        feed = deck.subscribe()
        try:
            async with _signals() as stop:
                code = await _attend(deck, feed, WatchTale(await deck.watch(intent)), stop, options)
            await stay(deck)
            return code
        finally:
            feed.close()


class _Stop:
    """Which signals came, and that one did."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.event = asyncio.Event()

    def take(self, number: int) -> None:
        self.received.append(number)
        self.event.set()


@asynccontextmanager
async def _signals() -> AsyncIterator[_Stop]:
    """From before the watch is armed until it is not any more; whoever reads ``armed`` may signal at once."""
    loop, stop = asyncio.get_running_loop(), _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.take, number)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _attend(deck: Deck, feed: Subscription, tale: WatchTale, stop: _Stop, options: argparse.Namespace) -> int:
    _tell("armed", armed_record(tale.state), options)
    asked: set[str] = set()
    while not (tale.over or stop.event.is_set()):
        await _first(feed.wait(), stop.event.wait())
        events = await _fresh(deck, tale.state, feed.drain())
        if any(isinstance(event, HolderChanged) and event.holder is None for event in events):
            raise _gone()
        _tell_all(tale, events, options)
        await _answer(deck, tale.state, events, asked, options)
    if tale.over:
        return Exit.OK
    await _leave(deck, feed, tale, stop, options)
    return Exit.TERMINATED if signal.SIGTERM in stop.received else Exit.OK


async def _fresh(deck: Deck, state: WatchState, events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """A list without our watch may be older than the watch: asking again tells."""
    stale = any(
        isinstance(event, WatchesChanged) and all(item.watch_id != state.watch_id for item in event.watches)
        for event in events
    )
    if not stale:
        return list(events)
    if await deck.holder() is None:
        raise _gone()
    kept = [event for event in events if not isinstance(event, WatchesChanged)]
    return [*kept, WatchesChanged(watches=await deck.watches())]


def _gone() -> StorageError:
    return StorageError("STORE_UNRESPONSIVE", "the process that watched is gone", hint="start watching again")


async def _first(*waits: Any) -> None:
    """Return when one of them does, or after a moment."""
    tasks = {asyncio.ensure_future(item) for item in waits}
    try:
        await asyncio.wait(tasks, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _answer(
    deck: Deck, state: WatchState, events: Sequence[StreamEvent], asked: set[str], options: argparse.Namespace
) -> None:
    if options.no_input or not sys.stdin.isatty() or state.active_run_id is None:
        return
    for event in events:
        if isinstance(event, InboxChanged):
            await ask_here(deck, event.escalations, state.active_run_id, asked)


async def _leave(deck: Deck, feed: Subscription, tale: WatchTale, stop: _Stop, options: argparse.Namespace) -> None:
    """Disarm, cancel what is at work, and see it undone."""
    ack = await deck.unwatch(tale.state.watch_id)
    if ack.run_id and (await deck.cancel(ack.run_id, signal.Signals(stop.received[0]).name)).done:
        say("stopping: fencing the run and undoing what it did …")
        async with asyncio.timeout(_LEAVING_SECONDS):
            await deck.wait(ack.run_id)
    _tell_all(tale, feed.drain(), options)
    if not tale.over:
        _tell("disarmed", {"watch_id": tale.state.watch_id}, options)


def _tell_all(tale: WatchTale, events: Sequence[StreamEvent], options: argparse.Namespace) -> None:
    if not options.json:
        for event in events:
            run_id = tale.state.active_run_id
            line = progress(event, run_id) if run_id is not None else None
            if line:
                say(f"  {line}")
    for name, members in tale.take(events):
        _tell(name, members, options)


def _tell(event: str, members: Mapping[str, Any], options: argparse.Namespace) -> None:
    run = members.get("run")
    if options.json:
        print_json({"event": event, **(_run_record(event, run) if isinstance(run, RunSummary) else members)})
    else:
        say(_line(event, members, run))


def _run_record(event: str, run: RunSummary) -> dict[str, Any]:
    if event == "launch":
        names = ("run_id", "mission", "mission_version", "session_id", "cause")
        return {"pid": os.getpid(), **{name: getattr(run, name) for name in names}}
    return {**done_record(run), "cause": run.cause, "exit_code": run.exit_code}


def _line(event: str, members: Mapping[str, Any], run: Any) -> str:
    """One event for people."""
    if isinstance(run, RunSummary):
        if event == "launch":
            return f"▶ run {run.run_id[:8]}  {run.cause or ''}"
        word = status_word(run.status, resumable=run.resumable)
        why = f"  {run.code or run.reason}" if run.code or run.reason else ""
        return f"{status_glyph(run.status, resumable=run.resumable)} {word} in {duration(run.duration_ms)}{why}"
    match event:
        case "armed":
            return (
                f"watching {members['mission']}: {members['files']} files of {', '.join(members['paths'])} "
                f"in {members['root']}; Ctrl-C ends it"
            )
        case "changed":
            return f"~ {', '.join(change_text(item) for item in members['changes']) or 'the watch began'}"
        case "ignored":
            entry = f", run {members['run_id'][:8]} entry {members['entry']}" if members["run_id"] else ""
            return f"· {members['path']}: {members['why'].replace('_', ' ')}{entry}"
        case "skipped":
            return "· a change was left out: a run was at work"
        case "disarmed":
            return "not watching any more"
        case _:
            return f"{event}: {members['reason']} [{members['code']}]"
