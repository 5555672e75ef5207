"""Verbs that only look: runs, missions, show, logs, violations, approvals, export."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from console.model.describe import emitted
from console.model.fold import RunState, fold_entry
from console.model.rows import stream_words
from console.model.safe import safe
from console.model.violations import violation_details
from console.model.words import REUSED_WORD, glyph, status_glyph, status_word
from console.verbs.output import duration, plain, print_json, print_listing, print_outputs, say
from console.verbs.running import deck_for, question_name
from runtime.events.facts import EntryAppended, RunSummary, Violation
from runtime.host.api import Deck, Exit, QuarterdeckError

_PAGE: Final = 500
_FOLLOW_SECONDS: Final = 0.3
_MAX_ROWS: Final = 1000
_LINEAGE_SHOWN: Final = 10
_RELATED: Final = ("run_id", "parent_run_id", "status", "created_at", "cause")


async def runs(options: argparse.Namespace) -> int:
    """``--json``: one object per line with the members of a run summary."""
    limit = max(1, min(options.limit, _MAX_ROWS))
    async with deck_for(options, writing=False) as deck:
        rows = await deck.runs(text=options.filter, limit=limit)
    return print_listing(
        rows,
        ("RUN", "MISSION", "STATUS", "STEPS", "TIME", "STARTED", "WHY"),
        lambda row: (
            row.run_id[:8],
            row.mission,
            f"{status_glyph(row.status, resumable=row.resumable)} {status_word(row.status, resumable=row.resumable)}",
            f"{row.steps_done}/{row.steps_total}",
            duration(row.duration_ms),
            row.created_at[:19].replace("T", " "),
            row.code or row.reason or "",
        ),
        empty="no runs yet; start one with `quarterdeck run PATH`",
        as_json=options.json,
    )


async def missions(options: argparse.Namespace) -> int:
    """``--json``: one object per line with name, path, version, description, inputs and problems."""
    async with deck_for(options, writing=False) as deck:
        rows = await deck.missions()
    return print_listing(
        rows,
        ("MISSION", "VERSION", "BLOCKS", "DESCRIPTION", "PATH"),
        lambda row: (
            row.name,
            row.version,
            len(row.nodes),
            f"✗ {len(row.problems)} problems" if row.problems else row.description,
            row.path,
        ),
        empty="no missions found; `quarterdeck init` makes one",
        as_json=options.json,
    )


async def show(options: argparse.Namespace) -> int:
    """``--json``: the run summary plus ``steps`` (id, status, code, attempt, reused_from, …), ``streams`` by lane (kept,
    bytes, dropped, saturated) and ``lineage`` (the runs of its lineage, oldest first, itself included)."""
    async with deck_for(options, writing=False) as deck:
        summary = await deck.find(options.selector)
        lineage = await deck.lineage(summary.run_id)
        state = RunState.begin(summary, await deck.nodes(summary.run_id))
        async for entry in entries_of(deck, summary.run_id):
            state = fold_entry(state, entry)
    if options.json:
        related = [{name: getattr(run, name) for name in _RELATED} for run in lineage]
        told = {"steps": plain(state.step_rows()), "streams": plain(state.totals), "lineage": related}
        print_json({**plain(summary), **told})
        return Exit.OK
    word = status_word(summary.status, resumable=summary.resumable)
    print(f"run {summary.run_id}  {safe(summary.mission)} v{safe(summary.mission_version)}")
    print(
        f"{status_glyph(summary.status, resumable=summary.resumable)} {word} in {duration(summary.duration_ms)}",
        end="",
    )
    print(f"  {safe(summary.code or summary.reason)}" if summary.code or summary.reason else "")
    if summary.message:
        print(f"  {safe(summary.message)}")
    _print_lineage(summary, lineage)
    if summary.work_tree:
        print(f"work tree {safe(summary.work_tree)}")
    if summary.output_folder:
        print(f"files in {safe(summary.output_folder)}")
    print(f"journal {summary.entries} entries, head {safe(summary.head_hash)}")
    for row in state.step_rows():
        note = f"  {safe(row.code)}{' (expected)' if row.accepted else ''}" if row.code else ""
        note += f"  {REUSED_WORD} from {safe(row.reused_from[:8])}" if row.reused_from else ""
        mark = glyph(row.status, accepted=row.accepted, reused=row.reused_from is not None)
        print(f"  {mark} {safe(row.step_id)}  {safe(row.block_type)}{note}")
    for lane, totals in sorted(state.totals.items()):
        print(f"  {stream_words(totals, lane)}")
    print_outputs(summary.outputs)
    return Exit.OK


def _print_lineage(summary: RunSummary, lineage: Sequence[RunSummary]) -> None:
    """Why the run was started, and the other runs of its lineage when there are any."""
    if summary.cause:
        print(f"cause {safe(summary.cause)}")
    if summary.parent_run_id:
        print(f"parent {safe(summary.parent_run_id)}")
    others = [run for run in lineage if run.run_id != summary.run_id]
    for run in others[-_LINEAGE_SHOWN:]:
        word = f"{status_glyph(run.status, resumable=run.resumable)} {status_word(run.status, resumable=run.resumable)}"
        print(f"lineage {safe(run.run_id[:8])}  {word}  {safe(run.cause or '')}".rstrip())
    if len(others) > _LINEAGE_SHOWN:
        print(f"lineage {len(others) - _LINEAGE_SHOWN} older runs not shown")


async def logs(options: argparse.Namespace) -> int:
    """``--json``: journal entries, one per line; with ``--step``, the step's captured output and kept items as text."""
    async with deck_for(options, writing=False) as deck:
        summary = await deck.find(options.selector)
        if options.step:
            return await _step_output(deck, summary.run_id, options.step)
        last = -1
        while True:
            async for entry in entries_of(deck, summary.run_id, after=last):
                last = entry.seq
                _print_entry(entry, as_json=options.json)
            summary = await deck.find(summary.run_id)
            if not options.follow or (summary.status.terminal and summary.entries <= last + 1) or summary.resumable:
                return Exit.OK
            await asyncio.sleep(_FOLLOW_SECONDS)


def _print_entry(entry: EntryAppended, *, as_json: bool) -> None:
    if as_json:
        print_json(entry.entry)
        return
    from console.model.describe import describe_entry

    print(f"{entry.seq:>5} {entry.at[11:23]} {describe_entry(entry.kind, entry.entry)}")


async def _step_output(deck: Deck, run_id: str, step: str) -> int:
    """The captured output of every operation of a step, full streams where they were kept, else what the record holds;
    and the data items it emitted."""
    found = False
    async for entry in entries_of(deck, run_id):
        stream = emitted(entry.entry) if entry.kind == "step_finished" and entry.entry["step_id"] == step else None
        if stream is not None:
            found = True
            await _print_items(deck, stream[2])
        receipt = entry.entry.get("receipt") if entry.kind == "receipt" else None
        if not receipt or receipt["step_id"] != step:
            continue
        found = True
        body = await deck.artifact(receipt["output_hash"])
        if body is None:
            say(f"output of {receipt['operation_id']} is no longer stored ({receipt['output_hash']})")
            continue
        await _print_output(deck, json.loads(body))
    if not found:
        raise QuarterdeckError(
            "STEP_UNKNOWN",
            f"run {run_id} has no operation and no stream items of a step {step!r}",
            hint="`quarterdeck show RUN` lists the steps",
        )
    return Exit.OK


async def _print_items(deck: Deck, index: str) -> None:
    from runtime.host.stream_items import stream_texts

    async for texts in stream_texts(deck.artifact, index):
        if texts is None:
            say(f"a part of what the step emitted is no longer stored ({index})")
            continue
        for text in texts:
            print(safe(text, lines=True))


async def _print_output(deck: Deck, output: dict[str, Any]) -> None:
    streams = [name for name in ("stdout", "stderr") if output.get(name)]
    for name in streams:
        kept = await deck.artifact(output[f"{name}_artifact"]) if output.get(f"{name}_artifact") else None
        text = kept.decode("utf-8", "replace") if kept is not None else output[name]
        print(safe(text, lines=True), file=sys.stderr if name == "stderr" else sys.stdout)
    if not streams:
        print(safe(json.dumps(output, ensure_ascii=False, indent=2), lines=True))


async def violations(options: argparse.Namespace) -> int:
    """``--json``: one object per line with code, rule, position (path, line, column), attempted, needed, outcome, …"""
    async with deck_for(options, writing=False) as deck:
        run_id = (await deck.find(options.selector)).run_id if options.selector else None
        if options.why is not None:
            return await _why(deck, run_id, options)
        found = await deck.violations(run_id, limit=_MAX_ROWS)
    if len(found) == _MAX_ROWS:
        say(f"only the newest {_MAX_ROWS:,} are looked at")
    return print_listing(
        [item for item in found if _wanted(item, options.code, options.step)],
        ("RUN", "ENTRY", "STEP", "CODE", "EXPECTED", "ATTEMPTED", "RULE"),
        lambda row: (
            row.run_id[:8],
            row.seq,
            row.step_id,
            row.code,
            "yes" if row.accepted else "no",
            row.attempted,
            row.rule,
        ),
        empty="no such violations" if found else "no violations",
        as_json=options.json,
    )


def _wanted(item: Violation, code: str, step: str) -> bool:
    """Both patterns fit; a code is also found under the name a mission's ``accept`` has for it."""
    codes = (item.code.lower(), f"op.{item.code.lower()}")
    return any(fnmatchcase(name, code.lower()) for name in codes) and fnmatchcase(item.step_id, step)


async def _why(deck: Deck, run_id: str | None, options: argparse.Namespace) -> int:
    if run_id is None:
        hint = f"quarterdeck violations RUN --why {options.why}"
        raise QuarterdeckError("VIOLATION_UNKNOWN", "each run counts its own entries: name the run", hint=hint)
    found = await deck.violation(run_id, options.why)
    if options.json:
        print_json(found)
    else:
        for row in violation_details(found):
            print("".join(text for text, _ in row).rstrip())
    return Exit.OK


async def approvals(options: argparse.Namespace) -> int:
    """``--json``: one object per line per open question."""
    async with deck_for(options, writing=False) as deck:
        rows = await deck.escalations()
    return print_listing(
        rows,
        ("RUN", "QUESTION", "SEVERITY", "ASKED", "REASON"),
        lambda row: (
            row.run_id[:8],
            question_name(row.escalation_id),
            row.severity,
            row.created_at[:19].replace("T", " "),
            row.reason,
        ),
        empty="nothing needs you",
        as_json=options.json,
    )


async def export(options: argparse.Namespace) -> int:
    """``jsonl``: one canonical entry per line, exactly the bytes that were hashed. ``completion``: one canonical object
    (operations spec §7.7) on one line; exit 7 when the journal does not verify, unless forced."""
    from runtime.host.opening import exported_completion, exported_lines

    async with deck_for(options, writing=False) as deck:
        summary = await deck.find(options.selector)
        if options.format == "completion":
            lines = [await exported_completion(deck, summary.run_id, force=options.force) + b"\n"]
        else:
            lines = [line async for line in exported_lines(deck, summary.run_id)]
    if options.output:
        await asyncio.to_thread(_write_new, Path(options.output), lines)
        count = len(lines) if options.format == "jsonl" else summary.entries
        say(f"{count} entries written to {options.output}")
    else:
        await asyncio.to_thread(sys.stdout.buffer.writelines, lines)
    return Exit.OK


def _write_new(path: Path, lines: list[bytes]) -> None:
    try:
        with path.open("xb") as file:
            file.writelines(lines)
    except FileExistsError:
        raise QuarterdeckError(
            "EXPORT_EXISTS", f"{path} exists", hint="choose another name; exports never overwrite"
        ) from None
    except OSError as error:
        raise QuarterdeckError("EXPORT_IO", f"cannot write {path}: {error.strerror}") from None


async def entries_of(deck: Deck, run_id: str, *, after: int = -1) -> AsyncIterator[EntryAppended]:
    """The journal of a run, page by page."""
    while True:
        page = await deck.entries(run_id, after=after, limit=_PAGE)
        for entry in page:
            yield entry
        if len(page) < _PAGE:
            return
        after = page[-1].seq
