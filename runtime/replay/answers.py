"""Would the scripted answers of a mission still be the ones its recorded run got?

A replay answers model calls from receipts, so a changed file of answers changes nothing in it. But the next run would
differ, and an operator who asks whether a run can be repeated wants to know. Scripted answers are pure, so each one
the run used is simply looked up again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.events.facts import Divergence
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.model import OperationReceipt
from runtime.providers.adapters.scripted import ScriptedProvider
from runtime.replay.policy import OUTCOME

_SCRIPTED: Final = ScriptedProvider.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One recorded model call: who asked, and the digest of each text that was answered, in order.

    ``success`` tells which calls a resumed run counted as used.
    """

    receipt: OperationReceipt
    seq: int
    role: str
    texts: tuple[str, ...]
    success: bool


@dataclass(frozen=True, slots=True)
class NewLife:
    """The run was resumed here: answers of calls that failed before are given again."""


def model_calls(
    entries: Iterable[Mapping[str, Any]], evidence: Mapping[str, Mapping[str, Any]], roles: Mapping[str, str]
) -> list[ModelCall | NewLife]:
    """The calls scripted answers were used for, in the order they were asked.

    ``evidence`` are evidence records by digest, ``roles`` the role behind a request's digest.
    """
    asked: dict[str, int] = {}
    found: list[tuple[int, ModelCall | NewLife]] = []
    for entry in entries:
        if entry["kind"] == "operation_started":
            asked[entry["idempotency_key"]] = entry["seq"]
        elif entry["kind"] == "recovery":
            found.append((entry["seq"], NewLife()))
        elif entry["kind"] == "receipt" and entry["receipt"]["operation_type"] == "llm_call":
            receipt = OperationReceipt.from_record(entry["receipt"])
            details = evidence.get(receipt.evidence_hash, {}).get("details", {})
            texts = tuple(str(reply["text_hash"]) for reply in details.get("replies", ()) if _scripted(reply))
            role = roles.get(str(details.get("request")))
            if texts and role is not None:
                call = ModelCall(
                    receipt=receipt, seq=entry["seq"], role=role, texts=texts, success=receipt.status == "success"
                )
                found.append((asked.get(receipt.idempotency_key, entry["seq"]), call))
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


def changed_answers(
    calls: Iterable[ModelCall | NewLife], provider: ScriptedProvider, file: str
) -> tuple[Divergence, ...]:
    """One difference for each call that would be answered otherwise today."""
    used: dict[str, int] = {}
    kept: dict[str, int] = {}
    found: list[Divergence] = []
    for call in calls:
        if isinstance(call, NewLife):
            used = dict(kept)
            continue
        first = used.get(call.role, 0)
        used[call.role] = first + len(call.texts)
        for ordinal, text in enumerate(call.texts, start=first):
            answer = provider.answer(call.role, ordinal)
            now = None if answer is None else digest_bytes(answer.encode("utf-8", "replace"))
            if now != text:
                found.append(_changed(call, file, text, now))
                break
        if call.success:
            kept[call.role] = kept.get(call.role, 0) + 1
    return tuple(found)


def _changed(call: ModelCall, file: str, recorded: str, now: str | None) -> Divergence:
    receipt = call.receipt
    return Divergence(
        kind=OUTCOME,
        scope=f"operation:{receipt.operation_id}",
        field="answer",
        detail=f"the recorded answer of step {receipt.step_id} is no longer what {file} gives",
        step_id=receipt.step_id,
        expected=recorded,
        actual=now,
        base_seq=call.seq,
    )


def _scripted(reply: Mapping[str, Any]) -> bool:
    return reply.get("provider") == _SCRIPTED
