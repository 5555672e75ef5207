"""What may follow what in a journal, and what in it is still open.

Yields problems instead of raising, and goes on with the likeliest reading. Standard library only: the evidence bundle
carries this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Id of the store's own journal, which no run opens (ruling R33).
STORE_JOURNAL: Final = "store"
#: Operations and steps quoted by name in a finding.
_NAMED: Final = 3
#: Undone receipts of other runs remembered; no run has written as much.
_MAX_FOREIGN: Final = 100_000


@dataclass(slots=True)
class States:
    """Fed entry by entry. Holds the open work, and of what is finished only names.

    ``foreign`` are receipts whose undo is told here and which stand in another journal, with the entry that tells it;
    ``undoes`` is the run this one said it undoes.
    """

    opened: bool = False
    closed: bool = False
    open_steps: dict[str, int] = field(default_factory=dict)
    due_receipts: dict[str, int] = field(default_factory=dict)
    open_undos: dict[str, int] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)
    undoes: str | None = None
    _finished_steps: set[str] = field(default_factory=set)
    _undoing: set[str] = field(default_factory=set)
    _written: set[str] = field(default_factory=set)

    def feed(self, entry: Mapping[str, Any]) -> Iterator[str]:
        kind = entry["kind"]
        if self.closed:
            yield f"{kind} follows the end of the journal"
        if entry["seq"] == 0 and kind != "journal_opened" and entry["journal_id"] != STORE_JOURNAL:
            yield "the first entry does not open the journal"
        if kind in ("step_started", "step_finished"):
            yield from self._step(kind, entry)
        elif kind == "operation_started" or kind == "operation_denied":
            self._due(kind, entry)
        elif kind == "receipt":
            yield from self._receipt(entry["receipt"], entry["seq"])
        elif kind == "compensation_started":
            self._undo_begins(str(entry["compensates"]), entry["seq"])
        elif kind == "compensation_finished":
            yield from self._undo_ends(str(entry["compensates"]))
        elif kind == "journal_opened":
            if entry["seq"] != 0 or self.opened:
                yield "the journal is opened a second time"
            self.opened = True
            undoes = entry.get("undoes")
            self.undoes = str(undoes.get("run")) if isinstance(undoes, Mapping) else None
        elif kind == "journal_closed":
            self.closed = True

    def unfinished(self) -> list[tuple[int, str]]:
        """Operations and undos that began and did not end, with the entry that began them."""
        kinds = (("operation", self.due_receipts), ("undo of", self.open_undos))
        return sorted((seq, f"{kind} {key}") for kind, found in kinds for key, seq in found.items())

    def cut_short(self) -> list[tuple[int, str]]:
        """Steps that never ended. A run that crashed and was then cancelled leaves some: nobody is there to end them."""
        return sorted((seq, f"step {_name(key)}") for key, seq in self.open_steps.items())

    def _due(self, kind: str, entry: Mapping[str, Any]) -> None:
        # What a running operation was refused has no receipt of its own.
        if kind == "operation_started" or not entry.get("during"):
            self.due_receipts[str(entry["idempotency_key"])] = entry["seq"]

    def _step(self, kind: str, entry: Mapping[str, Any]) -> Iterator[str]:
        key = f"{entry['step_id']}\0{entry['attempt']}\0{entry.get('tick', 1)}\0{entry.get('visit', 1)}"
        if kind == "step_started":
            if key in self.open_steps or key in self._finished_steps:
                yield f"step {_name(key)} is started twice"
            self.open_steps[key] = entry["seq"]
        elif self.open_steps.pop(key, None) is not None:
            self._finished_steps.add(key)
        elif key in self._finished_steps:
            yield f"step {_name(key)} is finished twice"
        else:
            yield f"step {_name(key)} is finished but never started"

    def _receipt(self, receipt: Mapping[str, Any], seq: int) -> Iterator[str]:
        compensates = receipt.get("compensates")
        if compensates is not None:
            if str(compensates) not in self._undoing:
                yield "a receipt speaks of an undo that was never started"
            return
        if receipt.get("effect") == "write":
            self._written.add(str(receipt.get("receipt_hash")))
        if self.due_receipts.pop(str(receipt.get("idempotency_key")), None) is None:
            yield f"receipt of {receipt.get('operation_id')} without an operation that was started or denied"

    def _undo_begins(self, compensates: str, seq: int) -> None:
        self._undoing.add(compensates)
        self.open_undos[compensates] = seq
        if compensates not in self._written and len(self.foreign) < _MAX_FOREIGN:
            self.foreign.setdefault(compensates, seq)

    def _undo_ends(self, compensates: str) -> Iterator[str]:
        if compensates not in self._undoing:
            yield "an undo is finished that was never started"
        self.open_undos.pop(compensates, None)


def told(unfinished: list[tuple[int, str]]) -> str:
    """The first few by name, the others by number."""
    names = ", ".join(f"{what} (entry {seq})" for seq, what in unfinished[:_NAMED])
    more = len(unfinished) - _NAMED
    return names + (f" and {more} more" if more > 0 else "")


def _name(key: str) -> str:
    step, _, rest = key.partition("\0")
    attempt = rest.partition("\0")[0]
    return f"{step} attempt {attempt}" if attempt else step
