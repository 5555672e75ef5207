"""What can be said for a bundle: by the gate about the archive, by verification about the run, by its statement about who says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.events.facts import Verification
from runtime.host.archiving import Archive, read_archive
from runtime.host.attesting import Attested, check_statement
from runtime.host.bundle_format import STATEMENT, RunJson
from runtime.host.bundle_store import open_archive
from runtime.kernel.errors import JournalError, QuarterdeckError, Refused
from runtime.orchestration.checkpoints import VerifierKey

#: Refusals that say nothing about the bundle itself: it could not be looked at.
_COULD_NOT: Final = frozenset({"BUNDLE_IO"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a bundle is not verified."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleVerdict:
    """The verdict on a bundle. ``result`` is ``verified``, ``failed`` (a check failed) or ``unchecked`` (it could not be
    looked at). ``keys`` says whose signatures counted: ``given``, or the ``bundle``'s own, which only show consistency."""

    result: str
    keys: str
    reason: Reason | None = None
    sha256: str | None = None
    bytes: int | None = None
    run_id: str | None = None
    forced: bool | None = None
    withheld: int = 0
    verification: Verification | None = None
    statement: Attested | None = None

    @property
    def ok(self) -> bool:
        return self.result == "verified"


async def check_bundle(path: Path, *, keys: Sequence[str] = (), witnesses: Sequence[str] = ()) -> BundleVerdict:
    """Check everything about the bundle at ``path``; needs no store and no network.

    ``keys`` are verifier keys known from elsewhere, ``witnesses`` as for `Deck.verify`. Raises `Refused` ``KEY_FORMAT``
    or ``WITNESS_FORMAT`` for arguments that are none.
    """
    given = _given(keys)
    try:
        archive = await asyncio.to_thread(read_archive, path)
    except Refused as error:
        return _refused(error, "given" if given else "bundle")
    return await check_archive(archive, keys=given, witnesses=witnesses)


async def check_archive(
    archive: Archive, *, keys: Sequence[VerifierKey] = (), witnesses: Sequence[str] = ()
) -> BundleVerdict:
    """Check the run in an archive that passed the gate, and its statement."""
    whose = "given" if keys else "bundle"
    try:
        deck = await open_archive(archive, keys=keys or None)
    except QuarterdeckError as error:
        return _refused(error, whose)
    try:
        record = deck.run.record
        verification = await deck.verify(deck.run_id, witnesses=witnesses)
        statement, reason = None, _journal_reason(verification, record)
        if STATEMENT in archive.files:
            try:
                statement = await asyncio.to_thread(check_statement, archive.files, deck.run, keys or deck.run.keys)
            except Refused as error:
                reason = reason or Reason(code=error.code, message=error.message)
    finally:
        await deck.close()
    return BundleVerdict(
        result="verified" if reason is None else "failed",
        keys=whose,
        reason=reason,
        sha256=archive.sha256,
        bytes=archive.size,
        run_id=record.run_id,
        forced=record.forced,
        withheld=len(record.withheld),
        verification=verification,
        statement=statement,
    )


def _refused(error: QuarterdeckError, whose: str) -> BundleVerdict:
    """A disk that gives out says nothing about the bundle."""
    could_not = error.code in _COULD_NOT or error.code.startswith("STORE_")
    reason = Reason(code=error.code, message=error.message)
    return BundleVerdict(result="unchecked" if could_not else "failed", keys=whose, reason=reason)


def _given(keys: Sequence[str]) -> tuple[VerifierKey, ...]:
    try:
        return tuple(VerifierKey.parse(text) for text in keys)
    except JournalError as error:
        raise Refused(error.code, error.message, hint="`quarterdeck key` shows a store's") from None


def _journal_reason(verification: Verification, record: RunJson) -> Reason | None:
    """Why the journal is not what the bundle says it is."""
    if not verification.ok:
        first = next((item for item in verification.findings if item.severity == "error"), None)
        code, detail = ("J_STATE", "the journal does not verify") if first is None else (first.code, first.detail)
        return Reason(code=code, message=detail)
    if (verification.entries, verification.head_hash) != (record.entries, record.head_hash):
        return Reason(code="BUNDLE_RUN", message="run.json names another last entry than the journal has")
    if record.forced:
        return Reason(code="J_EXPORT_UNVERIFIED", message="it was exported although its journal did not verify")
    return None
