"""Canonical bytes, the records, and the executor: nothing happens unchecked, unannounced or without a receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest, digest_bytes, parse_strict
from runtime.kernel.errors import JournalError, ModelError
from runtime.kernel.ids import NO_COMMIT
from runtime.kernel.model import (
    CompensationType,
    Envelope,
    ExecutionContext,
    Operation,
    OperationStatus,
    ValidationResult,
)
from runtime.orchestration.mission_journal import MissionJournal
from runtime.orchestration.operation_ports import RunCall
from runtime.orchestration.operations import (
    HaltRequired,
    InvalidCompensation,
    KillSwitchActive,
    idempotency_key,
    validate_compensation,
)
from runtime.orchestration.state_hash import compute_state_hash

from .rig import DOCS, JOURNAL_ID, RECIPE, Rig, context


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("docs/a.md", "src/a.py"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True)
        (tmp_path / "tree" / name).write_text("old\n")
    return tmp_path / "tree"


@pytest.fixture
def rig(tree: Path) -> Rig:
    return Rig(tree)


# Canonical bytes


def key_of_the_example(root: Path) -> str:
    operation = Operation("s1.0", "gate_check", {"check": "non_empty", "condition": {"x": 1}})
    return idempotency_key(operation, context(root))


def state_of_the_example(root: Path) -> str:
    (root / "a.txt").write_bytes(b"hi\n")
    (root / "a.txt").chmod(0o644)
    return compute_state_hash(["a.txt", "b/gone.txt"], root)


VECTORS: dict[str, tuple[Callable[[Path], str], str]] = {
    "empty object": (lambda root: digest({}), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    "escapes": (
        lambda root: digest({"b": [1, True, None], "a": 'é\u2028"\\\n/', "ü": {}}),
        "68f5eb5b9f577ff05359ac9a85ae95967dc0c280da59b66786b4291d331e23b5",
    ),
    "order of keys": (
        lambda root: digest({"\U0001f600": 1, "\ufb00": 2, "a": 3, "Z": 4}),
        "419cad34349e07ec7aa14f9f711c5885cdc65faecb716f4c44bb7ca3de74a9b4",
    ),
    "state of nothing": (
        lambda root: compute_state_hash([], root),
        "7e58fd6d3d16d7ea550e0bb9dc4e501e784ee6adaa871f5edb04e76401b8feb7",
    ),
    "state of two paths": (state_of_the_example, "c8b9963d5818b4698cb75e8260b5552ccfae2c4b501daede86b27c59f1c82d08"),
    "idempotency key": (key_of_the_example, "6616ab08486c7845656a28a72e49c1c97231b3eb4b5539d47480300439bc762a"),
}


@pytest.mark.parametrize("row", VECTORS)
def test_vectors(tmp_path: Path, row: str) -> None:
    computed, expected = VECTORS[row]
    assert computed(tmp_path) == f"sha256:{expected}"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({1: "a"}, "CANON_KEY_TYPE"),
        ([-0.0], "CANON_NEG_ZERO"),
        ([float("nan")], "CANON_NONFINITE"),
        ([float("inf")], "CANON_NONFINITE"),
        (2**53, "CANON_INT_RANGE"),
        (["\ud800"], "CANON_SURROGATE"),
        ([b"a"], "CANON_TYPE"),
        ([Text("a")], "CANON_TYPE"),
        ("x" * (1024 * 1024), "CANON_SIZE"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("CANON") else "value",
)
def test_what_has_no_one_encoding_is_refused(value: object, code: str) -> None:
    with pytest.raises(CanonicalizationError) as caught:
        canonical_bytes(value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"a":1, "b":2}', "J_NONCANONICAL"),
        (b'{"b":1,"a":2}', "J_NONCANONICAL"),
        (b'{"a":1,"a":1}', "J_DUPLICATE_KEY"),
        (b"[NaN]", "J_NONCANONICAL"),
        (b"\xef\xbb\xbf{}", "J_NOT_JSON"),
        (b"{", "J_NOT_JSON"),
    ],
)
def test_only_canonical_bytes_are_read_back(data: bytes, code: str) -> None:
    with pytest.raises(CanonicalizationError) as caught:
        parse_strict(data)
    assert caught.value.code == code
    assert parse_strict(b'{"a":1,"b":[0.0,null]}') == {"a": 1, "b": [0.0, None]}


# Records


def test_a_context_never_changes_and_is_checked(tmp_path: Path) -> None:
    made = context(tmp_path)
    with pytest.raises(FrozenInstanceError):
        made.step_id = "other"  # type: ignore[misc]
    assert (made.for_step("s2").step_id, made.step_id) == ("s2", "s1")
    audit = UUID(JOURNAL_ID)
    with pytest.raises(ModelError, match="CTX_RUN_ID"):
        ExecutionContext(run_id="x", run_id_audit=audit, repo_root=tmp_path, baseline_commit=NO_COMMIT)
    with pytest.raises(ModelError, match="CTX_COMMIT"):
        ExecutionContext(run_id=RECIPE, run_id_audit=audit, repo_root=tmp_path, baseline_commit="HEAD")


@pytest.mark.parametrize("params", [{1: "a"}, {"x": b"a"}, {"x": "y" * 300_000}])
def test_parameters_that_cannot_be_hashed_make_no_operation(params: Any) -> None:
    with pytest.raises(ModelError, match="OP_PARAMS"):
        Operation("s1.0", "tool_invoke", params)


def test_an_unknown_type_makes_no_operation() -> None:
    with pytest.raises(ModelError, match="OP_UNKNOWN_TYPE"):
        Operation("s1.0", "shell", {})


def test_a_denied_result_is_falsy() -> None:
    denied = ValidationResult.deny("PATH_NUL", "holds a NUL", check="path", operation="read")
    assert not denied
    assert denied.code == "PATH_NUL"
    assert ValidationResult.allow("path", "read")


@pytest.mark.parametrize(
    ("kind", "command", "code"),
    [
        ("custom", "git clean -fdx", "COMP_NOT_WHITELISTED"),
        ("custom", "git checkout -- . ; rm -rf /", "COMP_NOT_WHITELISTED"),
        ("fs_delete", "fs_delete ../x", "COMP_PATH"),
        ("fs_delete", "rm docs/a.md", "COMP_COMMAND"),
        ("shell", "ls", "COMP_TYPE"),
    ],
)
def test_an_undo_is_a_declaration_and_never_a_command(kind: str, command: str, code: str) -> None:
    with pytest.raises(InvalidCompensation) as caught:
        validate_compensation(kind, command)
    assert caught.value.code == code
    assert validate_compensation("fs_delete", "fs_delete docs/a.md").paths == ("docs/a.md",)


# The executor


def test_a_write_is_announced_done_and_proven(rig: Rig) -> None:
    result = rig.tool("write_file", path="docs/a.md", content="new\n")
    assert (result.status, result.reason_code) == (OperationStatus.SUCCESS, None)
    assert (rig.root / "docs/a.md").read_text() == "new\n"
    assert rig.kinds() == ["operation_started", "receipt"]
    started, proof = rig.entries()[1:]
    assert result.receipt is not None
    assert result.receipt.record() == proof["receipt"]
    assert proof["receipt"]["pre_state_hash"] == started["pre_state_hash"] != proof["receipt"]["post_state_hash"]
    assert proof["receipt"]["post_state_hash"] == compute_state_hash(["docs/a.md"], rig.root)
    assert proof["receipt"]["compensation_command"] == "fs_restore docs/a.md"
    assert digest_bytes(b"old\n") in rig.artifacts.bodies, "what an undo needs is kept before anything happens"
    MissionJournal.resume(rig.store, rig.store.entries, rig.clock)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("src/a.py", "POLICY_NOT_ALLOWED"),
        ("docs/../src/a.py", "PATH_TRAVERSAL"),
        ("/etc/passwd", "PATH_ABSOLUTE"),
        ("docs/AGENTS.md", "SELFMOD_PROTECTED"),
        (".git/config", "PATH_GIT_INTERNAL"),
    ],
)
def test_outside_the_envelope_nothing_happens_but_a_record(rig: Rig, path: str, code: str) -> None:
    before = compute_state_hash(["docs", "src"], rig.root)
    result = rig.tool("write_file", path=path, content="x")
    assert (result.status, result.reason_code) == (OperationStatus.ESCALATED, code)
    assert rig.kinds() == ["operation_denied", "receipt"]
    denied, proof = rig.entries()[1:]
    assert denied["code"] == code
    assert denied["evidence_hash"] in rig.artifacts.bodies
    assert proof["receipt"]["status"] == "escalated"
    assert proof["receipt"]["pre_state_hash"] == proof["receipt"]["post_state_hash"]
    assert compute_state_hash(["docs", "src"], rig.root) == before


class Permissive:
    """A check that lets everything pass, to see whether the other one is asked as well."""

    def validate_operation(self, *args: Any, **options: Any) -> ValidationResult:
        return ValidationResult.allow("none", "any")

    def validate(self, *args: Any) -> ValidationResult:
        return ValidationResult.allow("none", "any")


def test_each_of_the_two_locks_holds_alone(tree: Path) -> None:
    without_enforcer = Rig(tree)
    without_enforcer.enforcer = Permissive()
    assert without_enforcer.tool("write_file", path="docs/AGENTS.md", content="x").reason_code == "SELFMOD_PROTECTED"
    without_protector = Rig(tree)
    without_protector.protector = Permissive()
    assert without_protector.tool("write_file", path="src/a.py", content="x").reason_code == "POLICY_NOT_ALLOWED"


def test_a_role_that_may_only_read(tree: Path) -> None:
    rig = Rig(tree, role="verifier")
    assert rig.tool("write_file", path="docs/a.md", content="x").reason_code == "ENV_ROLE"
    assert rig.tool("read_file", id="s1.1", path="docs/a.md").output == {"content": "old\n"}


def test_every_envelope_of_a_stack_must_agree(rig: Rig) -> None:
    read = {"tool": "filesystem.read_file", "path": "docs/a.md"}
    wide = Envelope(allowed_paths=["**"], allowed_tools=["filesystem"], allowed_roles=["runner"])
    assert rig.do(Operation("s1.0", "tool_invoke", read), stack=(DOCS, wide)).ok
    denied = rig.do(Operation("s1.1", "tool_invoke", read), stack=(DOCS, Envelope()))
    assert denied.reason_code == "ENV_ROLE"
    outside = {"tool": "filesystem.read_file", "path": "src/a.py"}
    assert rig.do(Operation("s1.2", "tool_invoke", outside), stack=(DOCS, wide)).reason_code == "POLICY_NOT_ALLOWED"


def test_another_envelope_than_the_one_the_run_began_with_halts(rig: Rig) -> None:
    wide = Envelope(allowed_paths=["**"], allowed_tools=["filesystem"], allowed_roles=["runner"])
    with pytest.raises(HaltRequired, match="ENV_CHANGED"):
        rig.do(Operation("s1.0", "tool_invoke", {"tool": "filesystem.read_file", "path": "src/a.py"}), stack=(wide,))


def test_the_same_operation_twice_is_answered_from_the_record(rig: Rig) -> None:
    first = rig.tool("write_file", path="docs/b.md", content="b")
    again = rig.tool("write_file", path="docs/b.md", content="b")
    assert (first.replayed, again.replayed, again.output) == (False, True, first.output)
    assert rig.kinds().count("operation_started") == 1


def test_a_file_edited_in_between_is_drift(rig: Rig) -> None:
    rig.tool("write_file", path="docs/b.md", content="b")
    (rig.root / "docs/b.md").write_text("by hand")
    again = rig.tool("write_file", path="docs/b.md", content="b")
    assert (again.status, again.reason_code) == (OperationStatus.ESCALATED, "IDEMPOTENCY_DRIFT")
    assert (rig.root / "docs/b.md").read_text() == "by hand"


def test_one_id_for_two_works_is_a_conflict(rig: Rig) -> None:
    rig.tool("read_file", path="docs/a.md")
    assert rig.tool("read_file", path="docs/b.md").reason_code == "IDEMPOTENCY_CONFLICT"


def test_a_write_without_an_undo_is_refused(rig: Rig) -> None:
    operation = Operation("s1.0", "tool_invoke", {"tool": "filesystem.write_file", "path": "docs/b.md", "content": "b"})
    with pytest.raises(InvalidCompensation, match="COMP_REQUIRED"):
        rig.do(operation, fill_default=False)
    assert not (rig.root / "docs/b.md").exists()


def test_the_undo_must_cover_what_is_written(rig: Rig) -> None:
    params = {"tool": "filesystem.write_file", "path": "docs/b.md", "content": "b"}
    undo = (CompensationType.FILESYSTEM_DELETE, "fs_delete docs/other.md")
    with pytest.raises(InvalidCompensation, match="COMP_PATH"):
        rig.do(Operation("s1.0", "tool_invoke", params, *undo))


def test_the_stop_file_stops_even_reading(rig: Rig) -> None:
    (rig.root / "STOP_AUTONOMY").symlink_to("nowhere")
    with pytest.raises(KillSwitchActive):
        rig.tool("read_file", path="docs/a.md")
    assert rig.kinds() == ["operation_denied", "receipt"]
    assert rig.entries()[2]["receipt"]["reason_code"] == "KILL_SWITCH"


def test_a_stop_file_made_after_the_announcement(rig: Rig) -> None:
    append = rig.store.append

    def stopping(entry: Any) -> Any:
        if entry.kind == "operation_started":
            (rig.root / "STOP_AUTONOMY").touch()
        return append(entry)

    rig.store.append = stopping  # type: ignore[method-assign]
    with pytest.raises(KillSwitchActive):
        rig.tool("write_file", path="docs/a.md", content="x")
    assert (rig.root / "docs/a.md").read_text() == "old\n"
    assert rig.entries()[-1]["receipt"]["reason_code"] == "KILL_SWITCH"


def test_a_handler_that_breaks_halfway_is_undone(rig: Rig) -> None:
    def fail(call: RunCall) -> None:
        raise RuntimeError(f"in {rig.root}")

    rig.files.during = fail
    result = rig.tool("write_file", path="docs/a.md", content="half")
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "OP_FAILED")
    assert result.compensation_status == "completed"
    assert (rig.root / "docs/a.md").read_text() == "old\n"
    assert rig.kinds().count("receipt") == 2, "the failure's and the undo's"
    assert all(str(rig.root) not in str(entry) for entry in rig.entries()), "no path of this machine in the record"


def test_what_the_plan_did_not_name_is_found(rig: Rig) -> None:
    def sideways(call: RunCall) -> None:
        (rig.root / "src/a.py").write_text("not planned\n")

    rig.files.during = sideways
    result = rig.tool("write_file", path="docs/a.md", content="new")
    assert (result.status, result.reason_code) == (OperationStatus.FAILED, "OP_UNDECLARED_EFFECT")
    assert result.evidence["undeclared"] == ["src/a.py"]


def test_an_unannounced_effect_is_impossible(rig: Rig) -> None:
    """When the journal cannot take the intention, nothing happens."""
    append = rig.store.append

    def full(entry: Any) -> Any:
        if entry.kind == "operation_started":
            raise JournalError("J_IO", "disk full")
        return append(entry)

    rig.store.append = full  # type: ignore[method-assign]
    with pytest.raises(JournalError, match="J_IO"):
        rig.tool("write_file", path="docs/a.md", content="x")
    assert (rig.root / "docs/a.md").read_text() == "old\n"
