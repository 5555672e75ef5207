"""Handing a run on: everything a stranger needs to check, look at and replay it, in one archive (ruling R39).

What is collected was verified first. Bytes that were hashed go out as they are stored; what they do not hash, the run's row,
goes without a path of this machine. Nothing in a bundle depends on when or where it is made: the same run gives the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from runtime.audit.builder import build, static_files, write_bundle
from runtime.events.facts import BundleMember, BundlePlan, Finding, RunSummary, Verification
from runtime.host import bundle_format as fmt
from runtime.host.api import ExportBundle, Exported
from runtime.host.attesting import attest
from runtime.host.bundle_bodies import collect_bodies
from runtime.host.bundle_kinds import KINDS, check_kinds
from runtime.host.bundle_members import Collected, places, run_members, verdict_record
from runtime.host.parsed import parsed
from runtime.host.signing import open_signer, trusted_keys
from runtime.kernel.canonical import CanonicalizationError, parse_strict
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.outcomes import RunStatus
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_export import Beside, completion
from runtime.orchestration.operation_ports import MAX_BODY_BYTES
from runtime.storage.journals import DamagedJournal
from runtime.storage.store import Store

PROGRAM: Final = "program"
_RECORD: Final = "record"
_PLAIN: Final = "export the journal alone with `quarterdeck export RUN --format completion`"


class Bundling:
    """Bundles and completion exports of one store's runs."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def plan(self, run: RunSummary, verdict: Verification, withhold: Sequence[str]) -> BundlePlan:
        """What `export` would write. Raises `Refused`: ``BUNDLE_KIND``, ``BUNDLE_LIVE``, ``BUNDLE_RECORD``."""
        found = await self._collected(run, verdict, frozenset(withhold))
        programs = await asyncio.to_thread(static_files)
        members = await asyncio.to_thread(run_members, found)
        return await asyncio.to_thread(_plan, found, programs, members)

    async def export(self, run: RunSummary, verdict: Verification, intent: ExportBundle) -> Exported:
        """Write the bundle. Raises `Refused` as `plan`, and ``J_EXPORT_UNVERIFIED``, ``BUNDLE_TOO_LARGE``,
        ``BUNDLE_EXISTS``, ``BUNDLE_IO``, ``BUNDLE_REFUSED``."""
        # Its first use makes the key, which is then among those the bundle lists.
        signer = await open_signer(self._store.state, self._clock) if intent.attest else None
        found = await self._collected(run, verdict, frozenset(intent.withhold))
        programs = await asyncio.to_thread(static_files)
        members = await asyncio.to_thread(run_members, found)
        plan = await asyncio.to_thread(_plan, found, programs, members)
        for problem in plan.problems:
            if problem.code != "J_EXPORT_UNVERIFIED" or not intent.force:
                raise Refused(problem.code, problem.detail, hint=_hint(problem.code))
        # Reading it back shows that it can be opened before anybody is given it.
        contents = await asyncio.to_thread(fmt.read_run, members)
        if signer is not None:
            members[fmt.STATEMENT] = await attest({**programs, **members}, contents, signer)
        data = await asyncio.to_thread(build, programs, members)
        sha256 = await asyncio.to_thread(write_bundle, Path(intent.target), data)
        left_out = len(contents.record.withheld)
        return Exported(
            path=intent.target,
            sha256=sha256,
            bytes=len(data),
            members=len(programs) + len(members) + 1,
            withheld=left_out,
        )

    async def completion(self, run: RunSummary, verdict: Verification, *, force: bool) -> bytes:
        """The plain export (operations spec §7.7). Raises `Refused` ``J_EXPORT_UNVERIFIED``, ``BUNDLE_LIVE``,
        ``BUNDLE_TOO_LARGE``."""
        _check_ended(run)
        if not verdict.ok and not force:
            raise Refused("J_EXPORT_UNVERIFIED", _unverified(verdict), hint=_hint("J_EXPORT_UNVERIFIED"))
        rows = await self._rows(run.run_id)
        beside = Beside(
            verification=verdict_record(verdict),
            checkpoints=[row.note.decode() for row in await self._store.checkpoints.of(run.run_id)],
            keys=[key.text for key in trusted_keys(self._store.state)],
            forced=not verdict.ok,
        )
        try:
            return await asyncio.to_thread(completion, [row.body for row in rows], beside)
        except CanonicalizationError as error:
            raise Refused("BUNDLE_TOO_LARGE", error.message, hint="export it as JSON lines") from None

    # -- what the store has -------------------------------------------------------------------------------------

    async def _collected(self, run: RunSummary, verdict: Verification, withhold: frozenset[str]) -> Collected:
        check_kinds(withhold)
        _check_ended(run)
        record = await self._store.runs.record(run.run_id)
        if record is None or record.mission_hash is None:
            raise _no_record("it was refused before anything was recorded")
        rows = await self._rows(run.run_id)
        entries = await asyncio.to_thread(lambda: [entry for row in rows if (entry := parsed(row)) is not None])
        opened = entries[0] if entries and entries[0]["kind"] == "journal_opened" else {}
        mission = await self._store.missions.get(record.mission_hash)
        if mission is None:
            raise _no_record("its mission file is not in the store")
        definition = await self._needed(record.mission_hash, "its mission's definition")
        return Collected(
            record=record,
            verdict=verdict,
            lines=tuple(row.body for row in rows),
            opened=opened,
            notes=tuple(row.note for row in await self._store.checkpoints.of(run.run_id)),
            keys=tuple(key.text for key in trusted_keys(self._store.state)),
            source=mission.source,
            definition=definition,
            plan=await self._needed(record.plan_digest, "its plan"),
            environment=await self._needed(opened.get("environment"), "where it ran"),
            bodies=await collect_bodies(entries, self._store.artifacts.raw, withhold, answers=_answers(definition)),
        )

    async def _rows(self, run_id: str) -> list[StoredEntry]:
        """The journal, page by page, as far as it can be read; whether that is all of it, the verdict says."""
        rows: list[StoredEntry] = []
        size = 0
        try:
            async for row in self._store.journals.stream(run_id):
                rows.append(row)
                size += len(row.body) + 1
                if size > fmt.MAX_TOTAL_BYTES:
                    raise Refused("BUNDLE_TOO_LARGE", "the journal alone exceeds what an archive holds", hint=_PLAIN)
        except DamagedJournal:
            pass
        return rows

    async def _needed(self, digest: object, what: str) -> bytes:
        body = await self._store.artifacts.get(digest) if isinstance(digest, str) else None
        if body is None:
            raise _no_record(f"{what} is not stored")
        return body


# -- the plan ----------------------------------------------------------------------------------------------------


def _plan(found: Collected, programs: Mapping[str, bytes], members: Mapping[str, bytes]) -> BundlePlan:
    bodies = found.bodies
    kinds = {
        name: bodies.what[digest] for digest in bodies.kept for name in fmt.body_names(digest, bodies.size(digest))
    }
    listed = [BundleMember(name=name, bytes=len(data), what=PROGRAM) for name, data in programs.items()]
    listed += [
        BundleMember(name=name, bytes=len(data), what=kinds.get(name, _RECORD)) for name, data in members.items()
    ]
    total = sum(item.bytes for item in listed) + bodies.beyond
    for digest, item in bodies.withheld.items():
        name = fmt.body_names(digest, 0)[0]
        listed.append(BundleMember(name=name, bytes=item.size, what=item.what, withheld=f"{item.what} is withheld"))
    return BundlePlan(
        run_id=found.record.summary.run_id,
        members=tuple(sorted(listed, key=lambda item: item.name)),
        total_bytes=total,
        kinds=KINDS,
        problems=tuple(_problems(found, total, len(programs) + len(members))),
        notes=tuple(_notes(found)),
    )


def _problems(found: Collected, total: int, count: int) -> list[Finding]:
    problems: list[Finding] = []
    if not found.verdict.ok:
        problems.append(_problem("J_EXPORT_UNVERIFIED", _unverified(found.verdict)))
    # The manifest and a statement come on top, each with a line of some 160 bytes per member.
    files, size = count + 2, total + 2 * 512 * (count + 2)
    if size > fmt.MAX_TOTAL_BYTES or files > fmt.MAX_FILES:
        detail = (
            f"{total} bytes in {count} files; an archive holds {fmt.MAX_TOTAL_BYTES} bytes in {fmt.MAX_FILES} files"
        )
        problems.append(_problem("BUNDLE_TOO_LARGE", detail))
    return problems


def _notes(found: Collected) -> list[str]:
    notes = []
    if found.bodies.withheld:
        notes.append("entries stay as they were hashed: short values inside them cannot be withheld")
        notes.append("what is withheld as one kind may be quoted by content of another")
    naming = _naming(found)
    if naming:
        notes.append(f"{naming} entries or bodies name folders of this machine; they stay as they were hashed")
    if not found.notes:
        notes.append("no signed checkpoint speaks of this run: nothing but its own chain holds it together")
    if not found.record.summary.status.terminal:
        notes.append("the run was left before it ended")
    return notes


def _naming(found: Collected) -> int:
    paths = [path.encode() for path in places(found.record.summary)]
    return sum(any(path in data for path in paths) for data in (*found.lines, *found.bodies.kept.values()))


def _answers(definition: bytes) -> str | None:
    """The digest of the file with scripted answers that a mission names."""
    told = parse_strict(definition, limit=MAX_BODY_BYTES)
    provider = told["mission"].get("provider")
    return told["files"].get(provider.get("scripted")) if isinstance(provider, Mapping) else None


def _check_ended(run: RunSummary) -> None:
    if run.status is RunStatus.REFUSED:
        raise _no_record("it was refused before anything was recorded")
    if not run.status.terminal and not run.resumable:
        raise Refused(
            "BUNDLE_LIVE",
            f"run {run.run_id} is still {run.status.value}",
            hint="hand it on when it has ended or was left",
        )


def _unverified(verdict: Verification) -> str:
    first = next((item for item in verdict.findings if item.severity == "error"), None)
    why = "" if first is None else f": {first.code} {first.detail}"
    return f"the journal of run {verdict.run_id} does not verify{why}"


def _problem(code: str, detail: str) -> Finding:
    return Finding(code=code, severity="error", seq=None, detail=detail)


def _hint(code: str) -> str:
    if code == "J_EXPORT_UNVERIFIED":
        return "`quarterdeck verify` lists what is wrong with it; --force exports it all the same, and says so inside"
    return f"--withhold what need not go out, or {_PLAIN}"


def _no_record(why: str) -> Refused:
    return Refused("BUNDLE_RECORD", f"the run cannot be handed on: {why}", hint=_PLAIN)
