"""A step that runs again for its writes alone: its other operations are answered by the run that did them (R19)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import canonical_bytes, digest, parse_strict
from runtime.kernel.model import Effect, OperationPlan
from runtime.orchestration.journal_verify import verify_entries
from runtime.orchestration.operation_ports import HandlerOutcome, RunCall
from runtime.orchestration.reuse import Carried
from tests.support.operation_rig import FakeHandler, Rig

PARENT = "00000000-0000-4000-8000-00000000000a"


class Asked:
    """A handler that counts how often it is really asked."""

    def __init__(self, effect: Effect, code: str | None = None) -> None:
        self.times = 0
        self.handler = FakeHandler(OperationPlan(effect), self._work)
        self._code = code

    async def _work(self, call: RunCall) -> HandlerOutcome:
        self.times += 1
        return HandlerOutcome(output={"time": self.times}, code=self._code, message="" if self._code is None else "no")


@pytest.fixture
def asked() -> Asked:
    return Asked(Effect.EXECUTE, "TEST_FAILED")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


async def fork_of(first: Rig, root: Path, asked: Asked) -> Rig:
    """A rig for the next run: another recipe, the same bodies, and what the first run carried over, read back."""
    known = [(PARENT, item) for item in first.journal.operations.everything()]
    carried = Carried.of(known, (item.receipt for _, item in known if item.receipt is not None))
    again = Rig(root, extra={"run_tests": asked.handler})
    again.artifacts.bodies.update(first.artifacts.bodies)
    kept = Carried.from_record(parse_strict(canonical_bytes(carried.record())))
    again.ctx = again.with_context(run_id=digest("another recipe"))

    async def recorded(operation: Any, ctx: Any) -> Any:
        return await kept.answer(operation, ctx, again.artifacts)

    again.build(recorded=recorded)
    again.recorded = recorded  # type: ignore[attr-defined]
    return again


async def test_the_write_is_done_and_everything_else_is_answered(root: Path, asked: Asked) -> None:
    first = Rig(root, extra={"run_tests": asked.handler})
    red = await first.do("run_tests", {"paths": ["a"]}, id="s1.0")
    await first.tool("filesystem.write_file", id="s1.1", path="new", content="1")
    (root / "new").unlink()

    again = await fork_of(first, root, asked)
    answered = await again.do("run_tests", {"paths": ["a"]}, id="s1.0")
    assert (answered.status, answered.reason_code, answered.replayed) == (red.status, "TEST_FAILED", True)
    assert (answered.output, asked.times) == ({"time": 1}, 1)
    written = await again.tool("filesystem.write_file", id="s1.1", path="new", content="1")
    assert (written.ok, written.replayed, (root / "new").exists()) == (True, False, True)

    # The answer is part of the new journal, marked, and enough to go on after a crash.
    marked = [entry["kind"] for entry in again.entries() if entry.get("reused_from") == PARENT]
    assert marked == ["operation_started", "receipt"]
    assert answered.receipt is not None
    assert (answered.receipt.run_id, answered.receipt.cost_micros) == (again.ctx.run_id, 0)
    assert verify_entries(again.store.entries, artifacts=again.artifacts.bodies.get).ok
    again.after_crash()
    again.build(recorded=again.recorded)  # type: ignore[attr-defined]
    assert (await again.do("run_tests", {"paths": ["a"]}, id="s1.0")).output == {"time": 1}
    assert asked.times == 1


async def test_other_work_is_done(root: Path, asked: Asked) -> None:
    first = Rig(root, extra={"run_tests": asked.handler})
    await first.do("run_tests", {"paths": ["a"]}, id="s1.0")
    again = await fork_of(first, root, asked)
    assert (await again.do("run_tests", {"paths": ["b"]}, id="s1.0")).output == {"time": 2}
    gone = await fork_of(first, root, asked)
    gone.artifacts.bodies.clear()
    assert (await gone.do("run_tests", {"paths": ["a"]}, id="s1.0")).output == {"time": 3}


async def test_a_refusal_is_judged_anew(root: Path, asked: Asked) -> None:
    first = Rig(root, extra={"run_tests": asked.handler})
    refused = await first.tool("filesystem.read_file", path="../x")
    assert not refused.ok
    again = await fork_of(first, root, asked)
    (root / "x").write_text("there")
    assert (await again.tool("filesystem.read_file", path="../x")).reason_code == refused.reason_code
    assert all("reused_from" not in entry for entry in again.entries())
