"""What the runs of a watch did to the files it watches, as their journals tell.

A write is a run's own while the file is as the journal says the run left it: the state hash of the receipt, or, where
several writes share a folder, the listing of the tree kept after it. Undoing counts like writing. Reads are in the
plans of the operations. Only the newest entries of a long journal are looked at; what they cannot explain counts as
somebody else's change, which is the safe side: a loop of those ends at `watch_rules.LOOP_RUNS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import RunSummary
from runtime.kernel.canonical import CanonicalizationError, digest, parse_strict
from runtime.kernel.errors import Refused, StorageError
from runtime.kernel.model import Access, Effect
from runtime.missions.watch_rules import Doings, OwnRead, OwnWrite, covers
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.orchestration.state_hash import compute_state_hash, metadata_entries, state_entries
from runtime.storage.store import Store

#: Newest entries of a kind that are looked at, and operations whose plans are read.
MAX_LOOKED_AT: Final = 2000
_CONFINED: Final = frozenset({"A", "B"})
_Entry = Mapping[str, Any]


class OwnJournals:
    """Reads the journals of the runs of one host."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def doings(self, runs: Iterable[RunSummary], changed: Sequence[str], root: Path) -> Doings:
        """What ``runs`` did, as far as it concerns the ``changed`` files below ``root``. Live runs count, too.

        A run with files of its own, or without any, did nothing to these.
        """
        found = Doings()
        for run in runs:
            if run.work_tree is not None and Path(run.work_tree) == root and changed:
                found = _joined(found, await self._of(run, changed, root))
        return found

    async def _of(self, run: RunSummary, changed: Sequence[str], root: Path) -> Doings:
        await self._store.flush()
        started = await self._entries(run.run_id, "operation_started")
        receipts = await self._entries(run.run_id, "receipt")
        ended = {str(item["receipt"]["idempotency_key"]): int(item["seq"]) for item in receipts}
        writes = [
            await self._write(run.run_id, item, changed, root)
            for item in receipts
            if item["receipt"]["effect"] == Effect.WRITE.value
        ]
        loose, reads = False, []
        for item in started:
            plan = await self._record(str(item["plan_hash"]))
            seq = ended.get(str(item["idempotency_key"]), int(item["seq"]))
            loose = loose or item["effect"] == Effect.EXECUTE.value or plan.get("tool") == "process.run"
            reads.extend(_reads(run.run_id, seq, plan, changed))
        open_writes = [
            path
            for item in started
            if item["effect"] == Effect.WRITE.value and str(item["idempotency_key"]) not in ended
            for path in item["affected_paths"]
        ]
        return Doings(
            writes=tuple(writes),
            reads=tuple(reads),
            unfinished=tuple(open_writes),
            loose=loose and run.confinement not in _CONFINED,
        )

    async def _entries(self, run_id: str, kind: str) -> list[_Entry]:
        """In journal order; a damaged one is left out, verification names it."""
        rows = await self._store.journals.by_kind(kind, run_id, MAX_LOOKED_AT)
        return [entry for entry in (_parsed(row.body) for row in reversed(rows)) if entry]

    async def _write(self, run_id: str, entry: _Entry, changed: Sequence[str], root: Path) -> OwnWrite:
        receipt = entry["receipt"]
        paths = tuple(str(path) for path in receipt["affected_paths"])
        write = OwnWrite(run_id=run_id, seq=int(entry["seq"]), paths=paths)
        concerned = [path for path in changed if covers(paths, path)]
        if not concerned:
            return write
        if await asyncio.to_thread(_state, paths, root) == receipt["post_state_hash"]:
            return replace(write, stands=frozenset(concerned))
        listed = await self._listed_after(str(receipt["evidence_hash"]))
        return replace(write, stands=await asyncio.to_thread(_unchanged, concerned, listed, root))

    async def _listed_after(self, evidence: str) -> Mapping[str, Any]:
        """The tree as it was after the operation: ``WorkspaceState`` as recorded; empty when it was not."""
        after = (await self._record(evidence)).get("after")
        return await self._record(after) if isinstance(after, str) else {}

    async def _record(self, named: str) -> Mapping[str, Any]:
        try:
            body = await self._store.artifacts.get(named)
        except StorageError as error:
            if error.code != "STORE_ARTIFACT_DAMAGED":
                raise
            return {}
        return {} if body is None else _parsed(body)


def _joined(one: Doings, other: Doings) -> Doings:
    return Doings(
        writes=(*one.writes, *other.writes),
        reads=(*one.reads, *other.reads),
        unfinished=(*one.unfinished, *other.unfinished),
        loose=one.loose or other.loose,
    )


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        record = parse_strict(body, limit=MAX_BODY_BYTES)
    except CanonicalizationError:
        return {}
    return record if isinstance(record, dict) else {}


def _reads(run_id: str, seq: int, plan: Mapping[str, Any], changed: Sequence[str]) -> list[OwnRead]:
    """What an operation looks at: files it reads, programs and tests it executes, folders it lists."""
    looks = {Access.READ.value, Access.EXECUTE.value, Access.LIST.value}
    return [
        OwnRead(run_id=run_id, seq=seq, path=path, names=access == Access.LIST.value)
        for path, access in plan.get("paths", ())
        if access in looks and any(covers((path,), item) for item in changed)
    ]


def _state(paths: Sequence[str], root: Path) -> str | None:
    try:
        return compute_state_hash(paths, root)
    except Refused:
        return None  # unreadable or moving: not as anybody left it


def _unchanged(paths: Sequence[str], listed: Mapping[str, Any], root: Path) -> frozenset[str]:
    """Those of ``paths`` that are as the listing has them: by content in a repository, else by size and time."""
    known = listed.get("worktree")
    if not isinstance(known, Mapping):
        return frozenset()
    by_content = listed.get("index") is not None
    found = set()
    for path in paths:
        try:
            entries = state_entries([path], root, links_hide=True) if by_content else metadata_entries([path], root)
        except Refused:
            continue
        if known.get(path) == digest({"entry": dict(entries[0]), "staged": ""}):
            found.add(path)
    return frozenset(found)
