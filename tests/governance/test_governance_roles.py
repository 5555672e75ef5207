"""The role table, cell by cell (operations spec §9.4, relaxation 3)."""

from __future__ import annotations

import pytest

from runtime.governance.roles import check_capability, is_role, may_be_called

COLUMNS = {
    "model": ("llm_call", None),
    "read": ("tool_invoke", "filesystem.read_file"),
    "write": ("tool_invoke", "filesystem.write_file"),
    "git": ("tool_invoke", "git.commit"),
    "tests": ("run_tests", None),
    "gate": ("gate_check", None),
    "route": ("packet_route", None),
    "other": ("tool_invoke", "process.run"),
}
ADVISER = {"read", "gate", "route"}
ROWS = {
    "designer": ADVISER,
    "reviewer_security": ADVISER,
    "council_chair": ADVISER,
    "builder": {*ADVISER, "model", "write", "tests"},
    "steward": {*ADVISER, "write", "git"},  # write: declared state files only, see the enforcer
    "verifier": {*ADVISER, "tests"},
    "runner": set(COLUMNS),
}


@pytest.mark.parametrize("role", ROWS)
@pytest.mark.parametrize("column", COLUMNS)
def test_table(role: str, column: str) -> None:
    verdict = check_capability(role, *COLUMNS[column])
    assert verdict.allowed is (column in ROWS[role])
    assert verdict.code == ("OK" if verdict else "ENV_ROLE")


@pytest.mark.parametrize("role", ["", "root", "Builder", "operator", "reviewer_", "reviewer_X", "builder ", None])
def test_unknown_roles_can_do_nothing(role: str) -> None:
    assert not is_role(role)
    for column in COLUMNS.values():
        assert check_capability(role, *column).code == "ENV_ROLE"


def test_unknown_operations_and_tools() -> None:
    assert not check_capability("runner", "reboot")
    assert not check_capability("builder", "tool_invoke", "mail.send")
    assert not check_capability("builder", "tool_invoke", None)
    assert check_capability("runner", "tool_invoke", "mcp_files.read")


def test_who_a_model_may_answer_as() -> None:
    assert [
        role for role in ("designer", "builder", "planner", "reviewer_x", "runner") if not may_be_called(role)
    ] == []
    assert [role for role in ("steward", "verifier", "operator", "", "Planner", "a.b") if may_be_called(role)] == []
