"""Verbs that act: run, cancel, terminate, stop, undo, pause, resume, approve, reject.

They open the store as its holder when nobody holds it, and otherwise reach the live holder; either way the same
`Deck` is spoken to. ``run``, ``undo`` and ``resume`` stay attached until the run ends and take its exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from console.assets import mission_folders
from console.model.words import REUSED_WORD, STATUS_WORDS, glyph, status_glyph, status_word
from console.verbs.output import duration, plain, print_json, print_outputs, say
from runtime.events.facts import (
    EntryAppended,
    Escalation,
    InboxChanged,
    RunChanged,
    RunSummary,
    StreamEvent,
    StreamGap,
)
from runtime.host.api import Ack, Answer, Deck, Exit, Launch, QuarterdeckError, RunStatus, Subscription

_TICK: Final = 0.2  # seconds between looks at the stream when nothing wakes us


@asynccontextmanager
async def deck_for(options: argparse.Namespace, *, writing: bool) -> AsyncIterator[Deck]:
    """Open the deck a verb needs and close it afterwards."""
    from runtime.host.opening import open_deck

    folders = mission_folders(getattr(options, "missions", None))
    deck = await open_deck(options.store, writing=writing, missions=folders)
    try:
        yield deck
    finally:
        await deck.close()


async def run(options: argparse.Namespace) -> int:
    """``quarterdeck run PATH``: prints ``{"event":"launch",…}`` and ``{"event":"done",…}`` with ``--json``."""
    intent = Launch(
        path=absolute(options.path),
        inputs=given_inputs(options.input),
        unattended=not is_attended(options),
        wait=options.wait,
        reason=options.reason,
        directory=str(Path.cwd()),
    )
    async with deck_for(options, writing=True) as deck:
        return await run_attached(deck, intent, options)


async def run_attached(deck: Deck, intent: Launch, options: argparse.Namespace) -> int:
    """Launch, show the run until it ends, and take its exit code."""
    feed = deck.subscribe()
    try:
        summary = await deck.launch(intent)
        code = await _attend(deck, feed, summary, options)
        await stay(deck)
        return code
    finally:
        feed.close()


def is_attended(options: argparse.Namespace) -> bool:
    """Is there somebody who can answer a question, here or with `quarterdeck approve`?"""
    return not options.no_input and (options.await_approval or sys.stdin.isatty())


async def resume(options: argparse.Namespace) -> int:
    """``quarterdeck resume RUN``: continue a paused run in its holder, or repair a crashed one here and see it end.

    Whether a repaired run may ask is up to this face: where nobody can answer, it must not wait for ever.
    """
    async with deck_for(options, writing=True) as deck:
        feed = deck.subscribe()
        try:
            summary = await deck.find(options.selector)
            ack = await deck.resume(summary.run_id, options.reason, unattended=not is_attended(options))
            if not ack.done or not summary.resumable:
                return _acknowledge(ack, options)
            code = await _attend(deck, feed, await deck.find(summary.run_id), options)
            await stay(deck)
            return code
        finally:
            feed.close()


async def cancel(options: argparse.Namespace) -> int:
    return await _control("cancel", options)


async def terminate(options: argparse.Namespace) -> int:
    return await _control("terminate", options)


async def undo(options: argparse.Namespace) -> int:
    """``quarterdeck undo RUN``: undo what stands of a run that has ended, in a run of its own; takes its exit code."""
    async with deck_for(options, writing=True) as deck:
        feed = deck.subscribe()
        try:
            old = await deck.find(options.selector)
            code = await _attend(deck, feed, await deck.undo(old.run_id, options.reason), options)
            await stay(deck)
            return code
        finally:
            feed.close()


async def stop(options: argparse.Namespace) -> int:
    return await _control("stop", options)


async def pause(options: argparse.Namespace) -> int:
    return await _control("pause", options)


async def unlatch(options: argparse.Namespace) -> int:
    """``quarterdeck unlatch PATH --reason TEXT``: let missions work again in a tree where an undo went wrong."""
    async with deck_for(options, writing=True) as deck:
        return _acknowledge(await deck.unlatch(absolute(options.path), options.reason), options)


async def unprotect(options: argparse.Namespace) -> int:
    """``quarterdeck unprotect PATH --pattern P --digest TYPED --reason TEXT``: give one protected pattern up."""
    async with deck_for(options, writing=True) as deck:
        ack = await deck.unprotect(absolute(options.path), options.pattern, options.digest, options.reason)
        return _acknowledge(ack, options)


async def approve(options: argparse.Namespace) -> int:
    return await _answer("approved", options)


async def reject(options: argparse.Namespace) -> int:
    return await _answer("rejected", options)


async def _control(verb: str, options: argparse.Namespace) -> int:
    async with deck_for(options, writing=True) as deck:
        summary = await deck.find(options.selector)
        ack: Ack = await getattr(deck, verb)(summary.run_id, options.reason)
        return _acknowledge(ack, options)


async def _answer(resolution: str, options: argparse.Namespace) -> int:
    async with deck_for(options, writing=True) as deck:
        summary = await deck.find(options.selector)
        question = _choose(await deck.escalations(run_id=summary.run_id), options.question, summary.run_id)
        intent = Answer(escalation_id=question.escalation_id, resolution=resolution, notes=options.reason)
        feed = deck.subscribe()
        try:
            ack = await deck.answer(intent)
            if not ack.done or ack.run_id == summary.run_id:
                return _acknowledge(ack, options)
            # The answer started a run: an undo that was offered.
            code = await _attend(deck, feed, await deck.find(ack.run_id), options)
            await stay(deck)
            return code
        finally:
            feed.close()


def _choose(questions: tuple[Escalation, ...], wanted: str | None, run_id: str) -> Escalation:
    found = [
        item
        for item in questions
        if item.blocking and (wanted is None or wanted in (item.escalation_id, question_name(item.escalation_id)))
    ]
    if not found:
        raise QuarterdeckError(
            "APPROVAL_UNKNOWN", f"run {run_id} has no open question{' of that id' if wanted else ''}"
        )
    if len(found) > 1:
        listing = ", ".join(question_name(item.escalation_id) for item in found)
        raise QuarterdeckError(
            "APPROVAL_AMBIGUOUS",
            f"run {run_id} has several open questions: {listing}",
            hint="pass --question ID",
        )
    return found[0]


def question_name(escalation_id: str) -> str:
    """A question's id within its run, as lists show it and ``--question`` takes it."""
    return escalation_id.partition("/")[2] or escalation_id


def _acknowledge(ack: Ack, options: argparse.Namespace) -> int:
    if options.json:
        print_json(ack)
    else:
        say(ack.message)
    return Exit.OK if ack.done else Exit.FAILED


async def _attend(deck: Deck, feed: Subscription, summary: RunSummary, options: argparse.Namespace) -> int:
    """Show a run until it ends; SIGINT and SIGTERM cancel it first and are remembered for the exit code."""
    if summary.status is RunStatus.REFUSED:
        _announce(summary, options)
    else:
        async with _stopping_on_signals(deck, summary.run_id) as signals:
            # Whoever reads the run's id may signal at once: the handlers are in place first.
            _announce(summary, options)
            follower = asyncio.create_task(_follow(deck, feed, summary.run_id, options))
            try:
                summary = await deck.wait(summary.run_id)
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
            _print_events(feed.drain(), summary.run_id, options)
        if signal.SIGTERM in signals and summary.status is RunStatus.CANCELLED:
            return _conclude(summary, Exit.TERMINATED, options)
    return _conclude(summary, summary.exit_code if summary.exit_code is not None else Exit.FAILED, options)


async def stay(deck: Deck) -> None:
    """Runs other terminals attached live in this process: leaving now would cut them short."""
    others = asyncio.create_task(deck.drained())
    try:
        await asyncio.wait({others}, timeout=_TICK)
        if not others.done():
            say("staying until the runs of other terminals end; Ctrl-C leaves them resumable")
        await others
    finally:
        others.cancel()


@asynccontextmanager
async def _stopping_on_signals(deck: Deck, run_id: str) -> AsyncIterator[set[int]]:
    loop = asyncio.get_running_loop()
    received: set[int] = set()
    pending: set[asyncio.Task[Ack]] = set()

    def stop(number: int) -> None:
        received.add(number)
        say("stopping: fencing the run and undoing what it did …")
        task = asyncio.ensure_future(deck.cancel(run_id, signal.Signals(number).name))
        pending.add(task)
        task.add_done_callback(pending.discard)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        yield received
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await asyncio.gather(*pending, return_exceptions=True)


async def _follow(deck: Deck, feed: Subscription, run_id: str, options: argparse.Namespace) -> None:
    asked: set[str] = set()
    while True:
        events = feed.drain()
        _print_events(events, run_id, options)
        if sys.stdin.isatty() and not options.no_input:
            for event in events:
                if isinstance(event, InboxChanged):
                    await ask_here(deck, event.escalations, run_id, asked)
        await asyncio.wait({asyncio.ensure_future(feed.wait())}, timeout=_TICK)


async def ask_here(deck: Deck, questions: tuple[Escalation, ...], run_id: str, asked: set[str]) -> None:
    """Put each new question of this run to the person at the terminal."""
    for item in questions:
        if item.run_id != run_id or not item.blocking or item.offers_undo or item.escalation_id in asked:
            continue
        asked.add(item.escalation_id)
        say(f"◐ {item.reason}\n  subject {item.subject_digest}\n  approve? [y/N] ")
        reply = await asyncio.to_thread(sys.stdin.readline)
        resolution = "approved" if reply.strip().lower() in ("y", "yes") else "rejected"
        await deck.answer(
            Answer(escalation_id=item.escalation_id, resolution=resolution, notes="answered at the terminal")
        )


def _print_events(events: Any, run_id: str, options: argparse.Namespace) -> None:
    if options.json:
        return
    for event in events:
        line = progress(event, run_id)
        if line:
            say(line)


def progress(event: StreamEvent, run_id: str) -> str | None:
    if isinstance(event, StreamGap):
        return f"· {event.dropped} lines of output not shown"
    if (
        isinstance(event, RunChanged)
        and event.run.run_id == run_id
        and event.run.status in (RunStatus.WAITING, RunStatus.PAUSED)
    ):
        return f"{status_glyph(event.run.status)} {STATUS_WORDS[event.run.status]}"
    if not isinstance(event, EntryAppended) or event.run_id != run_id:
        return None
    entry = event.entry
    if event.kind == "step_finished":
        note = f"  {entry['code']}" if entry.get("code") else ""
        accepted = " (expected)" if entry.get("accepted") else ""
        reused = bool(entry.get("reused_from"))
        mark = glyph(str(entry["status"]), accepted=bool(entry.get("accepted")), reused=reused)
        return f"{mark} {entry['step_id']}{note}{accepted}{f' ({REUSED_WORD})' if reused else ''}"
    if event.kind == "compensation_finished":
        verified = bool(entry["verified"])
        return f"{'↶' if verified else '✗'} {entry['operation_id']} {'undone' if verified else entry['outcome']}"
    if event.kind == "operation_denied":
        return f"✗ {entry['step_id']}: {entry.get('reason') or entry['code']}"
    return None


def _announce(summary: RunSummary, options: argparse.Namespace) -> None:
    if options.json:
        print_json(
            {
                "event": "launch",
                "run_id": summary.run_id,
                "pid": os.getpid(),
                "mission": summary.mission,
                "mission_version": summary.mission_version,
                "session_id": summary.session_id,
                "work_tree": summary.work_tree,
                "output_folder": summary.output_folder,
                "confinement": summary.confinement,
            }
        )
        return
    say(f"run {summary.run_id}  {summary.mission} v{summary.mission_version}")
    if summary.work_tree:
        say(f"work tree {summary.work_tree}")


def _conclude(summary: RunSummary, exit_code: int, options: argparse.Namespace) -> int:
    if options.json:
        print_json({"event": "done", **done_record(summary), "exit_code": int(exit_code)})
    else:
        state = f"{status_glyph(summary.status, resumable=summary.resumable)} " + status_word(
            summary.status, resumable=summary.resumable
        )
        ending = f"{state} in {duration(summary.duration_ms)}"
        why = f"  {summary.code or summary.reason}" if summary.code or summary.reason else ""
        say(f"{ending}{why}")
        if summary.message:
            say(f"  {summary.message}")
        print_outputs(summary.outputs)
        if summary.output_folder:
            say(f"files in {summary.output_folder}")
    return int(exit_code)


def done_record(summary: RunSummary) -> dict[str, Any]:
    """The members of the ``done`` line: outcome, proof and place."""
    return {
        "run_id": summary.run_id,
        "status": plain(summary.status),
        "resumable": summary.resumable,
        "reason": summary.reason,
        "code": summary.code,
        "message": summary.message,
        "journal_head": summary.head_hash,
        "entries": summary.entries,
        "violations": summary.violations,
        "work_tree": summary.work_tree,
        "output_folder": summary.output_folder,
        "outputs": plain(summary.outputs),
        "duration_ms": summary.duration_ms,
    }


def absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def given_inputs(pairs: list[str]) -> Mapping[str, str]:
    """``--input name=value`` options as a mapping. Raises `QuarterdeckError` ``INPUT_SYNTAX``."""
    given: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise QuarterdeckError("INPUT_SYNTAX", f"--input {pair!r} is not of the form name=value")
        if name in given:
            raise QuarterdeckError("INPUT_SYNTAX", f"input {name!r} is given twice")
        given[name] = value
    return given
