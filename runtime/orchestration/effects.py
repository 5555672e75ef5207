"""What changed beyond a plan: a pure comparison of two workspace fingerprints (operations spec §4.3)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from runtime.orchestration.compensation import covers
from runtime.orchestration.operation_ports import WorkspaceState

#: Stand for git's own state in a list of changed paths; no real path looks like this.
HEAD_MARK: Final = "<HEAD>"
INDEX_MARK: Final = "<index>"


def undeclared(
    before: WorkspaceState, after: WorkspaceState, allowed: Collection[str], *, refs: bool, index: bool
) -> tuple[str, ...]:
    """Changes outside ``allowed``; ``refs`` and ``index`` say whether a moved branch or index counts as one.

    Undeclared writes to git-ignored paths are not in a fingerprint and therefore not seen here.
    """
    surplus = [path for path in before.changed(after) if not covers(allowed, path)]
    if refs and (before.head, before.ref) != (after.head, after.ref):
        surplus.append(HEAD_MARK)
    if index and (before.index, before.flags) != (after.index, after.flags):
        surplus.append(INDEX_MARK)
    return tuple(surplus)


def touching(surplus: Iterable[str], touched: Collection[str]) -> tuple[str, ...]:
    """Those changes that lie on paths the run itself has touched."""
    return tuple(path for path in surplus if covers(touched, path))
