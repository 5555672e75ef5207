"""Missions and replay (operations specification §11): tests 11.a–11.g and the binding of approvals (§11.2).

Ruling R41: a mission is one file of blocks; the steps of the specification are blocks of the same type, and its
``run_id`` is the recipe hash (ruling R2). Missions run in process, on a host of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.events.facts import RunSummary
from runtime.execution.questions import subject_of
from runtime.host.api import Answer, Launch, Replay, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.ports import ModelReply, ModelRequest
from runtime.providers.adapters.scripted import ScriptedProvider
from tests.support.hosting import entries, hosting, plain, question, run_to_end, write_mission
from tests.support.repositories import repository, sh

REVIEW = """\
mission: review
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
provider: {scripted: answers.yaml}
blocks:
  packet: {type: packet_route, transform: pick, input: {from: {change: "+1 -1", note: "by hand"}, keys: [change]}}
  architect: {type: llm_call, role: reviewer_architect, prompt: "May it go?", packet: "${outputs.packet}"}
  alignment: {type: llm_call, role: reviewer_alignment, prompt: "May it go?", packet: "${outputs.packet}"}
  risk: {type: llm_call, role: reviewer_risk, prompt: "May it go?", packet: "${outputs.packet}"}
  governance: {type: llm_call, role: reviewer_governance, prompt: "May it go?", packet: "${outputs.packet}"}
  synthesis: {type: llm_call, role: council_chair, prompt: "Sum up."}
  gate:
    type: gate_check
    check: verdict_approved
    condition:
      verdicts:
        architect: "${outputs.architect.text}"
        alignment: "${outputs.alignment.text}"
        risk: "${outputs.risk.text}"
        governance: "${outputs.governance.text}"
        synthesis: "${outputs.synthesis.text}"
    on_fail: escalate
  build: {type: template, template: built}
links:
  - packet -> architect -> synthesis -> gate -> build
  - packet -> alignment -> synthesis
  - packet -> risk -> synthesis
  - packet -> governance -> synthesis
"""
SEATS = ("architect", "alignment", "risk", "governance")


def review(folder: Path, **verdicts: str) -> str:
    """The council on one change; who is not named approves."""
    lines = [f"reviewer_{seat}: [{verdicts.get(seat, 'approved')!r}]" for seat in SEATS]
    return write_mission(folder, REVIEW, {"answers.yaml": "\n".join([*lines, "council_chair: [approved]\n"])})


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


async def succeeded(host: RuntimeHost, path: str, **members: Any) -> RunSummary:
    run = await run_to_end(host, path, **members)
    assert run.status is RunStatus.SUCCEEDED, run
    return run


async def receipt_of(host: RuntimeHost, run: RunSummary, step: str) -> Mapping[str, Any]:
    found = [item["receipt"] for item in await entries(host, run.run_id, "receipt")]
    return next(receipt for receipt in found if receipt["step_id"] == step)


async def test_11_a_the_same_mission_twice_is_equivalent(host: RuntimeHost, tmp_path: Path) -> None:
    """Rulings R7 and R45: answers come from a script, and a replay answers each operation from its receipt."""
    path = review(tmp_path / "m")
    one, two = [await succeeded(host, path) for _ in range(2)]
    found = await host.compare(one.run_id, two.run_id)
    assert (found.equivalent, found.divergences, found.drift) == (True, (), None)
    assert one.head_hash != two.head_hash, "equivalence is computed, never read off the roots"
    for run in (one, two):
        report = await host.replay(Replay(run_id=run.run_id))
        assert (report.comparison.equivalent, report.comparison.drift) == (True, None)
        assert report.operations_answered == report.operations_total == 7


async def test_11_b_another_model_version_is_drift(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = review(tmp_path / "m")
    one = await succeeded(host, path)
    complete = ScriptedProvider.complete

    async def newer(self: ScriptedProvider, request: ModelRequest, on_delta: Any = None) -> ModelReply:
        return replace(await complete(self, request, on_delta), model="scripted-2")

    monkeypatch.setattr(ScriptedProvider, "complete", newer)
    two = await succeeded(host, path)
    found = await host.compare(one.run_id, two.run_id)
    assert (found.equivalent, found.divergences, found.drift) == (True, (), "version_drift")


CLEAN = """\
mission: clean
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: git}
sandbox: {confinement: best_effort}
envelope: {allowed_paths: ["**"], allowed_tools: []}
blocks:
  gate: {type: gate_check, check: repo_clean, accept: [op.gate_not_passed]}
links: []
"""


async def test_11_c_a_gate_that_closes_is_a_mismatch_that_names_its_field(host: RuntimeHost, tmp_path: Path) -> None:
    """Ruling R16: the closed gate is accepted, so that both runs come to their end and only the gate differs."""
    repository(tmp_path / "tree")
    path, inputs = write_mission(tmp_path / "m", CLEAN), {"root": str(tmp_path / "tree")}
    one = await succeeded(host, path, inputs=inputs)
    (tmp_path / "tree" / "stray").touch()
    two = await succeeded(host, path, inputs=inputs)
    found = await host.compare(one.run_id, two.run_id)
    assert (found.equivalent, found.drift) == (False, None)
    (status,) = found.divergences
    assert (status.step_id, status.field) == ("gate", "status")
    assert (status.expected, status.actual) == ("success", "failed")
    assert None not in (status.base_seq, status.other_seq)


async def test_11_d_an_answer_that_looks_like_code_passes_no_gate(host: RuntimeHost, tmp_path: Path) -> None:
    """Neither the closed check nor a CEL condition (`require`) ever evaluates what it is given."""
    text = """\
mission: sly
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
provider: {scripted: answers.yaml}
blocks:
  seat: {type: llm_call, prompt: "May it go?"}
  gate: {type: gate_check, GATE}
  build: {type: template, template: built}
links: [seat -> gate -> build]
"""
    sly = """runner: ["approved' or '1'=='1"]\n"""
    gates = {
        "closed": 'check: verdict_approved, condition: {verdict: "${outputs.seat.text}"}',
        "compared": 'check: equals, condition: {left: "${outputs.seat.text}", right: approved}',
        "required": """require: "outputs.seat.text == 'approved'\"""",
    }
    for name, gate in gates.items():
        run = await run_to_end(host, write_mission(tmp_path / name, text.replace("GATE", gate), {"answers.yaml": sly}))
        assert (run.status, run.code) == (RunStatus.FAILED, "op.gate_not_passed"), name
        assert "build" not in {item["step_id"] for item in await entries(host, run.run_id, "step_started")}
        honest = {"answers.yaml": "runner: [approved]\n"}
        await succeeded(host, write_mission(tmp_path / name, text.replace("GATE", gate), honest))


async def test_11_e_one_reject_outvotes_three_approvals_and_the_synthesis(host: RuntimeHost, tmp_path: Path) -> None:
    for seat in SEATS:
        run = await run_to_end(host, review(tmp_path / seat, **{seat: "rejected"}))
        assert (run.status, run.code) == (RunStatus.FAILED, "op.gate_not_passed")
        receipt = await receipt_of(host, run, "gate")
        assert (receipt["status"], receipt["reason_code"]) == ("escalated", "GATE_NOT_PASSED")
        (told,) = await entries(host, run.run_id, "escalation")
        assert (told["step_id"], told["blocking"]) == ("gate", False)
        assert "build" not in {item["step_id"] for item in await entries(host, run.run_id, "step_started")}


STEWARD = """\
mission: steward
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: git}
sandbox: {confinement: best_effort}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file, git.add, git.commit]}
blocks:
  made: {type: tool_invoke, tool: filesystem.write_file, path: a.txt, content: "two\\n"}
  gate: {type: gate_check, check: path_scope, condition: {paths: [a.txt]}}
  add: {type: tool_invoke, tool: git.add, paths: [a.txt]}
  commit: {type: tool_invoke, tool: git.commit, message: Two}
links: [made -> gate -> add -> commit]
"""


async def test_11_f_a_steward_that_fails_at_the_commit_leaves_index_and_tree_as_before(
    host: RuntimeHost, tmp_path: Path
) -> None:
    """Relaxation 1 wants a clean tree to begin with, so the mission makes its own change. Then it commits for real."""
    root = tmp_path / "tree"
    repository(root)
    path, inputs = write_mission(tmp_path / "m", STEWARD), {"root": str(root)}
    head, index = sh(root, "rev-parse", "HEAD"), sh(root, "ls-files", "-s")
    lock = root / ".git/refs/heads/main.lock"  # git can write its index, but not move the branch
    lock.touch()
    run = await run_to_end(host, path, inputs=inputs)
    assert (run.status, run.code) == (RunStatus.FAILED, "op.git_failed"), run
    assert (await receipt_of(host, run, "add"))["status"] == "success"
    assert (await receipt_of(host, run, "commit"))["status"] == "failed"
    assert (sh(root, "rev-parse", "HEAD"), sh(root, "ls-files", "-s")) == (head, index)
    assert sh(root, "status", "--porcelain") == ""
    assert (root / "a.txt").read_text() == "one\n"
    lock.unlink()
    await succeeded(host, path, inputs=inputs)
    assert sh(root, "log", "--format=%s", "-1") == "Two"
    assert sh(root, "status", "--porcelain") == ""


async def test_11_g_two_executions_of_one_recipe_keep_separate_journals(host: RuntimeHost, tmp_path: Path) -> None:
    path = review(tmp_path / "m")
    one, two = [await succeeded(host, path) for _ in range(2)]
    opened = [(await entries(host, run.run_id, "journal_opened"))[0] for run in (one, two)]
    assert opened[0]["run_id"] == opened[1]["run_id"], "the recipe"
    assert [item["journal_id"] for item in opened] == [one.run_id, two.run_id]
    assert one.run_id != two.run_id
    for run in (one, two):
        verdict = await host.verify(run.run_id)
        assert (verdict.ok, verdict.entries, verdict.head_hash) == (True, run.entries, run.head_hash)


async def test_11_2_approving_one_packet_never_admits_another(host: RuntimeHost, tmp_path: Path) -> None:
    """The answer is bound to the digest of what was approved: a fork with the same packet needs no second answer, one
    with another packet asks anew, and goes no further when that is rejected."""
    blocks = (
        '  ask: {type: approval, message: Build it?, subject: "${inputs.packet}"}\n'
        '  build: {type: template, template: "built {{ value }}", data: "${inputs.packet}"}'
    )
    path = plain(tmp_path / "m", blocks, "[ask -> build]", more="inputs: {packet: {type: string}}\n")
    begun = await host.launch(Launch(path=path, inputs={"packet": "A"}))
    asked = await question(host, begun.run_id)
    assert asked.subject_digest == subject_of("ask", "Build it?", "A")
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    first = await host.wait(begun.run_id)
    assert first.status is RunStatus.SUCCEEDED
    answered = [item for item in await entries(host, first.run_id, "escalation") if item["phase"] == "answered"]
    assert [item["subject_digest"] for item in answered] == [asked.subject_digest]

    again = await succeeded(host, path, parent_run_id=first.run_id, from_step="build", unattended=True)
    assert await entries(host, again.run_id, "escalation") == []
    other = await host.launch(Launch(path=path, parent_run_id=first.run_id, from_step="build", inputs={"packet": "B"}))
    anew = await question(host, other.run_id)
    assert anew.subject_digest not in (None, asked.subject_digest)
    await host.answer(Answer(escalation_id=anew.escalation_id, resolution="rejected"))
    async with asyncio.timeout(10):
        refused = await host.wait(other.run_id)
    assert (refused.status, refused.code) == (RunStatus.FAILED, "approval.refused")
    assert [item["step_id"] for item in await entries(host, refused.run_id, "step_started")] == ["ask"]
