"""Refusals of real runs: explained by rule, placed in the mission file as it was, with what became of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.events.facts import Place, Violation
from runtime.host.api import Refused, RunStatus
from runtime.host.codes import exit_code_of
from runtime.host.runtime_host import RuntimeHost
from tests.support.hosting import hosting, run_to_end, write_mission

MISSION = """\
mission: refused
version: "1"
workspace: {from: files}
envelope:
  allowed_paths: ["out/**", "in/**"]
  denied_paths:
    - other/**
    - out/secret/**
  write_paths: ["out/**"]
  allowed_tools: [filesystem.write_file, process.run]
sandbox: {confinement: best_effort}
commands:
  say: {argv: [echo, "${word}"], args: {word: string}}
budgets: {calls: 0}
provider: {scripted: answers.yaml}
blocks:
  spelled: {type: tool_invoke, tool: filesystem.write_file, path: /x, content: x, accept: [op.path_absolute]}
  denied: {type: tool_invoke, tool: filesystem.write_file, path: out/secret/k, content: x, accept: [op.policy_denied]}
  own:
    type: tool_invoke
    tool: filesystem.write_file
    path: out/y
    content: x
    envelope:
      allowed_paths: [out/x]
    accept: [op.policy_not_allowed]
  written: {type: tool_invoke, tool: filesystem.write_file, path: in/z, content: x, accept: [op.policy_not_allowed]}
  asked: {type: llm_call, role: oracle, prompt: hm, accept: [op.budget_exceeded]}
  inherited: {type: tool_invoke, tool: filesystem.read_file, path: out/x, envelope: {denied_paths: []}, accept: [op.env_tool]}
  optional: {type: tool_invoke, tool: process.run, template: say, word: -n, optional: true}
  last: {type: tool_invoke, tool: filesystem.write_file, path: nowhere, content: x}
links: [spelled -> denied -> own -> written -> asked -> inherited -> optional -> last]
"""
FILES = {"files/out/keep": "", "files/in/keep": "", "answers.yaml": "oracle: [never]\n"}


def spot(place: Place | None, text: str = MISSION) -> str | None:
    """The source from a place on: what an operator's eye falls on."""
    return None if place is None else text.splitlines()[place.line - 1][place.column - 1 :]


async def refused(host: RuntimeHost, folder: Path) -> dict[str, Violation]:
    run = await run_to_end(host, write_mission(folder, MISSION, FILES))
    assert (run.status, run.exit_code) == (RunStatus.FAILED, 4), run
    return {item.step_id: item for item in await host.violations(run.run_id)}


async def test_refusals_are_placed_and_explained(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        found = await refused(host, tmp_path / "m")
        assert list(found) == ["spelled", "denied", "own", "written", "asked", "inherited", "optional", "last"]
        for step, item in found.items():
            assert (spot(item.position) or "").startswith(f"{step}:"), step
            assert item.position is not None
            assert item.position.snippet.splitlines()[1].index("^") == item.position.snippet.index(f"{step}:")
        rules = {step: (item.rule, (spot(item.rule_position) or "")[:15]) for step, item in found.items()}
        assert rules == {
            "spelled": ("path syntax L10", ""),
            "denied": ("envelope.denied_paths: out/secret/**", "out/secret/**"),
            "own": ("step envelope.allowed_paths", "allowed_paths: "),
            "written": ("envelope.write_paths", 'write_paths: ["'),
            "asked": ("budgets.calls", "calls: 0}"),
            "inherited": ("envelope.allowed_tools", "allowed_tools: "),
            "optional": ("commands", "commands:"),
            "last": ("envelope.allowed_paths", "allowed_paths: "),
        }
        own = found["own"].rule_position
        missions = found["last"].rule_position
        assert own is not None
        assert missions is not None
        assert own.line > missions.line, "the block's own list, not the mission's"
        assert found["own"].needed == 'add "out/y" to the block\'s envelope.allowed_paths'
        outcomes = [found[step].outcome for step in ("spelled", "optional", "last")]
        assert outcomes == ["accepted", "survived", "ended"]


async def test_one_refusal_by_its_entry_and_from_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m" / "mission.yaml"
    async with hosting(tmp_path / "store") as host:
        listed = (await refused(host, tmp_path / "m"))["denied"]
        assert await host.violation(listed.run_id, listed.seq) == listed
        path.write_text("# moved\n" * 30 + MISSION)
        changed = (await host.violation(listed.run_id, listed.seq)).rule_position
        assert (changed and changed.since, spot(changed)) == ("changed", "out/secret/**")
        path.unlink()
        gone = (await host.violation(listed.run_id, listed.seq)).position
        assert gone is not None
        assert gone.since == "gone"
        with pytest.raises(Refused) as caught:
            await host.violation(listed.run_id, 0)
        assert (caught.value.code, exit_code_of(caught.value)) == ("VIOLATION_UNKNOWN", 2)
