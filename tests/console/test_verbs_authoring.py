"""`graph` and `init`: what an author sees and gets, without a store."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from console.cli import main
from runtime.host.api import Exit

ROUTED = """\
mission: routed
version: "1"
workspace: {from: files}
blocks:
  ask: {type: echo}
  again: {type: delay, seconds: 1, timeout: 5}
  tell: {type: template, template: "{{ value }}"}
branches:
  ask: [{when: "value == 'no\\"]\\x07'", to: again}, {otherwise: tell}]
links: [again -> ask]
on_error: {ask: tell}
"""


@pytest.fixture
def mission(tmp_path: Path) -> str:
    (tmp_path / "files").mkdir()
    (tmp_path / "mission.yaml").write_text(ROUTED, encoding="utf-8")
    return str(tmp_path)


def test_graph_shows_a_mission_as_text_without_running_it(mission: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", mission]) == Exit.OK
    assert capsys.readouterr().out.splitlines() == [
        "routed: routed, multiple any -> once string",
        "  * ask [echo] multiple any -> once string",
        "      --> again (value == 'no\"]\\u0007')",
        "      --> tell (default)",
        "      ..> tell (on error)",
        "  - again [delay] multiple any -> once any",
        "      --> ask",
        "  - tell [template] multiple any -> once string",
    ]


def test_graph_as_mermaid_and_as_json(mission: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", mission, "--format", "mermaid"]) == Exit.OK
    chart = capsys.readouterr().out
    assert chart.startswith("flowchart TD\n")
    assert "\x07" not in chart
    assert main(["graph", mission, "--format", "json"]) == Exit.OK
    data = json.loads(capsys.readouterr().out)
    assert main(["graph", mission, "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == data
    assert [(node["name"], node["timeout"]) for node in data["nodes"]] == [
        ("ask", None),
        ("again", 5.0),
        ("tell", None),
    ]
    assert data["branches"]["ask"][1] == {"condition": "default", "target": "tell"}
    assert (data["entry"], data["discipline"], data["issues"]) == ("ask", "routed", [])


def test_graph_of_a_broken_mission_reports_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mission.yaml").write_text(ROUTED.replace("type: echo", "type: ecko"), encoding="utf-8")
    assert main(["graph", str(tmp_path)]) == Exit.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert "validation.block_unavailable" in told.err


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_init_block_makes_a_block_whose_own_tests_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert main(["init", "block", "mark_up", str(tmp_path), "--json"]) == Exit.OK
    home = tmp_path / "blocks" / "mark_up"
    created = json.loads(capsys.readouterr().out)["created"]
    assert {str(home / name) for name in ("mark_up.py", "test_mark_up.py", "pack.bin")} == set(created)
    try:
        load(home / "mark_up.py")
        tests = load(home / "test_mark_up.py")
        promised = [getattr(tests, name) for name in dir(tests) if name.startswith("test_")]
        assert len(promised) == 2
        for promise in promised:
            promise()
    finally:
        sys.modules.pop("mark_up", None)
        sys.modules.pop("test_mark_up", None)
    assert main(["init", "block", "mark_up", str(tmp_path)]) != Exit.OK
    assert "INIT_EXISTS" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Shout", "1st", "a-b", "../x", "class", "json", "echo", "map_over", ""])
def test_init_block_refuses_what_cannot_be_a_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "block", name, str(tmp_path)]) == Exit.USAGE
    assert "INIT_NAME" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_one_word_is_always_a_missions_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "block"]) == Exit.OK
    assert (tmp_path / "block" / "mission.yaml").is_file()
    assert main(["init"]) == Exit.OK
    assert (tmp_path / "mission.yaml").is_file()
    assert main(["init", "two", "words"]) == Exit.USAGE
    assert main(["init", "block", "a", "b", "c"]) == Exit.USAGE
    assert "INIT_WORDS" in capsys.readouterr().err
