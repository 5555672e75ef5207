"""Mission files to load and to damage, and what loading finds in them."""

from __future__ import annotations

from pathlib import Path

from runtime.missions.loader import load_bytes
from runtime.missions.problems import MissionInvalid, MissionProblem

# The example of the architecture paper, word for word.
FIX_THE_BUILD = """\
# yaml-language-server: $schema=../../mission.schema.json
mission: fix-the-build
version: "1"
description: Repair a failing test suite, prove it, commit it.
inputs:
  goal: {type: string, default: Make the failing tests pass.}
workspace: {from: project, init_git: true}        # a private copy; `root:` works on the operator's own tree
envelope:
  allowed_paths: ["src/**", "tests/**"]
  allowed_tools: [filesystem.write_file, git.add, git.commit]
  max_budget_usd: 0.50
  timeout_seconds: 120
sandbox: {confinement: best_effort}
provider: {scripted: answers.yaml}                # or {openai: {base_url: ..., model: ..., key: env://OPENAI_API_KEY}}
blocks:
  red:     {type: run_tests, test_paths: [tests], accept: [op.test_failed]}
  propose: {type: llm_call, prompt: "${inputs.goal}\\n${outputs.red.output.stdout}", output_schema: patch.schema.json}
  apply:   {type: tool_invoke, tool: filesystem.write_file, path: "${outputs.propose.path}", content: "${outputs.propose.content}"}
  green:   {type: run_tests, test_paths: [tests]} # red here fails the run: every write is compensated
  stage:   {type: tool_invoke, tool: git.add, paths: ["${outputs.propose.path}"]}
  commit:  {type: tool_invoke, tool: git.commit, message: "Fix: ${outputs.propose.summary}"}
links:
  - red -> propose -> apply -> green -> stage -> commit
outputs: {commit: "${outputs.commit.commit}"}
on_failure: compensate
watch: {paths: ["src/**"], debounce_ms: 300}
"""

SMALL = """\
mission: small
version: "1"
inputs:
  goal: {default: win}
  n: {type: integer, default: 3}
envelope:
  allowed_paths: ["src/**"]
  allowed_tools: [filesystem.read_file, filesystem.write_file]
blocks:
  read:  {type: tool_invoke, tool: filesystem.read_file, path: src/a.txt}
  write: {type: tool_invoke, tool: filesystem.write_file, path: src/b.txt, content: "${outputs.read.content}"}
  tell:  {type: escalate, reason: done}
links: [read -> write -> tell]
"""

ROUTED = """\
mission: routed
version: "1"
blocks:
  check:   {type: gate_check, check: non_empty, condition: {value: x}, accept: [op.gate_not_passed]}
  commit:  {type: escalate, reason: "after ${outputs.check.ok}"}
  give_up: {type: escalate, reason: gave up}
links: [give_up -> check]
branches: {check: [{when: outputs.check.ok, to: commit}, {otherwise: give_up}]}
"""

COMMANDS = SMALL.replace(
    "links:",
    "commands:\n"
    "  python: /usr/bin/python3\n"
    "  count: {argv: [wc, '-l', '${file}'], args: {file: path}, writes: [out]}\n"
    "links:",
)
COMMANDS = COMMANDS.replace(
    "{type: escalate, reason: done}", "{type: tool_invoke, tool: process.run, template: count, file: a}"
)
COMMANDS = COMMANDS.replace("[filesystem.read_file", "[process.run, filesystem.read_file")


def found(text: str, folder: Path | None = None) -> list[MissionProblem]:
    try:
        return list(load_bytes(text.encode(), (folder or Path("nowhere")) / "mission.yaml").warnings)
    except MissionInvalid as invalid:
        return list(invalid.problems)


def codes(text: str, folder: Path | None = None) -> list[str]:
    return [item.code for item in found(text, folder)]
