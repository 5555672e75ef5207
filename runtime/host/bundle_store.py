"""Opening a run somebody handed on: a store of its own in a private folder, looked at and never written again.

Everything that shows, verifies, replays and compares runs works on stores, so a bundle becomes one: the same rows as when it
was recorded, and the public keys it is to be judged by. Nothing of this machine's own store, keys or network is used, and the
folder goes when the deck is closed. A bundle that does not pass the gate or contradicts itself never gets that far.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.events.facts import RunSummary
from runtime.host.api import ExportBundle, Exported
from runtime.host.archiving import Archive, read_archive
from runtime.host.bundle_format import RunBundle, read_run
from runtime.host.observer import Observer
from runtime.kernel.canonical import CanonicalizationError, digest_bytes, parse_strict
from runtime.kernel.clock import Clock, SystemClock
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ids import SystemIds
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.ports import StoredEntry
from runtime.missions.problems import MissionInvalid
from runtime.missions.yaml_reader import read
from runtime.orchestration.checkpoints import Note, VerifierKey, read_note
from runtime.orchestration.journal_format import shape_problem
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.storage.checkpoints import StoredCheckpoint, insert_checkpoint
from runtime.storage.layout import StateDir, make_private
from runtime.storage.missions import MissionRecord, insert_mission
from runtime.storage.runs import RunRecord, insert_run
from runtime.storage.store import Store
from runtime.storage.writer import Statement

_PREFIX: Final = "quarterdeck-bundle-"
#: Rows and bytes handed to the writer before it is waited for, well below what it lets wait.
_ROWS_AT_ONCE: Final = 1_000
_BYTES_AT_ONCE: Final = 8 * 1024 * 1024
_ENTRY: Final = (
    "INSERT INTO journal_entries (journal_id, seq, kind, at, prev_entry_hash, entry_hash, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_ARTIFACT: Final = "INSERT INTO artifacts (digest, bytes, body, at) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a bundle says, with what was found out from its journal on the way."""

    run: RunBundle
    rows: tuple[StoredEntry, ...]
    notes: tuple[Note, ...]
    frozen: Mapping[str, Any]
    """The plan document."""
    planned: Mapping[str, Any]
    """The journal's entry about it."""
    recipe_hash: str | None


class BundleDeck(Observer):
    """A read-only deck over one bundle. Closing it removes everything that was unpacked."""

    def __init__(self, store: Store, *, run: RunBundle, folder: Path, clock: Clock) -> None:
        super().__init__(store, missions=(), clock=clock)
        self._withheld = frozenset(run.record.withheld)
        self._links = False
        self._folder = folder
        self.run = run

    @property
    def run_id(self) -> str:
        return self.run.record.run_id

    async def bundle(self, intent: ExportBundle) -> Exported:
        raise Refused("STORE_READ_ONLY", "this run is a bundle already", hint="hand on the file it was opened from")

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)


async def open_bundle(
    path: Path, *, keys: Sequence[VerifierKey] | None = None, clock: Clock | None = None
) -> BundleDeck:
    """The deck of the run in the bundle at ``path``.

    ``keys`` are those whose signatures count; None takes the bundle's own, which show no more than that it is consistent.
    Raises `Refused`: ``BUNDLE_IO``, ``BUNDLE_REFUSED``, ``BUNDLE_NOT_A_RUN``, ``BUNDLE_RUN``, ``BUNDLE_ARTIFACT``.
    """
    return await open_archive(await asyncio.to_thread(read_archive, path), keys=keys, clock=clock)


async def open_archive(
    archive: Archive, *, keys: Sequence[VerifierKey] | None = None, clock: Clock | None = None
) -> BundleDeck:
    """The deck of the run in an archive that passed the gate. Raises as `open_bundle`."""
    opened = await asyncio.to_thread(_understood, archive)
    trusted, clock = opened.run.keys if keys is None else keys, clock or SystemClock()
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=_PREFIX))
    try:
        state = StateDir(folder / "store", socket_dir=folder / "sockets")
        await _fill(state, opened, folder, clock)
        await asyncio.to_thread(_write_keys, state, trusted)
        store = await Store.observe(state, clock)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, folder, True)
        raise
    return BundleDeck(store, run=opened.run, folder=folder, clock=clock)


async def _fill(state: StateDir, opened: Opened, folder: Path, clock: Clock) -> None:
    store = await Store.open(state, clock, SystemIds())
    try:
        waiting = size = 0
        for statement in _statements(opened, folder):
            ticket = store.submit([statement])
            waiting, size = waiting + 1, size + sum(len(item) for item in statement[1] if isinstance(item, bytes))
            if waiting >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
                await ticket
                waiting = size = 0
        await store.flush()
    finally:
        await store.close()


def _write_keys(state: StateDir, keys: Sequence[VerifierKey]) -> None:
    """Where `trusted_keys` looks for them: the newest in its place, the others as retired ones."""
    folder = state.root / "keys"
    make_private(folder)
    make_private(folder / "retired")
    for number, key in enumerate(keys):
        path = folder / "retired" / f"{key.key_id.hex()}.pub" if number else folder / "ed25519.pub"
        path.write_text(key.text + "\n", "utf-8")


# -- what it says --------------------------------------------------------------------------------------------------


def _understood(archive: Archive) -> Opened:
    run = read_run(archive.files)
    rows = tuple(_row(number, line) for number, line in enumerate(run.lines))
    entries = [_entry(row.body) for row in rows]
    planned = next((entry for entry in entries if entry.get("kind") == "plan"), {})
    first = entries[0] if entries else {}
    frozen = _plan(run, planned)
    _check_mission(run, frozen)
    if "environment" in first and first["environment"] != digest_bytes(run.environment):
        raise _contradicts("environment.json is not the one the journal names")
    recipe = first.get("run_id")
    return Opened(
        run=run,
        rows=rows,
        notes=_notes(run),
        frozen=frozen,
        planned=planned,
        recipe_hash=recipe if isinstance(recipe, str) else None,
    )


def _entry(line: bytes) -> dict[str, Any]:
    """The entry of a line; empty when it is none, which verification names."""
    try:
        entry = parse_strict(line)
    except CanonicalizationError:
        return {}
    return entry if isinstance(entry, dict) and shape_problem(entry) is None else {}


def _row(number: int, line: bytes) -> StoredEntry:
    """A line under its number; what it says of itself goes into the columns only where it is an entry."""
    entry = _entry(line)
    kind, at, before, own = (str(entry.get(name, "")) for name in ("kind", "at", "prev_entry_hash", "entry_hash"))
    return StoredEntry(number, kind, at, before, own, line)


def _plan(run: RunBundle, planned: Mapping[str, Any]) -> Mapping[str, Any]:
    if planned.get("document") != digest_bytes(run.plan):
        raise _contradicts("plan.json is not the plan the journal names")
    try:
        frozen = parse_strict(run.plan, limit=MAX_BODY_BYTES)
        nodes = frozen["contract"]["contract"]["nodes"]
        named = all(isinstance(item, Mapping) for item in nodes) and isinstance(_contract(frozen)["inputs"], Mapping)
    except (CanonicalizationError, KeyError, TypeError, IndexError):
        named = False
    if not named:
        raise _contradicts("plan.json is no plan")
    return dict(frozen)


def _contract(frozen: Mapping[str, Any]) -> Mapping[str, Any]:
    contract: Mapping[str, Any] = frozen["contract"]["contract"]
    return contract


def _check_mission(run: RunBundle, frozen: Mapping[str, Any]) -> None:
    """The plan is bound to the journal, the definition to the plan, and the file to the definition."""
    if digest_bytes(run.definition) != _contract(frozen).get("mission_hash"):
        raise _contradicts("mission.json is not the mission the plan was made of")
    try:
        definition = parse_strict(run.definition, limit=MAX_BODY_BYTES)
        data = read(run.source, Path("mission.yaml")).data
    except (CanonicalizationError, MissionInvalid) as error:
        raise _contradicts(f"the mission cannot be read: {error}") from None
    if not isinstance(definition, Mapping) or data != definition.get("mission"):
        raise _contradicts("mission.yaml does not say what mission.json does")


def _notes(run: RunBundle) -> tuple[Note, ...]:
    try:
        notes = tuple(read_note(data) for data in run.notes)
    except JournalError as error:
        raise _contradicts(error.message) from None
    places = [(note.checkpoint.generation, note.checkpoint.size) for note in notes]
    if places != sorted(set(places)) or any(size < 1 for _, size in places):
        raise _contradicts("the checkpoints are not in order, oldest first")
    if any(note.checkpoint.journal_id != run.record.journal_id for note in notes):
        raise _contradicts("a checkpoint speaks of another journal")
    return notes


# -- the rows it becomes -------------------------------------------------------------------------------------------


def _statements(opened: Opened, folder: Path) -> Iterator[Statement]:
    run, record = opened.run, opened.run.record
    bodies = {**run.bodies, digest_bytes(run.plan): run.plan, digest_bytes(run.definition): run.definition}
    for digest, body in bodies.items():
        yield _ARTIFACT, (digest, len(body), body, record.created_at)
    for row in opened.rows:
        yield _ENTRY, (record.run_id, row.seq, row.kind, row.at, row.prev_entry_hash, row.entry_hash, row.body)
    for note in opened.notes:
        yield insert_checkpoint(_checkpoint(opened, note))
    # A name in the folder of this bundle, where no file is: nothing else on this machine is mistaken for the mission.
    path = str(folder / "mission.yaml")
    mission_hash = digest_bytes(run.definition)
    yield insert_mission(
        MissionRecord(
            mission_hash=mission_hash,
            name=record.mission,
            version=record.mission_version,
            path=path,
            source=run.source,
            first_seen=record.created_at,
        )
    )
    yield insert_run(
        RunRecord(
            summary=_summary(opened, path),
            epoch=0,
            mission_hash=mission_hash,
            plan_digest=digest_bytes(run.plan),
            contract_hash=_text(opened.planned.get("contract_hash")),
            plan_hash=_text(opened.planned.get("plan_hash")),
            recipe_hash=opened.recipe_hash,
            last_seq=len(opened.rows) - 1,
        )
    )


def _summary(opened: Opened, path: str) -> RunSummary:
    record = opened.run.record
    told = record.summary
    return RunSummary(
        run_id=record.run_id,
        session_id=told.session_id,
        lineage_id=told.lineage_id,
        parent_run_id=told.parent_run_id,
        mission=record.mission,
        mission_version=record.mission_version,
        mission_path=path,
        status=RunStatus(record.status),
        created_at=record.created_at,
        finished_at=record.finished_at,
        reason=told.reason,
        code=told.code,
        message=told.message,
        exit_code=record.exit_code,
        duration_ms=told.duration_ms,
        inputs=_contract(opened.frozen)["inputs"],
        outputs=told.outputs,
        trigger=told.trigger,
        cause=told.cause,
        entries=record.entries,
        head_hash=record.head_hash,
        violations=told.violations,
        steps_done=told.steps_done,
        steps_total=told.steps_total,
        confinement=told.confinement,
    )


def _checkpoint(opened: Opened, note: Note) -> StoredCheckpoint:
    """A note as it was stored; one that covers more than is here keeps no head, and verification says what is missing."""
    told = note.checkpoint
    last = opened.rows[told.size - 1] if told.size <= len(opened.rows) else None
    return StoredCheckpoint(
        journal_id=told.journal_id,
        generation=told.generation,
        size=told.size,
        head_hash="" if last is None else last.entry_hash,
        note=note.data,
        at=opened.run.record.created_at if last is None else last.at,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _contradicts(why: str) -> Refused:
    return Refused("BUNDLE_RUN", f"the run data contradicts itself: {why}", hint="trust nothing that is in it")
