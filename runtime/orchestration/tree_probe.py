"""The executor's eyes: state hashes and fingerprints of one work tree, in the shape it compares.

An index entry counts as part of a path's state, so that staging a file is a change of that file. Listings hold one
digest per path, because only equality matters and they are kept as artifacts with every write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from runtime.kernel.canonical import digest
from runtime.orchestration.operation_ports import GitPort, WorkspaceState
from runtime.orchestration.operation_records import EMPTY_STATE
from runtime.orchestration.state_hash import Fingerprint, compute_state_hash, workspace_fingerprint


class TreeProbe:
    """Implements `operation_ports.Workspace`. ``root`` None stands for a mission without a workspace (ruling R47).

    ``writable`` are the roots looked at without git; ``exclude`` are relative folders of ours inside the tree.
    """

    def __init__(
        self,
        root: Path | None,
        git: GitPort | None = None,
        *,
        writable: Sequence[str] = (),
        exclude: Collection[str] = (),
    ) -> None:
        self._root = root
        self._git = git
        self._writable = tuple(writable)
        self._exclude = tuple(exclude)

    @property
    def git(self) -> GitPort | None:
        return self._git

    async def state_hash(self, paths: Sequence[str]) -> str:
        if not paths or self._root is None:
            return EMPTY_STATE
        return await asyncio.to_thread(compute_state_hash, tuple(paths), self._root, exclude=self._exclude)

    async def state(self) -> WorkspaceState | None:
        found = await self.fingerprint()
        return None if found is None else workspace_state(found)

    async def fingerprint(self) -> Fingerprint | None:
        """As `state`, with everything that was seen."""
        if self._root is None:
            return None
        return await workspace_fingerprint(self._root, self._git, writable=self._writable, exclude=self._exclude)


def workspace_state(found: Fingerprint) -> WorkspaceState:
    """A fingerprint in the executor's shape; also for preflight's baseline."""
    paths = found.worktree.keys() | found.staged.keys()
    listing = {
        path: digest({"entry": dict(found.worktree.get(path, {})), "staged": found.staged.get(path, "")})
        for path in sorted(paths)
    }
    return WorkspaceState(
        head=found.head,
        ref=found.ref,
        index=found.index,
        worktree=listing,
        flags=found.flags,
        digest=found.digest,
    )
