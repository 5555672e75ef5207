"""A run as comparison sees it: what was done and decided, without when, where and by which process.

Folded from journal entries, stored or just made by a replay; both go the same way, so that neither can look
different only because of how it was read. Times, process ids, tokens, costs and audit ids never get in (operations
spec §11.3); durations do, for a comparison of timing that somebody asked for. Everything large is a digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from runtime.kernel.canonical import digest
from runtime.kernel.errors import Refused
from runtime.kernel.model import OperationReceipt, thawed
from runtime.orchestration.journal_history import StepKey, step_of_operation
from runtime.replay.plans import PlanTrace
from runtime.replay.seen import SeenReceipt, SeenReceipts, attempt_key

#: Attempts and operations of one trace; a run beyond that is compared by its journal, not in memory.
MAX_ITEMS: Final = 200_000
#: The decisions of a turn. Lane and egress signals depend on timing and are gauges to a comparison.
DECISIONS: Final = frozenset(
    {
        "turn_open_proposed",
        "admit",
        "reject",
        "defer",
        "turn_open",
        "deauthorized_drain",
        "cancel",
        "budget_warning",
        "budget_exhausted",
        "disconnected",
        "stall",
        "commit",
        "abort",
        "close",
    }
)
#: Members of a failure handler's input that name this run or this moment (blocks spec §17).
_HANDLED: Final = frozenset({"origin", "domain", "code", "retry_disposition", "workflow_id", "block_id"})
_VOLATILE: Final = ("ts", "run_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationTrace:
    """One operation as its block saw it. ``number`` counts repetitions under one id from 1.

    ``undo`` is ``verified``, or the code of an undo that was not; ``model``, ``provider`` and ``prompt`` (a digest)
    are known of model calls.
    """

    operation_id: str
    number: int
    type: str
    status: str
    code: str | None
    params: str
    output: str
    effect: str
    before: str
    after: str
    undo: str | None = None
    provider: str | None = None
    model: str | None = None
    prompt: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionTrace:
    """One question to a human, by its place in the run. ``subject`` is the digest of what was asked about what."""

    question: str
    subject: str
    resolution: str | None = None
    notes: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptTrace:
    """One block attempt. ``input``, ``output`` and ``stream`` (the Data items it emitted, one after the other) are
    digests; ``order`` is how often each direct predecessor had finished when it began. ``status`` None: no end."""

    key: StepKey
    block_type: str
    input: str
    order: tuple[tuple[str, int], ...] = ()
    status: str | None = None
    code: str | None = None
    accepted: bool = False
    output: str | None = None
    stream: str | None = None
    duration_ms: int | None = None
    reused_from: str | None = None
    operations: tuple[OperationTrace, ...] = ()
    questions: tuple[QuestionTrace, ...] = ()
    seq: int | None = None

    @property
    def step_id(self) -> str:
        return self.key[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionTrace:
    """One decision of the turn, under the epoch it was made in."""

    name: str
    reason: str | None = None
    by: str = ""
    epoch: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One telling of a run. ``stored`` says its entries are in a journal, so that numbers and durations mean
    something."""

    run_id: str
    plan: PlanTrace
    attempts: tuple[AttemptTrace, ...] = ()
    decisions: tuple[DecisionTrace, ...] = ()
    code_version: str | None = None
    stored: bool = True

    @property
    def epoch(self) -> int | None:
        """The epoch the turn was opened under."""
        return next((item.epoch for item in self.decisions if item.epoch is not None), None)


@dataclass(slots=True)
class _Open:
    """An attempt being folded."""

    trace: AttemptTrace
    started_at: str
    questions: dict[str, QuestionTrace] = field(default_factory=dict)


class TraceFold:
    """Feed entries in order, then ask for the `trace`.

    ``evidence`` gives the evidence record behind a digest, where a model call's is known. Raises `Refused`
    ``REPLAY_TOO_LARGE`` beyond `MAX_ITEMS`.
    """

    def __init__(self, plan: PlanTrace, *, evidence: Mapping[str, Mapping[str, Any]], stored: bool = True) -> None:
        self._plan = plan
        self._after = plan.after()
        self._evidence = evidence
        self._stored = stored
        self._run_id = ""
        self._code_version: str | None = None
        self._attempts: dict[StepKey, _Open] = {}
        self._finished: dict[str, int] = {}
        self._decisions: list[DecisionTrace] = []
        self._receipts = SeenReceipts()
        self._asked: dict[str, StepKey] = {}
        self._items = 0

    def feed(self, entry: Mapping[str, Any]) -> None:
        """Take one entry into account."""
        self._receipts.feed(entry)
        match entry["kind"]:
            case "journal_opened":
                self._run_id = str(entry["journal_id"])
                self._code_version = entry.get("code_version")
            case "step_started":
                self._started(entry)
            case "step_finished":
                self._ended(entry)
            case "receipt":
                self._count()
            case "escalation":
                self._question(entry)
            case "signal":
                self._signals(entry)
            case "journal_closed":
                self._decisions.append(DecisionTrace(name="closed", reason=str(entry["status"]), seq=entry["seq"]))

    def trace(self) -> Trace:
        """What the entries tell, attempts in the order they began."""
        operations = self._operations()
        return Trace(
            run_id=self._run_id,
            plan=self._plan,
            attempts=tuple(
                replace(
                    item.trace,
                    operations=tuple(operations.get(key, ())),
                    questions=tuple(item.questions.values()),
                )
                for key, item in self._attempts.items()
            ),
            decisions=tuple(self._decisions),
            code_version=self._code_version,
            stored=self._stored,
        )

    def _count(self) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            raise Refused(
                "REPLAY_TOO_LARGE",
                f"the run has more than {MAX_ITEMS} attempts and operations",
                hint="look at it with `quarterdeck replay --fidelity view`",
            )

    def _started(self, entry: Mapping[str, Any]) -> None:
        self._count()
        key = attempt_key(entry)
        order = tuple((name, self._finished.get(name, 0)) for name in self._after.get(key[0], ()))
        trace = AttemptTrace(
            key=key,
            block_type=str(entry["operation_type"]),
            input=digest(_lasting(thawed(entry["inputs"]))),
            order=order,
            seq=entry["seq"],
        )
        self._attempts[key] = _Open(trace, str(entry["started_at"]))

    def _ended(self, entry: Mapping[str, Any]) -> None:
        item = self._attempts.get(attempt_key(entry))
        if item is None:
            return
        step_id = item.trace.step_id
        self._finished[step_id] = self._finished.get(step_id, 0) + 1
        item.trace = replace(
            item.trace,
            status=str(entry["status"]),
            code=entry.get("code"),
            accepted=bool(entry.get("accepted")),
            output=digest(thawed(entry["outputs"])) if entry["outputs"] else None,
            stream=(entry.get("stream") or {}).get("content"),
            duration_ms=_milliseconds(item.started_at, entry.get("completed_at")),
            reused_from=entry.get("reused_from"),
        )

    def _question(self, entry: Mapping[str, Any]) -> None:
        """Blocking ones only: notices tell of what receipts say already."""
        question = str(entry["escalation_id"]).partition("/")[2]
        if entry["phase"] == "asked" and entry.get("blocking"):
            key = step_of_operation(str(entry["step_id"]), question)
            if key in self._attempts:
                subject = str(entry["subject_digest"])
                asked = QuestionTrace(question=question, subject=subject, seq=entry["seq"])
                self._attempts[key].questions[question] = asked
                self._asked[question] = key
        elif entry["phase"] == "answered" and question in self._asked:
            questions = self._attempts[self._asked[question]].questions
            questions[question] = replace(
                questions[question], resolution=str(entry["resolution"]), notes=str(entry.get("notes") or "")
            )

    def _signals(self, entry: Mapping[str, Any]) -> None:
        for signal in entry["signals"]:
            if signal["signal"] in DECISIONS:
                self._decisions.append(
                    DecisionTrace(
                        name=str(signal["signal"]),
                        reason=signal.get("reason"),
                        by=str(signal.get("emitted_by", "")),
                        epoch=signal.get("authority_epoch"),
                        seq=entry["seq"],
                    )
                )

    def _operations(self) -> dict[StepKey, list[OperationTrace]]:
        found: dict[StepKey, list[OperationTrace]] = {}
        numbers: dict[str, int] = {}
        for seen in sorted(self._receipts.all(), key=lambda item: item.seq):
            receipt = seen.receipt
            numbers[receipt.operation_id] = number = numbers.get(receipt.operation_id, 0) + 1
            key = step_of_operation(receipt.step_id, receipt.operation_id)
            found.setdefault(key, []).append(self._operation(seen, number))
        return found

    def _operation(self, seen: SeenReceipt, number: int) -> OperationTrace:
        receipt = seen.receipt
        return OperationTrace(
            operation_id=receipt.operation_id,
            number=number,
            type=receipt.operation_type,
            status=receipt.status,
            code=receipt.reason_code,
            params=receipt.params_hash,
            output=receipt.output_hash,
            effect=receipt.effect,
            before=receipt.pre_state_hash,
            after=receipt.post_state_hash,
            undo=self._undo(receipt),
            seq=seen.seq,
            **self._model(receipt),
        )

    def _undo(self, receipt: OperationReceipt) -> str | None:
        undone = self._receipts.undone(receipt)
        return None if undone is None else "verified" if undone.verified else undone.code or "COMP_FAILED"

    def _model(self, receipt: OperationReceipt) -> dict[str, str | None]:
        """Which model answered, as the evidence of the call says."""
        if receipt.operation_type != "llm_call":
            return {}
        details = self._evidence.get(receipt.evidence_hash, {}).get("details", {})
        replies: Sequence[Mapping[str, Any]] = details.get("replies") or ({},)
        return {
            "provider": replies[-1].get("provider"),
            "model": replies[-1].get("model") or details.get("model"),
            "prompt": details.get("prompt_hash"),
        }


def fold_trace(
    entries: Iterable[Mapping[str, Any]], plan: PlanTrace, *, evidence: Mapping[str, Mapping[str, Any]]
) -> Trace:
    """The trace of a stored journal."""
    fold = TraceFold(plan, evidence=evidence)
    for entry in entries:
        fold.feed(entry)
    return fold.trace()


def _lasting(inputs: dict[str, Any]) -> dict[str, Any]:
    """A failure handler's input without the names of this run and this moment."""
    value = inputs.get("value")
    if isinstance(value, dict) and value.keys() >= _HANDLED:
        return {**inputs, "value": {key: item for key, item in value.items() if key not in _VOLATILE}}
    return inputs


def _milliseconds(start: str, end: object) -> int | None:
    if not isinstance(end, str):
        return None
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000)
