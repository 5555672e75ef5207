"""Traps of the operations specification (§14): what fails when the defence is taken away.

| trap | shown by |
|---|---|
| W4 checks injected but never called; kill switch not asked per operation | 4.a, 4.c; here: an operation after the stop |
| W5 a stub, a failed gate or failed tests report success | 3.a, 3.b, 3.f; here: failing tests |
| W6 prefix test of paths, open arguments, surviving children, any `python` | 3.d, 3.e; here: the interpreter, siblings |
| W7 a violation swallowed as an ordinary failure | here |
| W8 an empty list allows everything | 2.b; here: spelled out, and in every envelope of a stack |
| W13 state hash without framing, folders unseen, missing imitable, outside read, no paths | 5.a–5.c, 5.f, golden state of nothing; here: the plan's paths |
| W20 times, compressors and tools in the archive; missing files skipped; a later import | 12.a, 12.b; 12.d; 12.e |
| W21 several classes of one name; a denied result that is truthy | 2.e; here: one class per name |
| W22 conditions as text; approvals not bound; a role out of params | 11.d, 11.2; here: the role |

The other traps stand beside the sections that close them.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.host.api import RunStatus
from runtime.kernel.model import Envelope, OperationStatus
from runtime.orchestration.operation_ports import KillSwitchActive
from runtime.orchestration.run_controller import KillSwitch
from runtime.orchestration.state_hash import compute_state_hash
from tests.support.hosting import entries, hosting, run_to_end, write_mission
from tests.support.operation_rig import Rig
from tests.support.plain_runner import PlainRunner
from tests.support.repositories import repository


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    files = {"a.txt": "one\n", "tests/test_a.py": "def test_one():\n    assert 1 == 2\n", "tests_of_others/x": ""}
    return Rig(tmp_path / "tree", git=repository(tmp_path / "tree", files))


async def test_w4_the_stop_file_is_looked_for_before_every_operation(rig: Rig) -> None:
    """Reading needs no intention on disk, so only the look before it can stop it."""
    rig.build(guard=KillSwitch(rig.root).check)
    assert (await rig.tool("filesystem.read_file", path="a.txt")).ok
    (rig.root / "STOP_AUTONOMY").symlink_to("nowhere")
    with pytest.raises(KillSwitchActive):
        await rig.tool("filesystem.read_file", id="s1.1", path="a.txt")
    assert rig.kinds()[2:] == ["operation_denied", "receipt"]
    assert rig.receipts()[1]["reason_code"] == "KILL_SWITCH"


async def test_w5_failing_tests_are_a_failure_and_w6_not_by_any_python(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A `python` that says all is well stands first on the path, and is not asked."""
    for name in ("python", "python3", "pytest"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    result = await rig.do("run_tests", {"test_paths": ["tests"]})
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "TEST_FAILED")
    assert [item["status"] for item in rig.receipts()] == ["failed"]
    assert isinstance(rig.runner, PlainRunner)
    assert [spec.argv[0] for spec in rig.runner.specs if "pytest" in spec.argv] == [sys.executable]


@pytest.mark.parametrize(("pattern", "path"), [("tests/**", "tests_of_others/x"), ("tests/test_a.py", "tests"), ("tests_of", "tests_of_others/x")])  # fmt: skip
async def test_w6_a_common_beginning_is_no_permission_either_way(rig: Rig, pattern: str, path: str) -> None:
    rig.envelope = Envelope(allowed_paths=[pattern], allowed_tools=["filesystem"], allowed_roles=["runner"])
    rig.__post_init__()
    action = "list_dir" if path == "tests" else "read_file"
    assert (await rig.tool(f"filesystem.{action}", path=path)).reason_code == "POLICY_NOT_ALLOWED"


STRAYING = """\
mission: straying
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["docs/**"], allowed_tools: [filesystem.write_file]}
blocks:
  stray: {type: tool_invoke, tool: filesystem.write_file, path: src/x, content: x, OPTION}
  spare: {type: template, template: spare}
  next: {type: template, template: went on}
links: LINKS
"""


@pytest.mark.parametrize(
    ("option", "links"),
    [
        ("optional: true", "[stray -> next -> spare]"),
        ("fallback: spare", "[stray -> next]"),
        ("retry: {max_attempts: 3, retry_on: [op.policy_not_allowed]}", "[stray -> next -> spare]"),
        ("optional: false", "[stray -> next]\non_error: {stray: spare}"),
    ],
    ids=["optional", "fallback", "retry", "on_error"],
)
async def test_w7_no_way_of_going_on_swallows_a_violation(tmp_path: Path, option: str, links: str) -> None:
    """Ruling R16: only `accept`, which names the code, lets a run go on; everything else ends it with exit 4."""
    (tmp_path / "tree").mkdir()
    text = STRAYING.replace("OPTION", option).replace("LINKS", links)
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, write_mission(tmp_path / "m", text), inputs={"root": str(tmp_path / "tree")})
        assert (run.status, run.code, run.exit_code) == (RunStatus.FAILED, "op.policy_not_allowed", 4)
        assert run.violations == len(await entries(host, run.run_id, "operation_denied")) == 1, "and it is tried once"
        assert "next" not in {item["step_id"] for item in await entries(host, run.run_id, "step_started")}


async def test_w8_an_empty_list_allows_nothing_anywhere_in_the_stack(rig: Rig) -> None:
    open_: dict[str, Any] = {
        "allowed_paths": ["**"], "allowed_tools": ["filesystem"], "allowed_roles": ["runner"], "allow_ops": ["tool_invoke"],
    }  # fmt: skip
    codes = []
    for number, name in enumerate(open_):
        stack = (rig.envelope, Envelope(**{**open_, name: []}), Envelope(**open_))
        read = {"tool": "filesystem.read_file", "path": "a.txt"}
        codes.append((await rig.do("tool_invoke", read, id=f"s1.{number}", stack=stack)).reason_code)
    assert codes == ["POLICY_NOT_ALLOWED", "ENV_TOOL", "ENV_ROLE", "ENV_OP"]


async def test_w13_the_hashed_paths_are_those_of_the_plan(rig: Rig) -> None:
    """Nobody passes a list of paths that could be empty: the write itself says which (ruling R21)."""
    before = compute_state_hash(["new.txt"], rig.root)
    result = await rig.tool("filesystem.write_file", path="new.txt", content="x")
    assert result.receipt is not None
    assert result.receipt.affected_paths == ("new.txt",)
    assert result.receipt.pre_state_hash == before != compute_state_hash([], rig.root)
    assert result.receipt.post_state_hash == compute_state_hash(["new.txt"], rig.root) != before


def classes() -> Iterator[tuple[str, str]]:
    """Name and bases of every class of the runtime."""
    for file in Path(next(iter(runtime.__path__))).rglob("*.py"):
        yield from re.findall(r"^class (\w+)(?:\(([^)]*)\))?:", file.read_text(encoding="utf-8"), re.MULTILINE)


def test_w21_every_error_and_every_verdict_is_one_class() -> None:
    found = list(classes())
    counts = Counter(name for name, _ in found)
    errors = {"BaseException", "Exception", "ValueError"}
    while more := {name for name, bases in found if errors & set(re.split(r"[,\s]+", bases))} - errors:
        errors |= more
    assert len(errors) > 20, "they are found"
    verdicts = {"ValidationResult", "OperationResult", "OperationReceipt", "HandlerOutcome", "CompensationOutcome"}
    assert {name: counts[name] for name in errors | verdicts if counts[name] > 1} == {}
    assert {"EnvelopeViolation", "InvalidCompensation", "KillSwitchActive"} <= errors
    assert verdicts <= counts.keys()


@pytest.mark.parametrize("name", ["role", "acting_role"])
async def test_w22_no_parameter_gives_a_role(rig: Rig, name: str) -> None:
    rig.ctx = rig.with_context(acting_role="verifier")
    claimed = await rig.tool("filesystem.write_file", path="new.txt", content="x", **{name: "runner"})
    assert claimed.reason_code == "OP_PARAM_UNKNOWN"
    plain = await rig.tool("filesystem.write_file", id="s1.1", path="new.txt", content="x")
    assert plain.reason_code == "ENV_ROLE"
    assert not (rig.root / "new.txt").exists()
