"""Would the scripted answers of a mission still be the ones its recorded run got?

A replay answers model calls from receipts, so a changed file of answers changes nothing in it. But the next run would
differ, and an operator who asks whether a run can be repeated wants to know. Scripted answers are pure, and each reply
says in its evidence which one it was, so it is simply looked up again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runtime.events.facts import Divergence
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.model import OperationReceipt
from runtime.providers.adapters.scripted import ScriptedProvider
from runtime.replay.policy import OUTCOME


def changed_answers(
    entries: Iterable[Mapping[str, Any]],
    evidence: Mapping[str, Mapping[str, Any]],
    provider: ScriptedProvider,
    file: str,
) -> tuple[Divergence, ...]:
    """One difference for each recorded model call that would be answered otherwise today.

    ``evidence`` are evidence records by digest. Replies of other providers, and those of versions that did not say
    which answer they were, are passed over.
    """
    found = []
    for entry in entries:
        if entry["kind"] != "receipt" or entry["receipt"]["operation_type"] != "llm_call":
            continue
        receipt = OperationReceipt.from_record(entry["receipt"])
        details = evidence.get(receipt.evidence_hash, {}).get("details") or {}
        for reply in details.get("replies", ()):
            told = reply.get("details", {})
            if "ordinal" not in told:
                continue
            answer = provider.answer(str(told["role"]), int(told["ordinal"]), str(told["asked"]))
            now = None if answer is None else digest_bytes(answer.encode("utf-8", "replace"))
            if now != reply["text_hash"]:
                found.append(_changed(receipt, int(entry["seq"]), file, str(reply["text_hash"]), now))
                break
    return tuple(found)


def _changed(receipt: OperationReceipt, seq: int, file: str, recorded: str, now: str | None) -> Divergence:
    return Divergence(
        kind=OUTCOME,
        scope=f"operation:{receipt.operation_id}",
        field="answer",
        detail=f"the recorded answer of step {receipt.step_id} is no longer what {file} gives",
        step_id=receipt.step_id,
        expected=recorded,
        actual=now,
        base_seq=seq,
    )
