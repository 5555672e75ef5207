"""Loading says everything at once, each thing at its place, and what it lets through can run as written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.events.envelope import Lane
from runtime.kernel.canonical import digest
from runtime.missions.loader import lint, load, load_bytes
from runtime.missions.problems import MissionInvalid, MissionProblem
from tests.support.mission_texts import COMMANDS, FIX_THE_BUILD, ROUTED, SMALL, codes, found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "patch.schema.json").write_text('{"type": "object"}')
    (tmp_path / "answers.yaml").write_text("runner: []")
    (tmp_path / "mission.yaml").write_text(FIX_THE_BUILD)
    return tmp_path


def small(old: str = "", new: str = "") -> str:
    assert old in SMALL
    return SMALL.replace(old, new, 1)


def at(text: str, problem: MissionProblem) -> str:
    """The source from the problem's position on."""
    return text.splitlines()[problem.line - 1][problem.column - 1 :]


# -- what loads ------------------------------------------------------------------------------------------------


def test_the_architecture_example_loads_as_written(folder: Path) -> None:
    mission = load(folder)
    assert mission.warnings == ()
    assert (mission.name, mission.spec.version) == ("fix-the-build", "1")
    assert mission.envelope.allowed_roles == ("runner",)
    assert mission.envelope.allow_ops == ("llm_call", "run_tests", "tool_invoke")
    assert mission.envelope.max_budget_micros == 500_000
    assert mission.envelope.timeout_seconds == 120
    assert mission.graph.entry == "red"
    assert mission.graph.after()["commit"] == ("stage",)
    assert mission.output_schema("propose") == {"type": "object"}
    assert mission.answers is not None
    assert mission.answers.path == (folder / "answers.yaml").resolve()
    assert mission.spec.on_failure == "compensate"


def test_a_file_or_its_folder_names_a_mission(folder: Path) -> None:
    assert load(folder).mission_hash == load(folder / "mission.yaml").mission_hash
    assert load(folder).path == folder / "mission.yaml"


def test_defaults_of_an_envelope(tmp_path: Path) -> None:
    mission = load_bytes(SMALL.encode(), tmp_path / "m.yaml")
    assert mission.envelope.timeout_seconds == 600
    assert mission.envelope.max_budget_micros == 0
    assert mission.envelope.allow_ops == ("escalate", "tool_invoke")
    assert mission.spec.sandbox.confinement == "required"
    assert mission.spec.profile == "mission/v1"


def test_an_empty_list_allows_nothing_while_an_absent_one_is_derived() -> None:
    problems = found(small("envelope:\n", "envelope:\n  allowed_roles: []\n"))
    assert {item.code for item in problems} == {"MISSION_ENVELOPE_FORBIDS"}
    assert len(problems) == 3  # every block acts as somebody


def test_block_envelopes_start_from_the_missions_and_write_paths_narrow_writing() -> None:
    text = small("path: src/a.txt}", 'path: src/a.txt, envelope: {allowed_paths: ["**"], timeout_seconds: 5}}')
    text = text.replace('allowed_paths: ["src/**"]', 'allowed_paths: ["src/**"]\n  write_paths: ["src/b*"]')
    mission = load_bytes(text.encode(), Path("m.yaml"))
    [(name, inner)] = mission.block_envelopes.items()
    assert (name, inner.allowed_paths, inner.timeout_seconds) == ("read", ("**",), 5)
    assert inner.allowed_tools == mission.envelope.allowed_tools
    assert mission.spec.envelope.write_paths == ("src/b*",)
    assert mission.envelope.envelope_hash == load_bytes(SMALL.encode(), Path("m.yaml")).envelope.envelope_hash
    assert codes(text.replace("path: src/b.txt", "path: src/c.txt")) == ["MISSION_ENVELOPE_FORBIDS"]
    assert codes(text.replace("timeout_seconds: 5", "write_paths: []")) == ["MISSION_UNKNOWN_KEY"]
    assert codes(text.replace("timeout_seconds: 5", "names: native")) == ["MISSION_UNKNOWN_KEY"]


def test_native_names_are_hashed_with_the_mission_and_not_with_the_envelope() -> None:  # relaxation 5
    strict = load_bytes(SMALL.encode(), Path("m.yaml"))
    native = load_bytes(small("envelope:\n", "envelope:\n  names: native\n").encode(), Path("m.yaml"))
    assert (strict.spec.envelope.names, native.spec.envelope.names) == ("strict", "native")
    assert strict.envelope == native.envelope
    assert strict.mission_hash != native.mission_hash


def test_lane_bounds_are_those_the_mission_gives() -> None:
    loaded = load_bytes((SMALL + "lanes: {data: {limit: 8}}\n").encode(), Path("m.yaml"))
    assert loaded.spec.lanes.bounds() == {Lane.DATA: 8}


def test_a_routed_mission_may_cycle_and_its_conditions_are_compiled() -> None:
    mission = load_bytes(ROUTED.encode(), Path("m.yaml"))
    assert mission.graph.routed
    assert mission.graph.entry == "check"
    assert list(mission.conditions) == [("branches", "check", 0, "when")]
    assert mission.conditions["branches", "check", 0, "when"].evaluate({}, {"check": {"ok": True}})


# -- what the hash covers --------------------------------------------------------------------------------------


def test_the_hash_covers_meaning_and_files_but_not_layout(folder: Path) -> None:
    before = load(folder)
    assert before.mission_hash == digest(dict(before.definition))
    (folder / "mission.yaml").write_text(
        FIX_THE_BUILD.replace("{confinement: best_effort}", "\n  confinement: 'best_effort' # x")
    )
    assert load(folder).mission_hash == before.mission_hash
    (folder / "answers.yaml").write_text("runner: [x]")
    assert load(folder).mission_hash != before.mission_hash
    assert load(folder).definition["files"].keys() == {"answers.yaml", "patch.schema.json"}


def test_prompts_are_text_or_files_of_the_mission(folder: Path) -> None:
    (folder / "role.md").write_text("You repair.")
    text = FIX_THE_BUILD + "prompts: {runner: {file: role.md}, other: Be kind.}\n"
    assert load_bytes(text.encode(), folder / "mission.yaml").prompts == {"runner": "You repair.", "other": "Be kind."}


# -- everything at once ----------------------------------------------------------------------------------------

FIVE = """\
mission: five
version: 1
envelope: {allowed_paths: ["src/**"], allowed_tools: [git.commit]}
blocks:
  first: {type: run_test, test_paths: [src]}
  second: {type: tool_invoke, tool: git.commit, mesage: hi}
  third: {type: escalate, reason: "${outputs.fourth.x}"}
links: [first -> second -> thrid]
"""


def test_five_different_mistakes_are_five_positions(tmp_path: Path) -> None:
    (tmp_path / "mission.yaml").write_text(FIVE)
    problems = lint(tmp_path)
    assert [(item.code, item.line, item.column) for item in problems] == [
        ("MISSION_VALUE", 2, 10),
        ("validation.block_unavailable", 5, 17),
        ("MISSION_MISSING_PARAMETER", 6, 3),
        ("MISSION_UNKNOWN_PARAMETER", 6, 49),
        ("validation.source_missing", 7, 36),
        ("graph.unknown_target", 8, 28),
    ]
    assert [item.hint for item in problems[1:4:2]] == ["did you mean 'run_tests'?", "did you mean 'message'?"]
    with pytest.raises(MissionInvalid, match=r"(?s)MISSION_VALUE.*run_test") as caught:
        load(tmp_path)
    assert caught.value.code == "MISSION_INVALID"
    assert caught.value.where == f"{tmp_path}/mission.yaml:2:10"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x?y", []),
        ("https://b.example/x", ["sandbox.hosts does not list b.example:443"]),
        ("http://a.example:8080/", ["sandbox.hosts does not list a.example:8080"]),
        ("a.example", ["its URL names no host"]),
        ("https://${inputs.goal}/", []),
    ],
)
def test_a_url_whose_host_is_not_listed_is_warned_of(url: str, expected: list[str]) -> None:
    text = small("{type: escalate, reason: done}", f"{{type: tool_invoke, tool: http.request, url: '{url}'}}")
    text = text.replace("allowed_tools: [", "allowed_tools: [http.request, ").replace(
        "links:", "sandbox: {hosts: [a.example]}\nlinks:"
    )
    problems = found(text)
    assert [item.message.partition("refused: ")[2] for item in problems] == expected
    assert all(item.severity == "warning" for item in problems)


CASES: dict[str, tuple[str, str, str]] = {
    # old and new text, the code, and what the caret points at
    "unknown key": ("envelope:", "envelop: {}\nenvelope:", "MISSION_UNKNOWN_KEY@envelop:"),
    "unknown nested key": ("default: win", "defualt: win", "MISSION_UNKNOWN_KEY@defualt"),
    "unknown common key": ("reason: done", "reason: done, timeuot: 3", "MISSION_UNKNOWN_PARAMETER@timeuot"),
    "missing key": ('version: "1"\n', "", "MISSION_MISSING_KEY@mission:"),
    "block without type": ("{type: escalate, ", "{", "MISSION_MISSING_KEY@tell:"),
    "wrong kind": ("[read -> write -> tell]", "read -> write", "MISSION_VALUE@read -> write"),
    "block not a mapping": ("{type: escalate, reason: done}", "escalate", "MISSION_VALUE@escalate"),
    "bad block name": ("tell:  {", "Tell:  {", "MISSION_NAME@Tell"),
    "bad mission name": ("mission: small", "mission: Small Thing", "MISSION_NAME@Small"),
    "bad glob": ('"src/**"', '"src/**x"', 'GLOB_INVALID@"src'),
    "money": ("envelope:\n", "envelope:\n  max_budget_usd: 0.0000001\n", "ENV_BUDGET@0.0000001"),
    "unknown tool": ("[filesystem.read_file,", "[filesystem.raed_file,", "TOOL_UNKNOWN@filesystem.raed"),
    "wildcard tool": ("[filesystem.read_file,", '["filesystem.*",', 'MISSION_TOOL@"filesystem.*'),
    "unknown action": ("tool: filesystem.read_file", "tool: filesystem.raed_file", "TOOL_UNKNOWN@filesystem.raed"),
    "unknown type": ("type: escalate", "type: esclate", "validation.block_unavailable@esclate"),
    "parameter kind": ("path: src/a.txt", "path: [src/a.txt]", "MISSION_PARAMETER_TYPE@[src"),
    "parameter choice": ("reason: done", "reason: done, severity: huge", "MISSION_PARAMETER_TYPE@huge"),
    "missing parameter": (", reason: done", "", "MISSION_MISSING_PARAMETER@tell:"),
    "unknown input": ("reason: done", 'reason: "as ${inputs.gaol}"', "MISSION_UNKNOWN_INPUT@${inputs.gaol}"),
    "input parts": ("reason: done", 'reason: "${inputs.n.x}"', "MISSION_REFERENCE@${inputs.n.x}"),
    "unknown source": ("${outputs.read.", "${outputs.raed.", "validation.source_missing@${outputs.raed"),
    "not upstream": ("path: src/a.txt", 'path: "${outputs.write.path}"', "validation.source_not_upstream@${outputs.write"),
    "malformed": ("reason: done", 'reason: "see ${HOME}/x"', "MISSION_REFERENCE@${HOME}"),
    "reference in tool": ("tool: filesystem.read_file", 'tool: "${inputs.goal}"', 'MISSION_REFERENCE_FORBIDDEN@"${inputs'),
    "reference in accept": ("reason: done", 'reason: done, accept: ["${inputs.goal}"]', "MISSION_ACCEPT@"),
    "reference in envelope": ('"src/**"', '"${inputs.goal}/**"', "MISSION_REFERENCE_FORBIDDEN@${inputs.goal}"),
    "reference in output": ("links:", 'outputs: {x: "${outputs.nope}"}\nlinks:', "validation.source_missing@${outputs.nope}"),
    "never acceptable": ("reason: done", "reason: done, accept: [op.comp_drift]", "MISSION_ACCEPT@op.comp_drift"),
    "not a code": ("reason: done", "reason: done, accept: [TEST_FAILED]", "MISSION_ACCEPT@TEST_FAILED"),
    "role": ("reason: done", "reason: done, acting_role: operator", "MISSION_ROLE@operator"),
    "compensation type": ("reason: done", "reason: done, compensation_type: undo", "COMP_TYPE@undo"),
    "compensation command": (
        "content: ", "compensation_type: fs_restore, compensation_command: rm -rf /, content: ", "COMP_COMMAND@rm -rf",
    ),
    "compensation alone": ("reason: done", "reason: done, compensation_type: git_clean", "COMP_COMMAND@{type: escalate"),
    "default type": ("default: 3", 'default: "3"', 'MISSION_INPUT@"3"'),
    "default choice": ("default: win", "default: win, choices: [a, b]", "MISSION_INPUT@win"),
    "link to nothing": ("-> tell]", "-> tel]", "graph.unknown_target@tel]"),
    "link of one": ("[read -> write -> tell]", "[read -> write, tell]", "MISSION_LINK@tell]"),
    "odd link": ("-> tell]", "-> the end]", "MISSION_LINK@the end]"),
    "fan-out list": ("-> write -> tell]", '-> write, "write -> [tell]"]', "MISSION_LINK@[tell]"),
    "cycle": ("-> tell]", "-> read, read -> tell]", "graph.cycle@"),
    "self link": ("-> tell]", "-> tell -> tell]", "graph.cycle@tell]"),
    "unreachable": ("-> write -> tell]", "-> write]", "graph.unreachable@tell:"),
    "self handler": ("links:", "on_error: {read: read}\nlinks:", "graph.self_handler@read}"),
    "recurring in the middle": ("{type: escalate, reason: done}", "{type: cron, cron: '0 9 * * *'}", "validation.recurring_not_entry@tell:"),
    "recurring handler": (
        "links:", "  every: {type: cron, cron: '0 9 * * *'}\non_error: {read: every}\nlinks:", "validation.recurring_handler@every:",
    ),
    "schedule": ("{type: escalate, reason: done}", "{type: cron, cron: hourly}", "cron.invalid_expression@tell:"),
    "unknown handler": ("links:", "on_error: {read: rescue}\nlinks:", "graph.unknown_target@rescue"),
    "unknown fallback": ("reason: done", "reason: done, fallback: plan_b", "graph.unknown_target@plan_b"),
    "retry": ("reason: done", "reason: done, retry: {max_attempts: 0}", "MISSION_VALUE@0"),
    "key in the file": ("links:", "provider: {openai: {base_url: 'http://x/v1', model: m, key: sk-1}}\nlinks:", "MISSION_SECRET@sk-1"),
    "secret in the file": ("links:", "sandbox: {secrets: {TOKEN: hunter2}}\nlinks:", "MISSION_SECRET@hunter2"),
    "key in a text": ("reason: done", "reason: use AKIAIOSFODNN7EXAMPLE", "MISSION_SECRET_LITERAL@AKIA"),
    "two providers": ("links:", "provider: {}\nlinks:", "MISSION_PROVIDER@{}"),
    "workspace": ("links:", "workspace: {init_git: true}\nlinks:", "MISSION_WORKSPACE@{init_git"),
    "no files to allow": ("links:", "workspace: {kind: none}\nlinks:", "MISSION_WORKSPACE@["),
    "denied tool": ("[filesystem.read_file, ", "[", "MISSION_ENVELOPE_FORBIDS@filesystem.read_file"),
    "denied path": ("path: src/a.txt", "path: lib/a.txt", "MISSION_ENVELOPE_FORBIDS@lib/a.txt"),
    "absolute path": ("path: src/a.txt", "path: /etc/passwd", "MISSION_ENVELOPE_FORBIDS@/etc"),
    "climbing path": ("path: src/a.txt", "path: src/../x", "MISSION_ENVELOPE_FORBIDS@src/.."),
    "denied operation": ("envelope:\n", "envelope:\n  allow_ops: [escalate]\n", "MISSION_ENVELOPE_FORBIDS@tool_invoke"),
    "no provider": ("{type: escalate, reason: done}", "{type: llm_call, prompt: hi}", "MISSION_PROVIDER@llm_call"),
    "gate": ("{type: escalate, reason: done}", "{type: gate_check, check: ../x}", "GATE_UNKNOWN@../x"),
    "gate schema": ("{type: escalate, reason: done}", "{type: gate_check, schema: 'schema:x'}", "GATE_UNKNOWN@'schema:x'"),
    "gate condition": (
        "{type: escalate, reason: done}", "{type: gate_check, check: equals, condition: 3}", "MISSION_PARAMETER_TYPE@3",
    ),
    "gate with an unknown name": (
        "{type: escalate, reason: done}", "{type: gate_check, require: outputs.reed.ok}", "MISSION_CONDITION@outputs.reed",
    ),
    "gate of another type": (
        "{type: escalate, reason: done}", "{type: gate_check, require: size(inputs.goal)}", "MISSION_CONDITION@size",
    ),
    "gate that looks ahead": (
        "{type: escalate, reason: done}", "{type: gate_check, require: outputs.tell.ok}", "validation.source_not_upstream@outputs.tell",
    ),
    "gate with a reference": (
        "{type: escalate, reason: done}", "{type: gate_check, require: '${inputs.goal} == 1'}", "MISSION_REFERENCE_FORBIDDEN@'${inputs",
    ),
    "gate with two questions": (
        "{type: escalate, reason: done}", "{type: gate_check, require: 'true', check: equals}", "MISSION_MISSING_PARAMETER@tell:",
    ),
    "gate with a condition besides": (
        "{type: escalate, reason: done}", "{type: gate_check, require: 'true', condition: {a: 1}}", "MISSION_PARAMETER_TYPE@condition:",
    ),
    "nothing asked": ("{type: escalate, reason: done}", "{type: llm_call, model: m}", "MISSION_MISSING_PARAMETER@tell:"),
    "two spellings": (
        "{type: escalate, reason: done}", "{type: gate_check, check: equals, schema: equals}", "MISSION_MISSING_PARAMETER@tell:",
    ),
    "template syntax": ("{type: escalate, reason: done}", "{type: template, template: '{{ x'}", "template.invalid@tell:"),
    "code from a value": (
        "{type: escalate, reason: done}", "{type: template, template: 'a ${inputs.goal}'}", "MISSION_REFERENCE_FORBIDDEN@'a $",
    ),
    "choices": ("{type: escalate, reason: done}", "{type: approval, message: ok?, choices: [no]}", "validation.bad_config@tell:"),
    "empty file": (SMALL, "# nothing\n", "MISSION_EMPTY@#"),
    "not a mapping": (SMALL, "[1]\n", "MISSION_VALUE@[1]"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_mistake_has_its_code_and_place(name: str) -> None:
    old, new, expected = CASES[name]
    code, _, pointed = expected.partition("@")
    text = small(old, new)
    problems = found(text)
    matching = [item for item in problems if item.code == code]
    assert matching, [str(item) for item in problems]
    assert any(at(text, item).startswith(pointed) for item in matching), [str(item) for item in matching]
    for item in problems:
        assert item.message
        assert item.snippet


def test_a_block_that_expects_a_refusal_may_try_what_is_forbidden() -> None:
    text = small("path: src/a.txt", "path: ../../etc/passwd, accept: [op.path_traversal]")
    text = text.replace(
        "tool: filesystem.write_file, path: src/b.txt", "tool: git.push, accept: [op.tool_unknown], path: x"
    )
    assert codes(text.replace("${outputs.read.content}", "${outputs.read.output.content}")) == []


def test_a_verdict_is_reached_through_output() -> None:
    text = small("path: src/a.txt", "path: src/a.txt, accept: [op.tool_conflict]")
    [problem] = found(text)
    assert problem.code == "MISSION_REFERENCE"
    assert problem.hint == "write ${outputs.read.output.content}"


def test_positions_inside_block_text_and_escaped_text_are_found() -> None:
    text = small('content: "${outputs.read.content}"', 'content: "a\\n${outputs.raed.content}"')
    assert [at(text, item)[:15] for item in found(text)] == ["${outputs.raed."]
    text = small(
        "  tell:  {type: escalate, reason: done}",
        "  tell:\n    type: escalate\n    reason: |\n      a\n      b ${inputs.x}\n",
    )
    assert [at(text, item) for item in found(text)] == ["${inputs.x}"]


def test_joins_and_repeated_links() -> None:
    text = small("[read -> write -> tell]", "[read -> write, read -> tell, write -> tell, read -> tell]")
    mission = load_bytes(text.encode(), Path("m.yaml"))
    assert mission.graph.after()["tell"] == ("read", "write")
    assert len(mission.graph.links) == 3


def test_handlers_and_fallbacks_need_no_link_and_see_what_their_principal_saw() -> None:
    text = small(
        "reason: done}", "reason: done, fallback: spare}\n  spare: {type: escalate, reason: '${outputs.read.content}'}"
    )
    assert codes(text) == []
    text = text.replace("links:", "on_error: {write: rescue}\nlinks:").replace(
        "  spare:", "  rescue: {type: escalate, reason: '${outputs.read.content}'}\n  spare:"
    )
    assert codes(text) == []
    assert codes(text.replace("'${outputs.read.content}'}\n  spare", "'${outputs.tell.x}'}\n  spare")) == [
        "validation.source_not_upstream"
    ]
    assert codes(small("reason: done", "reason: done, fallback: read").replace("path: src/a.txt", "path: src/a.txt, fallback: tell")) == [
        "graph.cycle", "graph.cycle",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "code", "pointed"),
    [
        ("outputs.check.ok,", "outputs.chek.ok,", "MISSION_CONDITION", "outputs.chek.ok"),
        ("outputs.check.ok,", "inputs.x == 1 && 3,", "MISSION_CONDITION", "inputs.x"),
        ("outputs.check.ok,", "outputs.commit.ok,", "validation.source_not_upstream", "outputs.commit.ok"),
        ("to: commit}", "to: comit}", "graph.unknown_target", "comit}"),
        ("{when: outputs.check.ok, to: commit}, {otherwise: give_up}", "{otherwise: give_up}, {otherwise: commit}",
         "graph.default_not_last", "{otherwise: give_up}"),
        ("{type: gate_check, check: non_empty, condition: {value: x}, accept: [op.gate_not_passed]}",
         "{type: cron, cron: '0 9 * * *'}", "validation.recurring_not_entry", "check]"),
        ("to: commit}", "then: commit}", "MISSION_UNKNOWN_KEY", "then"),
        (", {otherwise: give_up}", "", "graph.no_default", "check:"),
        ("[give_up -> check]", "[give_up -> check -> commit]", "graph.mixed_discipline", "commit]"),
        ("[give_up -> check]", "[give_up -> check, give_up -> commit]", "graph.mixed_discipline", "commit]"),
        ("branches: {check:", "branches: {chekc:", "graph.unknown_target", "chekc"),
    ],
)  # fmt: skip
def test_routed_missions_are_checked(old: str, new: str, code: str, pointed: str) -> None:
    assert old in ROUTED
    text = ROUTED.replace(old, new)
    matching = [item for item in found(text) if item.code == code]
    assert matching, codes(text)
    assert at(text, matching[0]).startswith(pointed)


def test_commands_are_templates_with_declared_arguments() -> None:
    assert codes(COMMANDS) == []
    templates = load_bytes(COMMANDS.encode(), Path("m.yaml")).spec.commands.templates
    assert templates == {"count": {"argv": ("wc", "-l", "${file}"), "args": {"file": "path"}, "writes": ("out",)}}


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("template: count", "template: cuont", "MISSION_UNKNOWN_COMMAND"),
        ("count, file: a", "count, fiel: a", "MISSION_COMMAND_ARGS"),
        ("count, file: a", "count", "MISSION_COMMAND_ARGS"),
        ("template: count", "template: '${inputs.goal}'", "MISSION_REFERENCE_FORBIDDEN"),
        ("[wc, '-l', '${file}']", "wc -l", "MISSION_VALUE"),
        ("[wc, '-l', '${file}']", "[wc, '${other}']", "MISSION_COMMAND_ARGS"),
        ("[wc, '-l', '${file}']", "['${file}']", "MISSION_COMMAND_ARGS"),
        ("args: {file: path}", "args: {file: {type: path, defualt: x}}", "MISSION_UNKNOWN_KEY"),
        ("args: {file: path}", "args: {file: url}", "MISSION_VALUE"),
        ("writes: [out]", "writes: [../out]", "MISSION_PATH_ESCAPE"),
        ("  count: {", "  Count: {", "MISSION_NAME"),
    ],
)
def test_mistakes_in_commands(old: str, new: str, code: str) -> None:
    assert old in COMMANDS
    assert code in codes(COMMANDS.replace(old, new))


def test_an_argument_with_a_default_may_be_left_out() -> None:
    text = COMMANDS.replace("args: {file: path}", "args: {file: {type: path, default: a}}").replace(
        "count, file: a", "count"
    )
    assert codes(text) == []


def test_codes_nobody_raises_are_only_a_warning() -> None:
    [problem] = found(small("reason: done", "reason: done, accept: [op.test_faild]"))
    assert (problem.severity, problem.hint) == ("warning", "did you mean 'op.test_failed'?")


# -- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("patch.schema.json", "missing.json", "MISSION_FILE"),
        ("patch.schema.json", "../outside.json", "MISSION_PATH_ESCAPE"),
        ("patch.schema.json", "link.json", "MISSION_PATH_ESCAPE"),
        ("patch.schema.json", "broken.json", "MISSION_FILE"),
        ("patch.schema.json", "list.json", "MISSION_FILE"),
        ("patch.schema.json", "pipe", "MISSION_FILE"),
        ("patch.schema.json", "project", "MISSION_FILE"),
        ("patch.schema.json", "huge.json", "MISSION_FILE"),
        ("answers.yaml}", "../outside.json}", "MISSION_PATH_ESCAPE"),
        ("answers.yaml}", "/etc/passwd}", "MISSION_PATH_ESCAPE"),
        ("from: project", "from: answers.yaml", "MISSION_FILE"),
        ("from: project", "from: escape", "MISSION_PATH_ESCAPE"),
        ("from: project", "from: ..", "MISSION_PATH_ESCAPE"),
    ],
)
def test_files_a_mission_names_are_regular_and_inside_its_folder(folder: Path, old: str, new: str, code: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    for item in ("project", "patch.schema.json", "answers.yaml"):
        (folder / item).rename(inner / item)
    (folder / "outside.json").write_text("{}")
    (inner / "link.json").symlink_to(folder / "outside.json")
    (inner / "escape").symlink_to(folder)
    (inner / "broken.json").write_text("{")
    (inner / "list.json").write_text("[]")
    (inner / "huge.json").write_text(" " * (256 * 1024) + "{}")
    os.mkfifo(inner / "pipe")
    assert old in FIX_THE_BUILD
    assert codes(FIX_THE_BUILD.replace(old, new), inner) == [code]


def test_what_cannot_be_read_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1024 * 1024))
    (tmp_path / "loop").symlink_to("loop")
    for name, code in [
        ("absent", "MISSION_NOT_FOUND"),
        ("", "MISSION_NOT_FOUND"),
        ("loop", "MISSION_NOT_FOUND"),
        ("a\0b", "MISSION_NOT_FOUND"),
        ("x" * 5000, "MISSION_NOT_FOUND"),
        ("pipe", "MISSION_FILE"),
        ("big.yaml", "MISSION_TOO_LARGE"),
    ]:
        [problem] = lint(tmp_path / name)
        assert problem.code == code


def test_the_operators_own_link_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(folder)
    assert load(tmp_path / "shortcut").mission_hash == load(folder).mission_hash
