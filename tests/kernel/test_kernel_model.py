"""The shared records validate themselves, never change, and say no by default (operations spec §2)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kernel import globs
from runtime.kernel.canonical import RECEIPT_GENESIS, canonical_bytes, digest
from runtime.kernel.errors import ModelError
from runtime.kernel.model import (
    Access,
    CompensationType,
    Effect,
    Envelope,
    ExecutionContext,
    Operation,
    OperationPlan,
    OperationReceipt,
    PlannedPath,
    frozen,
    micros,
    thawed,
)

RUN = "sha256:" + "0" * 64
AUDIT = "00000000-0000-4000-8000-000000000001"
COMMIT = "0" * 40


def context(**changes: Any) -> ExecutionContext:
    members: dict[str, Any] = {
        "run_id": RUN,
        "run_id_audit": AUDIT,
        "repo_root": ".",
        "baseline_commit": COMMIT,
    }
    return ExecutionContext(**{**members, **changes})


def code_of(make: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ModelError) as caught:
        make(*args, **kwargs)
    assert isinstance(caught.value, ValueError)
    return caught.value.code


def test_context_root_is_real(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert context(repo_root=link).repo_root == real.resolve()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"run_id": "0" * 64}, "CTX_RUN_ID"),
        ({"run_id": None}, "CTX_RUN_ID"),
        ({"baseline_commit": "HEAD"}, "CTX_COMMIT"),
        ({"baseline_commit": None}, "CTX_COMMIT"),
        ({"run_id_audit": "x"}, "CTX_AUDIT_ID"),
        ({"run_id_audit": 5}, "CTX_AUDIT_ID"),
        ({"run_id_audit": None}, "CTX_AUDIT_ID"),
    ],
)
def test_context_refusals(change: dict[str, Any], code: str) -> None:
    assert code_of(context, **change) == code


def test_default_envelope_allows_nothing() -> None:
    envelope = Envelope()
    assert envelope.allowed_paths == envelope.allowed_tools == envelope.allowed_roles == ()
    assert envelope.max_budget_micros == 0
    assert envelope.reject_symlinks
    assert envelope.timeout_seconds == 60


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(0, 0), (0.1, 100_000), (1.1, 1_100_000), (0.000001, 1), (1_000_000, 10**12), (0.29, 290_000)],
)
def test_money_is_converted_on_its_decimal_text(budget: float, expected: int) -> None:
    assert Envelope(max_budget_usd=budget).max_budget_micros == expected


@given(st.integers(0, 10**12))
def test_micros_round_trip(amount: int) -> None:
    # With at most 15 significant digits the shortest decimal text of the float is the amount itself.
    assert micros(float(f"{amount // 10**6}.{amount % 10**6:06d}")) == amount


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"timeout_seconds": True}, "ENV_TIMEOUT"),
        ({"timeout_seconds": 0}, "ENV_TIMEOUT"),
        ({"timeout_seconds": 86_401}, "ENV_TIMEOUT"),
        ({"timeout_seconds": 1.5}, "ENV_TIMEOUT"),
        ({"allowed_pathz": []}, "ENV_UNKNOWN_FIELD"),
        ({"allowed_paths": ["ok", "a**"]}, "GLOB_INVALID"),
        ({"denied_paths": ["/etc/**"]}, "GLOB_INVALID"),
        ({"allowed_paths": "docs/**"}, "ENV_TYPE"),
        ({"allowed_paths": 5}, "ENV_TYPE"),
        ({"allowed_tools": [""]}, "ENV_TYPE"),
        ({"allowed_roles": [None]}, "ENV_TYPE"),
        ({"reject_symlinks": 1}, "ENV_TYPE"),
        ({"allow_ops": "llm_call"}, "ENV_TYPE"),
    ],
)
def test_envelope_refusals(members: dict[str, Any], code: str) -> None:
    assert code_of(Envelope, **members) == code


def test_envelope_hash_ignores_order_and_duplicates_only() -> None:
    one = Envelope(allowed_paths=["b", "a", "a"], allow_ops=["x", "y"])
    two = Envelope(allow_paths=["a", "b"], allow_ops=["y", "x"])
    assert one.envelope_hash == two.envelope_hash
    assert set(one.record()) == {
        "schema",
        "allow_ops",
        "allowed_paths",
        "denied_paths",
        "allowed_tools",
        "allowed_roles",
        "reject_symlinks",
        "max_budget_micros",
        "timeout_seconds",
    }
    others = [
        Envelope(allowed_paths=["a", "b"]),
        Envelope(allowed_paths=["a", "b"], allow_ops=[]),
        Envelope(denied_paths=["a", "b"], allow_ops=["x", "y"]),
        Envelope(allowed_paths=["a", "b"], allow_ops=["x", "y"], reject_symlinks=False),
        Envelope(allowed_paths=["a", "b"], allow_ops=["x", "y"], max_budget_usd=1),
    ]
    assert len({one.envelope_hash, *(other.envelope_hash for other in others)}) == 6


def test_envelope_never_changes() -> None:
    lists = ["a"]
    envelope = Envelope(allowed_paths=lists)
    lists.append("**")
    assert envelope.allowed_paths == ("a",)
    with pytest.raises(FrozenInstanceError):
        envelope.allowed_paths = ("**",)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("S.0", "gate_check", {}), "OP_ID"),
        ((None, "gate_check", {}), "OP_ID"),
        (("s.0", "gate", {}), "OP_UNKNOWN_TYPE"),
        (("s.0", "gate_check", {1: 2}), "OP_PARAMS"),
        (("s.0", "gate_check", {"a": b""}), "OP_PARAMS"),
        (("s.0", "gate_check", {"a": "x" * 256 * 1024}), "OP_PARAMS"),
        (("s.0", "gate_check", None), "OP_PARAMS"),
    ],
)
def test_operation_refusals(args: tuple[Any, ...], code: str) -> None:
    assert code_of(Operation, *args) == code


def test_operation_defaults() -> None:
    operation = Operation("a/b~1.2.1.0", "tool_invoke", {"a": [1]})
    assert operation.compensation_type is CompensationType.NONE
    assert operation.compensation_command == ""


def receipt(**changes: Any) -> OperationReceipt:
    members: dict[str, Any] = {
        "operation_id": "s.0",
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "pre_state_hash": RUN,
        "post_state_hash": RUN,
        "compensation_type": "none",
        "compensation_command": "",
        "idempotency_key": RUN,
        "run_id": RUN,
        "step_id": "s",
        "operation_type": "gate_check",
        "attempt": 1,
        "status": "success",
        "effect": "none",
        "params_hash": RUN,
        "output_hash": RUN,
        "evidence_hash": RUN,
        "affected_paths": ("b", "a"),
    }
    return OperationReceipt(**{**members, **changes})


def test_receipt_hash_covers_every_member() -> None:
    first = receipt()
    assert first.prev_receipt_hash == RECEIPT_GENESIS
    assert first.record()["affected_paths"] == ["a", "b"]
    second = receipt(prev_receipt_hash=first.receipt_hash)
    forged = receipt(status="failed")
    assert forged.receipt_hash != first.receipt_hash == second.prev_receipt_hash
    for name, value in first.body().items():
        changed = {**first.body(), name: f"{value}!"}
        assert digest(changed) != first.receipt_hash


def test_receipt_survives_storage() -> None:
    stored = receipt().record()
    again = OperationReceipt.from_record(stored)
    assert again.receipt_hash == stored["receipt_hash"]
    assert again.compensation_verified is False
    for odd in ({**stored, "extra": 1}, {key: stored[key] for key in stored if key != "effect"}):
        assert code_of(OperationReceipt.from_record, odd) == "J_SCHEMA"


def test_plan_hash_ignores_the_order_of_paths() -> None:
    paths = (PlannedPath("b", Access.READ), PlannedPath("a", Access.WRITE), PlannedPath("a", Access.READ))
    one = OperationPlan(effect=Effect.WRITE, paths=paths)
    two = OperationPlan(effect=Effect.WRITE, paths=paths[::-1])
    assert one.plan_hash == two.plan_hash
    assert one.affected_paths == ("a",)
    assert one.plan_hash != OperationPlan(effect=Effect.WRITE, paths=paths, tool="t.x").plan_hash
    assert OperationPlan(effect=Effect.WRITE, writes_ref=True).uses_git


def test_frozen_copies_deeply() -> None:
    source: dict[str, Any] = {"a": {"b": [1, {"c": 2}]}}
    copy = frozen(source)
    source["a"]["b"].append(3)
    assert thawed(copy) == {"a": {"b": [1, {"c": 2}]}}
    assert canonical_bytes(thawed(copy)) == b'{"a":{"b":[1,{"c":2}]}}'
    with pytest.raises(TypeError):
        copy["a"]["x"] = 1


def test_every_pattern_of_an_envelope_is_checked() -> None:
    for pattern in Envelope(allowed_paths=["docs/**", "src/"]).allowed_paths:
        globs.check(pattern)
