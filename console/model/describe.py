"""One line of plain words for each kind of journal entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from console.model.safe import SafeText, safe

_Entry = Mapping[str, Any]


def describe_entry(kind: str, entry: _Entry) -> SafeText:
    """What happened, in one line without line feeds. Unknown kinds show their name."""
    describe = _LINES.get(kind)
    return safe(f"{kind.replace('_', ' ')}" if describe is None else describe(entry), limit=400)


def short(digest: object) -> str:
    """The first eight hex digits of a digest or id."""
    text = str(digest)
    return text.removeprefix("sha256:")[:8] + "…" if text else ""


def emitted(entry: _Entry) -> tuple[int, int, str] | None:
    """Items, bytes and index of what a finished step emitted; None when it was silent or the member is malformed."""
    stream = entry.get("stream")
    if not isinstance(stream, Mapping):
        return None
    items, size, index = stream.get("items"), stream.get("bytes"), stream.get("index")
    well = isinstance(items, int) and isinstance(size, int) and isinstance(index, str)
    return (items, size, index) if well else None  # type: ignore[return-value]


def amount(signal: _Entry) -> int:
    """How many items a drop or a shed is about."""
    told = signal.get("amount")
    return told if isinstance(told, int) else 1


def _opened(entry: _Entry) -> str:
    origin = f", run again of {short(entry['resumes'])}" if entry.get("resumes") else ""
    if undone := entry.get("undoes"):
        origin = f", undo of {short(undone['run'])}"
    elif fork := entry.get("fork"):
        origin = f", fork of {short(fork['run'])} from {fork['step']}"
    elif entry.get("cause") and not origin:
        origin = f", because {entry['cause']}"
    return f"journal opened  {entry['mission_id']}{origin}"


def _plan(entry: _Entry) -> str:
    return f"plan frozen  {entry['steps']} steps, contract {short(entry['contract_hash'])}"


def _signal(entry: _Entry) -> str:
    names = []
    for signal in entry.get("signals", ()):
        reason, lane = signal.get("reason"), signal.get("target_lane")
        about = f"{str(lane).removesuffix('Lane').lower()} " if lane else ""
        count = f" ×{amount(signal)}" if "amount" in signal else ""
        names.append(f"{about}{signal['signal']}{f'({reason})' if reason else ''}{count}")
    return "signal  " + ", ".join(names)


def _step(entry: _Entry) -> str:
    attempt = "".join(f" {word} {entry[word]}" for word in ("tick", "attempt") if entry.get(word, 1) != 1)
    code = f"  {entry['code']}" if entry.get("code") else ""
    expected = " (expected)" if entry.get("accepted") else ""
    if entry.get("reused_from"):
        return f"step reused  {entry['step_id']}{attempt}{code}{expected}  from {short(entry['reused_from'])}"
    stream = emitted(entry)
    items = f"  {stream[0]:,} items" if stream else ""
    return f"step {entry['status']}  {entry['step_id']}{attempt}{code}{expected}{items}"


def _operation(entry: _Entry) -> str:
    paths = ", ".join(entry.get("affected_paths") or ())
    return f"operation started  {entry['operation_id']}  {entry['operation_type']} {entry['effect']}{' ' + paths if paths else ''}"


def _denied(entry: _Entry) -> str:
    return f"operation denied  {entry['operation_id']}  {entry.get('reason') or entry['code']}"


def _receipt(entry: _Entry) -> str:
    receipt = entry["receipt"]
    code = f" {receipt['reason_code']}" if receipt.get("reason_code") else ""
    undo = f"  undoes {short(receipt['compensates'])}" if receipt.get("compensates") else ""
    return f"receipt  {receipt['operation_id']}  {receipt['status']}{code}{undo}"


def _compensation(entry: _Entry) -> str:
    if entry.get("kind") == "compensation_started":
        return f"compensation started  {entry['operation_id']}"
    verified = entry.get("verified")
    proof = "" if verified is None else "  verified" if verified else "  NOT verified"
    return f"compensation  {entry['operation_id']}  {entry.get('outcome') or 'started'}{proof}"


def _budget(entry: _Entry) -> str:
    return f"budget {entry['phase']}  {entry['operation_id']}  ${entry['micros'] / 1_000_000:.6f}"


def _escalation(entry: _Entry) -> str:
    if entry["phase"] == "answered":
        return f"answered  {entry['resolution']} by {entry['resolved_by']}"
    return f"asked  {entry['reason']}"


def _operator(entry: _Entry) -> str:
    reason = f"  {entry['reason']}" if entry.get("reason") else ""
    return f"operator {entry['action']}  by {entry['actor']}{reason}"


def _recovery(entry: _Entry) -> str:
    return f"recovery  epoch {entry['epoch']}  {entry['cause']}"


def _closed(entry: _Entry) -> str:
    reason = f"  {entry['reason']}" if entry.get("reason") else ""
    return f"journal closed  {entry['status']}{reason}"


_LINES: Final[Mapping[str, Callable[[_Entry], str]]] = {
    "journal_opened": _opened,
    "plan": _plan,
    "signal": _signal,
    "step_started": _step,
    "step_finished": _step,
    "operation_started": _operation,
    "operation_denied": _denied,
    "receipt": _receipt,
    "compensation_started": _compensation,
    "compensation_finished": _compensation,
    "budget": _budget,
    "escalation": _escalation,
    "operator_action": _operator,
    "recovery": _recovery,
    "evidence": lambda entry: "evidence recorded",
    "journal_closed": _closed,
}
