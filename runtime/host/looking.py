"""What a run looks at of its work tree, to see changes nobody declared (operations spec §4.3, ruling R47)."""

from __future__ import annotations

from pathlib import Path

from runtime.missions.loader import Mission
from runtime.orchestration.state_hash import WHOLE_TREE
from runtime.orchestration.tree_probe import TreeProbe
from runtime.orchestration.workspace import Workspace, WorkspaceKind


def tree_probe(mission: Mission, workspace: Workspace, state: Path) -> TreeProbe:
    """The run's eyes. ``state`` is our own state folder, which is no part of anybody's work where it lies inside."""
    root, own = workspace.root.resolve(), state.resolve()
    inside = own != root and own.is_relative_to(root)
    return TreeProbe(
        None if workspace.kind is WorkspaceKind.NONE else workspace.root,
        workspace.git,
        writable=writable_roots(mission),
        exclude=(own.relative_to(root).as_posix(),) if inside else (),
    )


def writable_roots(mission: Mission) -> tuple[str, ...]:
    """The folders the envelope lets operations touch: what is watched where there is no git.

    A pattern without a literal folder, as ``**`` or ``*.md``, reaches the top: then it is the whole tree.
    """
    roots = set()
    for pattern in mission.envelope.allowed_paths:
        literal = []
        for segment in pattern.split("/")[:-1]:
            if any(mark in segment for mark in "*?["):
                break
            literal.append(segment)
        roots.add("/".join(literal))
    return (WHOLE_TREE,) if "" in roots else tuple(sorted(roots))
