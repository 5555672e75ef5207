"""The one cancel tree: session over turn over node over operation. Cancelling is a state change, not an exception.

A fence takes effect in the same synchronous step in which the cancel is accepted, covers everything below its
scope, and never lifts. Whatever could start or show something asks the fence first; stopping what already runs is
done by the callbacks and is best effort (turn runtime §3.20, rulings R17 and R26). State belongs to the runtime
loop; `Scope.fenced` and `Scope.check` may be read from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from typing import Final

from runtime.kernel.clock import Clock
from runtime.kernel.errors import ContractError, Halted

MAX_SCOPES: Final = 4096
MAX_CALLBACKS: Final = 64
CANCELLED: Final = "OP_CANCELLED"


class ScopeKind(Enum):
    """What a scope covers. ``CLEANUP`` is where undoing runs: no other scope's fence reaches it (ruling R26)."""

    SESSION = "session"
    TURN = "turn"
    NODE = "node"
    OPERATION = "operation"
    CLEANUP = "cleanup"


_PARENTS: Final[Mapping[ScopeKind, Set[ScopeKind | None]]] = {
    ScopeKind.SESSION: {None},
    ScopeKind.CLEANUP: {None},
    ScopeKind.TURN: {ScopeKind.SESSION},
    ScopeKind.NODE: {ScopeKind.TURN, ScopeKind.NODE},
    ScopeKind.OPERATION: {ScopeKind.TURN, ScopeKind.NODE, ScopeKind.OPERATION, ScopeKind.CLEANUP},
}


class Fenced(Halted):
    """Work met a fence. ``reason`` is why it was put up, ``scope`` which one it was."""

    def __init__(self, code: str, *, reason: str, scope: str) -> None:
        super().__init__(code, f"{scope} was stopped: {reason}")
        self.reason = reason
        self.scope = scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Why and when a scope was fenced; monotonic seconds. ``generation`` counts the tree's fences."""

    reason: str
    actor: str
    code: str
    accepted_at: float
    applied_at: float
    generation: int


class CancelOutcome(Enum):
    """What a cancel by name did. ``NOOP``: the scope is unknown or closed."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    NOOP = "noop"


class CancelTree:
    """All open scopes of a runtime. Raises `ContractError` ``cancel_scope_limit`` beyond ``capacity``."""

    def __init__(self, clock: Clock, *, capacity: int = MAX_SCOPES) -> None:
        self._clock = clock
        self._capacity = capacity
        self._scopes: dict[tuple[ScopeKind, str], Scope] = {}
        self.generation = 0

    def __len__(self) -> int:
        return len(self._scopes)

    def open(self, kind: ScopeKind, id: str, parent: Scope | None = None) -> Scope:
        """Open a scope. A scope below a fence is born fenced. Kinds nest as the tree says, ids are unique per kind."""
        above = parent.kind if parent else None
        if not id or above not in _PARENTS[kind]:
            raise ContractError("invalid_transition", f"a {kind.value} scope {id!r} cannot open under {above}")
        if parent is not None and parent.closed:
            raise ContractError("invalid_transition", f"{parent.name} is closed; {kind.value} {id} cannot open in it")
        if (kind, id) in self._scopes:
            raise ContractError("invalid_transition", f"{kind.value} {id} is open already")
        if len(self._scopes) >= self._capacity:
            raise ContractError("cancel_scope_limit", f"{self._capacity} scopes are open; close some first")
        scope = Scope(self, kind, id, parent)
        self._scopes[kind, id] = scope
        return scope

    def find(self, kind: ScopeKind, id: str) -> Scope | None:
        """The open scope of that name."""
        return self._scopes.get((kind, id))

    def cancel(self, kind: ScopeKind, id: str, reason: str, *, actor: str = "operator") -> CancelOutcome:
        """Fence a scope by name; unknown and closed scopes are a no-op, duplicates change nothing."""
        scope = self.find(kind, id)
        if scope is None:
            return CancelOutcome.NOOP
        return CancelOutcome.APPLIED if scope.fence(reason, actor=actor) else CancelOutcome.DUPLICATE

    def now(self) -> float:
        return self._clock.monotonic()

    def forget(self, scope: Scope) -> None:
        """Called by `Scope.close`."""
        self._scopes.pop((scope.kind, scope.id), None)


class Scope:
    """One cancellable stretch of work. Open through `CancelTree.open`; a context manager that closes itself."""

    def __init__(self, tree: CancelTree, kind: ScopeKind, id: str, parent: Scope | None) -> None:
        self._tree = tree
        self.kind = kind
        self.id = id
        self.parent = parent
        self.closed = False
        self._fence: Fence | None = None
        self._children: dict[tuple[ScopeKind, str], Scope] = {}
        self._callbacks: list[Callable[[], None]] = []
        if parent is not None:
            parent._children[kind, id] = self

    def __enter__(self) -> Scope:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        return f"{self.kind.value} {self.id}"

    @property
    def fence_in_force(self) -> Fence | None:
        """The fence that stops this scope: its own, else the nearest above."""
        found = self._fenced_by()
        return found._fence if found else None

    @property
    def fenced(self) -> bool:
        """Is this scope, or one above it, fenced?"""
        return self._fenced_by() is not None

    def check(self) -> None:
        """Raise `Fenced` when this scope is fenced, or closed and therefore over."""
        found = self._fenced_by()
        if found is not None and found._fence is not None:
            raise Fenced(found._fence.code, reason=found._fence.reason, scope=found.name)
        if self.closed:
            raise Fenced(CANCELLED, reason="it is over", scope=self.name)

    def fence(self, reason: str, *, actor: str = "operator", code: str = CANCELLED) -> bool:
        """Stop this scope and everything below it, now. False when it had its own fence already or is closed.

        Callbacks run before this returns, outer scopes first and in the order they opened; all of them run even
        if one raises, and what they raised is raised together at the end, the fence standing.
        """
        if self.closed or self._fence is not None:
            return False
        accepted = self._tree.now()
        self._tree.generation += 1
        self._fence = Fence(
            reason=reason,
            actor=actor,
            code=code,
            accepted_at=accepted,
            applied_at=self._tree.now(),
            generation=self._tree.generation,
        )
        self._notify()
        return True

    def on_fence(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` once when this scope is stopped, at once if it already is; returns how to unsubscribe."""
        if self.fenced:
            callback()
            return _nothing
        if len(self._callbacks) >= MAX_CALLBACKS:
            raise ContractError("cancel_scope_limit", f"{self.name} has {MAX_CALLBACKS} callbacks already")
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback) if callback in self._callbacks else None

    def close(self) -> None:
        """End this scope and everything below it. A closed scope starts nothing more, fenced or not."""
        if self.closed:
            return
        for child in list(self._children.values()):
            child.close()
        self.closed = True
        self._callbacks.clear()
        self._tree.forget(self)
        if self.parent is not None:
            self.parent._children.pop((self.kind, self.id), None)

    def _fenced_by(self) -> Scope | None:
        scope: Scope | None = self
        while scope is not None and scope._fence is None:
            scope = scope.parent
        return scope

    def _notify(self) -> None:
        failures: list[Exception] = []
        for scope in list(self._tree_order()):
            callbacks, scope._callbacks = scope._callbacks, []
            for callback in callbacks:
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 - every callback must run; all failures are raised below
                    failures.append(error)
        if failures:
            raise ExceptionGroup(f"stopping {self.name} failed in part", failures)

    def _tree_order(self) -> Iterator[Scope]:
        yield self
        for child in self._children.values():
            yield from child._tree_order()


def _nothing() -> None:
    """There is nothing to unsubscribe."""
