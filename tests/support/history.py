"""Runs and a journal with everything the look-back screens draw: parallel steps, a retry, a wait, writes and an undo."""

from __future__ import annotations

from typing import Any

from support.fake_deck import NODES, RUN, FakeDeck, entry, mission, run_summary

from runtime.events.facts import EntryAppended, NodeInfo
from runtime.host.api import RunStatus

STATE = "sha256:" + "3b" * 32
AFTER = "sha256:" + "9f" * 32
BODY = "sha256:" + "5c" * 32
OUTPUT = "sha256:" + "7d" * 32
PLAN = [
    NodeInfo(node_id="fetch", block_type="tool_invoke"),
    NodeInfo(node_id="parse", block_type="python", after=("fetch",)),
    NodeInfo(node_id="rank", block_type="llm_call", after=("parse",)),
    NodeInfo(node_id="gate", block_type="approval", lane="ControlLane", after=("parse",)),
    NodeInfo(node_id="write", block_type="tool_invoke", after=("rank", "gate")),
    NodeInfo(node_id="notify", block_type="tool_invoke", after=("write", "fetch")),
]
LOOP = [
    NodeInfo(node_id="draft", block_type="llm_call", after=("review",)),
    NodeInfo(node_id="review", block_type="approval", after=("draft",)),
    NodeInfo(node_id="publish", block_type="tool_invoke", after=("review",)),
]


def at(seconds: float) -> str:
    return f"2026-01-02T00:{int(seconds) // 60:02d}:{seconds % 60:09.6f}Z"


class Telling:
    """Writes a journal: entries get their numbers and times in the order they are told."""

    def __init__(self, mission_id: str = "nightly-report") -> None:
        self.entries: list[EntryAppended] = []
        self.clock = 0.0
        self._open: dict[str, dict[str, Any]] = {}
        self.tell("journal_opened", mission_id=mission_id)
        self.tell("plan", plan_hash=STATE, contract_hash=STATE, steps=6)
        self.tell("signal", signals=[{"signal": "turn_open"}])

    def tell(self, kind: str, **members: Any) -> None:
        made = entry(len(self.entries), kind, **members)
        self.entries.append(
            EntryAppended(
                run_id=made.run_id,
                seq=made.seq,
                kind=kind,
                at=at(self.clock),
                entry_hash=made.entry_hash,
                entry=made.entry,
            )
        )

    def start(self, step: str, block: str = "tool_invoke", *, value: Any = None, **more: Any) -> None:
        members = {"step_id": step, "operation_type": block, "attempt": 1, "started_at": at(self.clock), **more}
        self._open[step] = members
        self.tell("step_started", **members, status="running", inputs={"value": value} if value is not None else {})

    def finish(self, step: str, status: str = "completed", *, value: Any = None, **more: Any) -> None:
        outputs = {"value": value} if value is not None else {}
        ended = {"status": status, "completed_at": at(self.clock), "outputs": outputs}
        self.tell("step_finished", **self._open[step], **ended, **more)

    def write(self, step: str, path: str, *, undone: bool | None = None) -> None:
        operation_id = f"{step}.{sum(item.kind == 'operation_started' for item in self.entries)}"
        operation = {"step_id": step, "operation_id": operation_id, "operation_type": "tool_invoke"}
        self.tell("operation_started", **operation, effect="write", affected_paths=[path], pre_state_hash=STATE)
        receipt = {**operation, "effect": "write", "status": "success", "post_state_hash": AFTER, "output_hash": OUTPUT}
        self.tell("receipt", receipt={**receipt, "receipt_hash": f"sha256:{path}"})
        if undone is not None:
            undo = {"operation_id": operation_id, "compensates": f"sha256:{path}"}
            self.tell("compensation_finished", **undo, outcome="restored", verified=undone)


def told() -> list[EntryAppended]:
    """A run that fetched, parsed, ranked at the second attempt while a human was asked, and then wrote."""
    book = Telling()
    book.start("fetch", value={"date": "2026-01-02"})
    book.clock = 12
    book.finish("fetch", value={"rows": {"$artifact": BODY, "bytes": 81920}})
    book.start("parse", "python", value={"rows": 42})
    book.clock = 43
    book.finish("parse", value={"rows": 42, "wrote": "out/tmp.json"})
    book.start("rank", "llm_call", value={"rows": 42})
    book.start("gate", "human")
    asked = {"escalation_id": f"{RUN}/gate.0", "step_id": "gate", "reason": "send to customers?", "blocking": True}
    book.tell("escalation", phase="asked", **asked, severity="info", choices=["approved", "rejected"])
    book.clock = 84
    book.finish("rank", "failed", code="llm.rate_limited", error_message="429: slow down")
    book.clock = 88
    book.start("rank", "llm_call", value={"rows": 42}, attempt=2)
    book.clock = 110
    book.tell(
        "escalation", phase="answered", escalation_id=asked["escalation_id"], resolution="approved", resolved_by="mk"
    )
    book.finish("gate", value="approved")
    book.clock = 139
    book.finish("rank", value={"top": "A-113"})
    book.start("write", value={"top": "A-113"})
    book.write("write", "out/report.md")
    book.clock = 142
    book.finish("write", value={"path": "out/report.md"})
    book.start("notify")
    return book.entries


def many_runs(count: int = 240) -> list[Any]:
    """Runs of several missions, newest first."""
    statuses = [RunStatus.SUCCEEDED, RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.SUCCEEDED]
    runs = [
        run_summary(
            run_id=f"{number:08x}-0000-4000-8000-000000000000",
            mission=("nightly-report", "fix-the-build", "watch-tests")[number % 3],
            status=statuses[number % 5],
            code="op.test_failed" if statuses[number % 5] is RunStatus.FAILED else None,
            created_at=f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00.000000Z",
            duration_ms=number * 7919 % 400_000,
            violations=number % 7 // 6 * 2,
            steps_done=6,
            trigger="watch" if number % 3 == 2 else "console",
            cause="src/parse.py, tests/test_parse.py" if number % 3 == 2 else None,
        )
        for number in range(count)
    ]
    return runs[::-1]


def deck(**changes: Any) -> FakeDeck:
    """A console's world with one detailed run on top of many."""
    entries = told()
    long = run_summary(
        mission="nightly-report", entries=len(entries), created_at="2026-01-02T00:00:00.000000Z", violations=1
    )
    members: dict[str, Any] = {
        "missions_list": [mission(nodes=tuple(NODES))],
        "runs_list": [long, *many_runs()],
        "nodes_list": PLAN,
        "entries_list": entries,
        "artifacts": {BODY: b"a,b\n1,2\n", OUTPUT: b'{"path": "out/report.md"}'},
    }
    return FakeDeck(**{**members, **changes})
