"""A refusal names the rule that decided, and whose it is: the mission's envelope or the block's own on top of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.kernel.model import Access, Effect, Envelope, ExecutionContext, Operation, OperationPlan, PlannedPath

MISSION: dict[str, Any] = {
    "allowed_paths": ["docs/**", "in/**"],
    "denied_paths": ["x/**", "docs/secret/**"],
    "allowed_tools": ["filesystem"],
    "allowed_roles": ["runner", "steward"],
    "allow_ops": ["tool_invoke", "llm_call"],
    "max_budget_usd": 1,
    "timeout_seconds": 30,
}
WRITE = OperationPlan(Effect.WRITE, tool="filesystem.write_file")


def on(path: str, access: Access = Access.CREATE) -> OperationPlan:
    return replace(WRITE, paths=(PlannedPath(path, access),))


@pytest.mark.parametrize(
    ("block", "plan", "role", "rule"),
    [
        ({}, on("src/a"), "runner", "envelope.allowed_paths"),
        ({"allowed_paths": ["docs/b"]}, on("docs/a"), "runner", "step envelope.allowed_paths"),
        ({}, on("docs/SECRET/k", Access.READ), "runner", "envelope.denied_paths: docs/secret/**"),
        ({"denied_paths": ["docs/*"]}, on("docs/a"), "runner", "step envelope.denied_paths: docs/*"),
        ({}, on("in/a"), "runner", "envelope.write_paths"),
        ({}, replace(WRITE, tool="git.add"), "runner", "envelope.allowed_tools"),
        ({"allowed_tools": []}, WRITE, "runner", "step envelope.allowed_tools"),
        ({}, WRITE, "builder", "envelope.allowed_roles"),
        ({"allowed_roles": ["builder"]}, WRITE, "runner", "step envelope.allowed_roles"),
        ({"allow_ops": []}, WRITE, "runner", "step envelope.allow_ops"),
        ({}, WRITE, "verifier", "roles: verifier"),
        ({}, on("docs/a"), "steward", "roles: steward"),
        ({"max_budget_usd": 0.5}, replace(WRITE, reserve_micros=600_000), "runner", "step envelope.max_budget_usd"),
        ({}, replace(WRITE, reserve_micros=2_000_000), "runner", None),  # the ledger knows which limit that is
    ],
)
def test_the_rule_that_decides(
    tmp_path: Path, block: dict[str, Any], plan: OperationPlan, role: str, rule: str | None
) -> None:
    context = ExecutionContext(
        run_id="sha256:" + "0" * 64,
        run_id_audit="00000000-0000-4000-8000-000000000001",  # type: ignore[arg-type]
        repo_root=tmp_path,
        baseline_commit="0" * 40,
        acting_role=role,
    )
    stack = (Envelope(**MISSION), Envelope(**{**MISSION, **block}))
    (tmp_path / "work").mkdir()
    with EnvelopeEnforcer(tmp_path / "work", write_paths=["docs/**"]) as enforcer:
        verdict = enforcer.validate_operation(Operation("s.0", "tool_invoke", {}), context, plan, stack)
    assert not verdict
    assert verdict.evidence.get("rule") == rule
