"""``git.*``: reading a repository, staging and committing, through the sanitised git port.

``git.commit`` looks at what is staged while planning, so the envelope judges every file that would enter the commit
and not only the ones this mission wrote.
"""

from __future__ import annotations

import asyncio
import shlex
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from runtime.kernel.errors import Refused
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    EnvelopeViolation,
    OperationPlan,
    PlannedPath,
)
from runtime.orchestration.anchors import with_trailer, without_trailer
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.operation_ports import GitPort, Handler, HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.snapshots import kind

#: Operations spec §3.2, §15.
MAX_PATHS: Final = 256
MAX_MESSAGE_BYTES: Final = 8 * 1024
MAX_DIFF_BYTES: Final = 1024 * 1024
MAX_LOG: Final = 5_000
MAX_REVISION: Final = 200
_DEFAULT_LOG: Final = 20
_NO_DIFF: Final[Mapping[str, Mapping[str, Any]]] = {
    "diff": {"text": "", "bytes": 0, "truncated": False},
    "diff_stat": {"files": []},
}
_READS: Final = ("status", "diff", "diff_stat", "log", "rev_parse_head")


def actions(settings: HandlerSettings) -> dict[str, Handler]:
    """The tool actions of this module; none of them works without a repository."""
    table: dict[str, Handler] = {f"git.{name}": GitRead(name, settings.git) for name in _READS}
    return {
        **table,
        "git.add": GitAdd(settings.root, settings.git),
        "git.commit": GitCommit(settings.root, settings.git, settings.witness),
    }


class _GitAction:
    def __init__(self, git: GitPort | None) -> None:
        self._port = git

    @property
    def _git(self) -> GitPort:
        if self._port is None:
            raise Refused("GIT_FAILED", "the workspace is not a git work tree", hint="use workspace kind git")
        return self._port

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(keeps_time=False, confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None


class GitRead(_GitAction):
    """``status``, ``diff``, ``diff_stat``, ``log``, ``rev_parse_head``."""

    def __init__(self, name: str, git: GitPort | None) -> None:
        super().__init__(git)
        self._name = name

    async def plan(self, call: PlanCall) -> OperationPlan:
        _ = self._git
        params = Params(f"git.{self._name}", call.params)
        data: dict[str, Any] = {"action": self._name}
        if self._name in ("diff", "diff_stat", "log"):
            data["paths"] = params.texts("paths", [], limit=MAX_PATHS)
        if self._name in ("diff", "diff_stat"):
            data["staged"] = params.flag("staged", False)
        if self._name == "log":
            data["max"] = params.integer("max", _DEFAULT_LOG, low=1, high=MAX_LOG)
            data |= {name: _revision(params, name) for name in ("since", "until")}
        params.done()
        # Which files a diff may show is asked when it is known which files differ.
        return OperationPlan(Effect.READ, tool=f"git.{self._name}", data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = call.plan.data
        if self._name in ("diff", "diff_stat"):
            paths, withheld = await self._readable(call)
            shown = await getattr(self, f"_{self._name}")({**data, "paths": paths}) if paths else _NO_DIFF[self._name]
            return HandlerOutcome(output={**shown, "withheld": withheld})
        return HandlerOutcome(output=await getattr(self, f"_{self._name}")(data))

    async def _readable(self, call: RunCall) -> tuple[list[str], int]:
        """The files to compare. A named one that may not be read is a violation, an unnamed one is left out."""
        named = list(call.plan.data["paths"])
        paths = named or [item.path for item in await self._git.status()]
        readable = []
        for path in paths:
            verdict = await asyncio.to_thread(call.verdict, path, Access.READ)
            if verdict or verdict.code == "PATH_MISSING":
                readable.append(path)
            elif named:
                raise EnvelopeViolation(verdict)
        return readable, len(paths) - len(readable)

    async def _status(self, data: dict[str, Any]) -> dict[str, Any]:
        lines = await self._git.status()
        entries = [{"path": item.path, "index": item.index, "worktree": item.worktree} for item in lines]
        return {"entries": entries, "clean": not entries}

    async def _diff(self, data: dict[str, Any]) -> dict[str, Any]:
        raw = await self._git.diff(data["paths"], staged=data["staged"])
        text = raw[:MAX_DIFF_BYTES].decode("utf-8", "replace")
        return {"text": text, "bytes": len(raw), "truncated": len(raw) > MAX_DIFF_BYTES}

    async def _diff_stat(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"files": [dict(item) for item in await self._git.diff_stat(data["paths"], staged=data["staged"])]}

    async def _log(self, data: dict[str, Any]) -> dict[str, Any]:
        """One commit more than wanted is asked for: whether the list is complete must be known, not guessed."""
        limit = data["max"]
        found = await self._git.log(
            limit=limit + 1, paths=data["paths"], since=data["since"] or None, until=data["until"] or None
        )
        return {"commits": [dict(item) for item in found[:limit]], "truncated": len(found) > limit}

    async def _rev_parse_head(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"commit": await self._git.head()}


class GitAdd(_GitAction):
    """``git.add``: explicit paths only."""

    def __init__(self, root: Path, git: GitPort | None) -> None:
        super().__init__(git)
        self._root = root

    async def plan(self, call: PlanCall) -> OperationPlan:
        _ = self._git
        params = Params("git.add", call.params)
        paths = params.texts("paths", limit=MAX_PATHS)
        params.done()
        if not paths or len(set(paths)) != len(paths):
            raise params.bad("paths", "must name at least one path, each once")
        planned = await _planned(self._root, paths)
        return OperationPlan(
            Effect.WRITE,
            planned,
            tool="git.add",
            writes_index=True,
            undo=CompensationType.GIT_RESET_HEAD,
            undo_command=shlex.join(["git", "reset", "HEAD", "--", *paths]),
            data={"paths": paths, **_without_folders(planned)},
        )

    async def run(self, call: RunCall) -> HandlerOutcome:
        paths = list(call.plan.data["paths"])
        await self._git.add(paths)
        return HandlerOutcome(output={"staged": paths})

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        """Staged means: git sees no difference left between index and work tree on these paths."""
        paths = set(plan.data["paths"])
        open_paths = {item.path for item in await self._git.status() if item.worktree != " "}
        return None if paths & open_paths else HandlerOutcome(output={"staged": list(plan.data["paths"])})


class GitCommit(_GitAction):
    """``git.commit``: every staged path is part of the plan."""

    def __init__(self, root: Path, git: GitPort | None, witness: Callable[[], Awaitable[str]] | None = None) -> None:
        super().__init__(git)
        self._root = root
        self._witness = witness

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("git.commit", call.params)
        message = params.text("message")
        params.done()
        _check_message(params, message)
        now = await self._git.snapshot()
        staged = now.staged
        if not staged:
            raise Refused("GIT_FAILED", "nothing is staged, so there is nothing to commit")
        if len(staged) > MAX_PATHS:
            raise Refused("ENV_LIMIT", f"{len(staged)} staged paths exceed the {MAX_PATHS} of one operation")
        planned = await _planned(self._root, staged)
        return OperationPlan(
            Effect.WRITE,
            planned,
            tool="git.commit",
            writes_ref=True,
            undo=CompensationType.GIT_RESET_SOFT,
            undo_command="git reset --soft HEAD~1",
            data={
                "message": message,
                "staged": list(staged),
                "parent": now.head,
                **_without_folders(planned),
            },
        )

    async def run(self, call: RunCall) -> HandlerOutcome:
        now = await self._git.snapshot()
        if list(now.staged) != list(call.plan.data["staged"]) or now.head != call.plan.data["parent"]:
            raise Refused("TOOL_CONFLICT", "what is staged changed after it was checked; nothing was committed")
        message, told = call.plan.data["message"], {}
        if self._witness is not None:
            # Not part of the plan: the line names an entry that is written after it.
            told["witness"] = await self._witness()
            message = with_trailer(message, told["witness"])
        commit = await self._git.commit(message)
        return HandlerOutcome(output={"commit": commit, "paths": list(now.staged), **told})

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        head = await self._git.head()
        if head is None or await self._git.parents(head) != (plan.data["parent"],):
            return None
        found, planned = await self._git.message(head), plan.data["message"].strip()
        message, witness = (found.strip(), None) if found.strip() == planned else without_trailer(found)
        if message.strip() != planned:
            return None
        told = {} if witness is None else {"witness": witness}
        return HandlerOutcome(output={"commit": head, "paths": list(plan.data["staged"]), **told})


async def _planned(root: Path, paths: Any) -> tuple[PlannedPath, ...]:
    """A staged deletion has nothing to modify any more, so it counts as a write of a missing file."""
    planned = []
    for path in paths:
        missing = await asyncio.to_thread(kind, root, path) == "missing"
        planned.append(PlannedPath(path, Access.WRITE if missing else Access.MODIFY))
    return tuple(planned)


def _without_folders(planned: Iterable[PlannedPath]) -> dict[str, Any]:
    """With a deleted file its folder may be gone, too; git makes neither."""
    return {"create_parents": True} if any(item.access is Access.WRITE for item in planned) else {}


def _revision(params: Params, name: str) -> str:
    """A revision as text, '' when none is given; whether the repository has it is git's to say."""
    text = params.text(name, "")
    if len(text) > MAX_REVISION or text.startswith("-") or any(unicodedata.category(char)[0] == "C" for char in text):
        raise params.bad(name, f"must be a commit, tag or branch of at most {MAX_REVISION} characters, not an option")
    return text


def _check_message(params: Params, message: str) -> None:
    if not message.strip() or len(message.encode()) > MAX_MESSAGE_BYTES:
        raise params.bad("message", f"must hold 1 to {MAX_MESSAGE_BYTES} bytes")
    if any(unicodedata.category(char) == "Cc" and char != "\n" for char in message):
        raise params.bad("message", "may hold no control characters but line feeds")
