"""One record per attempt of a leaf block: what it was, how it ended, how long it took and what it used (blocks spec §19.2).

The engine makes them when its scope has a store, and never otherwise. A store that fails is logged and changes
nothing. Records hold no values and no messages.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from runtime.blocks.block import Block
    from runtime.blocks.envelope import Response

_LOGGER: Final = logging.getLogger("runtime.blocks")
#: Blocks spec §19.2.
MAX_RECORDS: Final = 5_000
MAX_BYTES: Final = 5 * 1000 * 1000
#: Records that wait for the disk; one that comes when so many wait is not written.
MAX_WAITING: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt. ``duration_ms`` is wall time; what is None is not known. ``error_type`` is the name of a class."""

    run_id: str
    trace_id: str = ""
    span_id: str = ""
    node_path: str = ""
    block_name: str
    block_type: str
    version: str
    attempt: int = 1
    visit: int = 1
    tick: int = 1
    success: bool
    reason: str | None = None
    error_type: str | None = None
    duration_ms: float
    cost_usd: float | None = None
    model: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    llm_calls: int = 0
    block_executions: int = 1


class AttemptStore(Protocol):
    """Where records go, and where estimates find them. Called on the loop: neither method waits for anything."""

    def add(self, record: AttemptRecord) -> None: ...

    def samples(self, block_name: str, block_type: str, version: str) -> Sequence[AttemptRecord]:
        """The records of one block, oldest first."""
        ...


def record_attempt(store: AttemptStore, block: Block, response: Response) -> None:
    """Hand ``store`` the record of one ended attempt; never raises."""
    try:
        store.add(record_of(block, response))
    except Exception as error:  # noqa: BLE001 - a record is never worth a run
        _LOGGER.warning("an attempt of %s was not recorded: %s", block.block_name, type(error).__name__)


def record_of(block: Block, response: Response) -> AttemptRecord:
    """What a response says about its attempt. Model and usage are what the block annotated as ``ai.…``."""
    told = response.metadata
    return AttemptRecord(
        run_id=str(told.get("run_id", "")),
        trace_id=str(told.get("trace_id", "")),
        span_id=str(told.get("span_id", "")),
        node_path=str(told.get("node_path", "")),
        block_name=block.block_name,
        block_type=block.spec.type_id,
        version=block.spec.version,
        attempt=_count(told.get("attempt")) or 1,
        visit=_count(told.get("visit")) or 1,
        tick=_count(told.get("tick")) or 1,
        success=response.success,
        reason=response.reason,
        error_type=None if response.error_type is None else response.error_type.__name__,
        duration_ms=float(told.get("duration_ms", 0.0)),
        cost_usd=_amount(told.get("ai.cost_usd")),
        model=told["ai.model"] if isinstance(told.get("ai.model"), str) else None,
        tokens_in=_count(told.get("ai.tokens_in")),
        tokens_out=_count(told.get("ai.tokens_out")),
        llm_calls=_count(told.get("ai.calls")) or 0,
    )


class MemoryAttempts:
    """The newest ``limit`` records of this process."""

    def __init__(self, records: Sequence[AttemptRecord] = (), *, limit: int = MAX_RECORDS) -> None:
        self._records: deque[AttemptRecord] = deque(records, maxlen=limit)

    def add(self, record: AttemptRecord) -> None:
        self._records.append(record)

    def samples(self, block_name: str, block_type: str, version: str) -> Sequence[AttemptRecord]:
        wanted = (block_name, block_type, version)
        return [item for item in self._records if (item.block_name, item.block_type, item.version) == wanted]

    @property
    def records(self) -> tuple[AttemptRecord, ...]:
        """All of them, oldest first."""
        return tuple(self._records)


class FileAttempts:
    """The newest records in a file of JSON lines that only its owner can read, for one process at a time.

    Writing happens on a thread of its own; `close` waits for it. Lines that cannot be read are skipped and counted in
    ``unreadable``, records that could not be written in ``lost``. When a bound is reached, the older half goes.
    """

    def __init__(self, path: Path, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        """Reads what is there. Blocking; raises `OSError`."""
        self._path = path
        self._limits = (max_records, max_bytes)
        self._lock = threading.Lock()
        self._waiting = 0
        self._lines = 0
        self._bytes = 0
        self.lost = 0
        self.unreadable = 0
        self._memory = MemoryAttempts(self._read(), limit=max_records)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="attempts")

    def add(self, record: AttemptRecord) -> None:
        self._memory.add(record)
        with self._lock:
            if self._waiting >= MAX_WAITING:
                self.lost += 1
                return
            self._waiting += 1
        self._thread.submit(self._write, record)

    def samples(self, block_name: str, block_type: str, version: str) -> Sequence[AttemptRecord]:
        return self._memory.samples(block_name, block_type, version)

    def close(self) -> None:
        """Wait until everything is written. Blocking; idempotent."""
        self._thread.shutdown(wait=True)

    def _read(self) -> list[AttemptRecord]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        lines = data.splitlines()
        found = [record for line in lines if (record := _parsed(line)) is not None]
        self.unreadable = len(lines) - len(found)
        self._lines, self._bytes = len(lines), len(data)
        if data and not data.endswith(b"\n"):
            self._bytes = self._limits[
                1
            ]  # a line was cut off: the next one must not join it, so the file is written anew
        return found

    def _write(self, record: AttemptRecord) -> None:
        line = _line(record)
        try:
            if self._lines >= self._limits[0] or self._bytes + len(line) > self._limits[1]:
                self._shorten()
            with os.fdopen(os.open(self._path, _APPEND, 0o600), "ab") as file:
                file.write(line)
            self._lines, self._bytes = self._lines + 1, self._bytes + len(line)
        except OSError as error:
            with self._lock:
                self.lost += 1
            _LOGGER.warning("attempt records cannot be written to %s: %s", self._path, error.strerror)
        finally:
            with self._lock:
                self._waiting -= 1

    def _shorten(self) -> None:
        """Keep the newest records that fill half of each bound, in a new file that takes the old one's place."""
        records, size = self._limits[0] // 2, self._limits[1] // 2
        kept: deque[bytes] = deque()
        for line in reversed(self._path.read_bytes().splitlines() if self._path.exists() else []):
            size -= len(line) + 1
            if len(kept) >= records or size < 0:
                break
            if _parsed(line) is not None:
                kept.appendleft(line + b"\n")
        data, beside = b"".join(kept), self._path.with_name(f"{self._path.name}.new")
        with os.fdopen(os.open(beside, _ANEW, 0o600), "wb") as file:
            file.write(data)
        beside.replace(self._path)
        self._lines, self._bytes = len(kept), len(data)


_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _SAFE
_ANEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFE
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
}
_KINDS: Final = {item.name: _TYPES[str(item.type)] for item in fields(AttemptRecord)}


def _line(record: AttemptRecord) -> bytes:
    return json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> AttemptRecord | None:
    """The record in one line; None when it holds none, however it came about."""
    try:
        members: Any = json.loads(line)
        if not all(isinstance(value, _KINDS[name]) for name, value in members.items()):
            return None
        return AttemptRecord(**members)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _amount(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return float(value) if known else None  # type: ignore[arg-type]
