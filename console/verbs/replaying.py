"""Verbs that look back: replay a run in one of three fidelities, and compare two runs (ruling R7).

``view`` walks the journal as it was written, ``recorded`` runs the mission again in memory with every operation
answered from the record, ``live`` runs it again for real, as a new run of the same lineage.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from console.model.describe import describe_entry, short
from console.model.fold import RunState, StepRow, fold_entry
from console.model.safe import safe
from console.model.words import glyph
from console.verbs.output import duration, print_json, print_table, say
from console.verbs.reading import entries_of
from console.verbs.running import deck_for, given_inputs, is_attended, run_attached
from runtime.events.facts import Comparison, Divergence, EntryAppended, ReplayReport
from runtime.host.api import Exit, Launch, QuarterdeckError, Replay

#: Which options belong to which fidelity; the others are refused rather than ignored.
_BELONGS: Final[Mapping[str, tuple[str, ...]]] = {
    "view": ("at",),
    "recorded": ("mission",),
    "live": ("input", "reason", "wait", "no_input", "await_approval"),
}
_SHOWN: Final = 20
#: Entries after which another step may count as done.
_MOVING: Final = frozenset({"step_started", "step_finished", "compensation_finished"})
_DONE: Final = frozenset({"completed", "skipped"})


async def replay(options: argparse.Namespace) -> int:
    """``quarterdeck replay RUN --fidelity view|recorded|live``.

    ``view --json``: one object per entry with position, seq, at, kind, step_id, elapsed_ms, turn, steps_done, text;
    with ``--at`` one object with position, entry, turn, steps[], violations, spent_micros. ``recorded --json``: the
    report (comparison with equivalent, first, divergences[], downstream[], steps[]; operations_answered,
    operations_total, mission_source, …); exit 6 unless equivalent, 7 when the journal does not verify. ``live``: as
    ``run``.
    """
    _check_options(options)
    return await {"view": _view, "recorded": _recorded, "live": _live}[options.fidelity](options)


async def diff(options: argparse.Namespace) -> int:
    """``--json``: the comparison (equivalent, first, divergences[], downstream[], drift, steps[]). Exit 6 unless
    equivalent, 7 when a journal does not verify."""
    async with deck_for(options, writing=False) as deck:
        base, other = await deck.find(options.selector), await deck.find(options.other)
        comparison = await deck.compare(
            base.run_id, other.run_id, timing_ms=options.timing, expected=tuple(options.expect)
        )
    if options.json:
        print_json(comparison)
    else:
        _print_comparison(comparison)
    return Exit.OK if comparison.equivalent else Exit.DIVERGED


def _check_options(options: argparse.Namespace) -> None:
    for fidelity, names in _BELONGS.items():
        for name in names:
            if fidelity != options.fidelity and getattr(options, name) not in (None, False, "", []):
                flag = "--" + name.replace("_", "-")
                raise QuarterdeckError("REPLAY_OPTION", f"{flag} belongs to --fidelity {fidelity}")


# -- recorded ----------------------------------------------------------------------------------------------------


async def _recorded(options: argparse.Namespace) -> int:
    async with deck_for(options, writing=False) as deck:
        run = await deck.find(options.selector)
        intent = Replay(run_id=run.run_id, mission=options.mission or "current", from_step=options.from_step)
        report = await deck.replay(intent)
    if options.json:
        print_json(report)
    else:
        print_report(report, asked=intent.mission)
    return Exit.OK if report.comparison.equivalent else Exit.DIVERGED


def print_report(report: ReplayReport, *, asked: str) -> None:
    if report.mission_source != asked:
        say("the mission file is gone or does not load; replayed as it was recorded")
    begin = f" from {safe(report.from_step)}" if report.from_step else ""
    print(
        f"replay of {report.run_id}{begin}, mission as {'it is now' if report.mission_source == 'current' else 'recorded'}"
    )
    print(
        f"{report.operations_answered} of {report.operations_total} operations and {report.questions_answered}"
        f" questions answered from the record in {duration(round(report.duration_ms))}; no operation was carried out"
    )
    _print_comparison(report.comparison)


def _print_comparison(found: Comparison) -> None:
    drift = "  (another version of code or model)" if found.drift else ""
    count = len(found.divergences) + found.truncated
    differences = f"{count} difference{'s' if count != 1 else ''}"
    if found.equivalent:
        but = f", but for {differences} that were expected" if count else ""
        print(f"✓ equivalent: {len(found.steps)} step attempts{but}{drift}")
    else:
        print(f"✗ diverged: {differences}{drift}")
    if not found.divergences:
        return
    print_table(
        ("CLASS", "STEP", "FIELD", "EXPECTED", "ACTUAL", "ENTRY", "WHAT"),
        [_row(item) for item in found.divergences[:_SHOWN]],
    )
    more = len(found.divergences) - _SHOWN + found.truncated
    if more > 0:
        print(f"… and {more} more; `--json` lists {len(found.divergences)}")
    if found.first is not None and found.first.step_id is not None:
        behind = ", ".join(safe(name) for name in found.downstream) or "nothing"
        print(f"first at step {safe(found.first.step_id)}; behind it: {behind}")


def _row(item: Divergence) -> tuple[object, ...]:
    seq = item.base_seq if item.base_seq is not None else item.other_seq
    return (
        item.kind.removesuffix("_DIVERGENCE").lower(),
        item.step_id or "",
        item.field,
        _value(item.expected),
        _value(item.actual),
        "" if seq is None else seq,
        item.detail,
    )


def _value(text: str | None) -> str:
    """Digests by their beginning, anything else cut to what a column can hold."""
    if text is None:
        return "-"
    return short(text) if text.startswith("sha256:") else safe(text, limit=32)


# -- view --------------------------------------------------------------------------------------------------------


async def _view(options: argparse.Namespace) -> int:
    """Walk the journal as it was written; nothing is run, checked or changed."""
    async with deck_for(options, writing=False) as deck:
        run = await deck.find(options.selector)
        walk = _Walk(RunState.begin(run, await deck.nodes(run.run_id)))
        begun = options.from_step is None
        async for entry in entries_of(deck, run.run_id):
            walk.step(entry)
            begun = begun or (entry.kind == "step_started" and entry.entry["step_id"] == options.from_step)
            if options.at is None and begun:
                walk.print_line(as_json=options.json)
            elif options.at == entry.seq:
                walk.print_state(as_json=options.json)
                return Exit.OK
    if options.at is not None:
        raise QuarterdeckError("REPLAY_OPTION", f"the journal of run {run.run_id} has no entry {options.at}")
    if not begun:
        raise QuarterdeckError(
            "STEP_UNKNOWN",
            f"run {run.run_id} never came to a step {options.from_step!r}",
            hint="`quarterdeck show RUN` lists the steps",
        )
    return Exit.OK


class _Walk:
    """Time travel on paper: entry by entry, with the state of the run right after each."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._entry: EntryAppended | None = None
        self._started: datetime | None = None
        self._done = 0

    def step(self, entry: EntryAppended) -> None:
        self._state = fold_entry(self._state, entry)
        self._entry = entry
        self._started = self._started or datetime.fromisoformat(entry.at)
        if entry.kind in _MOVING:
            self._done = sum(row.status in _DONE or row.accepted for row in _counted(self._state))

    def print_line(self, *, as_json: bool) -> None:
        """One line: the moment, how far the run is, what happened."""
        place = self._place()
        if as_json:
            print_json(place)
            return
        far = f"{place['steps_done']}/{place['steps_total']}"
        print(f"{place['seq']:>5} {_offset(place['elapsed_ms']):>9}  {far:>5} {place['turn']:<8} {place['text']}")

    def print_state(self, *, as_json: bool) -> None:
        """Everything the fold knows at this entry."""
        place, state = self._place(), self._state
        if as_json:
            told = {
                "steps": state.step_rows(),
                "violations": state.violation_count,
                "spent_micros": state.spent_micros,
                "entry": self._seen.entry,
            }
            print_json({**place, **told})
            return
        self.print_line(as_json=False)
        for row in state.step_rows():
            note = f"  {safe(row.code)}{' (expected)' if row.accepted else ''}" if row.code else ""
            number = f"  attempt {row.attempt}" if row.attempt != 1 else ""
            print(f"  {glyph(row.status, accepted=row.accepted)} {safe(row.step_id)}  {row.status}{number}{note}")
        print(f"  {state.violation_count} violations, ${state.spent_micros / 1_000_000:.6f} spent")

    @property
    def _seen(self) -> EntryAppended:
        assert self._entry is not None, "step comes first"
        return self._entry

    def _place(self) -> dict[str, Any]:
        entry, state = self._seen, self._state
        moment = datetime.fromisoformat(entry.at) - (self._started or datetime.fromisoformat(entry.at))
        return {
            "position": entry.seq + 1,
            "seq": entry.seq,
            "at": entry.at,
            "elapsed_ms": round(moment.total_seconds() * 1000),
            "kind": entry.kind,
            "step_id": _step_of(entry.entry),
            "turn": state.turn,
            "steps_done": self._done,
            "steps_total": len(_counted(state)),
            "text": describe_entry(entry.kind, entry.entry),
        }


def _counted(state: RunState) -> list[StepRow]:
    """The steps of the mission, as the run itself counts them: not those inside them."""
    return [row for row in state.steps.values() if "/" not in row.step_id]


def _step_of(entry: Mapping[str, Any]) -> str | None:
    receipt = entry.get("receipt")
    found = receipt.get("step_id") if isinstance(receipt, Mapping) else entry.get("step_id")
    return found if isinstance(found, str) else None


def _offset(milliseconds: int) -> str:
    return f"+{milliseconds / 1000:.3f}"


# -- live --------------------------------------------------------------------------------------------------------


async def _live(options: argparse.Namespace) -> int:
    """Run the mission again, as a new run of the same lineage; with ``--from`` earlier steps are reused."""
    async with deck_for(options, writing=True) as deck:
        run = await deck.find(options.selector)
        intent = Launch(
            path=run.mission_path,
            inputs=given_inputs(options.input),
            unattended=not is_attended(options),
            wait=options.wait,
            reason=options.reason,
            parent_run_id=run.run_id,
            from_step=options.from_step,
            directory=str(Path.cwd()),
        )
        return await run_attached(deck, intent, options)
