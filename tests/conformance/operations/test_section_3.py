"""Operation types and what each must do (operations specification §3): tests 3.a–3.l."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Unconfined
from runtime.host.api import Replay, RunStatus
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import SystemClock
from runtime.kernel.model import OperationStatus
from runtime.kernel.ports import ModelReply, ModelRequest
from runtime.orchestration.handlers.routes import RouteHandler, Transform
from runtime.orchestration.handlers.settings import ModelSettings, Price
from runtime.providers.adapters.scripted import ScriptedProvider
from tests.support.hosting import entries, hosting, plain, run_to_end, write_mission
from tests.support.operation_rig import Rig
from tests.support.plain_runner import PlainRunner
from tests.support.repositories import repository, sh

GOOD = "def test_one():\n    assert True\n"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    files = {"a.txt": "one\n", "tests/test_a.py": GOOD}
    return Rig(tmp_path / "tree", git=repository(tmp_path / "tree", files), python=sys.executable)


async def test_3_a_an_unknown_action_of_a_listed_tool(rig: Rig) -> None:
    result = await rig.tool("filesystem.format_disk")
    assert result.reason_code == "TOOL_UNKNOWN"
    assert [item["status"] for item in rig.receipts()] == ["failed"]
    assert rig.kinds() == ["operation_denied", "receipt"]


async def test_3_b_a_gate_on_a_rejection_fails_and_the_next_step_does_not_start(tmp_path: Path) -> None:
    blocks = (
        "  gate: {type: gate_check, check: verdict_approved, condition: {verdict: rejected}}\n"
        "  next: {type: template, template: went on}"
    )
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, plain(tmp_path / "m", blocks, "[gate -> next]"))
        assert (run.status, run.code) == (RunStatus.FAILED, "op.gate_not_passed")
        assert [item["step_id"] for item in await entries(host, run.run_id, "step_started")] == ["gate"]
        (receipt,) = [item["receipt"] for item in await entries(host, run.run_id, "receipt")]
        assert (receipt["status"], receipt["reason_code"]) == ("failed", "GATE_NOT_PASSED")


@pytest.mark.parametrize("check", ["../x", "schema:../x", "schema:none", "PURE", "", "__class__"])
async def test_3_c_a_check_is_a_name_and_never_a_path(rig: Rig, check: str) -> None:
    assert (await rig.do("gate_check", {"check": check})).reason_code == "GATE_UNKNOWN"


@pytest.mark.parametrize(
    "params",
    [
        {"test_paths": [""]},
        {"test_paths": ["-p"]},
        {"test_paths": []},
        {"test_paths": ["::x"]},
        {"test_paths": ["tests"], "pytest_args": ["--rootdir=/"]},
        {"test_paths": ["tests"], "pytest_args": ["-c", "x"]},
        {"test_paths": ["tests"], "pytest_args": ["--version"]},
        {"test_paths": ["tests"], "pytest_args": ["-k"]},
        {"test_paths": ["tests"], "pytest_args": ["--maxfail=x"]},
    ],
)
async def test_3_d_arguments_are_refused_before_any_process(rig: Rig, params: dict[str, Any]) -> None:
    assert (await rig.do("run_tests", params)).reason_code == "TEST_ARG"
    assert isinstance(rig.runner, PlainRunner)
    assert rig.runner.specs == []


async def test_3_e_a_sleeping_test_and_its_child_are_gone(rig: Rig) -> None:
    """Under the runner of production, without walls; the child has left the process group."""
    rig.runner = Sandbox(Unconfined(), confinement="best_effort", clock=SystemClock())
    rig.__post_init__()
    told = rig.root.parent / "pids"
    (rig.root / "tests/test_a.py").write_text(
        "import os, time\n"
        "def test_hang():\n"
        "    if not os.fork(): os.setsid()\n"
        f"    with open({str(told)!r}, 'a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(60)\n"
    )
    rig.remaining_seconds = 2.0
    began = time.monotonic()
    result = await rig.do("run_tests", {"test_paths": ["tests"]})
    assert time.monotonic() - began - rig.remaining_seconds <= 3
    assert (result.reason_code, result.output["passed"]) == ("OP_TIMEOUT", False)
    pids = told.read_text().split()
    assert len(pids) == 2
    for stat in (Path(f"/proc/{pid}/stat") for pid in pids):
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_3_f_only_deselected_tests_are_none(rig: Rig) -> None:
    result = await rig.do("run_tests", {"test_paths": ["tests"], "pytest_args": ["-k", "no_such_test"]})
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "TEST_NONE_RUN")


async def test_3_g_a_transform_that_reads_the_clock(rig: Rig) -> None:
    shape = {"type": "object"}
    late = Transform(
        name="late",
        version="1",
        function=lambda packet, about: {"at": time.perf_counter_ns()},
        input_schema=shape,
        output_schema=shape,
    )
    rig.extra = {"packet_route": RouteHandler({"late": late})}
    rig.__post_init__()
    result = await rig.do("packet_route", {"transform": "late", "input": {}})
    assert (result.reason_code, dict(result.output)) == ("ROUTE_NONDETERMINISTIC", {})


async def test_3_h_a_stale_expectation_leaves_the_file_alone(rig: Rig) -> None:
    result = await rig.tool("filesystem.write_file", path="a.txt", content="x", expect_sha256=digest_bytes(b"else"))
    assert result.reason_code == "TOOL_CONFLICT"
    assert (rig.root / "a.txt").read_text() == "one\n"
    receipt = result.receipt
    assert receipt is not None
    assert receipt.pre_state_hash == receipt.post_state_hash
    assert result.compensation_status == "not_needed"


ASKING = """\
mission: asking
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
provider: {scripted: answers.yaml}
blocks:
  ask: {type: llm_call, prompt: "QUESTION"}
links: []
"""


async def test_3_i_a_replay_never_asks_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rulings R7 and R45: recorded answers are found by operation key; another question has another key."""
    path = write_mission(tmp_path / "m", ASKING, {"answers.yaml": "runner: [yes indeed, never given]\n"})
    asked: list[str] = []
    complete = ScriptedProvider.complete

    async def watched(self: ScriptedProvider, request: ModelRequest, on_delta: Any = None) -> ModelReply:
        asked.append(request.prompt)
        return await complete(self, request, on_delta)

    monkeypatch.setattr(ScriptedProvider, "complete", watched)
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, path)
        assert run.status is RunStatus.SUCCEEDED
        assert (await host.replay(Replay(run_id=run.run_id))).comparison.equivalent
        write_mission(tmp_path / "m", ASKING.replace("QUESTION", "ANOTHER"))
        report = await host.replay(Replay(run_id=run.run_id))
    assert asked == ["QUESTION"]
    assert [(pair.step_id, pair.other_code) for pair in report.comparison.steps] == [("ask", "op.replay_miss")]


class Silent:
    """A provider that answers and does not say what it cost."""

    name = "silent"

    async def complete(self, request: ModelRequest, on_delta: Callable[[str], None] | None = None) -> ModelReply:
        return ModelReply(text="hello", model="m-1", tokens_in=None, tokens_out=None, provider=self.name)


async def test_3_j_missing_usage_is_charged_in_full_and_escalated(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    models = ModelSettings(provider=Silent(), model="m", prices={"m": Price(1_000_000, 2_000_000)}, max_tokens=100)
    rig = Rig(tmp_path / "tree", models=models)
    result = await rig.do("llm_call", {"prompt": "hi"})
    assert result.ok
    reserved = next(entry for entry in rig.entries() if entry["kind"] == "budget")
    assert result.receipt is not None
    assert result.receipt.cost_micros == reserved["micros"] > 0
    [told] = [entry["reason"] for entry in rig.entries() if entry["kind"] == "escalation"]
    assert told.startswith("BUDGET_COST_UNKNOWN: the provider did not say what the call cost; the reserved 0.")


async def test_3_k_a_configured_fsmonitor_is_refused_and_not_run(rig: Rig) -> None:
    script = rig.root / ".git/spy.sh"
    script.write_text(f"#!/bin/sh\ntouch {rig.root.parent}/ran\n")
    script.chmod(0o755)
    sh(rig.root, "config", "core.fsmonitor", str(script))
    (rig.root / "a.txt").write_text("two\n")
    result = await rig.tool("git.add", paths=["a.txt"])
    assert result.reason_code == "GIT_UNSAFE_CONFIG"
    assert not (rig.root.parent / "ran").exists()


async def test_3_l_an_inherited_git_dir_has_no_influence(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    other = repository(rig.root.parent / "other")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    (rig.root / "a.txt").write_text("two\n")
    assert (await rig.tool("git.add", paths=["a.txt"])).ok
    monkeypatch.undo()
    assert sh(rig.root, "diff", "--cached", "--name-only") == "a.txt"
