"""What the store has of a run, as the members of an archive. Pure: the same run gives the same bytes.

Stored bytes go out unchanged. What is told beside them, from the run's row, names no folder of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from runtime.events.facts import RunSummary, Verification
from runtime.host import bundle_format as fmt
from runtime.host.bundle_bodies import Bodies
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes
from runtime.storage.runs import RunRecord

#: Of a verdict, what depends on when and where it was reached.
_PASSING: Final = ("checked_at", "duration_ms", "sinks")
#: Outputs of a mission are told beside the journal up to this size, which is what entries hold themselves.
_MAX_OUTPUTS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What the store has of a run. ``bodies`` left out are known by their size only."""

    record: RunRecord
    verdict: Verification
    lines: tuple[bytes, ...]
    opened: Mapping[str, Any]
    notes: tuple[bytes, ...]
    keys: tuple[str, ...]
    source: bytes
    definition: bytes
    plan: bytes
    environment: bytes
    bodies: Bodies


def run_members(found: Collected) -> dict[str, bytes]:
    """The members below ``run/``. Pure: what is told of the run follows from what was collected."""
    journal = fmt.journal_members(found.lines)
    notes = dict(zip(fmt.note_names(len(found.notes)), found.notes, strict=True))
    members = {
        fmt.RUN_JSON: fmt.text_member(msgspec.to_builtins(_run_json(found, list(journal), list(notes)))),
        fmt.SOURCE: found.source,
        fmt.DEFINITION: found.definition + b"\n",
        fmt.PLAN: found.plan + b"\n",
        fmt.ENVIRONMENT: found.environment + b"\n",
        fmt.VERIFICATION: fmt.text_member(verdict_record(found.verdict)),
        **journal,
        **notes,
    }
    for digest, data in found.bodies.kept.items():
        members.update(fmt.body_members(digest, data))
    return members


def _run_json(found: Collected, journal: list[str], notes: list[str]) -> fmt.RunJson:
    run, kept = found.record.summary, found.bodies.kept
    return fmt.RunJson(
        schema=fmt.SCHEMA,
        run_id=run.run_id,
        journal_id=run.run_id,
        mission=run.mission,
        mission_version=run.mission_version,
        status=run.status.value,
        exit_code=None if run.exit_code is None else int(run.exit_code),
        created_at=run.created_at,
        finished_at=run.finished_at,
        entries=run.entries,
        head_hash=run.head_hash,
        journal=journal,
        checkpoints=notes,
        keys=list(found.keys),
        anchors=None,
        artifacts={digest: fmt.Body(len(data), fmt.body_names(digest, len(data))) for digest, data in kept.items()},
        withheld={digest: fmt.Withheld(item.size, item.what) for digest, item in found.bodies.withheld.items()},
        forced=not found.verdict.ok,
        code_version=str(found.opened.get("code_version", "unknown")),
        summary=_told(run),
    )


def _told(run: RunSummary) -> fmt.Told:
    return fmt.Told(
        session_id=run.session_id,
        lineage_id=run.lineage_id,
        parent_run_id=run.parent_run_id,
        reason=run.reason,
        code=run.code,
        message=_pathless(run.message, run),
        duration_ms=run.duration_ms,
        outputs=_short_outputs(run),
        trigger=run.trigger,
        cause=_pathless(run.cause, run),
        violations=run.violations,
        steps_done=run.steps_done,
        steps_total=run.steps_total,
        confinement=run.confinement,
    )


def _short_outputs(run: RunSummary) -> dict[str, Any] | None:
    """Outputs that are no longer than what entries hold, and name no folder of this machine."""
    if run.outputs is None:
        return None
    try:
        text = canonical_bytes(dict(run.outputs), limit=_MAX_OUTPUTS).decode()
    except CanonicalizationError:
        return None
    return dict(run.outputs) if _pathless(text, run) == text else None


def _pathless(text: str | None, run: RunSummary) -> str | None:
    """``text`` with the folders of this machine that belong to the run called by what they are."""
    for path, name in places(run).items():
        text = text.replace(path, name) if text is not None else None
    return text


def places(run: RunSummary) -> dict[str, str]:
    """Folders of this machine, longest first, so that one inside another is called by its own name."""
    folders = {
        run.work_tree: "<work tree>",
        run.output_folder: "<output folder>",
        str(Path(run.mission_path).parent): "<mission folder>",
        str(Path.home()): "<home>",
    }
    known = {path: name for path, name in folders.items() if path and len(path) > 1}
    return dict(sorted(known.items(), key=lambda item: (-len(item[0]), item[0])))


def verdict_record(verdict: Verification) -> dict[str, Any]:
    """A verdict as JSON members, without what depends on when and where it was reached."""
    record: dict[str, Any] = msgspec.to_builtins(verdict)
    return {name: value for name, value in record.items() if name not in _PASSING}
