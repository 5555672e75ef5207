"""Verifying whole journals: rows, JSON lines, and JSON lines with their anchor log (operations spec §7.5).

Standard library, kernel and sibling journal modules only: the evidence bundle carries this file.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

from runtime.kernel.canonical import parse_strict
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.journal_bodies import Bodies
from runtime.orchestration.journal_bodies import artifact_references as artifact_references
from runtime.orchestration.journal_evidence import Evidence, known_links
from runtime.orchestration.journal_findings import JournalFinding as JournalFinding
from runtime.orchestration.journal_findings import JournalVerification as JournalVerification
from runtime.orchestration.journal_verifier import NO_EVIDENCE, JournalVerifier, Parse

#: Looks a stored artifact up by digest; None when it is not there.
FetchArtifact = Callable[[str], bytes | None]


def verify_entries(
    entries: Iterable[StoredEntry],
    *,
    artifacts: FetchArtifact | None = None,
    run_id: str | None = None,
    withheld: Container[str] = (),
    evidence: Evidence = NO_EVIDENCE,
    not_after: str = "",
    parse: Parse = parse_strict,
) -> JournalVerification:
    """Verify stored rows: bytes, chain, state machine, receipts, columns, evidence and, given ``artifacts``, bodies.

    The other arguments are those of `JournalVerifier`.
    """
    verifier = JournalVerifier(
        run_id=run_id,
        evidence=evidence,
        follow_bodies=artifacts is not None,
        withheld=withheld,
        not_after=not_after,
        parse=parse,
    )
    for stored in entries:
        verifier.feed(stored)
        if artifacts is not None:
            _look_up(verifier.bodies, artifacts)
    return verifier.verdict()


def verify_jsonl(
    source: bytes | Path,
    *,
    artifacts: FetchArtifact | None = None,
    run_id: str | None = None,
    evidence: Evidence = NO_EVIDENCE,
    not_after: str = "",
) -> JournalVerification:
    """Verify a journal of JSON lines; a missing file is ``J_MISSING``, bytes after the last LF ``J_TORN_TAIL``."""
    verifier = JournalVerifier(
        run_id=run_id, evidence=evidence, follow_bodies=artifacts is not None, not_after=not_after
    )
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except FileNotFoundError:
            verifier.find("J_MISSING", "there is no such journal")
            return verifier.verdict()
    *lines, tail = source.split(b"\n")
    for line in lines:
        verifier.feed_line(line)
        if artifacts is not None:
            _look_up(verifier.bodies, artifacts)
    if tail:
        verifier.find("J_TORN_TAIL", f"{len(tail)} bytes follow the last complete line")
    return verifier.verdict(torn=len(tail))


def verify(
    journal: bytes | Path,
    *,
    anchors: bytes | Path | None = None,
    witnesses: Sequence[str] = (),
    key: bytes | None = None,
    strict: bool = False,
    artifacts: FetchArtifact | None = None,
    run_id: str | None = None,
) -> JournalVerification:
    """A journal of JSON lines with its anchor log (operations spec §7.5). An anchor log that is missing has no record.

    ``key`` is the HMAC key of the anchors; without it ``J_KEY_MISSING`` is a warning, or an error when ``strict``.
    ``witnesses`` are witness lines. Raises `JournalError` ``WITNESS_FORMAT``, `OSError`.
    """
    if isinstance(anchors, Path):
        anchors = anchors.read_bytes() if anchors.exists() else b""
    evidence = Evidence(
        anchors=anchors,
        key=key,
        witnesses=witnesses,
        strict=strict,
        linked=None if anchors is None else known_links(anchors),
    )
    return verify_jsonl(journal, artifacts=artifacts, run_id=run_id, evidence=evidence)


def verify_integrity(journal: bytes | Path, *, anchors: bytes | Path | None = None) -> tuple[bool, list[str]]:
    """`verify` in the two-part form: does all hold, and one text per finding."""
    return verify(journal, anchors=anchors).summary()


def export_jsonl(entries: Iterable[StoredEntry]) -> Iterator[bytes]:
    """The journal as JSON lines: stored bytes unchanged, so that exporting twice gives identical files."""
    for stored in entries:
        yield stored.body + b"\n"


def _look_up(bodies: Bodies, artifacts: FetchArtifact) -> None:
    while bodies.wanted:
        name = next(reversed(bodies.wanted))
        bodies.take(name, artifacts(name))
    bodies.settle()
