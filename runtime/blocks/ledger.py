"""Shared state of one workflow execution: written by its workflow only, read by blocks through views (blocks spec §16).

Every change is an operation in a gap-free log, and the current state is exactly what replaying the operations that
are not orphaned yields. Checkpoints are positions in that log, so taking one costs nothing; rolling back replays.
Rollback restores the ledger and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from runtime.blocks.envelope import EMPTY
from runtime.blocks.errors import BlockRuntimeError, LedgerOwnershipError
from runtime.blocks.values import BlockValue, list_of
from runtime.kernel.clock import timestamp

#: Checkpoints kept at most; older ones fall out of the window (blocks spec §16.3).
CHECKPOINT_WINDOW: Final = 32

SEED: Final = "$seed"
INPUT: Final = "$input"
RECOVERY: Final = "$recovery"


class LedgerOpKind(Enum):
    APPEND = "append"  # a new key
    UPDATE = "update"  # an existing key
    DELETE = "delete"
    CHECKPOINT = "checkpoint"
    ROLLBACK = "rollback"


class LedgerEntry(NamedTuple):
    """One value and where it came from: a node path, ``$seed``, ``$input`` or ``$recovery``.

    ``moment`` and ``origin`` (the metadata of the response that brought the value) are read as `timestamp` and
    `metadata` by the few who ask, so that writing costs nothing.
    """

    key: str
    value: BlockValue
    source_block_id: str
    moment: datetime
    origin: Mapping[str, Any]

    @property
    def timestamp(self) -> str:
        return timestamp(self.moment)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Provenance: those of the ids, names and counts that are known."""
        return {name: self.origin[name] for name in _PROVENANCE if name in self.origin}


class LedgerOp(NamedTuple):
    """One operation. ``orphaned`` value operations were undone by a rollback."""

    seq: int
    op: LedgerOpKind
    key: str | None = None
    entry: LedgerEntry | None = None
    checkpoint_id: str | None = None
    orphaned: bool = False


_PROVENANCE: Final = ("trace_id", "run_id", "span_id", "block_name", "node_name", "attempt", "visit", "tick")
_VALUE_OPS: Final = frozenset({LedgerOpKind.APPEND, LedgerOpKind.UPDATE, LedgerOpKind.DELETE})


def replay(log: Iterable[LedgerOp]) -> dict[str, LedgerEntry]:
    """The state that the operations which are not orphaned produce from nothing."""
    state: dict[str, LedgerEntry] = {}
    for op in log:
        if op.orphaned or op.op not in _VALUE_OPS or op.key is None:
            continue
        if op.entry is None:
            state.pop(op.key, None)
        else:
            state[op.key] = op.entry
    return state


class Ledger:
    """The mutating object; only the owning workflow holds it. Everybody else gets `view`."""

    def __init__(self, now: Callable[[], datetime], seed: Mapping[str, BlockValue] | None = None) -> None:
        self._now = now
        self._state: dict[str, LedgerEntry] = {}
        self._log: list[LedgerOp] = []
        self._checkpoints: dict[str, int] = {}  # id → log position; insertion order is age
        self._used: set[str] = set()
        for key in sorted(seed or {}):
            self.set(key, (seed or {})[key], SEED)

    def set(self, key: str, value: object, source: str, origin: Mapping[str, Any] = EMPTY) -> LedgerEntry:
        """Store a value under ``key``; ``origin`` must not change afterwards."""
        kind = LedgerOpKind.UPDATE if key in self._state else LedgerOpKind.APPEND
        entry = LedgerEntry(key, BlockValue.of(value), source, self._now(), origin)
        self._record(kind, key, entry)
        self._state[key] = entry
        return entry

    def append(self, key: str, value: object, source: str, origin: Mapping[str, Any] = EMPTY) -> LedgerEntry:
        """Add to the LIST under ``key``, starting one; another kind there is ``input.expected_list``."""
        present = self._state.get(key)
        items = present.value.expect_list() if present else ()
        return self.set(key, list_of((*items, BlockValue.of(value))), source, origin)

    def delete(self, key: str) -> None:
        """Remove ``key``; removing what is not there records nothing."""
        if self._state.pop(key, None) is not None:
            self._record(LedgerOpKind.DELETE, key, None)

    def create_checkpoint(self, checkpoint_id: str | None = None) -> str:
        """Remember this moment, under its place in the log if unnamed; raises ``ledger.duplicate_checkpoint``."""
        checkpoint_id = checkpoint_id or f"op:{len(self._log) + 1}"
        if checkpoint_id in self._used:
            raise BlockRuntimeError("ledger.duplicate_checkpoint", f"checkpoint {checkpoint_id!r} exists already")
        self._used.add(checkpoint_id)
        self._log.append(LedgerOp(len(self._log) + 1, LedgerOpKind.CHECKPOINT, checkpoint_id=checkpoint_id))
        self._checkpoints[checkpoint_id] = len(self._log)
        if len(self._checkpoints) > CHECKPOINT_WINDOW:
            del self._checkpoints[next(iter(self._checkpoints))]
        return checkpoint_id

    def rollback(self, checkpoint_id: str, not_before: int = 0) -> None:
        """Restore the state at a checkpoint; newer checkpoints become invalid.

        Raises ``ledger.unknown_checkpoint``, also for one taken before the log had ``not_before`` operations.
        """
        position = self._checkpoints.get(checkpoint_id)
        if position is None or position <= not_before:
            raise BlockRuntimeError("ledger.unknown_checkpoint", f"no checkpoint {checkpoint_id!r} to roll back to")
        for index in range(position, len(self._log)):
            if self._log[index].op in _VALUE_OPS:
                self._log[index] = self._log[index]._replace(orphaned=True)
        self._log.append(LedgerOp(len(self._log) + 1, LedgerOpKind.ROLLBACK, checkpoint_id=checkpoint_id))
        self._state = replay(self._log)
        self._checkpoints = {name: at for name, at in self._checkpoints.items() if at <= position}

    def compact(self, keep: int) -> None:
        """Forget all but the ``keep`` newest checkpoints; the log stays whole."""
        surplus = len(self._checkpoints) - keep
        for name in list(self._checkpoints)[: max(0, surplus)]:
            del self._checkpoints[name]

    def forget(self, position: int) -> int:
        """Let the log begin with the state it had after ``position`` operations, as one operation per key.

        Returns how many those are; older checkpoints are gone. For recurring runs, whose log would grow without end.
        """
        restated = [LedgerOp(0, LedgerOpKind.APPEND, key, entry) for key, entry in replay(self._log[:position]).items()]
        ops = (*restated, *self._log[position:])
        self._log = [op._replace(seq=seq) for seq, op in enumerate(ops, 1)]
        shift = len(restated) - position
        self._checkpoints = {name: at + shift for name, at in self._checkpoints.items() if at > position}
        self._used = {op.checkpoint_id for op in self._log if op.op is LedgerOpKind.CHECKPOINT and op.checkpoint_id}
        return len(restated)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Valid checkpoint ids, oldest first."""
        return tuple(self._checkpoints)

    @property
    def length(self) -> int:
        """How many operations the log has."""
        return len(self._log)

    @property
    def view(self) -> LedgerView:
        return LedgerView(self)

    def _record(self, kind: LedgerOpKind, key: str, entry: LedgerEntry | None) -> None:
        self._log.append(LedgerOp(len(self._log) + 1, kind, key, entry))


class LedgerView(Mapping[str, BlockValue]):
    """What everybody else may know of a ledger. Any attempt to change it raises `LedgerOwnershipError`."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getitem__(self, key: str) -> BlockValue:
        return self._ledger._state[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._ledger._state))

    def __len__(self) -> int:
        return len(self._ledger._state)

    def get_entry(self, key: str) -> LedgerEntry | None:
        return self._ledger._state.get(key)

    def snapshot(self) -> dict[str, BlockValue]:
        """A copy of the current state."""
        return {key: self[key] for key in self}

    def log(self) -> tuple[LedgerOp, ...]:
        return tuple(self._ledger._log)

    def _refuse(self, *_: object, **__: object) -> None:
        raise LedgerOwnershipError(
            "runtime.ledger_not_owner", "only the owning workflow writes its ledger; return a value instead"
        )

    set = append = delete = create_checkpoint = rollback = compact = __setitem__ = __delitem__ = _refuse
