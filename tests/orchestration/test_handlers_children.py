"""``run_tests`` and ``process.run``: real child processes, judged by reports (operations spec §3.5, R48–R50)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.errors import Refused
from runtime.kernel.model import OperationStatus
from runtime.orchestration.handlers.children import scratch, tail_of
from runtime.orchestration.handlers.process import template
from runtime.orchestration.handlers.tests_run import interpreter, read_report
from tests.support.operation_rig import Rig
from tests.support.repositories import repository, sh

GOOD = "def test_one():\n    assert True\n"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    git = repository(tmp_path / "tree", {"tests/test_a.py": GOOD, "out/keep.txt": "1\n"})
    return Rig(tmp_path / "tree", git=git, python=sys.executable)


async def run_tests(rig: Rig, *paths: str, **params: Any) -> Any:
    return await rig.do("run_tests", {"test_paths": list(paths) or ["tests"], **params})


async def test_green_tests_pass_and_leave_no_trace(rig: Rig) -> None:
    lines: list[str] = []
    result = await rig.do("run_tests", {"test_paths": ["tests"]}, on_output=lambda stream, text: lines.append(text))
    assert result.ok, result.output
    assert (result.output["passed"], result.output["executed"], result.output["failures"]) == (True, 1, 0)
    assert "1 passed" in result.output["stdout"]
    assert "1 passed" in "".join(lines)
    assert result.output["stdout_artifact"] in rig.artifacts.bodies
    assert sh(rig.root, "status", "--porcelain", "--ignored") == ""
    assert list((rig.root.parent / "scratch").iterdir()) == []
    receipt = result.receipt
    assert receipt is not None
    assert receipt.affected_paths == ("tests/test_a.py",)
    assert receipt.pre_workspace == receipt.post_workspace is not None


async def test_red_tests_fail_and_say_which(rig: Rig) -> None:
    (rig.root / "tests/test_a.py").write_text(GOOD + "def test_two():\n    assert 1 == 2\n")
    result = await run_tests(rig, "tests/test_a.py")
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "TEST_FAILED")
    assert result.output["failed_tests"] == ["tests.test_a::test_two"]
    assert "1 == 2" in result.output["stdout"]
    assert result.compensation_status == "not_needed"


async def test_paths_outside_the_envelope_are_refused(rig: Rig) -> None:
    assert (await run_tests(rig, "../x")).reason_code == "PATH_TRAVERSAL"
    assert (await rig.do("run_tests", {"test_paths": ["no_such.py"]}, id="s1.1")).reason_code == "PATH_MISSING"


async def test_a_test_cannot_forge_its_report_with_entities(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    assert read_report(report) is None
    report.write_text('<!DOCTYPE x [<!ENTITY a "b">]><testsuites/>')
    assert read_report(report) is None
    report.write_text("<testsuites><testsuite><testcase name='a'/><testcase name='b'><skipped/></testcase>")
    assert read_report(report) is None
    report.write_text("<testsuites><testcase name='a'/><testcase name='b'><skipped/></testcase></testsuites>")
    found = read_report(report)
    assert found is not None
    assert (found.tests, found.executed) == (2, 1)


def test_the_interpreter_is_the_projects_own(rig: Rig) -> None:
    assert interpreter(rig.settings) == Path(sys.executable)
    rig.python = None
    rig.__post_init__()
    assert interpreter(rig.settings) == Path(sys.executable)
    own = rig.root / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert interpreter(rig.settings) == own
    rig.python = "no/such/python"
    rig.__post_init__()
    with pytest.raises(Refused, match=r"commands\.python"):
        interpreter(rig.settings)


async def test_pytest_run_is_the_same_as_a_tool(rig: Rig) -> None:
    result = await rig.tool("pytest.run", test_paths=["tests"], min_tests=2)
    assert (result.output["executed"], result.reason_code) == (1, "TEST_NONE_RUN")


# process.run

SH = ["sh", "-c"]


def with_commands(rig: Rig, **commands: Any) -> Rig:
    rig.commands = commands
    rig.__post_init__()
    return rig


async def test_a_template_runs_with_its_values(rig: Rig) -> None:
    with_commands(rig, say={"argv": ["echo", "n=${n}", "${word}"], "args": {"n": "integer", "word": "string"}})
    result = await rig.tool("process.run", template="say", n=3, word="a b; rm")
    assert result.output["stdout"] == "n=3 a b; rm\n"
    assert result.receipt is not None
    assert result.receipt.effect == "execute"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"template": "other"}, "TOOL_UNKNOWN"),
        ({"template": "say", "n": "3", "word": "x"}, "PROCESS_ARG"),
        ({"template": "say", "n": True, "word": "x"}, "PROCESS_ARG"),
        ({"template": "say", "n": 3, "word": "--force"}, "PROCESS_ARG"),
        ({"template": "say", "n": 3}, "OP_PARAMS"),
        ({"template": "say", "n": 3, "word": "x", "more": 1}, "OP_PARAM_UNKNOWN"),
    ],
)
async def test_values_of_the_wrong_kind(rig: Rig, params: dict[str, Any], code: str) -> None:
    with_commands(rig, say={"argv": ["echo", "${n}", "${word}"], "args": {"n": "integer", "word": {"type": "string"}}})
    assert (await rig.tool("process.run", **params)).reason_code == code


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"argv": []},
        {"argv": ["${prog}"], "args": {"prog": "string"}},
        {"argv": ["echo", "${n}"]},
        {"argv": ["echo"], "args": {"n": "string"}},
        {"argv": ["echo", "${n}"], "args": {"n": "regex"}},
        {"argv": ["echo"], "shell": True},
    ],
)
def test_templates_that_are_none(raw: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="PROCESS_TEMPLATE"):
        template("t", raw)


async def test_a_failing_command_puts_its_folder_back(rig: Rig) -> None:
    script = "echo 2 > out/keep.txt; mkdir out/new; echo x > out/new/x; exit 3"
    with_commands(rig, make={"argv": [*SH, script], "writes": ["out"]})
    result = await rig.tool("process.run", template="make")
    assert (result.reason_code, result.output["exit_code"]) == ("PROCESS_EXIT", 3)
    assert result.compensation_status == "completed"
    assert (rig.root / "out/keep.txt").read_text() == "1\n"
    assert not (rig.root / "out/new").exists()


async def test_a_command_may_write_what_it_declared_and_nothing_else(rig: Rig) -> None:
    with_commands(
        rig,
        good={"argv": [*SH, "echo x > out/new.txt"], "writes": ["out"]},
        bad={"argv": [*SH, "echo x > out/more.txt; echo x > tests/sneaky.txt"], "writes": ["out"]},
    )
    assert (await rig.tool("process.run", template="good")).ok
    assert (rig.root / "out/new.txt").exists()
    result = await rig.tool("process.run", id="s1.1", template="bad")
    assert result.reason_code == "OP_UNDECLARED_EFFECT"
    assert not (rig.root / "out/more.txt").exists()
    assert (rig.root / "tests/sneaky.txt").exists()  # listed, never removed


async def test_cancelling_a_command_kills_it_and_undoes_it(rig: Rig) -> None:
    with_commands(rig, slow={"argv": [*SH, "echo half > out/keep.txt; echo go; sleep 60"], "writes": ["out"]})
    begun = asyncio.Event()
    params = {"tool": "process.run", "template": "slow"}
    task = asyncio.ensure_future(rig.do("tool_invoke", params, on_output=lambda stream, text: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (rig.root / "out/keep.txt").read_text() == "1\n"
    assert [item["reason_code"] for item in rig.receipts()] == ["OP_CANCELLED", None]


async def test_scratch_goes_even_when_a_child_locked_it(tmp_path: Path) -> None:
    async with scratch(tmp_path / "s") as folder:
        (folder / "locked").mkdir()
        (folder / "locked/x").touch()
        (folder / "link").symlink_to(tmp_path)
        (folder / "locked").chmod(0)
    assert list((tmp_path / "s").iterdir()) == []
    assert tmp_path.exists()


def test_long_output_keeps_its_ends() -> None:
    assert tail_of(b"a" * 10 + b"b" * 100 + b"c" * 10, 20) == "a" * 10 + "\n… 100 bytes left out …\n" + "c" * 10
