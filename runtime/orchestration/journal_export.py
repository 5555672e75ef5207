"""The completion export: one run's journal and what speaks for it as one canonical object (operations spec §7.7).

Everything in it but the evidence from elsewhere (verdict, anchors, checkpoints, keys) follows from the entries. So whoever has
an export makes it again from its own entries, and an export that comes out otherwise is not one. The same run gives the same
bytes: the time in it is that of the last entry. Standard library, kernel and sibling journal modules only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.kernel.canonical import (
    JOURNAL_GENESIS,
    CanonicalizationError,
    canonical_bytes,
    digest_bytes,
    parse_strict,
)
from runtime.kernel.errors import JournalError
from runtime.orchestration.checkpoints import CheckSignature, VerifierKey, read_note
from runtime.orchestration.journal_verify import JournalFinding, JournalVerification, verify_jsonl
from runtime.orchestration.merkle import Frontier

SCHEMA: Final = "completion-bundle/1"
#: A quarter of a million entries; a longer run is exported as JSON lines.
MAX_EXPORT_BYTES: Final = 256 * 1024 * 1024
#: What an entry that is no canonical object any more is written as: its bytes in base64.
_DAMAGED: Final = "$bytes"
_GOVERNANCE: Final = ("envelope_hash", "protected_hash", "governance_hash")
_CALL: Final = ("step_id", "operation_id", "idempotency_key", "status", "params_hash", "output_hash", "evidence_hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What an export holds beside the journal: the verdict when it was made, and the evidence kept outside the entries.

    ``checkpoints`` are signed notes oldest first, ``keys`` verifier keys; ``forced`` says that the verdict was not good.
    """

    verification: Mapping[str, Any]
    anchors: Sequence[Mapping[str, Any]] = ()
    checkpoints: Sequence[str] = ()
    keys: Sequence[str] = ()
    forced: bool = False


def completion(bodies: Iterable[bytes], beside: Beside) -> bytes:
    """The export of the journal whose stored entries are ``bodies``. Raises `CanonicalizationError` beyond
    `MAX_EXPORT_BYTES`."""
    entries = [_written(body) for body in bodies]
    whole = [entry for entry in entries if _DAMAGED not in entry]
    opened = next((entry for entry in whole if entry.get("kind") == "journal_opened"), {})
    closed = next((entry for entry in whole if entry.get("kind") == "journal_closed"), {})
    last: Mapping[str, Any] = whole[-1] if whole else {}
    receipts = [entry["receipt"] for entry in whole if entry.get("kind") == "receipt" and "receipt" in entry]
    members: dict[str, Any] = {
        "schema": SCHEMA,
        "mission_id": opened.get("mission_id"),
        "run_id": opened.get("run_id"),
        "run_id_audit": last.get("journal_id"),
        "genesis": JOURNAL_GENESIS,
        "chain_root": last.get("entry_hash", JOURNAL_GENESIS),
        "entries": entries,
        "receipts": receipts,
        "escalations": [entry for entry in whole if entry.get("kind") == "escalation"],
        "model_calls": [_call(receipt) for receipt in receipts if _is_call(receipt)],
        "governance_hashes": {name: opened.get(name) for name in _GOVERNANCE},
        "baseline_commit": opened.get("baseline_commit"),
        "result_commit": closed.get("result_commit"),
        "exported_at": last.get("at"),
        "verification": dict(beside.verification),
        "anchors": list(beside.anchors),
        "checkpoints": list(beside.checkpoints),
        "keys": list(beside.keys),
        "forced": beside.forced,
    }
    covered = canonical_bytes(members, limit=MAX_EXPORT_BYTES)
    return canonical_bytes({**members, "bundle_hash": digest_bytes(covered)}, limit=MAX_EXPORT_BYTES)


def verify_completion(data: bytes, check: CheckSignature | None = None) -> JournalVerification:
    """Verify an export from its own content: the journal as ever, then that all else follows from it.

    With ``check``, checkpoints must be signed by one of the keys inside, and always they must speak of these entries. Bodies
    are not in an export, so they are not looked for. All findings are collected.
    """
    try:
        export = parse_strict(data, limit=MAX_EXPORT_BYTES)
        bodies, beside = _parts(export)
        again = parse_strict(completion(bodies, beside), limit=MAX_EXPORT_BYTES)
    except CanonicalizationError as error:
        return _with(
            verify_jsonl(b""), [JournalFinding(code=error.code, severity="error", seq=None, detail=error.message)]
        )
    except JournalError as error:
        return _with(verify_jsonl(b""), [_wrong(error.message)])
    verdict = verify_jsonl(b"".join(body + b"\n" for body in bodies))
    names = sorted(name for name in again.keys() | export.keys() if again.get(name) != export.get(name))
    # The hash covers all other members: where one of those differs, that is the news.
    odd = [name for name in names if name != "bundle_hash"] or names
    found = [_wrong(f"{name} does not follow from the entries") for name in odd]
    return _with(verdict, [*found, *_checkpoint_findings(bodies, verdict, beside, check)])


def _written(body: bytes) -> dict[str, Any]:
    try:
        entry = parse_strict(body)
    except CanonicalizationError:
        entry = None
    if isinstance(entry, dict) and _DAMAGED not in entry:
        return entry
    return {_DAMAGED: base64.b64encode(body).decode()}


def _body(entry: object) -> bytes:
    if not isinstance(entry, dict):
        raise JournalError("J_EXPORT_FORMAT", "an entry is no object")
    if _DAMAGED not in entry:
        return canonical_bytes(entry)
    try:
        return base64.b64decode(str(entry[_DAMAGED]), validate=True)
    except binascii.Error:
        raise JournalError("J_EXPORT_FORMAT", "the bytes of an entry are not base64") from None


def _parts(export: object) -> tuple[list[bytes], Beside]:
    """Entries and what stands beside them. Raises `JournalError` ``J_EXPORT_FORMAT``, `CanonicalizationError`."""
    if not isinstance(export, dict) or export.get("schema") != SCHEMA:
        raise JournalError("J_EXPORT_FORMAT", f"not a {SCHEMA} object")
    kinds = {"entries": list, "verification": dict, "anchors": list, "checkpoints": list, "keys": list, "forced": bool}
    odd = [name for name, kind in kinds.items() if type(export.get(name)) is not kind]
    if odd:
        raise JournalError("J_EXPORT_FORMAT", f"{odd[0]} is not what it should be")
    texts = [*export["checkpoints"], *export["keys"]]
    if not all(isinstance(item, str) for item in texts):
        raise JournalError("J_EXPORT_FORMAT", "a checkpoint or key is not text")
    beside = Beside(**{name: export[name] for name in ("verification", "anchors", "checkpoints", "keys", "forced")})
    return [_body(entry) for entry in export["entries"]], beside


def _checkpoint_findings(
    bodies: Sequence[bytes], verdict: JournalVerification, beside: Beside, check: CheckSignature | None
) -> list[JournalFinding]:
    found: list[JournalFinding] = []
    try:
        keys = [VerifierKey.parse(text) for text in beside.keys]
        notes = sorted((read_note(text.encode()) for text in beside.checkpoints), key=lambda note: note.checkpoint.size)
    except JournalError as error:
        return [JournalFinding(code=error.code, severity="error", seq=None, detail=error.message)]
    journal_id = _journal_id(bodies)
    tree = Frontier()
    for note in notes:
        told = note.checkpoint
        while tree.size < min(told.size, len(bodies)):
            tree.append(bodies[tree.size])
        if told.journal_id != journal_id:
            found.append(_finding("J_JOURNAL_ID", f"a checkpoint speaks of journal {told.journal_id}"))
        elif told.size > len(bodies):
            found.append(_finding("J_TRUNCATED", f"a checkpoint tells of {told.size} entries, {len(bodies)} are here"))
        elif tree.root() != told.root:
            found.append(_finding("J_ANCHOR_MISMATCH", f"the first {told.size} entries are not those signed"))
        if check is not None and note.signed_by(keys, check) is None:
            found.append(
                _finding("J_ANCHOR_MAC", f"the checkpoint of {told.size} entries is signed by none of the keys")
            )
    return found


def _journal_id(bodies: Sequence[bytes]) -> object:
    first = _written(bodies[0]) if bodies else {}
    return first.get("journal_id")


def _is_call(receipt: object) -> bool:
    return isinstance(receipt, Mapping) and receipt.get("operation_type") == "llm_call"


def _call(receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {name: receipt.get(name) for name in _CALL}


def _finding(code: str, detail: str) -> JournalFinding:
    return JournalFinding(code=code, severity="error", seq=None, detail=detail)


def _wrong(detail: str) -> JournalFinding:
    return _finding("J_EXPORT_FORMAT", detail)


def _with(verdict: JournalVerification, more: Sequence[JournalFinding]) -> JournalVerification:
    return replace(verdict, ok=verdict.ok and not more, findings=(*verdict.findings, *more))
