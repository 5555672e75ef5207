"""The reconciled data model (operations specification §2): tests 2.a–2.h."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runtime.kernel.canonical import JOURNAL_GENESIS
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ModelError
from runtime.kernel.ids import NO_COMMIT
from runtime.kernel.model import Envelope, EnvelopeViolation, ExecutionContext, ValidationResult
from runtime.orchestration.journal_verify import verify_entries
from runtime.orchestration.mission_journal import MemoryJournalStore, MissionJournal
from tests.support.journals import JOURNAL_ID, RECIPE
from tests.support.operation_rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    root = tmp_path / "tree"
    for name in ("docs/a.md", "src/a.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("old\n")
    return Rig(root)


def test_2_a_both_plans_build_a_context_and_it_never_changes(tmp_path: Path) -> None:
    plan_b = ExecutionContext(
        run_id=RECIPE,
        run_id_audit=UUID(JOURNAL_ID),
        repo_root=str(tmp_path),  # type: ignore[arg-type]  # plan B spells it as text
        baseline_commit=NO_COMMIT,
        started_at="2026-01-01T00:00:00.000000Z",
    )
    plan_a = ExecutionContext(
        run_id=RECIPE,
        run_id_audit=JOURNAL_ID,  # type: ignore[arg-type]  # plan A spells it as text
        mission_id="m",
        mission_type="echo",
        step_id="s",
        repo_root=tmp_path,
        baseline_commit=NO_COMMIT,
        envelope=Envelope(),
        journal=None,
    )
    assert plan_a.run_id_audit == plan_b.run_id_audit == UUID(JOURNAL_ID)
    assert plan_a.repo_root == plan_b.repo_root == tmp_path.resolve()
    with pytest.raises(FrozenInstanceError):
        plan_a.step_id = "other"  # type: ignore[misc]
    step = plan_b.for_step("s2")
    assert (step.step_id, plan_b.step_id, step.run_id) == ("s2", "", RECIPE)


async def test_2_b_an_empty_envelope_denies_every_path_tool_and_role(rig: Rig) -> None:
    """Each list alone: what is left out of an otherwise open envelope is denied."""
    everything: dict[str, Any] = {"allowed_paths": ["**"], "allowed_tools": ["filesystem"], "allowed_roles": ["runner"]}
    read = {"tool": "filesystem.read_file", "path": "docs/a.md"}
    codes = []
    for number, missing in enumerate((*everything, None)):
        rig.envelope = Envelope(**{name: value for name, value in everything.items() if name != missing})
        rig.__post_init__()
        codes.append((await rig.do("tool_invoke", read, id=f"s1.{number}")).reason_code)
    assert codes == ["POLICY_NOT_ALLOWED", "ENV_TOOL", "ENV_ROLE", None]
    rig.envelope = Envelope()
    rig.__post_init__()
    assert not (await rig.do("tool_invoke", read)).ok
    assert (await rig.do("escalate", {"reason": "always allowed", "severity": "info"}, id="s1.9")).reason_code is None


def test_2_c_two_spellings_with_different_values_conflict() -> None:
    for spelled in ("allow_paths", "allowed_paths"), ("deny_paths", "denied_paths"):
        with pytest.raises(ModelError, match="ENV_ALIAS_CONFLICT"):
            Envelope(**dict(zip(spelled, (["a/**"], ["b/**"]), strict=True)))  # type: ignore[arg-type]
    same = Envelope(allow_paths=["a/**"], allowed_paths=["a/**"], deny_paths=["b"])
    assert same.allow_paths == same.allowed_paths == ("a/**",)
    assert same.deny_paths == same.denied_paths == ("b",)


@pytest.mark.parametrize(
    "budget",
    [
        True,
        float("nan"),
        -1,
        0.0000001,
        float("inf"),
        "1",
        None,
        1_000_000.5,
        10**400,
        pytest.param(10**5000, id="huge"),
        -0.5,
    ],
)
def test_2_d_what_is_no_sum_of_money_is_refused(budget: Any) -> None:
    with pytest.raises(ModelError, match="ENV_BUDGET"):
        Envelope(max_budget_usd=budget)


def test_2_e_a_denied_result_is_falsy() -> None:
    assert bool(ValidationResult(allowed=False, reason="PATH_NUL: no", evidence={})) is False
    assert ValidationResult.allow("check", "read")
    denied = ValidationResult.deny("PATH_NUL", "holds a NUL: here", check="path", operation="read", requested_path="x")
    assert not denied
    assert dict(denied.evidence) == {"code": "PATH_NUL", "check": "path", "operation": "read", "requested_path": "x"}
    violation = EnvelopeViolation(denied)
    assert (violation.code, violation.message, violation.result) == ("PATH_NUL", "holds a NUL: here", denied)


async def test_2_f_a_step_envelope_only_narrows(rig: Rig) -> None:
    allowed: dict[str, Any] = {"allowed_tools": ["filesystem"], "allowed_roles": ["runner"]}
    rig.envelope = Envelope(allowed_paths=["docs/**"], **allowed)
    rig.__post_init__()
    stack = (rig.envelope, Envelope(allowed_paths=["**"], **allowed))
    for number, (path, code) in enumerate((("src/a.py", "POLICY_NOT_ALLOWED"), ("docs/a.md", None))):
        result = await rig.do(
            "tool_invoke", {"tool": "filesystem.read_file", "path": path}, id=f"s1.{number}", stack=stack
        )
        assert result.reason_code == code


async def test_2_g_one_changed_byte_of_a_receipt_breaks_both_chains(rig: Rig) -> None:
    await rig.tool("filesystem.write_file", path="docs/a.md", content="new\n")
    await rig.tool("filesystem.read_file", id="s1.1", path="src/a.py")
    place = rig.kinds().index("receipt") + 1
    stored = rig.store.entries
    assert verify_entries(stored).ok
    for member in (b'"cost_micros":', b'"post_state_hash":"sha256:', b'"prev_receipt_hash":"sha256:', b'"attempt":'):
        body = bytearray(stored[place].body)
        body[body.index(member) + len(member)] ^= 1  # one digit becomes its neighbour
        altered = [*stored[:place], replace(stored[place], body=bytes(body)), *stored[place + 1 :]]
        assert {"J_ENTRY_HASH", "J_RECEIPT_CHAIN"} <= {item.code for item in verify_entries(altered).findings}, member


def test_2_h_the_first_entry_has_no_prev_hash_but_a_genesis_link() -> None:
    store = MemoryJournalStore()
    journal = MissionJournal(store, journal_id=JOURNAL_ID, clock=ManualClock())
    first = journal.record_step("s1", operation_type="gate_check")
    second = journal.complete_step("s1", "completed")
    assert first.prev_hash is None
    assert first.prev_entry_hash == JOURNAL_GENESIS
    assert second.prev_hash == first.entry_hash
