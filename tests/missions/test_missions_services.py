"""Blocks that work through services, in mission files: what they may do is derived, and references change nothing of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.contracts import multiple, once
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockRuntimeError
from runtime.host.api import RunStatus
from runtime.missions.build import build_workflow
from runtime.missions.envelopes import mission_envelope
from runtime.missions.loader import Mission, load_bytes
from tests.support.hosting import hosting, run_to_end, write_mission
from tests.support.mission_texts import found

HEAD = 'mission: m\nversion: "1"\ninputs: {at: {default: a.txt}}\n'


def mission(blocks: str, links: str = "[]", more: str = "") -> Mission:
    return load_bytes(f"{HEAD}{more}blocks:\n{blocks}\nlinks: {links}\n".encode(), Path("nowhere/mission.yaml"))


def block(params: str) -> Any:
    """The block a mission makes of ``params``; its references wait for an attempt."""
    loaded = mission(f"  it: {{{params}}}", more="envelope: {allowed_paths: ['**'], allowed_tools: [filesystem]}\n")
    return build_workflow(loaded, {"at": "a.txt"}).wiring.nodes["it"].block  # fmt: skip


@pytest.mark.parametrize(
    ("params", "takes", "effects", "seconds", "tries"),
    [
        ("type: file_read, path: '${inputs.at}'", multiple(), SideEffects.NONE, None, 1),
        ("type: file_read, encoding: '${inputs.at}'", multiple(), SideEffects.NONE, None, 1),
        ("type: file_write, path: '${inputs.at}'", once("string", "bytes", "map"), SideEffects.IDEMPOTENT, None, 1),
        ("type: file_write, path: x, append: '${inputs.at}'", multiple(), SideEffects.NON_IDEMPOTENT, None, 1),
        ("type: http_request, url: 'https://x.example/${inputs.at}'", multiple(), SideEffects.IDEMPOTENT, 30.0, 3),
        ("type: split_by_keys, keys: [a, '${inputs.at}']", once("map", "string", "null"), SideEffects.NONE, None, 1),
    ],
)
def test_references_leave_contract_safety_limit_and_retries_alone(
    params: str, takes: object, effects: SideEffects, seconds: float | None, tries: int
) -> None:
    late = block(params)
    assert (late.input_contract, late.side_effects, late.attempt_timeout) == (takes, effects, seconds)
    assert [policy.max_attempts for policy in late.get_policy_stack(BlockRuntimeError)] == [tries] * (tries > 1)


def test_a_split_with_a_reference_still_counts_its_outputs() -> None:
    assert block("type: split_by_keys, keys: [a, '${inputs.at}']").output_count == 2


def test_operations_and_roles_are_derived_from_what_blocks_perform() -> None:
    text = "  read: {type: file_read, path: a}\n  ask: {type: ai_generate, prompt: Why?, acting_role: builder}"
    loaded = mission(text, "[read -> ask]", "provider: {openai: {base_url: 'https://x.example', model: m}}\n")
    envelope = mission_envelope(loaded.spec)
    assert set(envelope.allow_ops or ()) == {"tool_invoke", "llm_call"}
    assert set(envelope.allowed_roles) == {"runner", "builder"}
    assert mission_envelope(mission("  it: {type: merge}").spec).allow_ops == ()


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ("type: file_read, path: a", "allowed_tools does not list filesystem.read_file"),
        ("type: file_write, path: src/a", "allowed_tools does not list filesystem.write_file"),
        ("type: file_write, path: src/a, append: true", "allowed_tools does not list filesystem.write_file"),
        ("type: list_directory, path: lib", "no allowed path matches 'lib'"),
        ("type: list_directory, path: ../lib", "does not stay in the work tree"),
        ("type: http_request, url: 'https://x.example'", "allowed_tools does not list http.request"),
        ("type: send_email, to: me@x.example", "allowed_tools does not list mail.send"),
        ("type: ai_generate, prompt: Why?", "no provider"),
        ("type: file_read, address_from: config", "must name its path"),
        ("type: file_read, path: a, encoding: klingon", "no text encoding"),
        ("type: template, template: '${inputs.at}'", "no references"),
        ("type: custom_transform, transform: nobody", "no transform 'nobody'"),
        ("type: filter, contans: a", "no parameter 'contans'"),
    ],
)
def test_what_linting_says_of_them(params: str, problem: str) -> None:
    more = "envelope: {allowed_paths: ['src/**'], allowed_tools: [filesystem.list_dir]}\n"
    told = [item.message for item in found(f"{HEAD}{more}blocks:\n  it: {{{params}}}\n")]
    assert [text for text in told if problem in text], told


@pytest.mark.parametrize(
    "params",
    [
        "type: file_read, path: '${inputs.at}', address_from: config",
        "type: filter, equals: '${inputs.at}'",
        "type: filter, field_equals: {field: a, value: '${inputs.at}'}",
        "type: template, template: '{{ value }}', partials: {p: x}, data: '${inputs.at}'",
    ],
)
def test_a_reference_may_be_all_there_is(params: str) -> None:
    more = "envelope: {allowed_paths: ['**'], allowed_tools: [filesystem]}\n"
    assert found(f"{HEAD}{more}blocks:\n  it: {{{params}}}\n") == []


NOTES = """\
mission: notes
version: "1"
inputs: {root: {type: string}, where: {default: notes/in.md}, to: {default: notes/out.html}}
workspace: {root: "${inputs.root}", kind: folder}
provider: {scripted: answers.yaml}
envelope: {allowed_paths: [notes, "notes/**"], allowed_tools: [filesystem]}
on_failure: compensate
blocks:
  list: {type: list_directory, path: notes}
  read: {type: file_read, path: "${inputs.where}"}
  ask: {type: ai_generate, prompt: Sum up, provider: PROVIDER}
  html: {type: markdown_to_html, allow_html: false}
  save: {type: file_write, path: "${inputs.to}"}
  log: {type: file_write, path: notes/log.txt, append: true}
links: [list -> read, read -> ask, ask -> html, html -> save, ask -> log]
outputs: {all: "${outputs.list}"}
"""


async def test_a_mission_of_service_blocks_runs_and_takes_back_what_it_wrote(tmp_path: Path) -> None:
    root, answers = tmp_path / "tree", {"answers.yaml": "runner: [In short, 'Once more']"}
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "in.md").write_text("# Tide")
    (root / "notes" / "log.txt").write_text("old\n")
    path = write_mission(tmp_path / "m", NOTES.replace("PROVIDER", "scripted"), answers)
    asking_another = write_mission(tmp_path / "n", NOTES.replace("PROVIDER", "openai"), answers)
    async with hosting(tmp_path / "store") as host:
        good = await run_to_end(host, path, inputs={"root": str(root)})
        assert good.status is RunStatus.SUCCEEDED
        assert good.outputs == {"all": ["notes/in.md", "notes/log.txt"]}
        assert (root / "notes" / "out.html").read_text() == "<p>In short</p>\n"
        assert (root / "notes" / "log.txt").read_text() == "old\nIn short"

        bad = await run_to_end(host, path, inputs={"root": str(root), "to": "../out.html"})
        assert (bad.status, bad.code, bad.exit_code) == (RunStatus.FAILED, "file.path_outside_root", 4)
        assert (root / "notes" / "log.txt").read_text() == "old\nIn short", "the append was undone"

        other = await run_to_end(host, asking_another, inputs={"root": str(root)})
        assert (other.status, other.code) == (RunStatus.FAILED, "ai.unsupported_provider")
