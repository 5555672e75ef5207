"""The schema, as the list of steps that lead to it.

``PRAGMA user_version`` counts the steps applied; each runs in one transaction, so an interrupted start leaves
the version before or after, never between. A published step is never edited: a change is a new step.

Append-only is a property of the tables, not of our good intentions: triggers refuse UPDATE and DELETE of
journal entries, and an INSERT that is not the journal's next sequence number (which also shuts out REPLACE).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from runtime.kernel.errors import StorageError
from runtime.storage.database import run_all, transaction

#: "QDCK": marks the file as ours, so that a stray database is never migrated.
APPLICATION_ID: Final = 0x5144434B

_FIRST: Final = (
    f"PRAGMA application_id={APPLICATION_ID}",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE holder (
        slot INTEGER PRIMARY KEY CHECK (slot = 1),
        epoch INTEGER NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL, boot_id TEXT NOT NULL,
        process_start TEXT NOT NULL, nonce TEXT NOT NULL, started_at TEXT NOT NULL,
        heartbeat_at TEXT NOT NULL, socket TEXT, released_at TEXT)""",
    """CREATE TABLE missions (
        mission_hash TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL, path TEXT NOT NULL,
        source BLOB NOT NULL, first_seen TEXT NOT NULL)""",
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, session_id TEXT NOT NULL, lineage_id TEXT NOT NULL, parent_run_id TEXT,
        mission TEXT NOT NULL, mission_version TEXT NOT NULL, mission_path TEXT NOT NULL, mission_hash TEXT,
        status TEXT NOT NULL, reason TEXT, code TEXT, message TEXT, exit_code INTEGER,
        created_at TEXT NOT NULL, finished_at TEXT,
        duration_ms INTEGER NOT NULL, active_ms INTEGER NOT NULL,
        work_tree TEXT, inputs TEXT NOT NULL, outputs TEXT, launched_by TEXT NOT NULL,
        unattended INTEGER NOT NULL, confinement TEXT, epoch INTEGER NOT NULL,
        plan_digest TEXT, contract_hash TEXT, plan_hash TEXT, recipe_hash TEXT,
        entries INTEGER NOT NULL, last_seq INTEGER NOT NULL, head_hash TEXT,
        violations INTEGER NOT NULL, steps_done INTEGER NOT NULL, steps_total INTEGER NOT NULL)""",
    # Covers the list and its text filter, so that paging never touches the wide rows it does not show.
    "CREATE INDEX runs_listing ON runs (created_at, run_id, status, mission)",
    "CREATE INDEX runs_by_status ON runs (status, created_at, run_id)",
    """CREATE TABLE journal_entries (
        journal_id TEXT NOT NULL, seq INTEGER NOT NULL CHECK (typeof(seq) = 'integer' AND seq >= 0),
        kind TEXT NOT NULL, at TEXT NOT NULL, prev_entry_hash TEXT NOT NULL, entry_hash TEXT NOT NULL,
        body BLOB NOT NULL CHECK (typeof(body) = 'blob'),
        PRIMARY KEY (journal_id, seq))""",
    "CREATE INDEX journal_by_kind ON journal_entries (kind, journal_id, seq)",
    """CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal_entries
        BEGIN SELECT RAISE(ABORT, 'journal entries are append-only'); END""",
    """CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal_entries
        BEGIN SELECT RAISE(ABORT, 'journal entries are append-only'); END""",
    """CREATE TRIGGER journal_next_only BEFORE INSERT ON journal_entries
        WHEN NEW.seq <> (SELECT COALESCE(MAX(seq) + 1, 0) FROM journal_entries WHERE journal_id = NEW.journal_id)
        BEGIN SELECT RAISE(ABORT, 'not the next entry of this journal'); END""",
    """CREATE TABLE artifacts (
        digest TEXT PRIMARY KEY, bytes INTEGER NOT NULL CHECK (bytes = length(body)),
        body BLOB NOT NULL CHECK (typeof(body) = 'blob'), at TEXT NOT NULL)""",
    """CREATE TRIGGER artifacts_no_update BEFORE UPDATE ON artifacts
        BEGIN SELECT RAISE(ABORT, 'artifacts never change'); END""",
    """CREATE TABLE escalations (
        run_id TEXT NOT NULL, escalation_id TEXT NOT NULL, step_id TEXT NOT NULL, reason TEXT NOT NULL,
        severity TEXT NOT NULL, blocking INTEGER NOT NULL, choices TEXT NOT NULL, subject_digest TEXT NOT NULL,
        created_at TEXT NOT NULL, resolved_at TEXT, resolution TEXT, resolved_by TEXT, notes TEXT,
        PRIMARY KEY (run_id, escalation_id))""",
    "CREATE INDEX escalations_open ON escalations (created_at) WHERE resolved_at IS NULL",
)

#: Why a run was started, where it left files, the runs of one lineage, and every order of the runs list.
_SECOND: Final = (
    "ALTER TABLE runs ADD COLUMN cause TEXT",
    "ALTER TABLE runs ADD COLUMN output_folder TEXT",
    "CREATE INDEX runs_by_lineage ON runs (lineage_id, created_at, run_id)",
    # One covering index per order of the runs list: a page anywhere in it touches only the wide rows it shows.
    "DROP INDEX runs_by_status",
    "CREATE INDEX runs_by_status ON runs (status, created_at, run_id, mission)",
    "CREATE INDEX runs_by_mission ON runs (mission, created_at, run_id, status)",
    "CREATE INDEX runs_by_duration ON runs (duration_ms, created_at, run_id, status, mission)",
    "CREATE INDEX runs_by_violations ON runs (violations, created_at, run_id, status, mission)",
)

#: Signed checkpoints beside the journals, and a name that tells this store's own journal from another's.
_THIRD: Final = (
    """CREATE TABLE checkpoints (
        journal_id TEXT NOT NULL, generation INTEGER NOT NULL CHECK (generation >= 1),
        size INTEGER NOT NULL CHECK (typeof(size) = 'integer' AND size >= 1),
        head_hash TEXT NOT NULL, note_hash TEXT NOT NULL UNIQUE,
        note BLOB NOT NULL CHECK (typeof(note) = 'blob'), at TEXT NOT NULL,
        PRIMARY KEY (journal_id, generation, size))""",
    """CREATE TRIGGER checkpoints_no_update BEFORE UPDATE ON checkpoints
        BEGIN SELECT RAISE(ABORT, 'checkpoints never change'); END""",
    """CREATE TRIGGER checkpoints_no_delete BEFORE DELETE ON checkpoints
        BEGIN SELECT RAISE(ABORT, 'checkpoints never change'); END""",
    """CREATE TRIGGER checkpoints_forward_only BEFORE INSERT ON checkpoints
        WHEN EXISTS (SELECT 1 FROM checkpoints WHERE journal_id = NEW.journal_id
            AND (generation > NEW.generation OR (generation = NEW.generation AND size >= NEW.size)))
        BEGIN SELECT RAISE(ABORT, 'a checkpoint never goes backwards'); END""",
    "INSERT INTO meta (key, value) VALUES ('store_id', lower(hex(randomblob(16))))",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST, _SECOND, _THIRD)
VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, where: Path) -> int:
    """Bring the database to `VERSION`; returns the version found. Runs on the writer's thread."""
    found = _version(connection)
    _refuse_newer(found, where)
    _refuse_foreign(connection, found, where)
    for number in range(found, VERSION):
        _apply(connection, number)
    return found


def check_ours(connection: sqlite3.Connection, where: Path) -> None:
    """Raise `StorageError` for another program's database, or one from the future. Changes nothing."""
    found = _version(connection)
    _refuse_newer(found, where)
    _refuse_foreign(connection, found, where)


def check_version(connection: sqlite3.Connection, where: Path) -> None:
    """Raise `StorageError` unless a reader of this version understands the database."""
    found = _version(connection)
    _refuse_newer(found, where)
    _refuse_foreign(connection, found, where)
    if found == 0:
        raise StorageError(
            "STORE_MISSING",
            "the store has just been created and holds nothing yet",
            where=str(where),
            hint="try again in a moment",
        )
    if found < VERSION:
        raise StorageError(
            "STORE_TOO_OLD",
            f"the store has version {found}; this Quarterdeck reads version {VERSION}",
            where=str(where),
            hint="open it once for writing (any `quarterdeck run` or the console) to bring it up to date",
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_newer(found: int, where: Path) -> None:
    if found > VERSION:
        raise StorageError(
            "STORE_TOO_NEW",
            f"the store has version {found}; this Quarterdeck understands up to {VERSION}",
            where=str(where),
            hint="update Quarterdeck, or choose another folder with --store",
        )


def _refuse_foreign(connection: sqlite3.Connection, found: int, where: Path) -> None:
    marker = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if marker == APPLICATION_ID or (found == marker == tables == 0):
        return
    raise StorageError(
        "STORE_NOT_OURS",
        "the file is a database of another program",
        where=str(where),
        hint="choose another folder with --store or QUARTERDECK_HOME; nothing was changed",
    )


def _apply(connection: sqlite3.Connection, number: int) -> None:
    with transaction(connection):
        run_all(connection, MIGRATIONS[number])
        connection.execute(f"PRAGMA user_version={number + 1}")
