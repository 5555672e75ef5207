"""The mission journal: one append-only hash chain per run, and the only place where history is made.

Two traps shape it. Completing a step must not edit the entry that started it, so start and finish are two entries
and records handed out are frozen copies. And nothing may be believed that was not accepted for storage, so the
journal's own memory moves only after the store took the bytes. Appending is synchronous; whoever needs to know
that an entry is on disk awaits the `Durable` that comes back (rulings R12, R24).

Standard library, kernel and sibling journal modules only: the evidence bundle carries this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from runtime.kernel.canonical import (
    JOURNAL_GENESIS,
    RECEIPT_GENESIS,
    CanonicalizationError,
    parse_strict,
)
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import JournalError, ModelError
from runtime.kernel.model import OperationReceipt, StepRecord, frozen, thawed
from runtime.kernel.ports import Durable, JournalStore, Settled, StoredEntry
from runtime.kernel.redaction import Redactor
from runtime.orchestration.checkpoints import Checkpoint
from runtime.orchestration.journal_format import (
    HEADER,
    MAX_LINE_BYTES,
    OWN,
    SCHEMA,
    hash_of_body,
    sealed,
    shape_problem,
    stored_lines,
)
from runtime.orchestration.journal_history import StepFold, StepKey, step_record
from runtime.orchestration.journal_store import JsonlJournalStore as JsonlJournalStore
from runtime.orchestration.journal_store import MemoryJournalStore as MemoryJournalStore
from runtime.orchestration.merkle import Frontier
from runtime.orchestration.operation_table import KnownOperation, OperationTable


@dataclass(frozen=True, slots=True)
class Appended:
    """One accepted entry: a deep read-only copy, and the promise that it is on disk."""

    entry: Mapping[str, Any]
    durable: Durable


Listener = Callable[[Mapping[str, Any]], None]


class MissionJournal:
    """Appends to one chain and folds what it appends. Owned by one event loop; not thread-safe.

    ``listener`` is called with every entry the store has accepted, in order, before ``append`` returns. ``redactor``
    takes known secrets out of what an entry tells (not of its own words and digests, `OWN`) before it is hashed.
    Everything raises `JournalError` with a ``J_*`` code and then has changed nothing.
    """

    def __init__(
        self,
        store: JournalStore,
        *,
        journal_id: str,
        clock: Clock,
        listener: Listener | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.journal_id = journal_id
        self._store = store
        self._clock = clock
        self._listener = listener
        self._redactor = Redactor() if redactor is None else redactor
        self._next_seq = 0
        self._head = JOURNAL_GENESIS
        self._receipt_head = RECEIPT_GENESIS
        self._closed = False
        self._durable: Durable = Settled()
        self._operations = OperationTable()
        self._steps = StepFold()

    @classmethod
    def resume(
        cls,
        store: JournalStore,
        entries: Iterable[StoredEntry],
        clock: Clock,
        listener: Listener | None = None,
        redactor: Redactor | None = None,
        known: Checkpoint | None = None,
    ) -> Self:
        """Continue a stored journal: check every entry, rebuild the fold, append after the last.

        The listener hears only new entries. ``known`` is a checkpoint the entries must continue. Raises `JournalError`
        with the code verification would report, and ``J_BEHIND``.
        """
        journal: Self | None = None
        frontier = Frontier()
        for stored in entries:
            entry = _checked(stored)
            if known is not None and frontier.size < known.size:
                frontier.append(stored.body)
            if journal is None:
                journal = cls(store, journal_id=entry["journal_id"], clock=clock, listener=listener, redactor=redactor)
            journal._continue_with(entry)
        if journal is None:
            raise JournalError("J_EMPTY", "there is no entry to continue from")
        if known is not None and (frontier.size, frontier.root()) != (known.size, known.root):
            raise JournalError(
                "J_BEHIND",
                f"the journal does not continue its checkpoint of {known.size} entries, it has {journal.entries}",
            )
        return journal

    # -- what is known -------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def entries(self) -> int:
        """How many entries the chain has."""
        return self._next_seq

    @property
    def last_receipt_hash(self) -> str:
        """Head of the receipt chain; its genesis constant when there is no receipt yet."""
        return self._receipt_head

    @property
    def durable(self) -> Durable:
        """Of the newest entry; a durable entry implies all before it (ruling R24)."""
        return self._durable

    def get_chain_root(self) -> str:
        """The newest ``entry_hash``, or genesis when empty."""
        return self._head

    def check_idempotency(self, key: str) -> KnownOperation | None:
        """What this journal knows of an operation key (operations spec §4.2); None when it was never used."""
        return self._operations.lookup(key)

    @property
    def operations(self) -> OperationTable:
        """Every operation so far; it follows the journal."""
        return self._operations

    def steps(self) -> tuple[StepRecord, ...]:
        """Every block attempt in its current state; values of finished ones are left out."""
        return self._steps.view()

    def get_incomplete_steps(self) -> tuple[StepRecord, ...]:
        return self._steps.incomplete()

    def open_step(self, step_id: str, *, tick: int = 1, visit: int = 1, attempt: int = 1) -> StepRecord | None:
        """The start record of an attempt that has not finished: a resumed run continues it without a new start."""
        key = (step_id, tick, visit, attempt)
        return self._steps.get(key) if self._steps.is_open(key) else None

    # -- making history ------------------------------------------------------------------------------------------

    def append(self, kind: str, /, **members: Any) -> Appended:
        """Append one entry. ``journal_closed`` gets its counts filled in here.

        Raises `JournalError`: ``J_CLOSED``, ``J_SCHEMA`` (unknown kind, header member given, not canonical),
        ``J_STATE`` (opened twice or too late), ``J_LINE_TOO_LONG``, ``J_RECEIPT_CHAIN``, ``J_STEP_*``; and whatever
        the store raises.
        """
        if self._closed:
            raise JournalError("J_CLOSED", f"the journal is closed; {kind} came too late")
        self._check_members(kind, members)
        if kind == "journal_closed":
            members = {**members, "entries": self._next_seq + 1, "last_receipt_hash": self._receipt_head}
        stored, entry = self._build(kind, members)
        durable = self._store.append(stored)
        view = frozen(entry)
        self._durable = durable
        self._advance(view)
        if self._listener is not None:
            self._listener(view)
        return Appended(view, durable)

    def append_receipt(self, receipt: OperationReceipt) -> OperationReceipt:
        """Append ``receipt`` as the newest of the receipt chain; its ``prev_receipt_hash`` is filled in."""
        chained = replace(receipt, prev_receipt_hash=self._receipt_head)
        self.append("receipt", receipt=chained.record())
        return chained

    def record_step(
        self,
        step_id: str,
        *,
        operation_type: str,
        name: str = "",
        status: str = "running",
        inputs: Mapping[str, Any] | None = None,
        pre_state_hash: str | None = None,
        attempt: int = 1,
        visit: int = 1,
        tick: int = 1,
        **extra: Any,
    ) -> StepRecord:
        """Append ``step_started`` and return its record.

        ``extra`` members (``reused_from``) travel along. Raises `JournalError` ``J_STEP_OPEN`` while an attempt of the same visit is open, ``J_STEP_CLOSED`` when this
        very attempt has finished.
        """
        key = (step_id, tick, visit, attempt)
        now = timestamp(self._clock.now())
        marks = {mark: value for mark, value in (("visit", visit), ("tick", tick)) if value != 1}
        self._check_start(key)
        appended = self.append(
            "step_started",
            step_id=step_id,
            name=name or step_id,
            operation_type=operation_type,
            status="running" if status == "in_progress" else status,
            attempt=attempt,
            started_at=now,
            completed_at=None,
            inputs=inputs or {},
            outputs={},
            pre_state_hash=pre_state_hash,
            post_state_hash=None,
            error_message=None,
            compensation_status="not_needed",
            **marks,
            **extra,
        )
        return step_record(appended.entry)

    def complete_step(
        self,
        step_id: str,
        status: str,
        *,
        outputs: Mapping[str, Any] | None = None,
        post_state_hash: str | None = None,
        error_message: str | None = None,
        compensation_status: str = "not_needed",
        code: str | None = None,
        accepted: bool = False,
        attempt: int | None = None,
        visit: int = 1,
        tick: int = 1,
        **extra: Any,
    ) -> StepRecord:
        """Append ``step_finished``; the start entry stays as it is. ``attempt`` None means the newest one.

        ``extra`` members (``reused_from``) travel along. Raises `JournalError` ``J_STEP_UNKNOWN``, ``J_STEP_CLOSED``.
        """
        started = self._open_record(step_id, tick, visit, attempt)
        marks = {mark: value for mark, value in (("visit", started.visit), ("tick", started.tick)) if value != 1}
        told: dict[str, Any] = {"code": code} if code is not None else {}
        if accepted:
            told["accepted"] = True
        appended = self.append(
            "step_finished",
            step_id=step_id,
            name=started.name,
            operation_type=started.operation_type,
            status=status,
            attempt=started.attempt,
            started_at=started.started_at,
            completed_at=timestamp(self._clock.now()),
            inputs=started.inputs,
            outputs=outputs or {},
            pre_state_hash=started.pre_state_hash,
            post_state_hash=post_state_hash,
            error_message=error_message,
            compensation_status=compensation_status,
            **marks,
            **told,
            **extra,
        )
        return step_record(appended.entry)

    def close(self, status: str, *, result_commit: str | None, **members: Any) -> Appended:
        """Append ``journal_closed``; nothing can follow."""
        return self.append("journal_closed", status=status, result_commit=result_commit, **members)

    # -- inside --------------------------------------------------------------------------------------------------

    def _check_members(self, kind: str, members: Mapping[str, Any]) -> None:
        taken = HEADER & members.keys()
        if taken:
            raise JournalError("J_SCHEMA", f"{kind} may not set the header member {min(taken)}")
        if kind == "journal_opened" and self._next_seq != 0:
            raise JournalError("J_STATE", "a journal is opened once, as its first entry")

    def _check_receipt(self, record: Mapping[str, Any]) -> None:
        receipt = _receipt(record)
        if receipt.receipt_hash != record.get("receipt_hash") or receipt.prev_receipt_hash != self._receipt_head:
            raise JournalError("J_RECEIPT_CHAIN", "the receipt does not continue the receipt chain")

    def _check_start(self, key: StepKey) -> None:
        step_id, tick, visit, attempt = key
        open_key = self._steps.open_attempt(step_id, tick, visit)
        if open_key is not None:
            raise JournalError("J_STEP_OPEN", f"step {step_id} attempt {open_key[3]} has not finished")
        if self._steps.get(key) is not None:
            raise JournalError("J_STEP_CLOSED", f"step {step_id} attempt {attempt} has already finished")

    def _open_record(self, step_id: str, tick: int, visit: int, attempt: int | None) -> StepRecord:
        key = self._steps.latest(step_id) if attempt is None else (step_id, tick, visit, attempt)
        record = self._steps.get(key) if key is not None else None
        if key is None or record is None:
            raise JournalError("J_STEP_UNKNOWN", f"step {step_id} was never started")
        if not self._steps.is_open(key):
            raise JournalError("J_STEP_CLOSED", f"step {step_id} attempt {key[3]} has already finished")
        return record

    def _build(self, kind: str, members: Mapping[str, Any]) -> tuple[StoredEntry, dict[str, Any]]:
        clean = self._redactor.value
        entry: dict[str, Any] = {
            name: thawed(value) if name in OWN else clean(thawed(value)) for name, value in members.items()
        }
        at = timestamp(self._clock.now())
        entry.update(
            schema=SCHEMA,
            seq=self._next_seq,
            kind=kind,
            journal_id=self.journal_id,
            at=at,
            prev_entry_hash=self._head,
        )
        try:
            body, entry_hash = sealed(entry)
        except CanonicalizationError as error:
            code = "J_LINE_TOO_LONG" if error.code == "CANON_SIZE" else "J_SCHEMA"
            raise JournalError(code, f"{kind} cannot be recorded: {error.message}") from error
        entry["entry_hash"] = entry_hash
        problem = shape_problem(entry)
        if problem is not None:
            raise JournalError("J_SCHEMA", problem)
        if kind == "receipt":
            self._check_receipt(entry["receipt"])
        return StoredEntry(self._next_seq, kind, at, self._head, entry_hash, body), entry

    def _advance(self, entry: Mapping[str, Any]) -> None:
        self._next_seq = entry["seq"] + 1
        self._head = entry["entry_hash"]
        self._operations.observe(entry)
        self._steps.feed(entry)
        if entry["kind"] == "receipt":
            self._receipt_head = entry["receipt"]["receipt_hash"]
        elif entry["kind"] == "journal_closed":
            self._closed = True

    def _continue_with(self, entry: Mapping[str, Any]) -> None:
        if entry["seq"] != self._next_seq:
            raise JournalError("J_SEQ", f"entry {entry['seq']} stands where {self._next_seq} was expected")
        if entry["journal_id"] != self.journal_id:
            raise JournalError("J_JOURNAL_ID", f"entry {entry['seq']} belongs to another journal")
        if entry["prev_entry_hash"] != self._head:
            code = "J_GENESIS" if self._next_seq == 0 else "J_PREV_HASH"
            raise JournalError(code, f"entry {entry['seq']} does not continue the chain")
        if self._closed:
            raise JournalError("J_STATE", f"entry {entry['seq']} follows the end of the journal")
        if entry["kind"] == "receipt":
            self._check_receipt(entry["receipt"])
        self._advance(entry)


def _receipt(record: Mapping[str, Any]) -> OperationReceipt:
    try:
        return OperationReceipt.from_record(record)
    except ModelError as error:
        raise JournalError("J_SCHEMA", f"not a receipt: {error.message}") from error


def _checked(stored: StoredEntry) -> Mapping[str, Any]:
    """The entry inside ``stored``, proven to be what its own hash and its columns say."""
    where = f"entry {stored.seq}"
    try:
        entry = parse_strict(stored.body, limit=MAX_LINE_BYTES)
    except CanonicalizationError as error:
        raise JournalError(error.code, error.message, where=where) from error
    problem = shape_problem(entry) if isinstance(entry, dict) else "not an object"
    if problem is not None:
        raise JournalError("J_SCHEMA", problem, where=where)
    columns = {item.name: getattr(stored, item.name) for item in fields(stored) if item.name != "body"}
    odd = sorted(name for name, value in columns.items() if entry[name] != value)
    if odd:
        raise JournalError("J_COLUMN_MISMATCH", f"column {odd[0]} differs from the stored bytes", where=where)
    if hash_of_body(stored.body, entry["entry_hash"]) != entry["entry_hash"]:
        raise JournalError("J_ENTRY_HASH", "the stored bytes do not have the hash they claim", where=where)
    return frozen(entry)


def reopen_jsonl(
    path: Path, *, clock: Clock, listener: Listener | None = None, known_seq: int | None = None
) -> tuple[MissionJournal, JsonlJournalStore]:
    """Open a JSONL journal for appending after a crash; a torn last line is set aside and journalled (§7.6)."""
    store = JsonlJournalStore(path)
    try:
        torn = store.set_torn_tail_aside(known_seq=known_seq)
        journal = MissionJournal.resume(store, stored_lines(store.read()), clock, listener)
        if torn is not None:
            journal.append(
                "recovery", cause="torn_tail", bytes=torn.bytes, sha256=torn.sha256, findings=["J_TORN_TAIL"]
            )
    except BaseException:
        store.close()
        raise
    return journal, store
