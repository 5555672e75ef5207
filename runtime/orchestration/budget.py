"""Money, tokens and calls of one run: reserve before, settle after, never forget (operations spec §10.7).

A reservation is the worst case and counts as spent until it is settled, so parallel calls cannot jointly pass the
limit. Every step is a ``budget`` journal entry; after a crash `Ledger.replay` rebuilds the ledger from them, and a
reservation whose answer was lost stays spent (ruling R20). What all runs of a store spend on one day is counted beside
it, by `Day`. Amounts are integer micro-USD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    day_micros: int | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount set aside for one model call."""

    operation_id: str
    micros: int
    tokens: int


class Day:
    """What every run of one store spends on one day. ``today`` names the day; a new one begins with nothing settled.

    What is set aside stays so over midnight and counts on the day it is settled.
    """

    def __init__(self, today: Callable[[], str]) -> None:
        self._today = today
        self._date = today()
        self._settled = 0
        self._open: dict[tuple[str, str], int] = {}

    @property
    def spent_micros(self) -> int:
        """Settled today, and set aside."""
        self._turn()
        return self._settled + sum(self._open.values())

    def add(self, date: str, settled: int, open_: Mapping[tuple[str, str], int]) -> None:
        """Count what was spent before this process; of another day only what is still set aside."""
        self._turn()
        self._settled += settled if date == self._date else 0
        self._open = {**open_, **self._open}

    def open(self, run_id: str, operation_id: str, micros: int) -> None:
        self._open[run_id, operation_id] = micros

    def close(self, run_id: str, operation_id: str, micros: int) -> None:
        """What was set aside for an operation has become a charge of ``micros``."""
        self._turn()
        self._open.pop((run_id, operation_id), None)
        self._settled += micros

    def _turn(self) -> None:
        if self._date != (date := self._today()):
            self._date, self._settled = date, 0


class Ledger:
    """Totals of one run. Not persistent itself: the caller journals what the methods return.

    ``day`` is shared by the runs of a store, ``run_id`` tells them apart there.
    """

    def __init__(self, limits: Limits, *, day: Day | None = None, run_id: str = "") -> None:
        self._limits = limits
        self._day = day
        self._run_id = run_id
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
        if self._day is not None:
            self._day.open(self._run_id, operation_id, micros)
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
        self._charge_day(reservation.operation_id, charged[0])
        return charged

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back: the operation never started."""
        self._close(reservation.operation_id)
        self._charge_day(reservation.operation_id, 0)
        self._calls -= 1

    def lose(self, operation_id: str) -> Reservation | None:
        """Count the open reservation of a crashed operation as spent; None when there is none."""
        reservation = self._open.pop(operation_id, None)
        if reservation is not None:
            self._micros += reservation.micros
            self._tokens += reservation.tokens
            self._charge_day(operation_id, reservation.micros)
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
        self._check_day(micros)
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

    def _check_day(self, micros: int) -> None:
        if self._day is None or self._limits.day_micros is None:
            return
        left = self._limits.day_micros - self._day.spent_micros
        if micros > 0 and left < micros:
            raise Refused(
                "BUDGET_EXCEEDED",
                f"this call may cost {micros} micro-USD, {max(left, 0)} remain of what all runs may use today",
                where="budget.day_usd",
                hint="raise budget.day_usd in rules.yaml, or go on tomorrow (UTC)",
            )

    def _charge_day(self, operation_id: str, micros: int) -> None:
        if self._day is not None:
            self._day.close(self._run_id, operation_id, micros)

    def _close(self, operation_id: str) -> None:
        if self._open.pop(operation_id, None) is None:
            raise ContractError("BUDGET_UNRESERVED", f"operation {operation_id} holds no open reservation")
