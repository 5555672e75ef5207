"""The verbs of ``bundle``: a run as one file for somebody else, and such a file checked, opened and replayed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from console.model.safe import safe
from console.verbs.output import print_json, print_table, say
from console.verbs.replaying import print_report
from console.verbs.running import absolute, deck_for
from runtime.events.facts import BundlePlan, Verdict
from runtime.host.api import Exit, ExportBundle, QuarterdeckError, Replay

if TYPE_CHECKING:
    from runtime.host.bundle_check import BundleVerdict

_MARKS: Final = {"good": "✓", "warn": "▲", "bad": "✗"}


async def export(options: argparse.Namespace) -> int:
    """``--json``: path, sha256, bytes, members, withheld. With ``--preview``: run_id, members[{name, bytes, what,
    withheld}], total_bytes, kinds[], problems[], notes[]. Exit 7 when the journal does not verify."""
    if not options.preview and not options.output:
        raise QuarterdeckError("BUNDLE_IO", "where to?", hint="name a file with -o, or look first with --preview")
    async with deck_for(options, writing=False) as deck:
        run = await deck.find(options.selector)
        if options.preview:
            plan = await deck.bundle_plan(run.run_id, tuple(options.withhold))
            print_json(plan) if options.json else _print_plan(plan)
            return Exit.OK
        intent = ExportBundle(
            run_id=run.run_id,
            target=absolute(options.output),
            withhold=tuple(options.withhold),
            attest=options.attest,
            force=options.force,
        )
        done = await deck.bundle(intent)
    if options.json:
        print_json(done)
    else:
        print(f"{done.sha256}  {safe(done.path)}")
        say(f"{done.members} members, {done.bytes} bytes, {done.withheld} bodies withheld")
    return Exit.OK


async def verify(options: argparse.Namespace) -> int:
    """``--json``: result (``verified``, ``failed``, ``unchecked``), reason {code, message} or null, keys (``given`` or
    ``bundle``), sha256, bytes, run_id, forced, withheld, verification (as of ``verify``), statement {key, key_words,
    subjects} or null. Exit 0 when verified, else 7."""
    from runtime.host.bundle_check import check_bundle

    verdict = await check_bundle(Path(options.path), keys=options.key, witnesses=options.witness)
    print_json(verdict) if options.json else _print_verdict(verdict)
    return Exit.OK if verdict.ok else Exit.UNVERIFIED


async def replay(options: argparse.Namespace) -> int:
    """``--json``: as ``replay RUN --fidelity recorded --mission recorded --json``; exit 6 unless equivalent."""
    from runtime.host.bundle_store import open_bundle

    deck = await open_bundle(Path(options.path))
    try:
        report = await deck.replay(Replay(run_id=deck.run_id, mission="recorded"))
    finally:
        await deck.close()
    print_json(report) if options.json else print_report(report, asked="recorded")
    return Exit.OK if report.comparison.equivalent else Exit.DIVERGED


def open_console(options: argparse.Namespace) -> int:
    """``quarterdeck bundle open FILE``: the console over the bundle alone, read-only."""
    from console.app import show_console
    from runtime.host.bundle_store import open_bundle
    from runtime.host.thread import threaded

    return show_console(lambda: threaded(open_bundle(Path(options.path))), options)


def _print_plan(plan: BundlePlan) -> None:
    print_table(
        ("MEMBER", "BYTES", "WHAT", ""), [(item.name, item.bytes, item.what, item.withheld) for item in plan.members]
    )
    print(f"{plan.total_bytes} bytes")
    for problem in plan.problems:
        print(f"✗ {problem.code} {safe(problem.detail)}")
    for note in plan.notes:
        print(f"▲ {safe(note)}")


def _print_verdict(verdict: BundleVerdict) -> None:
    if verdict.reason is not None:
        print(f"✗ {verdict.result}: {verdict.reason.code} {safe(verdict.reason.message)}")
    else:
        print(f"✓ verified: run {safe(verdict.run_id)}, sha256 {verdict.sha256}")
    if verdict.verification is not None:
        found = verdict.verification
        for name in ("integrity", "completeness", "anchoring"):
            judged: Verdict = getattr(found, name)
            print(f"  {_MARKS.get(judged.standing, '?')} {name}: {safe(judged.words) or judged.standing}")
        for item in found.findings:
            place = f"entry {item.seq}" if item.seq is not None else "journal"
            print(f"  {'✗' if item.severity == 'error' else '▲'} {place}: {item.code} {safe(item.detail)}")
    if verdict.statement is not None:
        print(f"  statement about {verdict.statement.subjects} members signed by {safe(verdict.statement.key_words)}")
    if verdict.keys == "bundle":
        say("keys: the bundle's own, which show that it is consistent, not whose it is; name one you know with --key")
