"""Verbs that doubt: verify a journal by all evidence, and prove that one entry is inside a signed checkpoint."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from console.model.safe import safe
from console.verbs.output import print_json, say
from console.verbs.running import deck_for
from runtime.events.facts import SinkState, Verdict, Verification
from runtime.host.api import Deck, Exit, QuarterdeckError

#: The name of the store's own journal.
STORE: Final = "store"
_LINE: Final = "mission-witness/"
_MAX_WITNESS: Final = 1024 * 1024
_MARKS: Final = {"good": "✓", "warn": "▲", "bad": "✗"}


async def verify(options: argparse.Namespace) -> int:
    """``--json``: one object: ``ok``, ``entries``, ``trusted_prefix``, ``head_seq``, ``head_hash``, ``closed``, ``level``
    (chain, anchored, authenticated, witnessed), ``integrity``, ``completeness`` and ``anchoring`` (each ``standing``: good,
    warn, bad, unknown, and ``words``), ``checkpoint_size``, ``words``, ``key_words``, ``witnessed_size``, ``sinks`` (``name``,
    ``size``, ``trouble``), ``unanchored_tail``, ``bad_between`` (first and last entry, or null), ``findings`` (``code``,
    ``severity``, ``seq``, ``detail``), ``manipulations`` (``what``, ``revealed``, ``because``), ``checked_at``,
    ``duration_ms``. Exit 7 unless ``ok``."""
    witnesses = await asyncio.to_thread(_witnesses, options.witness)
    async with deck_for(options, writing=False) as deck:
        verdict = await deck.verify(await _run_id(deck, options.selector), witnesses=witnesses)
    if options.json:
        print_json(verdict)
    else:
        _print_verdict(verdict, evidence=options.evidence)
    return Exit.OK if verdict.ok else Exit.UNVERIFIED


async def proof(options: argparse.Namespace) -> int:
    """``--json``: ``run_id``, ``seq``, ``entry_hash``, ``leaf``, ``size``, ``root``, ``path`` (``side``, ``hash``),
    ``words``, ``signed_by``, ``holds``, ``text``. Exit 7 unless it holds."""
    async with deck_for(options, writing=False) as deck:
        found = await deck.proof(await _run_id(deck, options.selector), options.seq)
    if options.output:
        await asyncio.to_thread(_write_new, Path(options.output), found.text)
    if options.json:
        print_json(found)
    elif not options.output:
        sys.stdout.write(found.text)
    holds = "proven to be in" if found.holds else "NOT proven to be in"
    say(f"entry {found.seq} of {found.run_id} is {holds} the checkpoint of {found.size} entries: {found.words}")
    say(f"signed by {found.signed_by}" if found.signed_by else "signed by no key that is known here")
    return Exit.OK if found.holds else Exit.UNVERIFIED


async def _run_id(deck: Deck, selector: str) -> str:
    """Verification must work on a store whose run table is damaged: a full id needs no look-up."""
    if selector == STORE or (len(selector) == 36 and selector.count("-") == 4):
        return selector
    return (await deck.find(selector)).run_id


def _witnesses(given: Sequence[str]) -> list[str]:
    """Texts as given, or the content of files: one signed note, or witness lines."""
    found: list[str] = []
    for item in given:
        text = item if item.startswith(_LINE) or "\n" in item else _content(Path(item))
        found += [line for line in text.splitlines() if line.strip()] if text.startswith(_LINE) else [text]
    return found


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_WITNESS + 1)
    except OSError as error:
        detail = f"{str(path)!r} is neither a witness nor a file that can be read: {error.strerror}"
        hint = "mission-witness/1 <journal> <seq> <entry hash>, or a file with such lines or a signed checkpoint"
        raise QuarterdeckError("WITNESS_FORMAT", detail, hint=hint) from None
    if len(data) > _MAX_WITNESS:
        raise QuarterdeckError("WITNESS_FORMAT", f"{path} is too long for a witness")
    return data.decode("utf-8", "replace")


def _print_verdict(verdict: Verification, *, evidence: bool) -> None:
    for name in ("integrity", "completeness", "anchoring"):
        one: Verdict = getattr(verdict, name)
        print(f"{_MARKS.get(one.standing, '?')} {name:<12}  {safe(one.words)}")
    ending = "closed" if verdict.closed else "open"
    print(f"  level {verdict.level}, {verdict.entries} entries, {ending}, head {safe(verdict.head_hash or 'none')}")
    _print_anchoring(verdict)
    if not verdict.ok:
        print(f"  {verdict.trusted_prefix} of {verdict.entries} leading entries can be trusted{_first_bad(verdict)}")
    for finding in verdict.findings:
        place = f"entry {finding.seq}" if finding.seq is not None else "journal"
        print(f"  {'✗' if finding.severity == 'error' else '▲'} {place}: {finding.code} {safe(finding.detail)}")
    _print_manipulations(verdict, evidence)


def _print_anchoring(verdict: Verification) -> None:
    if verdict.checkpoint_size is not None:
        words = f": {verdict.words}" if verdict.words else ""
        print(f"  checkpoint of {verdict.checkpoint_size} entries{words}")
        print(f"  key: {verdict.key_words}" if verdict.key_words else "  key: not known")
        if verdict.unanchored_tail:
            print(f"  {verdict.unanchored_tail} entries after it are covered by nothing")
    for sink in verdict.sinks:
        print(f"  {safe(_told_by(sink))}")


def _told_by(sink: SinkState) -> str:
    if sink.trouble:
        return f"▲ {sink.name} no answer: {sink.trouble}"
    if sink.size is None:
        return f"○ {sink.name} knows nothing of this journal yet"
    return (
        f"✓ {sink.name} confirms {sink.size} entries"
        if sink.size
        else f"✗ {sink.name} remembers other entries, or more"
    )


def _first_bad(verdict: Verification) -> str:
    if verdict.bad_between is None:
        return ""
    first, last = verdict.bad_between
    return (
        f"; the first bad one is entry {first}" if first == last else f"; the first bad one is among {first} to {last}"
    )


def _print_manipulations(verdict: Verification, evidence: bool) -> None:
    """What this evidence would show, and what it would not."""
    if not evidence:
        blind = [item.what for item in verdict.manipulations if not item.revealed]
        if blind:
            print(
                f"  would not show ({len(blind)} of {len(verdict.manipulations)}, --evidence says why): {'; '.join(blind)}"
            )
        return
    for item in verdict.manipulations:
        mark, word = ("✓", "would show") if item.revealed else ("▲", "would not show")
        print(f"  {mark} {word}: {item.what} ({safe(item.because)})")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except FileExistsError:
        hint = "choose another name; exports never overwrite"
        raise QuarterdeckError("EXPORT_EXISTS", f"{path} exists", hint=hint) from None
    except OSError as error:
        raise QuarterdeckError("EXPORT_IO", f"cannot write {path}: {error.strerror}") from None
