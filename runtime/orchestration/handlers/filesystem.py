"""``filesystem.*``: reading, listing, writing, deleting and making folders, through path tickets only.

Plans say what will stand there afterwards (``data.post``), so that recovery can tell "done" from "not begun".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.ids import HASH
from runtime.kernel.model import Access, CompensationType, Effect, OperationPlan, PlannedPath
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.handlers.threads import finish_in_thread
from runtime.orchestration.operation_ports import Handler, HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.snapshots import kind, take

#: Operations spec §3.2, §15.
MAX_READ_BYTES: Final = 1024 * 1024
MAX_READ_FILES: Final = 64
MAX_READ_TOTAL: Final = 8 * 1024 * 1024
MAX_WRITE_BYTES: Final = 4 * 1024 * 1024
MAX_ENTRIES: Final = 5_000
_MODES: Final = {"644": 0o644, "755": 0o755}
#: In-process work through tickets: it ends when it ends, and touches nothing else.
_TICKETS_ONLY: Final = Traits(keeps_time=False, confined=True)


def actions(settings: HandlerSettings) -> dict[str, Handler]:
    """The tool actions of this module."""
    root = settings.root
    return {
        "filesystem.read_file": ReadFiles("filesystem.read_file", many=False),
        "filesystem.read_files": ReadFiles("filesystem.read_files", many=True),
        "filesystem.list_dir": ListDir(),
        "filesystem.write_file": WriteFile(root),
        "filesystem.delete_file": DeleteFile(root),
        "filesystem.make_dir": MakeDir(root),
    }


class _Action:
    def traits(self, plan: OperationPlan) -> Traits:
        return _TICKETS_ONLY

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None


class ReadFiles(_Action):
    """``read_file`` and ``read_files``."""

    def __init__(self, name: str, *, many: bool) -> None:
        self._name = name
        self._many = many

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params(self._name, call.params)
        paths = params.texts("paths", limit=MAX_READ_FILES) if self._many else [params.text("path")]
        limit = params.integer("max_bytes", MAX_READ_BYTES, low=1, high=MAX_READ_BYTES)
        params.done()
        if len(set(paths)) != len(paths):
            raise params.bad("paths", "names a file twice")
        planned = tuple(PlannedPath(path, Access.READ) for path in paths)
        return OperationPlan(Effect.READ, planned, tool=self._name, data={"paths": paths, "max_bytes": limit})

    async def run(self, call: RunCall) -> HandlerOutcome:
        files: list[dict[str, Any]] = []
        left = MAX_READ_TOTAL
        for path in call.plan.data["paths"]:
            limit = min(call.plan.data["max_bytes"], left)
            data, found = await asyncio.to_thread(call.tickets[path].read, max(limit, 1))
            left -= len(data)
            files.append(_shown(path, data, found))
        evidence = {"files": [{"path": item["path"], "sha256": item["sha256"]} for item in files]}
        return HandlerOutcome(output={"files": files} if self._many else files[0], evidence=evidence)


class ListDir(_Action):
    """``list_dir``."""

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("filesystem.list_dir", call.params)
        data: dict[str, Any] = {
            "path": params.text("path"),
            "recursive": params.flag("recursive", False),
            "max_entries": params.integer("max_entries", MAX_ENTRIES, low=1, high=MAX_ENTRIES),
        }
        params.done()
        planned = (PlannedPath(data["path"], Access.LIST),)
        return OperationPlan(Effect.READ, planned, tool="filesystem.list_dir", data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = call.plan.data
        ticket = call.tickets[data["path"]]

        def work() -> Any:
            return ticket.list(recursive=data["recursive"], max_entries=data["max_entries"])

        listing = await asyncio.to_thread(work)
        entries = [{"path": item.path, "kind": item.kind} for item in listing.entries]
        return HandlerOutcome(output={"path": data["path"], "entries": entries, "truncated": listing.truncated})


class WriteFile(_Action):
    """``write_file``: atomic, and only onto the content the author (or the snapshot) expects."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("filesystem.write_file", call.params)
        path = params.text("path")
        content = _content(params)
        data: dict[str, Any] = {
            "path": path,
            "sha256": digest_bytes(content),
            "size": len(content),
            "mode": _MODES[params.text("mode", among=_MODES)] if params.given("mode") else None,
            "create_parents": params.flag("create_parents", False),
            **_expectation(params),
        }
        params.done()
        exists = await asyncio.to_thread(kind, self._root, path) != "missing"
        data |= {"created": not exists, "post": {path: data["sha256"]}}
        access = Access.MODIFY if exists else Access.CREATE
        return OperationPlan(
            Effect.WRITE,
            (PlannedPath(path, access),),
            tool="filesystem.write_file",
            data=data,
            **_undo(path, CompensationType.FILESYSTEM_RESTORE if exists else CompensationType.FILESYSTEM_DELETE),
        )

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = call.plan.data
        path = data["path"]
        content = _content(Params("filesystem.write_file", call.params))
        before = call.before[path]
        _require_expected(data, path, before)
        written = await finish_in_thread(lambda: call.tickets[path].write(content, data["mode"], before))
        return HandlerOutcome(
            output={"path": path, "size": written.size, "sha256": written.sha256, "created": written.created}
        )

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        data = plan.data
        now = await asyncio.to_thread(take, self._root, [data["path"]])
        entry = now.entries[data["path"]]
        if entry.digest != data["sha256"] or data["mode"] not in (None, entry.mode):
            return None
        return HandlerOutcome(output={name: data[name] for name in ("path", "size", "sha256", "created")})


class DeleteFile(_Action):
    """``delete_file``: the content to delete must be named."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("filesystem.delete_file", call.params)
        path = params.text("path")
        if not params.given("expect_sha256"):
            raise params.bad("expect_sha256", "is required: say which content may be deleted")
        data = {"path": path, **_expectation(params), "post": {path: None}}
        if data["expect"] is None:
            raise params.bad("expect_sha256", "must be a digest, not null")
        params.done()
        planned = (PlannedPath(path, Access.DELETE),)
        undo = _undo(path, CompensationType.FILESYSTEM_RESTORE)
        return OperationPlan(Effect.WRITE, planned, tool="filesystem.delete_file", data=data, **undo)

    async def run(self, call: RunCall) -> HandlerOutcome:
        path = call.plan.data["path"]
        _require_expected(call.plan.data, path, call.before[path])
        await finish_in_thread(lambda: call.tickets[path].delete(call.before[path]))
        return HandlerOutcome(output={"path": path})

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        path = plan.data["path"]
        gone = await asyncio.to_thread(kind, self._root, path) == "missing"
        return HandlerOutcome(output={"path": path}) if gone else None


class MakeDir(_Action):
    """``make_dir``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("filesystem.make_dir", call.params)
        path = params.text("path")
        create_parents = params.flag("create_parents", False)
        params.done()
        planned = (PlannedPath(path, Access.CREATE),)
        data = {"path": path, "create_parents": create_parents, "post": {path: None}}
        undo = _undo(path, CompensationType.FILESYSTEM_DELETE)
        return OperationPlan(Effect.WRITE, planned, tool="filesystem.make_dir", data=data, **undo)

    async def run(self, call: RunCall) -> HandlerOutcome:
        path = call.plan.data["path"]
        await finish_in_thread(call.tickets[path].mkdir)
        return HandlerOutcome(output={"path": path})

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        path = plan.data["path"]
        there = await asyncio.to_thread(kind, self._root, path) == "dir"
        return HandlerOutcome(output={"path": path}) if there else None


def _shown(path: str, data: bytes, found: Any) -> dict[str, Any]:
    try:
        content, encoding = data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        content, encoding = base64.b64encode(data).decode("ascii"), "base64"
    digest = found.sha256 or "sha256:" + hashlib.sha256(data).hexdigest()
    return {
        "path": path,
        "content": content,
        "encoding": encoding,
        "size": found.size,
        "sha256": digest,
        "truncated": found.truncated,
    }


def _content(params: Params) -> bytes:
    text = params.text("content")
    if params.text("encoding", "utf-8", among=("utf-8", "base64")) == "utf-8":
        content = text.encode()
    else:
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise params.bad("content", "is not base64") from None
    if len(content) > MAX_WRITE_BYTES:
        raise Refused("ENV_LIMIT", f"{len(content)} bytes exceed the {MAX_WRITE_BYTES} of one file")
    return content


def _expectation(params: Params) -> dict[str, Any]:
    """``expect`` is set when the author said something: a digest, or None for "must not exist" (ruling R18)."""
    if not params.given("expect_sha256"):
        return {}
    expected = params.any("expect_sha256")
    if expected is not None and not (isinstance(expected, str) and HASH.match(expected)):
        raise params.bad("expect_sha256", "must be null or sha256:<64 hex>")
    return {"expect": expected}


def _require_expected(data: Mapping[str, Any], path: str, before: str | None) -> None:
    if "expect" not in data or data["expect"] == before:
        return
    if data["expect"] is None:
        raise Refused("TOOL_CONFLICT", f"{path} exists, but was expected to be missing")
    raise Refused("TOOL_CONFLICT", f"{path} does not have the expected content; it was left alone")


def _undo(path: str, kind_of_undo: CompensationType) -> dict[str, Any]:
    return {"undo": kind_of_undo, "undo_command": shlex.join([kind_of_undo.value, path])}
