"""The cancel tree: a fence is immediate, covers what is below, never lifts, and leaves nothing behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.egress.scopes import CancelOutcome, CancelTree, Fenced, Scope, ScopeKind
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError, Halted

ORDER = (ScopeKind.SESSION, ScopeKind.TURN, ScopeKind.NODE, ScopeKind.OPERATION)


def chain(tree: CancelTree, suffix: str = "") -> list[Scope]:
    scopes: list[Scope] = []
    for kind in ORDER:
        scopes.append(tree.open(kind, f"{kind.value}{suffix}", scopes[-1] if scopes else None))
    return scopes


@pytest.mark.parametrize("level", range(4))
def test_a_fence_covers_its_scope_and_everything_below(level: int) -> None:
    scopes = chain(CancelTree(ManualClock()))
    assert scopes[level].fence("operator_cancel")
    assert [scope.fenced for scope in scopes] == [index >= level for index in range(4)]
    for scope in scopes[level:]:
        with pytest.raises(Fenced, match="operator_cancel") as caught:
            scope.check()
        assert isinstance(caught.value, Halted)
        assert (caught.value.code, caught.value.reason) == ("OP_CANCELLED", "operator_cancel")
        assert caught.value.scope == scopes[level].name
    for scope in scopes[:level]:
        scope.check()


def test_a_scope_opened_below_a_fence_is_born_fenced() -> None:
    tree = CancelTree(ManualClock())
    session, turn, *_ = chain(tree)
    turn.fence("timeout")
    node = tree.open(ScopeKind.NODE, "late", turn)
    called: list[str] = []
    node.on_fence(lambda: called.append("now"))
    assert node.fenced
    assert called == ["now"]
    assert not session.fenced


def test_the_first_fence_wins_and_duplicates_change_nothing() -> None:
    clock = ManualClock()
    tree = CancelTree(clock)
    turn = chain(tree)[1]
    assert turn.fence("operator_cancel", actor="me")
    clock.advance(5)
    assert not turn.fence("timeout")
    fence = turn.fence_in_force
    assert fence is not None
    assert (fence.reason, fence.actor, fence.accepted_at, fence.applied_at) == ("operator_cancel", "me", 0.0, 0.0)
    assert tree.generation == fence.generation == 1


def test_callbacks_run_inside_the_fence_outer_scopes_first_once() -> None:
    tree = CancelTree(ManualClock())
    scopes = chain(tree)
    seen: list[str] = []
    for scope in reversed(scopes):
        scope.on_fence(lambda scope=scope: seen.append(f"{scope.kind.value} {scope.fenced}"))  # type: ignore[misc]
    unsubscribe = scopes[2].on_fence(lambda: seen.append("never"))
    unsubscribe()
    scopes[1].fence("barge_in")
    assert seen == ["turn True", "node True", "operation True"]
    scopes[0].fence("session_end")
    assert seen[3:] == ["session True"], "what was told once is not told again"


def test_a_failing_callback_neither_stops_the_others_nor_the_fence_nor_goes_unheard() -> None:
    turn = chain(CancelTree(ManualClock()))[1]
    seen: list[str] = []

    def broken() -> None:
        raise ValueError("no such process")

    turn.on_fence(broken)
    turn.on_fence(lambda: seen.append("second"))
    with pytest.raises(ExceptionGroup) as caught:
        turn.fence("operator_cancel")
    assert caught.group_contains(ValueError, match="no such process")
    assert seen == ["second"]
    assert turn.fenced


def test_cleanup_stands_beside_the_turn_and_no_fence_reaches_it() -> None:
    tree = CancelTree(ManualClock())
    scopes = chain(tree)
    cleanup = tree.open(ScopeKind.CLEANUP, "undo t")
    undo = tree.open(ScopeKind.OPERATION, "undo 1", cleanup)
    scopes[0].fence("kill_switch", code="KILL_SWITCH")
    undo.check()
    with pytest.raises(Fenced) as caught:
        scopes[3].check()
    assert caught.value.code == "KILL_SWITCH"


@pytest.mark.parametrize(
    ("kind", "parent"),
    [(ScopeKind.TURN, None), (ScopeKind.NODE, 0), (ScopeKind.SESSION, 0), (ScopeKind.CLEANUP, 1), (ScopeKind.TURN, 1)],
)
def test_kinds_nest_only_as_the_tree_says(kind: ScopeKind, parent: int | None) -> None:
    tree = CancelTree(ManualClock())
    scopes = chain(tree)
    with pytest.raises(ContractError):
        tree.open(kind, "x", None if parent is None else scopes[parent])
    assert len(tree) == 4


def test_ids_are_unique_per_kind_and_closed_scopes_take_no_children() -> None:
    tree = CancelTree(ManualClock())
    scopes = chain(tree)
    with pytest.raises(ContractError, match="open already"):
        tree.open(ScopeKind.TURN, "turn", scopes[0])
    scopes[1].close()
    with pytest.raises(ContractError, match="closed"):
        tree.open(ScopeKind.NODE, "n", scopes[1])


def test_the_tree_is_bounded() -> None:
    tree = CancelTree(ManualClock(), capacity=2)
    session = tree.open(ScopeKind.SESSION, "s")
    tree.open(ScopeKind.TURN, "t", session)
    with pytest.raises(ContractError, match="cancel_scope_limit"):
        tree.open(ScopeKind.TURN, "u", session)


def test_cancel_by_name_is_applied_then_duplicate_then_a_noop() -> None:
    tree = CancelTree(ManualClock())
    turn = chain(tree)[1]
    assert tree.cancel(ScopeKind.TURN, "turn", "operator_cancel") is CancelOutcome.APPLIED
    assert tree.cancel(ScopeKind.TURN, "turn", "operator_cancel") is CancelOutcome.DUPLICATE
    turn.close()
    assert tree.cancel(ScopeKind.TURN, "turn", "operator_cancel") is CancelOutcome.NOOP
    assert tree.cancel(ScopeKind.TURN, "never", "operator_cancel") is CancelOutcome.NOOP


def test_a_closed_scope_starts_nothing_even_unfenced() -> None:
    scopes = chain(CancelTree(ManualClock()))
    scopes[1].close()
    assert not scopes[1].fence("operator_cancel")
    for scope in scopes[1:]:
        with pytest.raises(Fenced, match="it is over"):
            scope.check()


def test_ten_thousand_turns_leave_the_tree_empty() -> None:
    tree = CancelTree(ManualClock())
    session = tree.open(ScopeKind.SESSION, "s")
    for n in range(10_000):
        with tree.open(ScopeKind.TURN, f"t{n}", session) as turn:
            node = tree.open(ScopeKind.NODE, f"n{n}", turn)
            node.on_fence(lambda: None)
            if n % 3 == 0:
                turn.fence("operator_cancel")
    assert len(tree) == 1
    session.close()
    assert len(tree) == 0


@given(st.lists(st.tuples(st.integers(0, 11), st.booleans()), max_size=30))
def test_fenced_means_exactly_self_or_an_ancestor_fenced(steps: list[tuple[int, bool]]) -> None:
    tree = CancelTree(ManualClock())
    scopes = [scope for n in range(3) for scope in chain(tree, str(n))]
    fenced: set[int] = set()
    for index, really in steps:
        if really:
            scopes[index].fence("operator_cancel")
            fenced.add(index)
        for position, scope in enumerate(scopes):
            first = position - position % 4
            assert scope.fenced == any(above in fenced for above in range(first, position + 1))
    assert tree.generation == len(fenced)
