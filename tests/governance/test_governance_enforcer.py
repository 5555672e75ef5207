"""The enforcer beyond the table "Tests 8" (see ``tests/conformance``): paths, and all that is not a path."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.governance.envelope_enforcer import MAX_PATHS, EnvelopeEnforcer
from runtime.governance.self_mod_protection import SelfModProtector
from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.errors import ContractError, Refused
from runtime.kernel.model import (
    Access,
    Effect,
    Envelope,
    EnvelopeViolation,
    ExecutionContext,
    Operation,
    OperationPlan,
    PlannedPath,
    ValidationResult,
)
from tests.support.files import documents

DOCS = Envelope(allowed_paths=["docs/**"])
LOOSE = Envelope(allowed_paths=["docs/**"], reject_symlinks=False)
EVERYTHING = Envelope(allowed_paths=["**"])


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return documents(tmp_path / "repo")


@pytest.fixture
def enforcer(repo: Path) -> Iterator[EnvelopeEnforcer]:
    with EnvelopeEnforcer(repo) as made:
        yield made


def code(verdict: ValidationResult) -> str:
    canonical_bytes(dict(verdict.evidence))
    assert {"code", "check", "operation", "requested_path"} <= set(verdict.evidence)
    assert verdict.evidence["code"] == verdict.code
    return verdict.code


# Paths


@pytest.mark.parametrize(
    ("path", "access", "expected"),
    [
        ("docs/a.md", "modify", "OK"),
        ("docs/a.md", "write", "OK"),
        ("docs/new.md", "write", "OK"),
        ("docs/new.md", "create", "OK"),
        ("docs/a.md", "delete", "OK"),
        ("src/x.py", "read", "POLICY_NOT_ALLOWED"),
        ("/etc/passwd", "read", "PATH_ABSOLUTE"),
        (".git/config", "read", "PATH_GIT_INTERNAL"),
        ("docs/a.md", "READ", "PATH_OPERATION"),
        ("docs/A.md", "write", "PATH_CASE_COLLISION"),
        ("docs/A.md", "read", "PATH_CASE_MISMATCH"),
        ("docs/a.md", "create", "PATH_EXISTS"),
        ("docs/none.md", "read", "PATH_MISSING"),
        ("docs/none.md", "modify", "PATH_MISSING"),
        ("docs/none.md", "delete", "PATH_MISSING"),
        ("docs/a.md", "list", "PATH_NOT_DIRECTORY"),
        ("docs/a.md/x", "read", "PATH_NOT_DIRECTORY"),
        ("docs/none/x", "create", "PATH_PARENT_MISSING"),
        ("docs/GEMINI.md", "create", "SELFMOD_PROTECTED"),
        ("docs/.gitignore", "write", "SELFMOD_PROTECTED"),
        (None, "read", "PATH_TYPE"),
        ("docs/\ud800", "read", "PATH_ENCODING"),
    ],
)
def test_paths(enforcer: EnvelopeEnforcer, path: Any, access: str, expected: str) -> None:
    assert code(enforcer.validate_path_access(path, access, DOCS)) == expected


def test_an_empty_stack_or_envelope_allows_nothing(enforcer: EnvelopeEnforcer) -> None:  # 2.b
    for stack in ((), Envelope(), (DOCS, Envelope())):
        assert code(enforcer.validate_path_access("docs/a.md", "read", stack)) == "POLICY_NOT_ALLOWED"


def test_a_step_envelope_only_narrows(enforcer: EnvelopeEnforcer) -> None:  # 2.f
    stack = (DOCS, EVERYTHING)
    assert code(enforcer.validate_path_access("src/x.py", "read", stack)) == "POLICY_NOT_ALLOWED"
    assert enforcer.validate_path_access("docs/a.md", "read", stack)
    denying = (EVERYTHING, Envelope(allowed_paths=["**"], denied_paths=["docs/*.md"]))
    assert code(enforcer.validate_path_access("docs/a.md", "read", denying)) == "POLICY_DENIED"


def test_allowing_is_exact(enforcer: EnvelopeEnforcer) -> None:
    upper = Envelope(allowed_paths=["DOCS/**"])
    assert code(enforcer.validate_path_access("docs/a.md", "read", upper)) == "POLICY_NOT_ALLOWED"


def test_policy_order(repo: Path) -> None:
    """Reserved before denied before protected before not allowed."""
    envelope = Envelope(denied_paths=["**"])
    with EnvelopeEnforcer(repo, protector=SelfModProtector(repo, reserved=[".state/"])) as enforcer:
        assert code(enforcer.validate_path_access(".state/lock", "write", envelope)) == "PATH_RUNTIME_RESERVED"
        assert code(enforcer.validate_path_access("STOP_AUTONOMY", "create", envelope)) == "PATH_RUNTIME_RESERVED"
        assert code(enforcer.validate_path_access("stop_autonomy", "create", envelope)) == "PATH_RUNTIME_RESERVED"
        assert code(enforcer.validate_path_access("config/models.yaml", "modify", envelope)) == "POLICY_DENIED"
        assert code(enforcer.validate_path_access("config/models.yaml", "modify", Envelope())) == "SELFMOD_PROTECTED"
        assert code(enforcer.validate_path_access("config", "delete", EVERYTHING)) == "SELFMOD_ANCESTOR"
        assert enforcer.validate_path_access("config/models.yaml", "read", EVERYTHING)


def test_write_paths_narrow_everything_but_reading(repo: Path) -> None:  # relaxation 3
    with EnvelopeEnforcer(repo, write_paths=["docs/out/**"]) as enforcer:
        assert enforcer.validate_path_access("docs/a.md", "read", DOCS)
        assert code(enforcer.validate_path_access("docs/a.md", "modify", DOCS)) == "POLICY_NOT_ALLOWED"
        assert enforcer.validate_path_access("docs/out/x", "create", DOCS, create_parents=True)


def test_created_parents_must_not_be_forbidden(enforcer: EnvelopeEnforcer) -> None:
    verdict = enforcer.validate_path_access("STOP_AUTONOMY/x", "create", EVERYTHING, create_parents=True)
    assert code(verdict) == "PATH_RUNTIME_RESERVED"
    verdict = enforcer.validate_path_access("docs/CLAUDE.md/x", "create", EVERYTHING, create_parents=True)
    assert code(verdict) == "SELFMOD_PROTECTED"
    verdict = enforcer.validate_path_access("Docs/new/x", "create", EVERYTHING, create_parents=True)
    assert code(verdict) == "PATH_CASE_COLLISION"
    assert enforcer.validate_path_access("docs/n/m/x", "create", EVERYTHING, create_parents=True)
    assert code(enforcer.validate_path_access("docs/n/x", "read", DOCS, create_parents=True)) == "PATH_PARENT_MISSING"


# Links and odd files


@pytest.mark.parametrize(
    ("target", "access"),
    [
        ("a.md", "read"),
        ("/etc/passwd", "read"),
        *itertools.product(
            ["../src/x.py", "a.md", "nowhere", "l", "/etc/passwd"], ["modify", "delete", "write", "create"]
        ),
    ],
)
def test_links_are_refused(repo: Path, enforcer: EnvelopeEnforcer, target: str, access: str) -> None:
    (repo / "docs/l").symlink_to(target)
    assert code(enforcer.validate_path_access("docs/l", access, DOCS)) == "PATH_SYMLINK"
    assert not enforcer.check_symlink_safety("docs/l")


def test_what_is_safe_without_links(enforcer: EnvelopeEnforcer) -> None:
    assert enforcer.check_symlink_safety("docs/new/x")
    assert not enforcer.check_symlink_safety("docs/../x")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("a.md", "OK"),
        ("./sub/../a.md", "OK"),
        ("../docs//a.md", "OK"),
        ("chain1", "OK"),
        ("../../repo/docs/a.md", "PATH_SYMLINK_ESCAPE"),
        ("../../../etc/passwd", "PATH_SYMLINK_ESCAPE"),
        ("l2", "PATH_SYMLINK_LOOP"),
        ("chain0", "PATH_SYMLINK_LOOP"),
        ("gone", "PATH_MISSING"),
        ("gone/../a.md", "PATH_TRAVERSAL"),
        ("a.md/../a.md", "PATH_NOT_DIRECTORY"),
        ("../.git/config", "PATH_GIT_INTERNAL"),
        ("sub", "PATH_IS_DIRECTORY"),
        ("../docs/..", "PATH_EMPTY"),
    ],
)
def test_links_honoured_for_reading(repo: Path, enforcer: EnvelopeEnforcer, target: str, expected: str) -> None:
    (repo / "docs/sub").mkdir()
    (repo / ".git/config").write_text("")
    (repo / "docs/chain8").symlink_to("a.md")
    for number in range(8):
        (repo / f"docs/chain{number}").symlink_to(f"chain{number + 1}")
    if target == "chain1":  # l2 itself is one hop: eight in all need chain2
        target = "chain2"
    (repo / "docs/l2").symlink_to(target)
    verdict = enforcer.validate_path_access("docs/l2", "read", LOOSE)
    assert code(verdict) == expected
    if verdict:
        assert verdict.evidence["resolved_path"] == "docs/a.md"


def test_a_link_out_through_a_linked_directory(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    """A step up leaves the directory that was really entered, not the one that was spelled."""
    (repo / "docs/deep/er").mkdir(parents=True)
    (repo / "docs/short").symlink_to("deep/er")
    (repo / "docs/l").symlink_to("short/../a.md")  # really docs/deep/a.md
    assert code(enforcer.validate_path_access("docs/l", "read", LOOSE)) == "PATH_MISSING"
    (repo / "docs/deep/a.md").write_text("deep")
    with enforcer.authorize("docs/l", "read", LOOSE) as ticket:
        assert ticket.read(100)[0] == b"deep"


def test_links_are_never_written_through(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "docs/l").symlink_to("a.md")
    for access in ("modify", "write", "delete", "execute"):
        assert code(enforcer.validate_path_access("docs/l", access, LOOSE)) == "PATH_SYMLINK_WRITE"
    assert enforcer.validate_path_access("docs/a.md", "modify", LOOSE)
    assert code(enforcer.validate_path_access("docs/l", "read", (LOOSE, DOCS))) == "PATH_SYMLINK"


def test_directories_where_files_are_expected(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "docs/d").mkdir()
    for access in ("read", "modify", "delete", "write"):
        assert code(enforcer.validate_path_access("docs/d", access, DOCS)) == "PATH_IS_DIRECTORY"
    for access in ("list", "execute"):
        assert enforcer.validate_path_access("docs/d", access, DOCS)
    assert enforcer.validate_path_access("docs/d", "delete", DOCS, directory=True)
    assert code(enforcer.validate_path_access("docs/a.md", "delete", DOCS, directory=True)) == "PATH_NOT_DIRECTORY"


def test_a_folder_made_on_the_way_may_go_again_unless_it_is_forbidden(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "made").mkdir()
    on_the_way = {"create_parents": True, "directory": True}
    assert code(enforcer.validate_path_access("made", "delete", DOCS, directory=True)) == "POLICY_NOT_ALLOWED"
    assert enforcer.validate_path_access("made", "delete", DOCS, **on_the_way)
    denied = Envelope(allowed_paths=["docs/**"], denied_paths=["made"])
    assert code(enforcer.validate_path_access("made", "delete", denied, **on_the_way)) == "POLICY_DENIED"
    assert code(enforcer.validate_path_access(".git", "delete", DOCS, **on_the_way)) != "OK"


def test_set_id_files(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "docs/a.md").chmod(0o4755)
    assert code(enforcer.validate_path_access("docs/a.md", "read", DOCS)) == "PATH_SPECIAL_MODE"


def test_hard_links(repo: Path, enforcer: EnvelopeEnforcer, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    os.link(tmp_path / "outside", repo / "docs/h")
    for access in ("delete", "execute", "write"):
        verdict = enforcer.validate_path_access("docs/h", access, DOCS)
        assert code(verdict) == "PATH_HARDLINK"
        assert verdict.evidence["nlink"] == 2
    verdict = enforcer.validate_path_access("docs/h", "read", DOCS)
    assert verdict
    assert verdict.evidence["nlink"] == 2
    with EnvelopeEnforcer(repo, strict_links=True) as strict:
        assert code(strict.validate_path_access("docs/h", "read", DOCS)) == "PATH_HARDLINK"


def test_nested_repositories(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "docs/sub/deep").mkdir(parents=True)
    (repo / "docs/sub/.git").write_text("gitdir: elsewhere")
    assert code(enforcer.validate_path_access("docs/sub/deep/x", "create", DOCS)) == "PATH_NESTED_REPO"
    assert code(enforcer.validate_path_access("docs/sub", "list", DOCS)) == "PATH_NESTED_REPO"


def test_normalisation_siblings(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "docs/e\u0301.md").write_text("decomposed")
    assert code(enforcer.validate_path_access("docs/\u00e9.md", "create", DOCS)) == "PATH_CASE_COLLISION"
    assert code(enforcer.validate_path_access("docs/\u00e9.md", "read", DOCS)) == "PATH_CASE_MISMATCH"
    assert code(enforcer.validate_path_access("docs/e\u0301.md", "read", DOCS)) == "PATH_NOT_NFC"


def test_unreadable_directories_deny(repo: Path, enforcer: EnvelopeEnforcer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "no", "/secret/place")

    monkeypatch.setattr(os, "scandir", broken)
    verdict = enforcer.validate_path_access("docs/a.md", "read", DOCS)
    assert code(verdict) == "PATH_IO"
    assert "EACCES" in verdict.reason
    assert "/secret" not in verdict.reason


MOUNT_SCRIPT = """
import sys
from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.kernel.model import Envelope
envelope = Envelope(allowed_paths=["**"])
with EnvelopeEnforcer(sys.argv[1]) as enforcer:
    print(*(enforcer.validate_path_access(path, "read", envelope).code for path in sys.argv[2:]))
"""


def test_mounts(repo: Path, tmp_path: Path) -> None:
    """Another file system, and bind mounts of the same one, of a directory and of a single file."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed")
    for name in ("bound", "other"):
        (repo / "docs" / name).mkdir()
    (repo / "docs/file").write_text("")
    (tmp_path / "x").write_text("outside")
    script = (
        f"cd {repo}/docs && mount --bind {repo}/src bound && mount -t tmpfs none other && touch other/x && "
        f'mount --bind {tmp_path}/x file && exec "$0" -c "$1" {repo} docs/bound/x.py docs/other/x docs/file docs/a.md'
    )
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", script, sys.executable, MOUNT_SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=30,
    )
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr[-200:]}")
    assert done.stdout.split() == ["PATH_MOUNT", "PATH_MOUNT", "PATH_MOUNT", "OK"]


# The root


def test_forbidden_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for root in ("/", tmp_path / "none", tmp_path / "file", tmp_path / "home", tmp_path / "link", "/proc/self", "/dev"):
        with pytest.raises(Refused) as caught:
            EnvelopeEnforcer(root)
        assert caught.value.code == "ROOT_FORBIDDEN", root
        assert str(tmp_path) not in caught.value.message


def test_a_replaced_root_is_noticed(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    repo.rename(repo.with_name("moved"))
    assert code(enforcer.validate_path_access("docs/a.md", "read", DOCS)) == "PATH_IO"
    (repo / "docs").mkdir(parents=True)
    (repo / "docs/a.md").write_text("")
    assert code(enforcer.validate_path_access("docs/a.md", "read", DOCS)) == "ROOT_CHANGED"


def test_other_platforms_are_refused(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.governance.path_walk.SUPPORTED", False)
    with pytest.raises(Refused) as caught:
        EnvelopeEnforcer(repo)
    assert caught.value.code == "ENFORCER_UNSUPPORTED_PLATFORM"


def test_options_are_checked(repo: Path) -> None:
    with pytest.raises(ContractError):
        EnvelopeEnforcer(repo, names="lenient")
    assert EnvelopeEnforcer.matches("docs/*", "docs/a")


# Native names


def test_native_names(repo: Path) -> None:  # relaxation 5
    for name in ("a:b.md", "nul.md", "what?.md", "tail ", "SHORT~1.TXT", "c:\u200d"):
        (repo / "docs" / name).write_text("")
    with EnvelopeEnforcer(repo) as strict:
        assert code(strict.validate_path_access("docs/a:b.md", "read", DOCS)) == "PATH_STREAM"
    with EnvelopeEnforcer(repo, names="native") as native:
        for name in ("a:b.md", "nul.md", "what?.md", "tail ", "SHORT~1.TXT"):
            for access in ("read", "modify", "write", "delete"):
                assert native.validate_path_access(f"docs/{name}", access, DOCS), (name, access)
        refusals = [
            ("docs/a:c.md", "create", "PATH_STREAM"),
            ("docs/con", "write", "PATH_RESERVED_NAME"),
            ("docs/gone ", "read", "PATH_MISSING"),
            ("docs/A:B.md", "read", "PATH_CASE_MISMATCH"),
            ("docs/c:\u200d", "read", "PATH_INVISIBLE"),
            ("docs/a:b/../x", "read", "PATH_TRAVERSAL"),
        ]
        for path, access, expected in refusals:
            assert code(native.validate_path_access(path, access, DOCS)) == expected, path


# Operations

RUNNER = Envelope(
    allowed_paths=["docs/**"],
    allowed_tools=["filesystem", "git.add"],
    allowed_roles=["runner", "steward", "builder", "planner", "verifier"],
    allow_ops=["tool_invoke", "llm_call", "run_tests", "gate_check"],
    max_budget_usd=1,
)


def operation(kind: str = "tool_invoke", **params: Any) -> Operation:
    return Operation("s.0", kind, params)


def plan(*paths: tuple[str, Access], **members: Any) -> OperationPlan:
    planned = tuple(PlannedPath(path, access) for path, access in paths)
    return OperationPlan(**{"effect": Effect.WRITE, "paths": planned, "tool": "filesystem.write_file", **members})


def judge(
    enforcer: EnvelopeEnforcer, made: OperationPlan, kind: str = "tool_invoke", role: str = "runner", **options: Any
) -> ValidationResult:
    context = ExecutionContext(
        run_id="sha256:" + "0" * 64,
        run_id_audit="00000000-0000-4000-8000-000000000001",  # type: ignore[arg-type]
        repo_root=Path("/unused"),
        baseline_commit="0" * 40,
        acting_role=role,
    )
    stack = options.pop("stack", (RUNNER,))
    asked = options.pop("operation", operation(kind))
    verdict = enforcer.validate_operation(asked, context, made, stack, **options)
    canonical_bytes(dict(verdict.evidence))
    return verdict


WRITE_A = plan(("docs/a.md", Access.MODIFY))
CALL = plan(effect=Effect.EXTERNAL, tool=None, role="planner", reserve_micros=1_000_000)


def test_an_operation_that_passes(enforcer: EnvelopeEnforcer) -> None:
    assert judge(enforcer, WRITE_A)
    assert judge(enforcer, CALL, "llm_call")


def test_operation_types(enforcer: EnvelopeEnforcer) -> None:
    assert judge(enforcer, plan(tool=None), "packet_route").code == "ENV_OP"
    assert judge(enforcer, WRITE_A, stack=()).code == "ENV_OP"
    assert judge(enforcer, WRITE_A, stack=(RUNNER, Envelope(allow_ops=[]))).code == "ENV_OP"
    open_ops = Envelope(
        allowed_paths=["docs/**"], allowed_tools=["filesystem"], allowed_roles=["runner"], allow_ops=None
    )
    assert judge(enforcer, WRITE_A, stack=(RUNNER, open_ops))


def test_escalate_is_always_allowed(enforcer: EnvelopeEnforcer) -> None:
    for stack in ((), (Envelope(),), (Envelope(allow_ops=[]),)):
        assert judge(
            enforcer, plan(tool=None), "escalate", role="", stack=stack, remaining_micros=-5, deadline_passed=True
        )


@pytest.mark.parametrize("role", ["", "operator", "designer", "council_chair"])
def test_acting_roles(enforcer: EnvelopeEnforcer, role: str) -> None:
    assert judge(enforcer, WRITE_A, role=role).code == "ENV_ROLE"


def test_a_role_in_params_is_no_identity(enforcer: EnvelopeEnforcer) -> None:  # 9.j
    asked = operation(role="operator", acting_role="runner")
    assert judge(enforcer, WRITE_A, role="verifier", operation=asked).code == "ENV_ROLE"
    assert judge(enforcer, WRITE_A, role="", operation=asked).code == "ENV_ROLE"


def test_called_roles(enforcer: EnvelopeEnforcer) -> None:
    for role in (None, "", "operator", "verifier", "unlisted"):
        made = plan(effect=Effect.EXTERNAL, tool=None, role=role)
        assert judge(enforcer, made, "llm_call").code == "ENV_ROLE", role


def test_a_steward_writes_state_files_only(repo: Path) -> None:
    with EnvelopeEnforcer(repo, state_files=["docs/state.md"]) as enforcer:
        assert judge(enforcer, WRITE_A, role="steward").code == "ENV_ROLE"
        assert judge(enforcer, plan(("docs/state.md", Access.WRITE)), role="steward")
        staged = plan(("docs/a.md", Access.MODIFY), tool="git.add", writes_index=True)
        assert judge(enforcer, staged, role="steward")
        assert judge(enforcer, plan(("docs/a.md", Access.EXECUTE), tool=None), "run_tests", role="verifier")


def test_tools(enforcer: EnvelopeEnforcer) -> None:
    assert judge(enforcer, plan(tool="git.commit", writes_ref=True)).code == "ENV_TOOL"
    assert judge(enforcer, plan(tool=None)).code == "ENV_TOOL"
    assert judge(enforcer, plan(tool="")).code == "ENV_TOOL"
    assert judge(enforcer, plan(tool="filesystem2.read")).code == "ENV_TOOL"
    assert judge(enforcer, plan(("docs/a.md", Access.MODIFY), tool="git.add", writes_index=True))
    wild = Envelope(
        allowed_paths=["docs/**"], allowed_tools=["*", "filesystem.*"], allowed_roles=["runner"], allow_ops=None
    )
    assert judge(enforcer, WRITE_A, stack=(RUNNER, wild)).code == "ENV_TOOL"


def test_deadlines(enforcer: EnvelopeEnforcer) -> None:
    assert judge(enforcer, WRITE_A, deadline_passed=True).code == "ENV_DEADLINE"
    for seconds in (0, -1, float("nan")):
        assert judge(enforcer, plan(("docs/a.md", Access.READ), timeout_seconds=seconds)).code == "ENV_DEADLINE"


def test_budgets(enforcer: EnvelopeEnforcer) -> None:
    assert judge(enforcer, CALL, "llm_call", remaining_micros=1_000_000)
    assert judge(enforcer, CALL, "llm_call", remaining_micros=999_999).code == "BUDGET_EXCEEDED"
    step = Envelope(allowed_roles=["runner", "planner"], max_budget_usd=0.5)
    assert judge(enforcer, CALL, "llm_call", stack=(RUNNER, step)).code == "BUDGET_EXCEEDED"
    unknown = plan(effect=Effect.EXTERNAL, tool=None, role="planner", reserve_micros=-1)
    assert judge(enforcer, unknown, "llm_call", remaining_micros=10**9).code == "BUDGET_PRICE_UNKNOWN"
    free = plan(effect=Effect.EXTERNAL, tool=None, role="planner")
    assert judge(enforcer, free, "llm_call", remaining_micros=-1)


def test_limits(enforcer: EnvelopeEnforcer) -> None:
    many = plan(*[("docs/a.md", Access.READ)] * (MAX_PATHS + 1))
    assert judge(enforcer, many).code == "ENV_LIMIT"
    assert judge(enforcer, WRITE_A, write_sizes=[4 * 1024 * 1024 + 1]).code == "ENV_LIMIT"
    assert judge(enforcer, WRITE_A, write_sizes=[4 * 1024 * 1024] * 5).code == "ENV_LIMIT"
    assert judge(enforcer, WRITE_A, write_sizes=[4 * 1024 * 1024] * 4)


def test_every_path_is_checked(enforcer: EnvelopeEnforcer) -> None:
    made = plan(("docs/a.md", Access.READ), ("src/x.py", Access.READ))
    verdict = judge(enforcer, made)
    assert code(verdict) == "POLICY_NOT_ALLOWED"
    assert verdict.evidence["requested_path"] == "src/x.py"
    assert judge(enforcer, plan(("docs/n/x", Access.CREATE))).code == "PATH_PARENT_MISSING"
    assert judge(enforcer, plan(("docs/n/x", Access.CREATE), data={"create_parents": True}))


def test_the_first_failure_decides(enforcer: EnvelopeEnforcer) -> None:
    """Each refusal hides the later ones: type, role, tool, deadline, budget, limits, paths."""
    bad = [("src/x.py", Access.MODIFY)] * (MAX_PATHS + 1)
    every = plan(*bad, tool="git.commit", reserve_micros=10**9)
    tool_ok = plan(*bad, reserve_micros=10**9)
    cheap = plan(*bad)
    small = plan(bad[0])
    late = {"deadline_passed": True}
    codes = [
        judge(enforcer, every, role="", stack=(Envelope(allow_ops=[]),), **late).code,
        judge(enforcer, every, role="", **late).code,
        judge(enforcer, every, **late).code,
        judge(enforcer, tool_ok, **late).code,
        judge(enforcer, tool_ok).code,
        judge(enforcer, cheap).code,
        judge(enforcer, small).code,
    ]
    assert codes == [
        "ENV_OP",
        "ENV_ROLE",
        "ENV_TOOL",
        "ENV_DEADLINE",
        "BUDGET_EXCEEDED",
        "ENV_LIMIT",
        "POLICY_NOT_ALLOWED",
    ]


def test_authorize_raises_the_verdict(enforcer: EnvelopeEnforcer) -> None:
    with pytest.raises(EnvelopeViolation) as caught:
        enforcer.authorize("src/x.py", Access.READ, [DOCS])
    assert caught.value.code == caught.value.result.code == "POLICY_NOT_ALLOWED"
    assert not caught.value.result


def open_descriptors() -> int:
    place = Path("/proc/self/fd")
    return sum(1 for _ in place.iterdir()) if place.is_dir() else 0


def test_no_descriptor_is_lost(enforcer: EnvelopeEnforcer, repo: Path) -> None:
    (repo / "docs/l").symlink_to("sub/../../src/x.py")
    (repo / "docs/sub").mkdir()
    before = open_descriptors()
    for path in ("docs/a.md", "docs/l", "docs/sub", "docs/none/x", "docs/A.md", "docs/a.md/x", "src/x.py"):
        for access in Access:
            for envelope in (DOCS, LOOSE):
                enforcer.validate_path_access(path, access, envelope, create_parents=True)
    after = open_descriptors()
    assert after == before
