"""Money, tokens and calls of one run: reserve before, settle after, never forget (operations spec §10.7).

A reservation is the worst case and counts as spent until it is settled, so parallel calls cannot jointly pass the
limit. Every step is a ``budget`` journal entry; after a crash `Ledger.replay` rebuilds the ledger from them, and a
reservation whose answer was lost stays spent (ruling R20). Amounts are integer micro-USD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.kernel.errors import ContractError, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may spend; None means no limit of that kind. ``micros`` 0 forbids paid calls, and ``money`` is the
    key of the mission that says so."""

    micros: int = 0
    money: str = "envelope.max_budget_usd"
    tokens: int | None = None
    calls: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount set aside for one model call."""

    operation_id: str
    micros: int
    tokens: int


class Ledger:
    """Totals of one run. Not persistent itself: the caller journals what the methods return."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._micros = 0
        self._tokens = 0
        self._calls = 0
        self._open: dict[str, Reservation] = {}

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def spent_micros(self) -> int:
        """Settled and lost money, without open reservations."""
        return self._micros

    @property
    def spent_tokens(self) -> int:
        return self._tokens

    @property
    def calls(self) -> int:
        return self._calls

    @property
    def remaining_micros(self) -> int:
        """What may still be reserved."""
        return self._limits.micros - self._micros - sum(item.micros for item in self._open.values())

    @property
    def remaining_tokens(self) -> int | None:
        if self._limits.tokens is None:
            return None
        return self._limits.tokens - self._tokens - sum(item.tokens for item in self._open.values())

    def reserve(self, operation_id: str, micros: int, tokens: int) -> Reservation:
        """Set an amount aside. Raises `Refused` ``BUDGET_EXCEEDED`` and changes nothing when it does not fit."""
        if operation_id in self._open:
            raise ContractError("BUDGET_RESERVED", f"operation {operation_id} already holds a reservation")
        self._check(micros, tokens)
        reservation = Reservation(operation_id, micros, tokens)
        self._open[operation_id] = reservation
        self._calls += 1
        return reservation

    def settle(self, reservation: Reservation, micros: int | None, tokens: int | None) -> tuple[int, int]:
        """Replace a reservation by what was really used; None charges all of it. Returns the charge."""
        self._close(reservation.operation_id)
        charged = (
            reservation.micros if micros is None else micros,
            reservation.tokens if tokens is None else tokens,
        )
        self._micros += charged[0]
        self._tokens += charged[1]
        return charged

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the operation never started."""
        self._close(reservation.operation_id)
        self._calls -= 1

    def lose(self, operation_id: str) -> Reservation | None:
        """Count the open reservation of a crashed operation as spent; None when there is none."""
        reservation = self._open.pop(operation_id, None)
        if reservation is not None:
            self._micros += reservation.micros
            self._tokens += reservation.tokens
        return reservation

    def replay(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Rebuild from the journal's ``budget`` entries, oldest first; other kinds are skipped."""
        for entry in entries:
            if entry.get("kind") == "budget":
                self._replay_one(entry)

    def entry(self, phase: str, operation_id: str, micros: int, tokens: int) -> dict[str, Any]:
        """The members of a ``budget`` entry describing the ledger after ``phase``."""
        return {
            "phase": phase,
            "operation_id": operation_id,
            "micros": micros,
            "tokens": tokens,
            "remaining_micros": self.remaining_micros,
        }

    def _replay_one(self, entry: Mapping[str, Any]) -> None:
        operation_id, micros, tokens = entry["operation_id"], entry["micros"], entry["tokens"]
        if entry["phase"] == "reserved":
            self._open[operation_id] = Reservation(operation_id, micros, tokens)
            self._calls += 1
            return
        self._close(operation_id)
        self._micros += micros
        self._tokens += tokens

    def _check(self, micros: int, tokens: int) -> None:
        if micros > self.remaining_micros and micros > 0:
            raise Refused(
                "BUDGET_EXCEEDED",
                f"this call may cost {micros} micro-USD, {max(self.remaining_micros, 0)} remain",
                where=self._limits.money,
                hint=f"raise {self._limits.money} or lower max_tokens",
            )
        left = self.remaining_tokens
        if left is not None and tokens > left:
            raise Refused(
                "BUDGET_EXCEEDED",
                f"this call may use {tokens} tokens, {max(left, 0)} remain",
                where="budgets.tokens",
                hint="raise budgets.tokens or lower max_tokens",
            )
        if self._limits.calls is not None and self._calls >= self._limits.calls:
            message = f"all {self._limits.calls} model calls are used"
            raise Refused("BUDGET_EXCEEDED", message, where="budgets.calls", hint="raise budgets.calls")

    def _close(self, operation_id: str) -> None:
        if self._open.pop(operation_id, None) is None:
            raise ContractError("BUDGET_UNRESERVED", f"operation {operation_id} holds no open reservation")
