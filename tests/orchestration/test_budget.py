"""Money, tokens and calls (operations spec §10.7): what is reserved counts, and nothing is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kernel.errors import ContractError, Refused
from runtime.orchestration.budget import Ledger, Limits


def test_parallel_reservations_cannot_pass_the_limit_together() -> None:
    ledger = Ledger(Limits(micros=100))
    first = ledger.reserve("a", 60, 0)
    with pytest.raises(Refused, match="BUDGET_EXCEEDED"):
        ledger.reserve("b", 60, 0)
    assert ledger.settle(first, 10, 0) == (10, 0)
    ledger.reserve("b", 60, 0)
    assert ledger.remaining_micros == 30


def test_unknown_usage_is_charged_in_full() -> None:
    ledger = Ledger(Limits(micros=100, tokens=50))
    assert ledger.settle(ledger.reserve("a", 60, 20), None, None) == (60, 20)
    assert (ledger.spent_micros, ledger.remaining_tokens) == (60, 30)


def test_tokens_and_calls_have_limits_of_their_own() -> None:
    ledger = Ledger(Limits(tokens=10, calls=1))
    with pytest.raises(Refused, match="tokens"):
        ledger.reserve("a", 0, 11)
    ledger.release(ledger.reserve("a", 0, 5))
    ledger.settle(ledger.reserve("a", 0, 5), 0, 5)
    with pytest.raises(Refused, match="model calls"):
        ledger.reserve("b", 0, 1)


def test_zero_money_allows_only_what_is_free() -> None:
    ledger = Ledger(Limits())
    ledger.reserve("free", 0, 100)
    with pytest.raises(Refused, match="BUDGET_EXCEEDED"):
        ledger.reserve("paid", 1, 0)


def test_misuse_is_a_contract_error_and_changes_nothing() -> None:
    ledger = Ledger(Limits(micros=10))
    reservation = ledger.reserve("a", 1, 0)
    with pytest.raises(ContractError):
        ledger.reserve("a", 1, 0)
    ledger.settle(reservation, 1, 0)
    with pytest.raises(ContractError):
        ledger.settle(reservation, 1, 0)
    assert ledger.spent_micros == 1


def test_a_lost_reservation_stays_spent() -> None:
    ledger = Ledger(Limits(micros=100))
    ledger.reserve("a", 80, 3)
    assert ledger.lose("a") is not None
    assert ledger.lose("a") is None
    assert ledger.remaining_micros == 20


steps = st.lists(
    st.tuples(st.sampled_from(["settle", "unknown", "lose", "open"]), st.integers(0, 50), st.integers(0, 50)),
    max_size=20,
)


@given(steps)
def test_a_ledger_replayed_from_its_entries_is_the_same(script: list[tuple[str, int, int]]) -> None:
    ledger, entries = Ledger(Limits(micros=10_000, tokens=10_000)), []
    for number, (what, reserved, used) in enumerate(script):
        name = f"s.{number}"
        reservation = ledger.reserve(name, reserved, reserved)
        entries.append(_entry(ledger, "reserved", name, reserved, reserved))
        if what in ("settle", "unknown"):
            charged = ledger.settle(reservation, *((used, used) if what == "settle" else (None, None)))
            entries.append(_entry(ledger, "settled", name, *charged))
        elif what == "lose":
            ledger.lose(name)
            entries.append(_entry(ledger, "lost", name, reserved, reserved))
    again = Ledger(Limits(micros=10_000, tokens=10_000))
    again.replay(entries)
    for attribute in ("remaining_micros", "remaining_tokens", "spent_micros", "calls"):
        assert getattr(again, attribute) == getattr(ledger, attribute)


def _entry(ledger: Ledger, phase: str, name: str, micros: int, tokens: int) -> dict[str, Any]:
    return {"kind": "budget", **ledger.entry(phase, name, micros, tokens)}
