"""The run inside a bundle: the members below ``run/``, written in one way and read back strictly (ruling R39).

Whoever reads one has it from a stranger. Every name, number and digest in it is checked before anything is made of it, and a
member nobody lists is as wrong as a listed one that is missing. Nothing here touches a disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest_bytes, parse_strict
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ids import HASH
from runtime.kernel.outcomes import RunStatus
from runtime.orchestration.checkpoints import VerifierKey

SCHEMA: Final = "run-bundle/1"
RUN_JSON: Final = "run/run.json"
SOURCE: Final = "run/mission.yaml"
DEFINITION: Final = "run/mission.json"
PLAN: Final = "run/plan.json"
ENVIRONMENT: Final = "run/environment.json"
VERIFICATION: Final = "run/verification.json"
STATEMENT: Final = "run/statement.dsse.json"
ANCHORS: Final = "run/anchors.jsonl"
_FIXED: Final = (RUN_JSON, SOURCE, DEFINITION, PLAN, ENVIRONMENT, VERIFICATION)
#: Operations spec §13.2, G3.
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
MAX_TOTAL_BYTES: Final = 64 * 1024 * 1024
MAX_FILES: Final = 2_000
_MAX_KEYS: Final = 64
_RUN_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that is included: its length, and the members it is cut into."""

    bytes: int
    parts: list[str]


class Withheld(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that was left out, and as what."""

    bytes: int
    what: str


class Told(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the store's row says of the run beyond its journal; nothing here is evidence."""

    session_id: str
    lineage_id: str
    parent_run_id: str | None
    reason: str | None
    code: str | None
    message: str | None
    duration_ms: int
    outputs: dict[str, Any] | None
    trigger: str
    cause: str | None
    violations: int
    steps_done: int
    steps_total: int
    confinement: str | None


class RunJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``run/run.json``."""

    schema: Literal["run-bundle/1"]
    run_id: str
    journal_id: str
    mission: str
    mission_version: str
    status: str
    exit_code: int | None
    created_at: str
    finished_at: str | None
    entries: int
    head_hash: str | None
    journal: list[str]
    checkpoints: list[str]
    keys: list[str]
    anchors: str | None
    artifacts: dict[str, Body]
    withheld: dict[str, Withheld]
    forced: bool
    code_version: str
    summary: Told


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBundle:
    """A run as handed on. ``lines`` are its entries' bytes; bodies have the digests they are listed under."""

    record: RunJson
    lines: tuple[bytes, ...]
    notes: tuple[bytes, ...]
    keys: tuple[VerifierKey, ...]
    source: bytes
    definition: bytes
    plan: bytes
    environment: bytes
    bodies: Mapping[str, bytes]
    statement: bytes | None


# -- writing -----------------------------------------------------------------------------------------------------


def text_member(value: object) -> bytes:
    """Canonical JSON with its final newline, as text members end."""
    return canonical_bytes(value, limit=MAX_TOTAL_BYTES) + b"\n"


def journal_members(lines: Sequence[bytes]) -> dict[str, bytes]:
    """The journal as JSON lines; what is too long for one member is cut at line ends."""
    chunks: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if size + len(line) + 1 > MAX_FILE_BYTES and chunks[-1]:
            chunks.append([])
            size = 0
        chunks[-1].append(line + b"\n")
        size += len(line) + 1
    return dict(zip(journal_names(len(chunks)), map(b"".join, chunks), strict=True))


def journal_names(count: int) -> list[str]:
    return ["run/journal.jsonl"] if count == 1 else [f"run/journal.{number:03d}.jsonl" for number in range(count)]


def note_names(count: int) -> list[str]:
    return [f"run/checkpoints/{number:03d}.note" for number in range(count)]


def body_names(digest: str, size: int) -> list[str]:
    """The members of a body: one, or several where it is longer than a member may be."""
    hexes = digest.removeprefix("sha256:")
    name, count = f"run/artifacts/{hexes[:2]}/{hexes}", -(-size // MAX_FILE_BYTES)
    return [name] if count <= 1 else [f"{name}.{number:03d}" for number in range(count)]


def body_members(digest: str, data: bytes) -> dict[str, bytes]:
    names = body_names(digest, len(data))
    return {name: data[at * MAX_FILE_BYTES : (at + 1) * MAX_FILE_BYTES] for at, name in enumerate(names)}


# -- reading -----------------------------------------------------------------------------------------------------


def read_run(files: Mapping[str, bytes]) -> RunBundle:
    """The run in the members of an archive.

    Raises `Refused`: ``BUNDLE_NOT_A_RUN`` without one, ``BUNDLE_RUN``, ``BUNDLE_ARTIFACT``.
    """
    if RUN_JSON not in files:
        raise Refused("BUNDLE_NOT_A_RUN", "the bundle holds no run/run.json", hint="it carries programs only")
    record = _record(files[RUN_JSON])
    _check_record(record)
    _check_names(record, files)
    return RunBundle(
        record=record,
        lines=_lines(b"".join(files[name] for name in record.journal)),
        notes=tuple(files[name] for name in record.checkpoints),
        keys=_keys(record.keys),
        source=files[SOURCE],
        definition=_text(files, DEFINITION),
        plan=_text(files, PLAN),
        environment=_text(files, ENVIRONMENT),
        bodies={digest: _body(digest, body, files) for digest, body in record.artifacts.items()},
        statement=files.get(STATEMENT),
    )


def _record(data: bytes) -> RunJson:
    try:
        value = parse_strict(data.removesuffix(b"\n"), limit=MAX_FILE_BYTES)
        return msgspec.convert(value, RunJson, strict=True)
    except (CanonicalizationError, msgspec.ValidationError) as error:
        raise _malformed(f"{RUN_JSON}: {error}") from None


def _check_record(record: RunJson) -> None:
    statuses = {item.value for item in RunStatus} - {RunStatus.REFUSED.value}
    hashes = [*record.artifacts, *record.withheld, *([] if record.head_hash is None else [record.head_hash])]
    counts = [record.entries, record.summary.violations, record.summary.steps_done, record.summary.steps_total]
    counts += [record.summary.duration_ms, *(item.bytes for item in record.withheld.values())]
    problems = {
        "run_id is not one": not _RUN_ID.fullmatch(record.run_id),
        "the journal is another run's": record.journal_id != record.run_id,
        f"{record.status!r} is not the status of a run with a journal": record.status not in statuses,
        "a digest is malformed": not all(HASH.match(item) for item in hashes),
        "a number is negative": min(counts) < 0,
        "a body is longer than an archive": any(
            not 0 <= item.bytes <= MAX_TOTAL_BYTES for item in record.artifacts.values()
        ),
        "a body is both here and withheld": bool(record.artifacts.keys() & record.withheld.keys()),
    }
    found = next((text for text, wrong in problems.items() if wrong), None)
    if found is not None:
        raise _malformed(found)


def _check_names(record: RunJson, files: Mapping[str, bytes]) -> None:
    """Every member has the one name its place gives it, and the lists and the archive agree."""
    expected = {
        "journal": (record.journal, journal_names(max(1, len(record.journal)))),
        "checkpoints": (record.checkpoints, note_names(len(record.checkpoints))),
        **{digest: (body.parts, body_names(digest, body.bytes)) for digest, body in record.artifacts.items()},
    }
    odd = next((what for what, (names, right) in expected.items() if names != right), None)
    if odd is not None or record.anchors not in (None, ANCHORS):
        raise _malformed(f"the members of {odd or 'the anchors'} are not named as they should be")
    listed = {*_FIXED, *(name for names, _ in expected.values() for name in names)}
    listed |= {record.anchors} if record.anchors is not None else set()
    there = {name for name in files if name.startswith("run/")}
    missing, stray = sorted(listed - there), sorted(there - listed - {STATEMENT})
    if missing or stray:
        raise _malformed(f"{missing[0]} is missing" if missing else f"{stray[0]} is not listed in {RUN_JSON}")


def _lines(data: bytes) -> tuple[bytes, ...]:
    *lines, tail = data.split(b"\n")
    if tail:
        raise _malformed("the journal does not end with a line feed")
    return tuple(lines)


def _keys(texts: Sequence[str]) -> tuple[VerifierKey, ...]:
    if len(texts) > _MAX_KEYS:
        raise _malformed(f"{len(texts)} keys are more than the {_MAX_KEYS} expected at most")
    try:
        return tuple(VerifierKey.parse(text) for text in texts)
    except JournalError as error:
        raise _malformed(error.message) from None


def _body(digest: str, body: Body, files: Mapping[str, bytes]) -> bytes:
    data = b"".join(files[name] for name in body.parts)
    if len(data) != body.bytes or digest_bytes(data) != digest:
        raise Refused("BUNDLE_ARTIFACT", f"what is stored as {digest} is another body", where=body.parts[0])
    return data


def _text(files: Mapping[str, bytes], name: str) -> bytes:
    data = files[name]
    if not data.endswith(b"\n"):
        raise _malformed(f"{name} does not end with a line feed")
    return data[:-1]


def _malformed(why: str) -> Refused:
    return Refused("BUNDLE_RUN", f"the run data is malformed: {why}", hint="ask whoever handed it on for another copy")
